"""What the published growth operators share: mappings from new indices to the ones that they copy."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mlgraph.errors import AxisError
from mlgraph.passes.base import Pass
from mlgraph.passes.options import option
from mlgraph.rewrite.grouping import Grouping

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis

Mapped = Callable[[int, int, random.Random], Grouping]


@dataclass(frozen=True)
class Growth(Pass):
    """A pass that grows a program in width."""

    moves: ClassVar[int] = -1

    width: float = option(2.0, "factor of every axis that is coarsened by default", least=1, metavar="N")
    axes: dict[str, Any] = option({}, "factor of one axis", flag="--axis", metavar="NAME=N")


@dataclass(frozen=True)
class RandomGrowth(Growth):
    """One that draws at random where the new sizes are no multiples of the old."""

    seed: int = option(0, "seed of what is drawn at random", metavar="N")


@dataclass(frozen=True)
class DeepGrowth(RandomGrowth):
    """One that grows depth as well."""

    depth: int = option(1, "blocks made of each", least=1, metavar="N")


def first_then_random(size: int, new: int, draw: random.Random) -> Grouping:
    """Every index once, in order, then copies of indices drawn at random with replacement."""
    return Grouping((*range(size), *(draw.randrange(size) for _ in range(new - size))))


def first_then_circular(size: int, new: int, _draw: random.Random) -> Grouping:
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
    from mlgraph.rewrite.requests import choose

    made: dict[tuple[str, int, int], Grouping] = {}

    def group(axis: Axis, request: Any) -> Grouping:
        size = new_size(axis, request, what)
        key = (axis.name, axis.size, size)
        if key not in made:
            made[key] = mapped(axis.size, size, random.Random(f"{seed} {axis.name} {axis.size}"))
        return made[key]

    return choose(program, width, axes, (), group)  # type: ignore[arg-type]
