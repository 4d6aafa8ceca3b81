"""Runs on several processes train as one does: whole, sharded, in copies; started by torchrun or forked."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mlgraph.train import Coarsen, Interpolate, Optimizer, Phase, Refine, Train, run
from tests.processes import Processes
from tests.train.models import cross_entropy, points, program

PHASES: dict[str, list[Phase]] = {
    "three levels": [
        Train(2),
        Coarsen(depth=2, width=2, check=False),
        Train(2),
        Coarsen(width=2, pairing="halves", check=False),
        Train(2),
        Refine(),
        Interpolate(0.5),
        Train(2),
        Refine(),
        Interpolate(alpha=0.4, detail=0.8),
        Train(2),
    ],
    "pruned": [
        Coarsen(width=2, reduce="select", extend="pad", check=False),
        Train(2),
        Refine(),
        Interpolate(0.5),
        Train(2),
    ],
    "grown": [Train(1), Refine(width=2, depth=2, check=False), Train(2)],
}
FSDP = {"fsdp": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddp": ("three levels", {}),
    "fsdp": ("three levels", FSDP),
    "asymmetric": ("three levels", {**FSDP, "optimizer_state": "asymmetric"}),
    "reset": ("three levels", {**FSDP, "optimizer_state": "reset"}),
    "hsdp": ("three levels", {**FSDP, "fsdp_replicas": 2}),
    "recompute": ("three levels", {**FSDP, "recompute": True}),
    "pruned": ("pruned", FSDP),
    "grown": ("grown", FSDP),
}


def trained(cases: list[str]) -> dict[str, dict[str, Any]]:
    """Losses and weights of runs, one after the other in this process."""
    import os

    rank = int(os.environ.get("RANK", 0))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    found = {}
    for case in cases:
        phases, options = CASES[case]
        done = run(
            # the first process's weights are to be trained; at lower levels rows are no multiple of four
            program(seed=rank, width=20),
            PHASES[phases],
            points(batches=8, size=4),
            points(3, size=4, seed=1),
            cross_entropy,
            optimizer=Optimizer(lr=1e-2),
            accumulate=4 // processes,
            log_every=1,
            **options,
        )
        losses = [record[key] for record in done.history for key in ("loss", "eval_loss") if key in record]
        weights = {name: tensor.detach().double() for name, tensor in done.program.tensors.items()}
        found[case] = {"losses": losses, "weights": weights}
    return found


def _check(found: dict[str, dict[str, Any]], one: dict[str, dict[str, Any]]) -> None:
    for case, own in found.items():
        assert own["losses"] == pytest.approx(one[case]["losses"], abs=1e-4), case
        for name, tensor in own["weights"].items():
            torch.testing.assert_close(tensor, one[case]["weights"][name], rtol=1e-3, atol=1e-4, msg=case)


@pytest.mark.parametrize("cases", [["fsdp"], pytest.param(list(CASES), marks=pytest.mark.thorough)], ids=len)
def test_four_processes_train_as_one(cases: list[str]) -> None:
    one = trained(cases)
    for found in Processes(4, trained, cases).results(900):
        _check(found, one)
