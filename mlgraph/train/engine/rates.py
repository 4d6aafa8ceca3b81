"""The learning rate of every step of a phase program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlgraph.train.phases import Phase, Train, levels_of
from mlgraph.train.schedule import Rate, Schedule


class LearningRates:
    """The learning rate of every step of a phase program.

    ``phases``: the program; ``schedule`` and ``lr``: the run's, where a phase has none of its own.
    """

    def __init__(self, phases: Sequence[Phase], schedule: Schedule, lr: float) -> None:
        levels = levels_of(phases)
        totals: dict[object, int] = {}
        by_level: dict[tuple[object, int], int] = {}
        last: dict[object, int] = {}
        self._spans: dict[int, _Span] = {}
        changed = False
        for number, phase in enumerate(phases):
            if not isinstance(phase, Train):
                # before anything was trained there is no rate to come back to
                changed = bool(self._spans)
                continue
            own = schedule if phase.schedule is None else phase.schedule
            key = _span_key(schedule, number, levels[number], phase)
            peak = lr if phase.optimizer is None else phase.optimizer.lr
            peak = peak if phase.lr is None else phase.lr
            new = 1.0 if phase.lr_new is None else phase.lr_new / peak if peak else 0.0
            self._spans[number] = _Span(key, totals.get(key, 0), own, peak, changed, new)
            totals[key] = totals.get(key, 0) + phase.steps
            at_level = key, levels[number]
            by_level[at_level] = by_level.get(at_level, 0) + phase.steps
            last[key] = by_level[at_level]
            changed = False
        self._totals, self._last = totals, last

    def at(self, phase: int, step: int) -> Rate:
        """The rate of ``step`` (from 0) of phase number ``phase``, a ``Train``."""
        span = self._spans[phase]
        schedule = span.schedule
        at, total, last = span.start + step, self._totals[span.key], self._last[span.key]
        rate = span.peak * schedule.factor(at, total, last)
        if not span.after_change or step >= schedule.rewarm:
            return Rate(rate, rate * span.new)
        ramp = (step + 1) / (schedule.rewarm + 1)
        # one warm-up, the slower of the two, where the span itself begins
        warmed = min(rate, span.peak * ramp) if at < schedule.warmup else rate * ramp
        return Rate(rate if schedule.rewarm_new else warmed, warmed * span.new)


@dataclass(frozen=True)
class _Span:
    """Where a phase lies in the span of its schedule; new parameters take ``new`` times the rate."""

    key: object
    start: int
    schedule: Schedule
    peak: float
    after_change: bool
    new: float = 1.0


def _span_key(schedule: Schedule, number: int, level: int, phase: Train) -> object:
    if phase.schedule is not None or schedule.over == "phase":
        return ("phase", number)
    return ("level", level) if schedule.over == "level" else "run"
