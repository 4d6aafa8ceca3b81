"""Axes that are alike, put together: those of one name and size that share a fate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis


@dataclass(frozen=True)
class Family:
    """Axes of one name and size that share a fate: ``"coarsenable"``, ``"kept"`` or ``"frozen"``, and why."""

    name: str
    size: int
    ids: tuple[str, ...]
    slots: int
    fate: str
    reason: str = ""
    where: str = ""


def families(program: Program) -> list[Family]:
    """The axes of a program, those alike put together, in the order of the table."""
    return alike(judged(program))


def judged(program: Program) -> tuple[Axis, ...]:
    """The axes of a program, those frozen that failed a trial on a miniature."""
    faults = program.sound.faults
    return tuple(replace(a, frozen=faults[a.id]) if a.id in faults else a for a in program.axes)


def alike(axes: Iterable[Axis]) -> list[Family]:
    """Axes put together that are alike, in order."""
    grouped: dict[tuple[str, int, str, str], list[Axis]] = defaultdict(list)
    for axis in axes:
        fate = "frozen" if axis.frozen else "coarsenable" if axis.coarsenable_by_default else "kept"
        grouped[axis.name, axis.size, fate, str(axis.frozen or axis.kept or "")].append(axis)
    return [
        Family(
            name,
            size,
            tuple(axis.id for axis in axes),
            sum(len(axis.slots) for axis in axes),
            fate,
            reason,
            axes[0].where,
        )
        for (name, size, fate, reason), axes in grouped.items()
    ]
