"""What one run saved over another: cost to the same validation loss at level 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, stdev
from typing import Any

CurvePoint = tuple[float, float]


def curve(
    history: Iterable[dict[str, Any]], cost: str, key: str = "eval_loss", level: int = 1
) -> list[CurvePoint]:
    """Points (cost, loss) of the evaluations at ``level``; costs are those of the run so far, at all levels.

    ``cost`` is ``flops``, ``seconds``, ``tokens`` or ``step``.
    """
    return [(float(r[cost]), float(r[key])) for r in history if key in r and r.get("level") == level]


def cost_to_reach(points: Sequence[CurvePoint], loss: float) -> float | None:
    """The cost at which a curve, straight between points, first comes down to ``loss``; None if never."""
    if points and points[0][1] <= loss:
        return points[0][0]
    for (cost, before), (later, after) in pairwise(points):
        if after <= loss < before:
            return cost + (later - cost) * (before - loss) / (before - after)
    return None


@dataclass(frozen=True)
class Saving:
    """Cost of a baseline's whole run, and of another run up to the baseline's final loss (None: never)."""

    loss: float
    baseline: float
    cost: float | None

    @property
    def share(self) -> float | None:
        """The part of the baseline's cost that was saved; negative where the run cost more."""
        return None if self.cost is None else 1.0 - self.cost / self.baseline


def saving(baseline: Sequence[dict[str, Any]], history: Sequence[dict[str, Any]], cost: str) -> Saving | None:
    """What ``history`` saved at the final loss of ``baseline``; None where either has no evaluations."""
    target, points = curve(baseline, cost), curve(history, cost)
    if not target or not points:
        return None
    return Saving(target[-1][1], target[-1][0], cost_to_reach(points, target[-1][1]))


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over runs; ``missing`` of them never reached the loss."""

    mean: float | None
    deviation: float | None
    missing: int


def spread(savings: Iterable[Saving]) -> Spread:
    """The spread of savings over runs that differ in their seed."""
    shares = [found.share for found in savings]
    reached = [share for share in shares if share is not None]
    return Spread(
        mean(reached) if reached else None,
        stdev(reached) if len(reached) > 1 else None,
        len(shares) - len(reached),
    )
