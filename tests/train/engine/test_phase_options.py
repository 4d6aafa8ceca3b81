"""Options of training phases: less of every batch, freezing, rates of new parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mlgraph.train import Coarsen, Optimizer, Refine, Schedule, Train, run
from mlgraph.train.data.batches import cut
from mlgraph.train.engine.rates import LearningRates
from mlgraph.train.errors import TrainError
from mlgraph.train.phases import from_json, to_json
from tests.train.models import cross_entropy, points, program

STILL = Schedule("constant")


def trained(phases: Any, **options: Any) -> dict[str, torch.Tensor]:
    result = run(program(), phases, points(6), loss=cross_entropy, schedule=STILL, **options)
    return {name: tensor.detach() for name, tensor in result.program.tensors.items()}


@pytest.mark.parametrize(
    ("freeze", "still"),
    [
        (("inp",), ("inp.weight", "inp.bias")),
        (("blocks.1",), ("blocks.1.up.weight", "blocks.1.norm.bias")),
        (("*.norm.*",), ("blocks.0.norm.weight", "blocks.3.norm.bias")),
        (("mlp", "out"), ("blocks.2.up.weight", "blocks.0.down.weight", "out.bias")),
        (("blocks",), ("blocks.0.up.weight", "blocks.3.down.bias")),
    ],
)
def test_what_is_frozen_stays_and_the_rest_moves(freeze: Any, still: Any) -> None:
    before = program().tensors
    after = trained([Train(2, freeze=freeze)])
    for name in still:
        assert torch.equal(after[name], before[name].detach()), name
    assert any(not torch.equal(after[name], before[name].detach()) for name in after)


def test_freezing_ends_with_its_phase_and_keeps_optimizer_state() -> None:
    """Frozen for no step, the state of the other phases is what it would be in one."""
    whole = trained([Train(4)])
    parts = trained([Train(2), Train(0, freeze=("inp",)), Train(2)])
    for name, tensor in whole.items():
        assert torch.equal(parts[name], tensor)
    thawed = trained([Train(2, freeze=("inp",)), Train(2)])
    assert not torch.equal(thawed["inp.weight"], program().tensors["inp.weight"].detach())


def test_the_backward_pass_of_what_is_frozen_counts_no_flops() -> None:
    def flops(phase: Train) -> int:
        history = run(program(), [phase], points(2), loss=cross_entropy).history
        return int(history[-1]["flops"])

    first, blocks, head = (2 * 5 * n for n in (8 * 16, 4 * 2 * 16 * 32, 16 * 3))
    forward = first + blocks + head
    assert flops(Train(1)) == forward + first + 2 * (blocks + head)
    # what is left to train is the last norm and the head, whose input and weight have gradients
    assert flops(Train(1, freeze=("inp", "blocks"))) == forward + 2 * head


def test_a_phase_frozen_is_gone_on_with(tmp_path: Path) -> None:
    phases = [Train(2, freeze=("inp",)), Train(2)]
    whole = trained(phases)
    found = trained(phases, out_dir=tmp_path / "run")
    again = trained(phases, out_dir=tmp_path / "run")
    for name, tensor in whole.items():
        assert torch.equal(found[name], tensor)
        assert torch.equal(again[name], tensor)


def test_less_of_a_batch() -> None:
    ids = torch.arange(24).view(4, 6)
    batch = {"input_ids": ids, "weights": torch.rand(4, 6), "labels": torch.arange(4), "scale": torch.rand(7)}
    less = cut(batch, 3, 2)
    assert torch.equal(less["input_ids"], ids[:3, :2])
    assert less["weights"].shape == (3, 2)
    assert less["labels"].shape == (3,)
    assert less["scale"].shape == (7,)
    assert cut(ids, None, 5).shape == (4, 5)
    with pytest.raises(TrainError, match="leave sequence out"):
        cut(torch.rand(3, 2), None, 1)


def test_a_phase_takes_less_of_every_batch() -> None:
    small = [tuple(part[:3] for part in batch) for batch in points(6)]
    expected = run(program(), [Train(3)], small, loss=cross_entropy, schedule=STILL).program
    found = trained([Train(3, batch=3)])
    for name, tensor in found.items():
        assert torch.equal(tensor, expected.tensors[name].detach())


def test_accumulation_of_a_phase_is_that_of_a_run() -> None:
    expected = trained([Train(2)], accumulate=3)
    for name, tensor in trained([Train(2, accumulate=3)]).items():
        assert torch.equal(tensor, expected[name])


def test_new_parameters_have_a_rate_of_their_own() -> None:
    rates = LearningRates([Train(2), Coarsen(), Refine(), Train(4, lr=0.2, lr_new=0.4)], STILL, 0.1)
    assert (rates.at(0, 0).old, rates.at(0, 0).new) == (0.1, 0.1)
    assert (rates.at(3, 1).old, rates.at(3, 1).new) == (0.2, 0.4)
    phases = [Coarsen(depth=2, width=1), Refine(), Train(1, lr=0.1, lr_new=0.0)]
    before = run(program(), phases[:2], points(2), loss=cross_entropy).program
    after = trained(phases, optimizer=Optimizer("sgd", momentum=0.0))
    assert torch.equal(after["blocks.1.up.weight"], before.tensors["blocks.1.up.weight"].detach())
    assert not torch.equal(after["blocks.0.up.weight"], before.tensors["blocks.0.up.weight"].detach())


def test_options_are_written_and_read() -> None:
    phases = [Train(5, lr=0.1, lr_new=0.2, batch=4, sequence=8, accumulate=2, freeze=("mlp", "*.bias"))]
    assert from_json(to_json(phases)) == phases


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"freeze": ("bloks",)}, "blocks"),
        ({"freeze": ("*",)}, "no parameter to train"),
        ({"batch": 0}, "at least 1"),
        ({"lr_new": -1.0}, "not negative"),
    ],
)
def test_what_cannot_be_is_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(TrainError, match=told):
        trained([Train(1, **options)])
