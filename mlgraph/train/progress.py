"""A progress bar over a whole phase program, with the time left."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from mlgraph.train.phases import Phase, Train, kind_of, levels_of


class Progress:
    """Shows phase, level, loss and time left.

    Work is weighed in FLOPs, since steps cost differently at each level. Where ``shown`` is false nothing
    is printed. ``costs`` gives the FLOPs per step at each level as far as they are known; a level not yet
    seen is taken to cost what the last one does.
    """

    def __init__(self, phases: Sequence[Phase], shown: bool) -> None:
        self._phases, self._levels = phases, levels_of(phases)
        self._costs: dict[int, float] = {}
        self._bar: Any = None
        self._task: Any = None
        if shown:
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            self._bar = Bar(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def cost(self, level: int, flops: float) -> None:
        """Learn what a step costs at a level."""
        self._costs[level] = flops

    def update(self, phase: int, step: int, text: str) -> None:
        """Show that ``step`` steps of phase number ``phase`` are done."""
        if self._bar is None:
            return
        work = [
            p.steps * self._cost_of(n) if isinstance(p, Train) else 0.0 for n, p in enumerate(self._phases)
        ]
        done = sum(work[:phase]) + step * self._cost_of(phase)
        name = kind_of(self._phases[phase]) if phase < len(self._phases) else "done"
        label = f"phase {phase + 1}/{len(self._phases)} {name} · level {self._levels[phase]} · {text}"
        self._bar.update(self._task, description=label, total=sum(work), completed=done)

    def _cost_of(self, phase: int) -> float:
        known = self._costs.get(self._levels[phase])
        if known is not None:
            return known
        return next(reversed(self._costs.values()), 1.0)
