"""A run through a level change on one or more processes; started by torchrun and accelerate launch.

Every process begins with weights of its own, of which the first one's are to be trained.

Arguments: output file, FSDP or not (``fsdp`` or ``ddp``), optimizer state mode, batches per step and process;
and, for a durable run with dropout, its directory and the number of steps after which every process dies.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch

from mlgraph.train import Optimizer, run, vcycle
from mlgraph.train.engine.worker import Worker
from tests.train.models import cross_entropy, points, program


def main(
    out: str, sharding: str, mode: str, accumulate: str, directory: str | None = None, life: str | None = None
) -> None:
    torch.set_num_threads(1)
    if life is not None:
        _limit_steps(int(life))
    data = points(batches=8, size=4)
    sharded = _watch_sharding()
    result = run(
        program(seed=int(os.environ.get("RANK", 0)), dropout=0.1 if directory else 0.0),
        vcycle(6, init_steps=3, coarse_steps=3),
        data,
        data[:3],
        cross_entropy,
        directory,
        optimizer=Optimizer(lr=1e-2),
        optimizer_state=mode,
        accumulate=int(accumulate),
        log_every=1 if directory is None else 2,
        checkpoint_every=1,
        fsdp=sharding == "fsdp",
    )
    losses = [record[key] for record in result.history for key in ("loss", "eval_loss") if key in record]
    if int(torch.distributed.is_initialized() and torch.distributed.get_rank()) == 0:
        total = sum(t.detach().double().square().sum().item() for t in result.program.tensors.values())
        with open(out, "w") as file:
            processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
            found = {"losses": losses, "weights": total, "processes": processes, "sharded": bool(sharded)}
            json.dump(found, file)


def _watch_sharding() -> list[bool]:
    """A list that is no longer empty once a module was sharded."""
    from torch.distributed import fsdp

    whole, seen = fsdp.fully_shard, list[bool]()

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(True)
        return whole(*arguments, **options)

    fsdp.fully_shard = watched  # type: ignore[assignment]
    return seen


def _limit_steps(count: int) -> None:
    whole, done = Worker.step, 0

    def limited(*arguments: Any) -> torch.Tensor:
        nonlocal done
        done += 1
        if done > count:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments)

    Worker.step = limited  # type: ignore[method-assign]


if __name__ == "__main__":
    main(*sys.argv[1:])
