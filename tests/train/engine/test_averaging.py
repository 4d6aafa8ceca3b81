"""Phases that end with the mean of their last checkpoints, and phases with a teacher."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import mlgraph
from mlgraph.train import (
    Coarsen,
    Interpolate,
    Optimizer,
    Refine,
    Schedule,
    Train,
    TrainError,
    count_flops,
    run,
)
from mlgraph.train.phases import from_json, to_json
from tests.train.models import cross_entropy, points, program

STILL = Schedule("constant")
SGD = Optimizer("sgd", lr=0.05, momentum=0.0)


def trained(phases: Any, data: Any = None, **options: Any) -> dict[str, torch.Tensor]:
    given = {"loss": cross_entropy, "schedule": STILL, "checkpoint_every": 2, **options}
    result = run(program(), phases, points(8) if data is None else data, **given)
    return {name: tensor.detach() for name, tensor in result.program.tensors.items()}


@pytest.mark.parametrize("optimizer", [Optimizer(), SGD], ids=["adamw", "sgd"])
def test_a_phase_ends_with_the_mean_of_its_last_checkpoints(optimizer: Optimizer) -> None:
    ends = [trained([Train(steps)], optimizer=optimizer) for steps in (4, 6, 7)]
    mean = trained([Train(7, average=3)], optimizer=optimizer)
    for name, tensor in mean.items():
        expected = sum(end[name].double() for end in ends) / 3
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
    assert all(
        torch.equal(t, ends[2][n]) for n, t in trained([Train(7, average=1)], optimizer=optimizer).items()
    )


def test_a_run_stopped_between_two_of_them_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    class Stopping(list[Any]):
        def __iter__(self) -> Any:
            for number, batch in enumerate(super().__iter__()):
                if number == 4:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    phases = [Train(7, average=3), Train(2)]
    whole = trained(phases)
    with pytest.raises(SystemExit):
        trained(phases, Stopping(points(8)), out_dir=tmp_path / "run")
    for name, tensor in trained(phases, out_dir=tmp_path / "run").items():
        assert torch.equal(tensor, whole[name]), name


def test_more_checkpoints_than_there_are_cannot_be_averaged() -> None:
    with pytest.raises(TrainError, match=r"Phase 0 \(train\) averages 5 checkpoints and has 4.*write more"):
        trained([Train(7, average=5)])


def test_a_teacher_s_predictions_are_in_the_loss_and_its_operations_counted() -> None:
    (batch,) = data = points(1)
    fine = program()
    coarse = mlgraph.coalesce(fine, depth=2)
    with torch.no_grad():
        wanted, found = (F.log_softmax(mlgraph.emit(p).eval()(batch[0]), -1) for p in (fine, coarse))
        divergence = (wanted.exp() * (wanted - found)).sum(-1).mean()
        own = F.nll_loss(found, batch[1])
    phases = [Coarsen(depth=2, width=1), Train(1, distill=0.3), Refine(), Interpolate(0.5), Train(1)]
    options: dict[str, Any] = {"loss": cross_entropy, "schedule": STILL, "log_every": 1}
    history = [record for record in run(program(), phases, data, **options).history if "loss" in record]
    assert history[0]["loss"] == pytest.approx(float(0.7 * own + 0.3 * divergence), rel=1e-5)
    step = count_flops(coarse, batch[0]).training + count_flops(fine, batch[0]).forward
    assert history[0]["flops"] == step
    assert history[1]["flops"] == step + count_flops(fine, batch[0]).training


def test_without_a_finer_level_there_is_no_teacher() -> None:
    with pytest.raises(TrainError, match=r"Phase 0 \(train\) has no finer level to learn from"):
        trained([Train(2, distill=0.5)])
    with pytest.raises(TrainError, match="give a share of 0 to 1"):
        Train(2, distill=1.5)


def test_they_are_written_and_read() -> None:
    phases = [Coarsen(), Train(5, average=2, distill=0.25)]
    assert from_json(to_json(phases)) == phases


def test_a_phase_has_an_optimizer_of_its_own(tmp_path: Path) -> None:
    whole = trained([Train(4)], optimizer=SGD)
    assert all(torch.equal(t, whole[n]) for n, t in trained([Train(4, optimizer=SGD)]).items())
    # the same numbers in two phases are one optimizer, whose state goes on
    slow = Optimizer(lr=1e-4)
    one = trained([Train(4)], optimizer=slow)
    two = trained([Train(2, optimizer=slow), Train(2)], optimizer=slow)
    assert all(torch.equal(tensor, one[name]) for name, tensor in two.items())
    mixed = [Train(2), Coarsen(depth=2, width=1), Train(3, optimizer=SGD), Refine(), Train(2)]
    found = trained(mixed, out_dir=tmp_path / "run")
    again = trained(mixed, out_dir=tmp_path / "run")
    assert all(torch.equal(tensor, found[name]) for name, tensor in again.items())
    assert from_json(to_json(mixed)) == mixed
