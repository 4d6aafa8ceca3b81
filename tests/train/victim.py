"""A run that ends itself, or is ended, at a given moment; started in a process of its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mlgraph.train import Optimizer, Schedule, run, vcycle
from mlgraph.train.engine import checkpoint
from mlgraph.train.engine.worker import Worker
from tests.processes import Processes
from tests.train.models import classifier, cross_entropy, points

PHASES = vcycle(8, init_steps=3, coarse_steps=5, levels=2)
OPTIONS: dict[str, Any] = {
    "optimizer": Optimizer(lr=1e-2),
    "schedule": Schedule(rewarm=2),
    "checkpoint_every": 2,
}


@dataclass(frozen=True)
class Kill:
    """A moment to die at.

    ``where``: ``step``, ``write`` (of a checkpoint) or ``level`` (of a level's files), after ``count`` of
    them; or ``time``, after ``seconds`` of the run.
    """

    where: str
    count: int = 0
    seconds: float = 0.0


def train(out: str, result: str, kill: Kill | None) -> None:
    """Run to the end, or to the kill; the weights go to ``result``."""
    torch.set_num_threads(1)
    data, model = points(), classifier(dropout=0.1)
    if kill is not None:
        _arm(kill)
    done = run(model, PHASES, data, data[:2], cross_entropy, out, **OPTIONS)
    save_file({name: t.detach().clone() for name, t in done.program.tensors.items()}, result)


def _arm(kill: Kill) -> None:
    if kill.where == "time":
        threading.Timer(kill.seconds, _die).start()
        return
    owner, name = {
        "step": (Worker, "step"),
        "write": (checkpoint.FolderDraft, "publish"),
        "level": (checkpoint.RunDirectory, "save_level"),
    }[kill.where]
    setattr(owner, name, _deadly(getattr(owner, name), kill.count))


def _deadly(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > count:
            _die()
        return function(*args, **kwargs)

    return wrapped


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def start(out: Path, result: Path, kill: Kill | None = None) -> int:
    """Run in a process of its own; its exit code (minus the signal that ended it)."""
    return Processes(1, train, str(out), str(result), kill).ended(500)[0]
