"""Small stacks of layers, whose blocks are given as functions, with torch itself as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

import mlgraph
from mlgraph.program import Program
from tests import oracles
from tests.perturbation import perturb_

WIDTH = 6


class Layer(nn.Module):
    """A feed-forward branch, and what odd blocks need beside it; ``forward`` is the function given."""

    def __init__(self, function: Callable[[Layer, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)
        self.after, self.fine = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH, eps=1e-12)
        self.gain, self.gate = nn.Parameter(torch.ones(WIDTH)), nn.Linear(WIDTH, WIDTH)

    def branch(self, h: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down(F.gelu(self.up(self.norm(h))))
        return out

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.function(self, h)


class Stack(nn.Module):
    """An input map, layers one after another, an output map."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inp(x)
        for layer in self.layers:
            h = layer(h)
        out: torch.Tensor = self.out(h)
        return out


def example() -> torch.Tensor:
    return torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def stacked(function: Callable[[Layer, torch.Tensor], torch.Tensor], depth: int = 2) -> Program:
    """A stack of layers of one function in fp64, captured, its parameters all random."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Stack([Layer(function) for _ in range(depth)])
        perturb_(model, 0.3)
    return mlgraph.capture(model.double().eval(), (example(),))


def difference(left: Program, right: Program) -> float:
    """The relative error of the results of two programs."""
    with torch.no_grad():
        results = [mlgraph.emit(program).eval()(example()) for program in (left, right)]
    return oracles.relative_error(*results)
