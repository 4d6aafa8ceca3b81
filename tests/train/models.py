"""Tiny models and data for the training tests."""

from __future__ import annotations

import functools
import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import mlgraph


class Classifier(nn.Module):
    """A residual stack without a loss of its own: [batch, 8] floats to [batch, 3] logits."""

    def __init__(self, width: int = 16, depth: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.inp = nn.Linear(8, width)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inp(x)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(self.down(torch.relu(self.up(self.norm(x)))))  # type: ignore[no-any-return]


def classifier(seed: int = 0, **options: Any) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(**options)


def cross_entropy(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, batch[1])


def points(batches: int = 6, size: int = 5, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of points in three classes by a fixed linear rule."""
    generator = torch.Generator().manual_seed(seed)
    rule = torch.randn(8, 3, generator=torch.Generator().manual_seed(99))
    xs = [torch.randn(size, 8, generator=generator) for _ in range(batches)]
    return [(x, (x @ rule).argmax(-1)) for x in xs]


@functools.lru_cache
def _captured(**options: Any) -> mlgraph.Program:
    captured = mlgraph.capture(classifier(**options), (points(1)[0][0],))
    # its analyses and trials are made here, once for all programs that are made of it
    _ = mlgraph.coalesce(captured, width=2)
    return captured


def program(seed: int = 0, **options: Any) -> mlgraph.Program:
    """The captured classifier with parameters of its own; captured and analysed once per architecture."""
    captured = _captured(**options)
    own = dict(classifier(seed, **options).named_parameters())
    return captured.with_values(captured.tensors.replace({**captured.tensors, **own}))


def idx_bytes(values: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def idx_files(folder: Path, count: int = 6) -> Path:
    pixels = np.arange(count * 20, dtype=np.uint8).reshape(count, 5, 4)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(pixels)))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(idx_bytes(np.arange(count, dtype=np.uint8) % 3))
    )
    return folder / "train-images-idx3-ubyte.gz"
