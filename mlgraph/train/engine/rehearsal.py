"""The level changes of a phase program carried out on shapes alone, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlgraph.errors import MlgraphError
from mlgraph.program import Program
from mlgraph.train.errors import TrainError
from mlgraph.train.phases import Apply, Coarsen, Phase, Refine, check_phases, kind_of


@dataclass(frozen=True)
class Rehearsed:
    """What a phase leaves behind, without values: its program, and those set aside above it."""

    program: Program
    aside: tuple[Program, ...] = ()


def rehearse(program: Program, phases: Sequence[Phase]) -> list[Rehearsed]:
    """The stage after each phase.

    It takes no memory for weights, and for each level the time of one rewriting.

    Raises:
        TrainError: naming the first phase that cannot follow those before it or cannot be done.
    """
    check_phases(phases, has_parent=program.lineage is not None)
    here, stages = Rehearsed(program.skeleton()), list[Rehearsed]()
    for number, phase in enumerate(phases):
        try:
            here = _after(here, phase)
        except MlgraphError as error:
            raise TrainError(f"Phase {number} ({kind_of(phase)}) cannot be done: {error}") from error
        stages.append(here)
    return stages


def _after(here: Rehearsed, phase: Phase) -> Rehearsed:
    match phase:
        case Coarsen():
            return Rehearsed(phase.operator.on_shapes(here.program), (*here.aside, here.program))
        case Refine():
            fine = phase.operator.on_shapes(here.program)
            if phase.operator.grows or not here.aside:
                return Rehearsed(fine)
            return Rehearsed(here.aside[-1], here.aside[:-1])
        case Apply():
            return Rehearsed(phase.operator.on_shapes(here.program))
        case _:
            return here
