"""Which of a phase's checkpoints make the mean that it ends with."""

from __future__ import annotations

from collections.abc import Sequence

from mlgraph.train.errors import TrainError
from mlgraph.train.phases import Phase, Train

AVERAGE = "average"
"""The key of a parameter's running mean beside its optimizer state."""


def averaged_steps(phase: Train, every: int) -> tuple[int, ...]:
    """The steps of a phase whose weights are averaged: its end, and its last checkpoints before that."""
    if phase.average is None:
        return ()
    before = range(every, phase.steps, every) if every else ()
    return (*before, phase.steps)[-phase.average :]


def check_averages(phases: Sequence[Phase], every: int) -> None:
    """Raise ``TrainError`` naming the first phase with fewer checkpoints than it averages."""
    for number, phase in enumerate(phases):
        if not isinstance(phase, Train) or phase.average is None:
            continue
        found = len(averaged_steps(phase, every))
        if found < phase.average:
            raise TrainError(
                f"Phase {number} (train) averages {phase.average} checkpoints and has {found}, with "
                f"checkpoint_every = {every} in {phase.steps} steps: average fewer or write more."
            )
