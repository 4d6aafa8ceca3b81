"""Embedding tables of unusual kinds: with sparse gradients, or without rows."""

from __future__ import annotations

import torch
from torch import nn

import mlgraph


def test_tables_with_sparse_gradients_change_width() -> None:
    model = nn.Sequential(nn.Embedding(11, 8, sparse=True), nn.Linear(8, 3))
    program = mlgraph.capture(model, (torch.randint(0, 11, (2, 5)),))
    small = mlgraph.coalesce(program, width=2)
    assert small.tensors["0.weight"].shape == (11, 4)
    assert mlgraph.verify(program)


def test_tables_without_rows_change_width() -> None:
    class Prefixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.out = nn.Linear(3, 8), nn.Linear(8, 3)
            self.prefix = nn.Parameter(torch.zeros(0, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.cat([self.prefix, self.inp(x)]))

    program = mlgraph.capture(Prefixed(), (torch.randn(5, 3),))
    assert mlgraph.coalesce(program, width=2).tensors["prefix"].shape == (0, 4)
    assert mlgraph.verify(program)
