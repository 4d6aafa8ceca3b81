"""Rows dealt out to experts by what they hold: how many each gets is a size of the batch, no width."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import mlgraph


class DealtOut(nn.Module):
    """Rows sorted by expert, split at numbers that data give, and joined again (as JetMoE does)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router = nn.Linear(3, 8), nn.Linear(8, 2)
        self.up, self.down = nn.Parameter(torch.randn(2, 12, 8)), nn.Parameter(torch.randn(2, 8, 12))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        chosen = self.router(x).argmax(-1)
        order = chosen.sort()[1]
        counts = F.one_hot(chosen, 2).sum(0).tolist()
        parts = x[order].split(counts, dim=0)
        done = [F.linear(F.linear(p, self.up[i]).relu(), self.down[i]) for i, p in enumerate(parts)]
        return self.head(torch.zeros_like(x).index_add(0, order, torch.cat(done, dim=0)) + x)


def test_numbers_of_rows_by_data_freeze_no_width(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = mlgraph.capture(DealtOut(), (torch.randn(7, 3),))
    free = {axis.size for axis in program.axes if axis.coarsenable_by_default}
    assert free == {8, 12}
    assert mlgraph.verify(program, checks=("soundness", "growth"))
    small = mlgraph.coalesce(program, width=2)
    mlgraph.save(small, tmp_path / "small.pt")
    x = torch.randn(5, 3)
    again = mlgraph.emit(mlgraph.load(tmp_path / "small.pt"))
    assert torch.equal(again(x), mlgraph.emit(small)(x))
