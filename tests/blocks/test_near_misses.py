"""Why numbered modules that look alike are in no chain."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mlgraph


class Crossing(nn.Module):
    """A layer of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.across = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + torch.tanh(self.left(b)), b + torch.tanh(self.right(a)) * self.across(b)


class TwoStreams(nn.Module):
    """Layers that pass on two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.layers = nn.ModuleList(Crossing() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x), self.second(x)
        for layer in self.layers:
            a, b = layer(a, b)
        return a * b


def test_layers_that_pass_on_two_activations_are_named() -> None:
    table = mlgraph.capture(TwoStreams(), (torch.randn(3, 8),)).blocks
    assert len(table) == 0
    (line,) = table.rejected
    assert line.startswith("layers.0-3 pass on 2 activations")


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(self.norm(x))))


class Around(nn.Module):
    """Layers alike, whose results are treated otherwise around them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.kind = nn.Linear(8, 8), kind
        self.layers = nn.ModuleList(Branch() for _ in range(4))
        self.mixed = nn.Parameter(torch.ones(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [self.first(x)]
        for at, layer in enumerate(self.layers):
            branch = layer(found[-1])
            found.append(found[-1] + (branch / (at + 2) if self.kind == "divided" else branch))
        if self.kind == "collected":
            return (torch.stack(found, -1) * self.mixed).sum(-1)
        return found[-1]


def test_what_tells_layers_apart_may_lie_around_them() -> None:
    table = mlgraph.capture(Around("divided"), (torch.randn(3, 8),)).blocks
    assert list(table.rejected) == ["layers.0-3 differ: div constant 2 vs 3"]


def test_what_takes_the_results_of_so_many_blocks_is_named() -> None:
    program = mlgraph.capture(Around("collected"), (torch.randn(3, 8),))
    words = "the depth of layers cannot change: with another number of blocks node mul .*; freeze layers"
    with pytest.raises(mlgraph.MlgraphError, match=words):
        mlgraph.coalesce(program, depth=2, check=False)
    kept = mlgraph.coalesce(program, depth=2)
    assert [len(chain) for chain in kept.blocks] == [4]
    assert any("kept: layers, since aten.mul.Tensor does not run at another depth" in n for n in kept.notes)
    assert mlgraph.coalesce(program, width=2).tensors["mixed"].shape == (5,)
