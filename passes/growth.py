"""What the published growth operators share: mappings from new indices to the ones that they copy."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from mlgraph.errors import AxisError
from mlgraph.program import Program
from mlgraph.program.axis_table import Axis
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.requests import choose

Mapped = Callable[[int, int, random.Random], Grouping]


def first_then_random(size: int, new: int, draw: random.Random) -> Grouping:
    """Every index once, in order, then copies of indices drawn at random with replacement."""
    return Grouping((*range(size), *(draw.randrange(size) for _ in range(new - size))))


def first_then_circular(size: int, new: int, draw: random.Random) -> Grouping:
    """Every index in order, over and over: index i copies i modulo the old size."""
    return Grouping(tuple(i % size for i in range(new)))


def new_size(axis: Axis, wanted: float | int, what: str) -> int:
    """The size of a grown axis.

    Raises:
        AxisError: the factor gives no whole number, or shrinks the axis.
    """
    size = axis.size * wanted
    if size < axis.size or abs(size - round(size)) > 1e-9:
        raise AxisError(
            f"axis {axis.id} has size {axis.size}, which {what} by {wanted} would make {size:g}: choose a "
            "factor of at "
            "least 1 that gives a whole number."
        )
    return round(size)


def grown_groupings(
    program: Program, width: float, axes: Mapping[str, Any], seed: int, mapped: Mapped, what: str
) -> dict[str, Grouping]:
    """A grouping per axis that is to grow: those coarsened by default by ``width``, those in ``axes`` by
    their factor.

    Axes of one name and size in different blocks share a mapping, so that blocks stay alike.
    """
    made: dict[tuple[str, int, int], Grouping] = {}

    def group(axis: Axis, request: Any) -> Grouping:
        size = new_size(axis, request, what)
        key = (axis.name, axis.size, size)
        if key not in made:
            made[key] = mapped(axis.size, size, random.Random(f"{seed} {axis.name} {axis.size}"))
        return made[key]

    return choose(program, width, axes, (), group)  # type: ignore[arg-type]
