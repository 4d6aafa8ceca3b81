"""Why numbered modules that look alike are in no chain."""

from __future__ import annotations

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
