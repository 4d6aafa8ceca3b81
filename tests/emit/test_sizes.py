"""Arithmetic of sizes in generated code: every name it uses is there."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from mlgraph import capture, emit


class Padded(nn.Module):
    """Pads a sequence to whole chunks of four, a part of that by rounding sizes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chunks = math.ceil(x.shape[1] / 4)
        x = F.pad(x, (0, 4 * chunks - x.shape[1]))
        return x.unflatten(1, (chunks, 4)).sum(2)[:, : math.floor(chunks / 2) + 1]


def test_rounded_sizes() -> None:
    module = emit(capture(Padded(), (torch.randn(3, 11),)))
    x = torch.randn(5, 22)
    torch.testing.assert_close(module(x), Padded()(x))
