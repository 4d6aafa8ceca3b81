"""Hand-written recurrent, state-space and convolutional networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.zoo.attention import Feedforward, Residual, trunk
from tests.zoo.registry import SEQUENCE, VOCABULARY, Scale, entry, image, token_ids

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], hidden: int, inner: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, hidden)
        self.cell = cell(hidden, inner, batch_first=True)
        self.head = nn.Linear(inner, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(self.tokens(ids))[0])


@entry("lstm", "LSTM", chain=False)
def _(s: Scale) -> Call:
    return Recurrent(nn.LSTM, s.width(24), s.width(40)), (token_ids(),), {}


@entry("gru", "GRU", chain=False)
def _(s: Scale) -> Call:
    return Recurrent(nn.GRU, s.width(24), s.width(40)), (token_ids(),), {}


class SelectiveScan(nn.Module):
    """A diagonal state-space mixer with input-dependent steps, unrolled over a fixed length."""

    def __init__(self, hidden: int, inner: int, rank: int, state: int = 3) -> None:
        super().__init__()
        self.sizes = rank, state, state
        self.up = nn.Linear(hidden, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, 3, padding=2, groups=inner)
        self.select = nn.Linear(inner, rank + 2 * state, bias=False)
        self.step = nn.Linear(rank, inner)
        self.decay = nn.Parameter(torch.randn(inner, state))
        self.skip = nn.Parameter(torch.randn(inner))
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, gate = self.up(x).chunk(2, dim=-1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :SEQUENCE].transpose(1, 2))
        rank, write, read = self.select(x).split(self.sizes, dim=-1)
        step = F.softplus(self.step(rank))
        keep = torch.exp(-step[..., None] * self.decay.exp())
        add = (step * x)[..., None] * write[:, :, None]
        state = torch.zeros_like(add[:, 0])
        out = []
        for t in range(SEQUENCE):
            state = keep[:, t] * state + add[:, t]
            out.append((state * read[:, t, None]).sum(-1))
        return self.down((torch.stack(out, dim=1) + x * self.skip) * F.silu(gate))


@entry("state-space", "selective state space")
def _(s: Scale) -> Call:
    return trunk(s, lambda hidden, heads, mlp: (SelectiveScan(hidden, mlp, s.width(6)),))


class GatedConvolution(nn.Module):
    """A causal depthwise convolution gated by ``glu``."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, 2 * inner)
        self.conv = nn.Conv1d(inner, inner, 3, groups=inner)
        self.down = nn.Linear(inner, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.glu(self.up(x), dim=-1).transpose(1, 2)
        return self.down(self.conv(F.pad(x, (2, 0))).transpose(1, 2))


@entry("gated-convolution", "gated causal convolutions")
def _(s: Scale) -> Call:
    return trunk(s, lambda hidden, heads, mlp: (GatedConvolution(hidden, mlp), Feedforward(hidden, mlp)))


class GroupedBlock(nn.Module):
    """1x1, grouped 3x3, 1x1 with batch norms and squeeze-and-excitation."""

    def __init__(self, channels: int, inner: int, squeeze: int, groups: int = 3) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, groups=groups, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.squeeze, self.excite = nn.Conv2d(inner, squeeze, 1), nn.Conv2d(squeeze, inner, 1)
        self.conv3, self.norm3 = nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return F.relu(x + self.norm3(self.conv3(y)))


class GroupedNet(nn.Module):
    def __init__(self, channels: int, inner: int, squeeze: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(GroupedBlock(channels, inner, squeeze) for _ in range(depth)))
        self.head = nn.Linear(channels, 13)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(F.adaptive_avg_pool2d(self.blocks(self.stem(pixels)), 1).flatten(1))


@entry("grouped-convolutions", "grouped convolutions")
def _(s: Scale) -> Call:
    return GroupedNet(s.width(20), s.width(36), s.width(8), s.depth(4)), (image(14),), {}


def double_convolution(source: int, target: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(source, target, 3, padding=1), nn.GroupNorm(2, target), nn.SiLU())


class UNet(nn.Module):
    """Two levels down, two up, skips joined by concatenation."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        a, b, c = widths
        self.enter, self.down1, self.down2 = (double_convolution(*pair) for pair in ((3, a), (a, b), (b, c)))
        self.up2, self.up1 = nn.ConvTranspose2d(c, b, 2, stride=2), nn.ConvTranspose2d(b, a, 2, stride=2)
        self.join2, self.join1 = double_convolution(2 * b, b), double_convolution(2 * a, a)
        self.out = nn.Conv2d(a, 1, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        top = self.enter(pixels)
        middle = self.down1(F.max_pool2d(top, 2))
        bottom = self.down2(F.avg_pool2d(middle, 2))
        middle = self.join2(torch.cat((self.up2(bottom), middle), dim=1))
        return self.out(self.join1(torch.cat((top, self.up1(middle)), dim=1)))


@entry("u-net", "U-Net skips", chain=False)
def _(s: Scale) -> Call:
    return UNet(s.widths(16, 24, 40)), (image(20),), {}


class Dense(nn.Module):
    """Every layer sees the concatenation of all before it."""

    def __init__(self, stem: int, growth: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(stem + i * growth, growth, 3, padding=1) for i in range(depth))
        self.norm = nn.BatchNorm2d(stem + depth * growth)
        self.head = nn.Linear(stem + depth * growth, 13)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = [self.stem(pixels)]
        for layer in self.layers:
            features.append(F.relu(layer(torch.cat(features, dim=1))))
        return self.head(self.norm(torch.cat(features, dim=1)).mean((2, 3)))


@entry("dense-net", "dense concatenation", chain=False)
def _(s: Scale) -> Call:
    return Dense(s.width(16), s.width(8), 3), (image(10),), {}


class ConvolutionalEncoder(nn.Module):
    """Speech-like: strided 1-d convolutions, then blocks of depthwise convolution and MLP."""

    def __init__(self, hidden: int, mlp: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(9, hidden, 3, stride=2, padding=1), nn.GELU(), nn.Conv1d(hidden, hidden, 3, padding=1)
        )
        self.position = nn.Conv1d(hidden, hidden, 5, padding=2, groups=hidden)
        self.blocks = nn.ModuleList(Residual(hidden, Feedforward(hidden, mlp)) for _ in range(depth))
        self.head = nn.Linear(hidden, 19)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = self.stem(frames)
        x = (x + F.gelu(self.position(x))).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x).log_softmax(-1)


@entry("speech-encoder", "convolutional front end")
def _(s: Scale) -> Call:
    return ConvolutionalEncoder(s.width(24), s.width(40), s.depth(4)), (torch.randn(5, 9, 26),), {}
