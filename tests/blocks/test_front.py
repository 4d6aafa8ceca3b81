"""Blocks that also read a fixed value, such as the embedding that the first of them is fed with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mlgraph
from mlgraph.rewrite.depth.restack import restack
from tests import oracles
from tests.perturbation import perturb_

Function = Callable[["Block", torch.Tensor, torch.Tensor], torch.Tensor]


class Block(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.mix, self.gain = nn.Parameter(torch.tensor([1.0, 0.1])), nn.Parameter(torch.ones(6))
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)
        self.project = nn.Linear(6, 6)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down(F.gelu(self.up(self.norm(x))))
        return out

    def forward(self, x: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        return self.function(self, x, fixed)


class Model(nn.Module):
    def __init__(self, function: Function, depth: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 3)
        self.blocks = nn.ModuleList(Block(function) for _ in range(depth))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = fixed = self.embed(ids)
        for block in self.blocks:
            x = block(x, fixed)
        out: torch.Tensor = self.head(x)
        return out


def mixed(block: Block, x: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    x = block.mix[0] * x + block.mix[1] * fixed
    return x + block.branch(x)


FUNCTIONS: dict[str, Function] = {
    "mixed": mixed,
    "added": lambda block, x, fixed: x + block.branch(x) + fixed,
    "projected": lambda block, x, fixed: x + block.branch(x) + block.project(fixed),
    "within the branch": lambda block, x, fixed: x + block.branch(x + block.gain * fixed),
    "attended": lambda block, x, fixed: (
        x + block.branch(F.scaled_dot_product_attention(block.project(x), fixed, fixed))
    ),
}


def build(function: Function, depth: int) -> Model:
    model = Model(function, depth)
    perturb_(model, 0.3)
    return model.double().eval()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_blocks_are_in_the_chain_and_any_layout_is_that_of_the_class(name: str) -> None:
    model, ids = build(FUNCTIONS[name], 4), torch.randint(11, (2, 7))
    program = mlgraph.capture(model, (ids,))
    assert [(chain.name, len(chain), chain.period) for chain in program.blocks] == [("blocks", 4, 1)]
    for layout in ((0, 0, 1, 1), (2, 0), (0, 3), (3, 2, 1, 0, 0)):
        expected = build(FUNCTIONS[name], len(layout))
        result = restack(program, {"blocks": layout}).program
        expected.load_state_dict(result.state_dict())
        for place, block in enumerate(layout):
            assert torch.equal(expected.blocks[place].up.weight, model.blocks[block].up.weight)
        with torch.no_grad():
            assert oracles.relative_error(mlgraph.emit(result).eval()(ids), expected(ids)) <= 1e-12


def test_coalescing_and_back_keeps_the_names() -> None:
    model, ids = build(mixed, 4), torch.randint(11, (2, 7))
    program = mlgraph.capture(model, (ids,))
    small = mlgraph.coalesce(program, depth=2)
    mean = (model.blocks[2].up.weight + model.blocks[3].up.weight) / 2
    assert torch.equal(small.tensors["blocks.1.up.weight"], mean)
    back = mlgraph.decoalesce(small)
    assert list(back.state_dict()) == list(program.state_dict())
    assert torch.equal(back.tensors["blocks.0.mix"], back.tensors["blocks.1.mix"])
