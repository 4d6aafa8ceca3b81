"""Parameters that take no gradient stay so through every pass, dtype and file."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import mlgraph
from mlgraph import capture, coalesce, decoalesce, emit, interpolate


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(x).relu())


class Adapted(nn.Module):
    """Frozen but for its head and the biases of ``down``; frozen differently in its last two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(8, 3)
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        for block in self.blocks:
            block.down.bias.requires_grad_(True)
        self.blocks[3].up.weight.requires_grad_(True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.fixture(scope="module")
def program():
    return capture(Adapted(), (torch.randn(2, 3, 8),))


def trained(program, **options) -> set[str]:
    return {name for name, p in emit(program, **options).named_parameters() if p.requires_grad}


BIASES = {f"blocks.{index}.down.bias" for index in range(4)}
TRAINED = BIASES | {"blocks.3.up.weight", "head.weight", "head.bias"}


def test_the_emitted_module_trains_what_the_model_trains(program):
    assert trained(program) == TRAINED
    assert trained(program, dtype=torch.float64) == trained(program, dtype=torch.bfloat16) == TRAINED
    module = emit(program)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert {n for n, p in other.named_parameters() if p.requires_grad} == TRAINED


def test_passes_and_files_keep_what_is_frozen(program, tmp_path):
    mlgraph.save(program, tmp_path / "model.pt")
    loaded = mlgraph.load(tmp_path / "model.pt")
    assert trained(loaded) == TRAINED
    assert trained(loaded, dtype=torch.float64) == trained(loaded, dtype=torch.bfloat16) == TRAINED
    narrow = coalesce(loaded, width=2)
    assert trained(narrow) == TRAINED
    mlgraph.save(narrow, tmp_path / "narrow.pt")
    grown = decoalesce(mlgraph.load(tmp_path / "narrow.pt"))
    assert trained(grown) == trained(interpolate(loaded, grown)) == TRAINED
    assert trained(decoalesce(program, width=2)) == TRAINED


def test_a_mean_is_trained_where_one_of_its_terms_is(program):
    shallow = coalesce(program, depth=2)
    kept = {"blocks.0.down.bias", "blocks.1.down.bias", "head.weight", "head.bias"}
    assert trained(shallow) == kept | {"blocks.1.up.weight"}
    assert trained(decoalesce(shallow)) == TRAINED
    deeper = trained(decoalesce(program, depth=2))
    assert {n for n in deeper if n.endswith("bias")} == {f"blocks.{i}.down.bias" for i in range(8)} | {
        "head.bias"
    }


def test_what_is_frozen_later_is_frozen_in_the_modules_program(program):
    module = emit(decoalesce(program, width=2))
    module.requires_grad_(False)
    assert trained(coalesce(module.program, width=2)) == set()


class Phases(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.randn(8, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.turn).abs()


def test_complex_parameters_take_gradients():
    program = decoalesce(capture(Phases(), (torch.randn(3, 8),)), width=2)
    assert trained(program) == {"turn"}
