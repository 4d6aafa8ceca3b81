"""What ``run`` cannot do it says before the first step, and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mlgraph.train import (
    Apply,
    Coarsen,
    Interpolate,
    Optimizer,
    Refine,
    Schedule,
    Train,
    TrainError,
    progressive_stacking,
    run,
    vcycle,
)
from tests.train.models import classifier, cross_entropy, points, program

CYCLE = vcycle(4, 1, 2)


def refused(message: str, phases: Any = CYCLE, data: Any = None, model: Any = None, **options: Any) -> None:
    """A run that is refused with ``message``; neither weights nor files have changed."""
    fresh = program()
    before = {name: tensor.detach().clone() for name, tensor in fresh.tensors.items()}
    with pytest.raises(TrainError, match=message) as caught:
        run(
            fresh if model is None else model,
            phases,
            points() if data is None else data,
            **{"loss": cross_entropy, **options},
        )
    assert str(caught.value).endswith((".", "?"))
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.tensors.items())


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        (Train(3), "phases is a Train: give a list"),
        ([Train(2), 3], "Phase 1 is a int: give Train, Coarsen, Refine, Interpolate or Apply"),
        ("vcycle", "Phase 0 is a str"),
        ([Train(2), Coarsen(width=3)], r"Phase 1 \(coarsen\) cannot be done: axis .*3 does not divide"),
        ([Train(2), Coarsen(depth=3)], r"Phase 1 \(coarsen\).*4 blocks, which 3 does not divide"),
        ([Train(2), Coarsen(axes={"nothing": 2})], r"Phase 1 \(coarsen\).*nothing"),
        ([Train(2), Apply("stack;aki{axes={nothing=2}}")], r"Phase 1 \(apply\).*nothing"),
        ([Train(2), Coarsen(), Apply("stack"), Refine()], r"Phase 3 \(refine\) has no parent"),
        (vcycle(4, 1, 2, levels=4), r"Phase 5 \(coarsen\).*no chain of repeated blocks"),
    ],
)
def test_phases_that_cannot_be_done(phases: Any, message: str, tmp_path: Path) -> None:
    refused(message, phases, out_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_phase_of_a_cycle_by_similarity_is_rehearsed() -> None:
    phases = [Train(1), Coarsen(pairing="similarity"), Train(1), Refine(), Interpolate(0.5), Train(1)]
    assert run(program(), phases, points(), loss=cross_entropy).history[-1]["step"] == 3
    refused(r"Phase 4 \(coarsen\)", [*phases[:4], Coarsen(width=5, pairing="similarity")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 1e-3}, "run takes no option 'lr': it is a field of optimizer=Optimizer"),
        ({"warmup": 3}, "run takes no option 'warmup': it is a field of schedule=Schedule"),
        ({"acumulate": 2}, "run takes no option 'acumulate': did you mean 'accumulate'"),
        ({"optimizer": "adamw"}, "optimizer is a str: give mlgraph.train.Optimizer or a function"),
        ({"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters())}, "optimizer is a SGD"),
        ({"schedule": "cosine"}, "schedule is a str: give mlgraph.train.Schedule"),
        ({"eval_every": -1}, "eval_every = -1"),
        ({"checkpoint_every": -5}, "checkpoint_every = -5"),
        ({"clip": 0.0}, "clip = 0.0"),
        ({"eval_batches": 0}, "eval_batches = 0"),
        ({"log_every": 0.5}, "log_every = 0.5"),
        ({"accumulate": 0}, "accumulate = 0"),
        ({"optimizer_state": "keep"}, "optimizer_state = 'keep' is unknown"),
    ],
)
def test_options(options: dict[str, Any], message: str) -> None:
    refused(message, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Optimizer(lr=-1.0), "lr = -1.0"),
        (lambda: Optimizer(lr=float("nan")), "lr = nan"),
        (lambda: Optimizer(weight_decay=-0.1), "weight_decay = -0.1"),
        (lambda: Optimizer(betas=(0.9, 1.0)), r"betas = \(0.9, 1.0\)"),
        (lambda: Optimizer(momentum=-1), "momentum = -1"),
        (lambda: Train(2.5), "steps=2.5"),  # type: ignore[arg-type]
        (lambda: Train(2, lr=-1.0), "lr=-1.0"),
        (lambda: Train(2, schedule="cosine"), "schedule"),  # type: ignore[arg-type]
        (lambda: vcycle(-3), ".steps. must be at least 0, not -3"),
        (lambda: progressive_stacking([]), "stage_steps is empty"),
        (lambda: Schedule(warmup=-1), "warmup"),
    ],
)
def test_numbers_of_phases_and_optimizers(make: Any, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        make()


X, Y = points(1)[0]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs, batch: outputs, r"loss is a tensor of shape \[5, 3\]: return a scalar"),
        (lambda outputs, batch: 1.0, "loss is a float: return a scalar tensor"),
        (lambda outputs, batch: torch.zeros(()), "loss has no gradient"),
    ],
)
def test_losses(loss: Any, message: str) -> None:
    refused(message, loss=loss)


@pytest.mark.parametrize(
    ("model", "data", "loss", "message"),
    [
        ("model.pt", None, cross_entropy, "model is a str: give a program or a torch.nn.Module"),
        (None, 3, cross_entropy, "training data is a int: give an iterable of batches"),
        (classifier(), [(X, Y)], None, r"does not fit forward\(x\).*too many positional"),
        (classifier(), [{"x": X, "y": Y}], None, r"does not fit forward\(x\).*'y'"),
        (classifier(), [{"z": X}], cross_entropy, r"does not fit forward\(x\).*'x'"),
    ],
)
def test_models_and_batches(model: Any, data: Any, loss: Any, message: str) -> None:
    refused(message, data=data, model=model, loss=loss)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "training data holds no batch"),
        ([(X[:, :7], Y)], "x of size 7 in dim 1: the model was captured with 8"),
        ([(X[0], Y)], "x of shape .8.: the model takes 2 dims"),
        ([(X.long(), Y)], "x as torch.int64: the model takes torch.float32"),
        ([{"xs": X}], "no 'x', which the model takes: did you mean 'xs'"),
        ([{"z1": X, "w2": Y}], "no 'x'.*it has z1, w2"),
        ([("text", Y)], "gives a str for x"),
    ],
)
def test_training_data(data: Any, message: str) -> None:
    refused(message, data=data)


def test_evaluation_data() -> None:
    refused("first evaluation batch", eval_data=[(X[:, :7], Y)])
    refused("one-shot", eval_data=iter(points()))
    refused("evaluation data is a int: give an iterable", eval_data=3)


def test_a_model_that_returns_no_loss() -> None:
    refused("returns no loss", data=[X], loss=None)
    refused("holds 2 entries where the model takes 1 .x.", loss=None)


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_a_run_directory_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" if place == "a file" else tmp_path / "file/run"
    refused("file.* cannot be made a run directory .*: name another", out_dir=out)


def test_trackers_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    refused("tracker wandb is not installed", trackers=("wandb",))
    refused("accelerate refuses these settings.*nothing", trackers=("nothing",))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_half_precision_without_an_accelerator() -> None:
    refused("'fp16' needs an accelerator and there is none", mixed_precision="fp16")


def test_a_model_without_anything_to_train() -> None:
    refused("No parameter of the model requires a gradient", model=classifier().requires_grad_(False))
