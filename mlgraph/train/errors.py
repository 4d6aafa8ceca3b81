"""What the training driver raises when a run cannot go on."""

from __future__ import annotations

from mlgraph.errors import MlgraphError


class TrainError(MlgraphError):
    """A run was asked for something that cannot be done, or cannot go on.

    The message names the phase, field, batch entry or step concerned and what to do about it.
    """


class DivergedError(TrainError):
    """The training loss stopped being finite; names the step and the last good checkpoint."""


class RunDirectoryError(TrainError):
    """A run directory belongs to another configuration, is damaged, or cannot be written."""


class PeerError(TrainError):
    """Another process of a run has ended or does not answer, so that this one cannot go on."""
