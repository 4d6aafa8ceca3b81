"""A run through a level change on one or more processes; started by torchrun and accelerate launch.

Arguments: output file, FSDP or not (``fsdp`` or ``ddp``), optimizer state mode, batches per step and process.
"""

from __future__ import annotations

import json
import sys

import torch

from mlgraph.train import Optimizer, run, vcycle
from tests.train.models import cross_entropy, points, program


def main(out: str, sharding: str, mode: str, accumulate: str) -> None:
    torch.set_num_threads(1)
    data = points(batches=8, size=4)
    result = run(
        program(),
        vcycle(6, init_steps=3, coarse_steps=3),
        data,
        data[:3],
        cross_entropy,
        optimizer=Optimizer(lr=1e-2),
        optimizer_state=mode,
        accumulate=int(accumulate),
        log_every=1,
        fsdp=sharding == "fsdp",
    )
    losses = [record[key] for record in result.history for key in ("loss", "eval_loss") if key in record]
    if int(torch.distributed.is_initialized() and torch.distributed.get_rank()) == 0:
        total = sum(t.detach().double().square().sum().item() for t in result.program.tensors.values())
        with open(out, "w") as file:
            processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
            json.dump({"losses": losses, "weights": total, "processes": processes}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
