"""Blocks of a chain are coarsened alike, whatever their place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mlgraph
from mlgraph.errors import AxisError

WIDTH, STREAMS = 16, 2


class Mixed(nn.Module):
    """A block on several streams, which it mixes by a learned matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Parameter(torch.randn(STREAMS)), nn.Parameter(torch.randn(STREAMS))
        self.mix = nn.Parameter(torch.eye(STREAMS) + 0.1 * torch.randn(STREAMS, STREAMS))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, streams: torch.Tensor) -> torch.Tensor:
        y = self.down(torch.relu(self.up(torch.einsum("n,btnd->btd", self.read, streams))))
        return torch.einsum("nm,btnd->btmd", self.mix, streams) + self.write[:, None] * y[:, :, None]


class Streams(nn.Module):
    """Copies of the states, mixed by every layer and summed at last: the number of copies is an axis
    between two layers, and a constant before the first.
    """

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, WIDTH)
        self.layers = nn.ModuleList(Mixed() for _ in range(depth))
        self.head = nn.Linear(WIDTH, 11)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        streams = self.embed(ids)[:, :, None].expand(-1, -1, STREAMS, -1)
        for layer in self.layers:
            streams = layer(streams)
        return self.head(streams.sum(2))


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return mlgraph.capture(Streams(), (torch.randint(11, (3, 5)),))


def test_an_axis_that_one_block_keeps_is_kept_in_all(program) -> None:
    between = [axis for axis in program.axes if {slot.tensor for slot in axis.slots} >= {"layers.1.mix"}]
    assert len(between) == 2
    assert [axis.kept.kind for axis in between] == ["alike", "alike"]
    small = mlgraph.coalesce(program, width=2, depth=2)
    assert [len(chain) for chain in small.blocks] == [2]
    assert small.tensors["layers.1.mix"].shape == (STREAMS, STREAMS)
    assert small.tensors["layers.1.up.weight"].shape == (2 * WIDTH, WIDTH // 2)


def test_depth_after_width(program) -> None:
    small = mlgraph.coalesce(mlgraph.coalesce(program, width=2), depth=2)
    assert [len(chain) for chain in small.blocks] == [2]


def test_widths_that_tell_blocks_apart_are_refused_with_depth(program) -> None:
    mlp = next(axis.id for axis in program.axes if axis.name == "mlp")
    with pytest.raises(AxisError, match="blocks of layers are not alike at the widths chosen"):
        mlgraph.coalesce(program, depth=2, axes={mlp: 2})
