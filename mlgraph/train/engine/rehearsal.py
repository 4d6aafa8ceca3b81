"""The level changes of a phase program carried out on shapes alone, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

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
            if isinstance(phase, Coarsen):
                above.append(here)
                here = phase.operator.on_shapes(here)
            elif isinstance(phase, Refine):
                here = _fine(here, phase, above)
            elif isinstance(phase, Apply):
                above.clear()
                for operator in phase.operator:
                    here = operator.on_shapes(here)
        except MlgraphError as error:
            raise TrainError(f"Phase {number} ({kind_of(phase)}) cannot be done: {error}") from error


def _fine(program: Program, phase: Refine, above: list[Program]) -> Program:
    fine = phase.operator.on_shapes(program)
    if phase.operator.grows:
        above.clear()
    return above.pop() if above else fine
