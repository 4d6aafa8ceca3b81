"""A coarsening asked for again with less, until the class that it is written as can express it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from mlgraph.errors import AxisError
from mlgraph.interop.fitting.fit import NotExpressible

if TYPE_CHECKING:
    from mlgraph.program import Program

T = TypeVar("T")

_ASKED = 5


@dataclass(frozen=True)
class Expressed(Generic[T]):
    """A coarse ``program`` that its class can express, and what was ``written`` of it.

    ``stays`` names the axes and chains that are left for the class's sake, ``notes`` say why.
    """

    program: Program
    written: T
    stays: tuple[str, ...]
    notes: tuple[str, ...]


def expressible(
    program: Program, coarsen: Callable[[tuple[str, ...]], Program], write: Callable[[Program], T]
) -> Expressed[T]:
    """The coarse program that the class can express, and what ``write`` makes of it.

    ``coarsen`` gives the coarse program of ``program`` in which axes and chains of these names stay; first
    none does. Where ``write`` finds no configuration of the class, what stands in its way stays as well.

    Raises:
        NotExpressible: it is not known what stands in the way, or nothing would be left to change.
    """
    stays: tuple[str, ...] = ()
    notes: list[str] = []
    for at in range(_ASKED):
        coarse = coarsen(stays)
        try:
            return Expressed(coarse, write(coarse), stays, tuple(notes))
        except NotExpressible as error:
            more = tuple(name for name in error.stays if name not in stays)
            if not more or at == _ASKED - 1 or not _changes(coarsen, (*stays, *more)):
                raise
            notes += _told(program, more, error.what)
            stays += more
    raise AssertionError


def _changes(coarsen: Callable[[tuple[str, ...]], Program], stays: tuple[str, ...]) -> bool:
    """Whether something still changes when these stay."""
    try:
        lineage = coarsen(stays).lineage
    except AxisError:
        return False
    return lineage is not None and bool(lineage.groupings or lineage.layers)


def _told(program: Program, names: Collection[str], what: str) -> Iterator[str]:
    """A note for each name of axes, on the first of them, and for each chain."""
    first: dict[str, str] = {}
    for axis in program.axes:
        if axis.id in names:
            first.setdefault(axis.name, f"{axis.id} ({axis.size})")
    for chain in program.blocks:
        if chain.name in names:
            first.setdefault(chain.name, f"the {len(chain)} blocks of {chain.name}")
    for said in first.values():
        yield f"kept: {said}, since no configuration of the class has it otherwise: {what}"
