"""How a grouping goes down and comes back where that is not by means and copies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """``shares``: what every fine index counts in its group, summing to 1 there; equal where there are none.

    ``pads``: whether coming back only the one that counted gets its group's values, and the others zeros.
    """

    shares: tuple[float, ...] | None = None
    pads: bool = False
