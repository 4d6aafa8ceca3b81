"""Training by phase programs: V-cycles and their kin on accelerate, durable and metered.

Everything here is imported when it is first used::

    from mlgraph.train import run, vcycle
    result = run(model, vcycle(steps=2000, init_steps=100, coarse_steps=1000), batches)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlgraph.train.engine import Result, run
    from mlgraph.train.errors import DivergedError, RunDirectoryError, TrainError
    from mlgraph.train.flops import Flops, count_flops
    from mlgraph.train.optim import Optimizer
    from mlgraph.train.phases import (
        Coarsen,
        Interpolate,
        Phase,
        Refine,
        Train,
        fmg,
        plain,
        progressive_stacking,
        vcycle,
        wcycle,
    )
    from mlgraph.train.schedule import Schedule
    from mlgraph.train.settings import Settings
    from mlgraph.train.trainer_adapter import run_with_trainer

_EXPORTS = {
    "Coarsen": "phases",
    "DivergedError": "errors",
    "Flops": "flops",
    "Interpolate": "phases",
    "Optimizer": "optim",
    "Phase": "phases",
    "Refine": "phases",
    "Result": "engine",
    "RunDirectoryError": "errors",
    "Schedule": "schedule",
    "Settings": "settings",
    "Train": "phases",
    "TrainError": "errors",
    "count_flops": "flops",
    "fmg": "phases",
    "plain": "phases",
    "progressive_stacking": "phases",
    "run": "engine",
    "run_with_trainer": "trainer_adapter",
    "vcycle": "phases",
    "wcycle": "phases",
}

__all__ = [
    "Coarsen",
    "DivergedError",
    "Flops",
    "Interpolate",
    "Optimizer",
    "Phase",
    "Refine",
    "Result",
    "RunDirectoryError",
    "Schedule",
    "Settings",
    "Train",
    "TrainError",
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
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
