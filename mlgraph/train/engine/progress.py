"""A progress bar over a whole phase program, with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from mlgraph.train.phases import Phase, Train, kind_of, levels_of

_SECONDS_BETWEEN_LINES = 60.0


class Progress:
    """Shows phase, level, step, losses and time left on standard error; a line a minute where that is no
    terminal.

    Work is weighed in FLOPs, since steps cost differently at each level; a level not yet seen is taken to
    cost what the last one does. Where ``shown`` is false nothing is printed.
    """

    def __init__(self, phases: Sequence[Phase], shown: bool) -> None:
        self._phases, self._levels, self._shown = phases, levels_of(phases), shown
        self._costs: dict[int, float] = {}
        self._bar: Any = None
        self._task: Any = None
        self._next_line = 0.0
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(8), TextColumn("{task.percentage:>3.0f}%"))
            left = (TimeRemainingColumn(compact=True), TextColumn("left"))
            self._bar = Bar(*columns, *left, console=Console(stderr=True))

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
        """Learn the FLOPs of a step at a level."""
        self._costs[level] = flops

    def update(self, phase: int, step: int, text: str) -> None:
        """Show that ``step`` steps of phase number ``phase`` are done."""
        if not self._shown:
            return
        work = [
            p.steps * self._cost_of(n) if isinstance(p, Train) else 0.0 for n, p in enumerate(self._phases)
        ]
        done, total = sum(work[:phase]) + step * self._cost_of(phase), sum(work)
        current = self._phases[phase]
        where = f"{phase + 1}/{len(self._phases)} {kind_of(current)} · level {self._levels[phase]}"
        label = f"phase {where} · {text}"
        if self._bar is not None:
            of = f"/{current.steps:,}" if isinstance(current, Train) else ""
            described = f"{where} · {step:,}{of} · {text}"
            self._bar.update(self._task, description=described, total=total, completed=done)
        elif time.monotonic() >= self._next_line or done >= total:
            self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            print(f"{label} · step {step:,} · {done / max(total, 1.0):.0%}", file=sys.stderr, flush=True)

    def _cost_of(self, phase: int) -> float:
        known = self._costs.get(self._levels[phase])
        if known is not None:
            return known
        return next(reversed(self._costs.values()), 1.0)
