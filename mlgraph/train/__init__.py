"""Training by phase programs: V-cycles and their kin on accelerate, durable and metered.

Everything here is imported when it is first used::

    from mlgraph.train import run, vcycle
    result = run(model, vcycle(steps=2000, init_steps=100, coarse_steps=1000), batches)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlgraph.graph.flops import Flops
    from mlgraph.train.engine.engine import Result
    from mlgraph.train.engine.huggingface_trainer import run_with_trainer
    from mlgraph.train.engine.run import run
    from mlgraph.train.errors import DivergedError, PeerError, RunDirectoryError, TrainError
    from mlgraph.train.flops import count_flops
    from mlgraph.train.optimizer import Optimizer
    from mlgraph.train.phases import Apply, Coarsen, Interpolate, Phase, Refine, Train
    from mlgraph.train.recipes import Recipe, cascade, fmg, plain, progressive_stacking, vcycle, wcycle
    from mlgraph.train.schedule import Schedule
    from mlgraph.train.settings import Settings

_EXPORTS = {
    "Apply": "mlgraph.train.phases",
    "Coarsen": "mlgraph.train.phases",
    "DivergedError": "mlgraph.train.errors",
    "Flops": "mlgraph.graph.flops",
    "Interpolate": "mlgraph.train.phases",
    "Optimizer": "mlgraph.train.optimizer",
    "PeerError": "mlgraph.train.errors",
    "Phase": "mlgraph.train.phases",
    "Recipe": "mlgraph.train.recipes",
    "Refine": "mlgraph.train.phases",
    "Result": "mlgraph.train.engine.engine",
    "RunDirectoryError": "mlgraph.train.errors",
    "Schedule": "mlgraph.train.schedule",
    "Settings": "mlgraph.train.settings",
    "Train": "mlgraph.train.phases",
    "TrainError": "mlgraph.train.errors",
    "cascade": "mlgraph.train.recipes",
    "count_flops": "mlgraph.train.flops",
    "fmg": "mlgraph.train.recipes",
    "plain": "mlgraph.train.recipes",
    "progressive_stacking": "mlgraph.train.recipes",
    "run": "mlgraph.train.engine.run",
    "run_with_trainer": "mlgraph.train.engine.huggingface_trainer",
    "vcycle": "mlgraph.train.recipes",
    "wcycle": "mlgraph.train.recipes",
}

__all__ = [
    "Apply",
    "Coarsen",
    "DivergedError",
    "Flops",
    "Interpolate",
    "Optimizer",
    "PeerError",
    "Phase",
    "Recipe",
    "Refine",
    "Result",
    "RunDirectoryError",
    "Schedule",
    "Settings",
    "Train",
    "TrainError",
    "cascade",
    "count_flops",
    "fmg",
    "plain",
    "progressive_stacking",
    "run",
    "run_with_trainer",
    "vcycle",
    "wcycle",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
