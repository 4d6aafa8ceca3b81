"""Learning-rate schedules of a phase program.

A schedule maps progress through its span to a factor of the peak rate. Its span is one phase, all
phases of one level, or the whole run; after a change of level the rate can be warmed up again, for all
parameters or for the new ones alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from mlgraph.errors import suggestion
from mlgraph.passes.options import option
from mlgraph.train.errors import TrainError

ScheduleKind = Literal["cosine", "wsd", "linear", "constant"]
Span = Literal["phase", "level", "run"]


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves; each option is documented by its field's ``help``.

    ``wsd`` (warmup, stable, decay) is the schedule of Hu et al., "MiniCPM" (arXiv 2404.06395).
    """

    kind: ScheduleKind = option(
        "cosine", "how the rate moves; wsd: warmup, stable, decay; linear: straight down"
    )
    warmup: int = option(0, "steps of linear warmup at the start of the span")
    final: float = option(0.0, "factor of the peak rate at the end of the span")
    decay: float = option(
        0.2, "share in which wsd decays: of the span, over a run of its steps at the last level"
    )
    over: Span = option("level", "the span: each phase, all phases of a level, or the whole run")
    rewarm: int = option(0, "steps of linear warmup after each change of level")
    rewarm_new: bool = option(False, "warm up again for new parameters alone")

    def __post_init__(self) -> None:
        _check_choice("schedule kind", self.kind, get_args(ScheduleKind))
        _check_choice("schedule span", self.over, get_args(Span))
        if self.warmup < 0 or self.rewarm < 0:
            raise TrainError("Schedule warmup and rewarm count steps: give numbers that are not negative.")
        if not 0.0 <= self.decay <= 1.0 or self.final < 0.0:
            raise TrainError("Schedule decay is a share between 0 and 1 and final a factor of at least 0.")

    def factor(self, step: int, total: int, last: int | None = None) -> float:
        """The factor of the peak rate at ``step`` (0 is the first) of a span of ``total`` steps.

        ``last`` of them are at the level where it ends, all where not given: wsd decays in a share of those.
        The last step of a decaying span is one step short of ``final``, so no step is spent at rate 0.
        """
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        length = max(total - self.warmup, 1)
        done = min(step - self.warmup, length)
        if self.kind == "constant":
            return 1.0
        if self.kind == "cosine":
            shape = 0.5 * (1.0 + math.cos(math.pi * done / length))
        elif self.kind == "linear":
            shape = 1.0 - done / length
        else:
            tail = max(round((total if last is None else last) * self.decay), 1)
            shape = min(1.0, max(total - max(step, 0), 0) / tail)
        return self.final + (1.0 - self.final) * shape


def _check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        hint = suggestion(value, choices, "choose one of {}.")
        raise TrainError(f"The {what} {value!r} is unknown: {hint}")


@dataclass(frozen=True)
class Rate:
    """The learning rate of one step, for parameters that were there before and for new ones."""

    old: float
    new: float
