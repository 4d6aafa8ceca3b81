"""The level changes of a phase program carried out on shapes alone, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from mlgraph.errors import MlgraphError
from mlgraph.program import Program
from mlgraph.train.errors import TrainError
from mlgraph.train.phases import Apply, Coarsen, Phase, Refine, Train, check_phases, kind_of


def rehearse(program: Program, phases: Sequence[Phase]) -> None:
    """Raise ``TrainError`` naming the first phase that cannot follow those before it or cannot be done.

    It takes no memory for weights, and for each level the time of one rewriting.
    """
    check_phases(phases, has_parent=program.lineage is not None)
    if all(isinstance(phase, Train) for phase in phases):
        return
    here, above = program.skeleton(), list[Program]()
    for number, phase in enumerate(phases):
        try:
            here = _after(here, phase, above)
        except MlgraphError as error:
            raise TrainError(f"Phase {number} ({kind_of(phase)}) cannot be done: {error}") from error


def _after(here: Program, phase: Phase, above: list[Program]) -> Program:
    """The program for the next phase; ``above`` are those that a refinement comes back to."""
    if isinstance(phase, Coarsen):
        above.append(here)
        return phase.operator.on_shapes(here)
    if isinstance(phase, Refine):
        return _fine(here, phase, above)
    if isinstance(phase, Apply):
        above.clear()
        return reduce(lambda program, operator: operator.on_shapes(program), phase.operator, here)
    return here


def _fine(program: Program, phase: Refine, above: list[Program]) -> Program:
    fine = phase.operator.on_shapes(program)
    if phase.operator.grows:
        above.clear()
    return above.pop() if above else fine
