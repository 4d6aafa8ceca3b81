"""The time of a step at every level of a run, from a few steps taken."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from mlgraph.train.engine.forecast import taken
from mlgraph.train.engine.freezing import frozen_names
from mlgraph.train.engine.levels import Level, change_level
from mlgraph.train.engine.phase_settings import settings_of
from mlgraph.train.engine.worker import Worker
from mlgraph.train.phases import Phase, Train, levels_of
from mlgraph.train.schedule import Rate

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.train.data.batches import Loss
    from mlgraph.train.optimizer import States
    from mlgraph.train.settings import Settings

MEASURED = 3
"""Steps of which the median is taken, after one that sets things up."""


def step_seconds(
    program: Program,
    phases: Sequence[Phase],
    batch: Any,
    loss: Loss | None,
    settings: Settings,
    accelerator: Any,
) -> dict[int, float]:
    """Seconds of a step of each training phase, by its number, on this process's device.

    Phases that train alike are measured once. The weights of ``program`` do not matter afterwards: they are
    trained at a rate of 0 and coarsened as in the run.
    """
    level, levels = Level(program), levels_of(phases)
    known: dict[Any, float] = {}
    found: dict[int, float] = {}
    changes: list[Phase] = []
    for number, phase in enumerate(phases):
        if not isinstance(phase, Train):
            changes.append(phase)
            continue
        level = change_level(level, changes, number - len(changes), "reset", _forgotten).level
        changes = []
        count = phase.accumulate or settings.accumulate
        own = settings_of(phase, settings)
        key = (
            (level.architecture, levels[number], phase.batch, phase.sequence, count),
            (phase.freeze, own.optimizer, phase.distill),
        )
        if key not in known:
            worker = Worker(accelerator, level.program, own, loss=loss)
            worker.teach(level.aside[-1].program if phase.distill else None, phase.distill)
            worker.freeze(frozen_names(level.program, phase.freeze) if phase.freeze else ())
            known[key] = _median(worker, [taken(phase, batch)] * count, accelerator.device)
            worker.close()
        found[number] = known[key]
    return found


def device_memory(device: torch.device) -> int:
    """Bytes that a device has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _forgotten(name: str, program: Program, keeps: bool) -> Callable[[], States]:
    del name, program, keeps
    return _no_state


def _no_state() -> Mapping[str, Mapping[str, torch.Tensor]]:
    return {}


def _median(worker: Worker, batches: Sequence[Any], device: torch.device) -> float:
    times = []
    for _ in range(1 + MEASURED):
        began = time.perf_counter()
        loss = worker.step(batches, Rate(0.0, 0.0))
        # waits for the device
        float(loss)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])
