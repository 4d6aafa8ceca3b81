"""Optimizer state across a change of level, by the transfers that moved the weights.

The gradient with respect to a coarse weight is the adjoint of de-coalescing applied to that of the fine
one, and back it goes by the adjoint of coalescing; second moments move by the squares of those maps.
"""

from __future__ import annotations

from collections.abc import Callable

from mlgraph.program import Program
from mlgraph.train.errors import TrainError
from mlgraph.train.optim import OptimizerState


def state_map(program: Program, direction: str, mode: str) -> Callable[[OptimizerState], OptimizerState]:
    """How optimizer state moves ``down`` to ``program`` from its parent, or ``up`` from it to its parent."""
    if mode != "reset":
        raise TrainError(f"Optimizer state cannot be moved {direction} yet: choose state 'reset'.")
    return lambda state: {}


def new_parameters(program: Program) -> frozenset[str]:
    """Parameters that are copies of others, after going up."""
    return frozenset()
