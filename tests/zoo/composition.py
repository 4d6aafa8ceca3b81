"""Hand-written modules whose difficulty is in how their parts are put together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.zoo.attention import HEAD_DIM, Feedforward, Residual, TorchAttention, Trunk, trunk
from tests.zoo.registry import SEQUENCE, VOCABULARY, Scale, entry, image, token_ids

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


class TopKExperts(nn.Module):
    """Each token goes to two of the experts; with ``shared`` one more expert sees all tokens."""

    def __init__(self, hidden: int, inner: int, experts: int = 3, shared: int = 0) -> None:
        super().__init__()
        self.router = nn.Linear(hidden, experts, bias=False)
        self.experts = nn.ModuleList(Feedforward(hidden, inner) for _ in range(experts))
        self.shared = Feedforward(hidden, shared) if shared else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, index = self.router(x).softmax(-1).topk(2, dim=-1)
        weight = weight / weight.sum(-1, keepdim=True)
        out = torch.zeros_like(x) if self.shared is None else self.shared(x)
        for number, expert in enumerate(self.experts):
            share = (weight * (index == number)).sum(-1, keepdim=True)
            out = out + share * expert(x)
        return out


@entry("experts", "mixture of experts, top-k routing")
def _(s: Scale) -> Call:
    return trunk(s, lambda hidden, heads, mlp: (TorchAttention(hidden, heads), TopKExperts(hidden, mlp)))


@entry("shared-expert", "mixture of experts with a shared expert")
def _(s: Scale) -> Call:
    return trunk(s, lambda hidden, heads, mlp: (TopKExperts(hidden, mlp, shared=s.width(28)),))


class SharedLayers(nn.Module):
    """One block applied ``depth`` times."""

    def __init__(self, hidden: int, heads: int, mlp: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.tokens = nn.Embedding(VOCABULARY, hidden)
        self.block = nn.Sequential(
            Residual(hidden, TorchAttention(hidden, heads)), Residual(hidden, Feedforward(hidden, mlp))
        )
        self.head = nn.Linear(hidden, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids)
        for _ in range(self.depth):
            x = self.block(x)
        return self.head(x)


@entry("shared-layers", "weight sharing across layers")
def _(s: Scale) -> Call:
    return SharedLayers(s.width(24), s.width(4), s.width(40), s.depth(4)), (token_ids(),), {}


class CalledTwice(nn.Module):
    """Two towers through one encoder, compared by a bilinear form."""

    def __init__(self, hidden: int, mlp: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(17, hidden), nn.Tanh(), Feedforward(hidden, mlp))
        self.compare = nn.Bilinear(hidden, hidden, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.compare(self.encoder(left), self.encoder(right))


@entry("called-twice", "a module called twice", chain=False)
def _(s: Scale) -> Call:
    return CalledTwice(s.width(24), s.width(40)), (torch.randn(5, 17), torch.randn(5, 17)), {}


class LayerScaled(nn.Module):
    def __init__(self, hidden: int, branch: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.branch = branch
        self.scale = nn.Parameter(torch.full((hidden,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.branch(self.norm(x))


class RegisterViT(nn.Module):
    """A vision transformer with class and register tokens and LayerScale."""

    def __init__(self, hidden: int, heads: int, mlp: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, hidden, 4, stride=4)
        self.class_token = nn.Parameter(torch.randn(1, 1, hidden))
        self.registers = nn.Parameter(torch.randn(1, 2, hidden))
        self.positions = nn.Parameter(torch.randn(1, 26, hidden))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                LayerScaled(hidden, TorchAttention(hidden, heads)),
                LayerScaled(hidden, Feedforward(hidden, mlp)),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(2 * hidden, 13)

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        batch = x.shape[0]
        x = torch.cat((self.class_token.expand(batch, -1, -1), x), dim=1) + self.positions
        x = torch.cat((x[:, :1], self.registers.expand(batch, -1, -1), x[:, 1:]), dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        pooled = torch.cat((x[:, 0], x[:, 3:].mean(1)), dim=-1)
        return {"logits": self.head(pooled), "tokens": x}


@entry("register-vit", "LayerScale and register tokens")
def _(s: Scale) -> Call:
    return RegisterViT(s.width(24), s.width(4), s.width(40), s.depth(4)), (image(20),), {}


class MultiCrop(nn.Module):
    """A list of crops of two sizes through one trunk and a projection head."""

    def __init__(self, hidden: int, mlp: int, out: int = 14) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, hidden, 4, stride=4)
        self.trunk = nn.Sequential(Residual(hidden, Feedforward(hidden, mlp)), nn.LayerNorm(hidden))
        self.project = nn.Sequential(nn.Linear(hidden, mlp), nn.GELU(), nn.Linear(mlp, out))

    def forward(self, crops: list[torch.Tensor]) -> torch.Tensor:
        pooled = [self.trunk(self.patches(crop).flatten(2).transpose(1, 2)).mean(1) for crop in crops]
        return self.project(torch.cat(pooled))


@entry("multi-crop", "multi-crop inputs", chain=False)
def _(s: Scale) -> Call:
    crops = [image(20), image(20), image(12)]
    return MultiCrop(s.width(24), s.width(40)), (crops,), {}


class Mixer(nn.Module):
    """An MLP over tokens, an MLP over channels."""

    def __init__(self, hidden: int, token_mlp: int, mlp: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.tokens = Feedforward(SEQUENCE, token_mlp)
        self.channels = Feedforward(hidden, mlp)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.tokens(self.norm1(x).mT).mT
        return x + self.channels(self.norm2(x))


@entry("mixer", "MLP-Mixer")
def _(s: Scale) -> Call:
    hidden, token_mlp, mlp = s.widths(24, 14, 40)
    blocks = [Mixer(hidden, token_mlp, mlp) for _ in range(s.depth(4))]
    return Trunk(hidden, blocks), (token_ids(),), {}


class Modulated(nn.Module):
    """Shift, scale and gate of each branch come from a condition by one packed Linear."""

    def __init__(self, hidden: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(hidden, 6 * hidden)
        self.norm1 = nn.LayerNorm(hidden, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(hidden, elementwise_affine=False)
        self.attention, self.mlp = TorchAttention(hidden, heads), Feedforward(hidden, mlp)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition))[:, None].chunk(
            6, -1
        )
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class DiffusionTransformer(nn.Module):
    """Patches in, patches out, modulated by a sinusoidal time embedding."""

    def __init__(self, hidden: int, heads: int, mlp: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, hidden, 4, stride=4)
        self.time = nn.Sequential(nn.Linear(16, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.blocks = nn.ModuleList(Modulated(hidden, heads, mlp) for _ in range(depth))
        self.out = nn.Linear(hidden, 3 * 4 * 4)

    def forward(self, pixels: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        frequency = torch.exp(-torch.arange(8, device=time.device) * math.log(10.0) / 8)
        angle = time[:, None] * frequency
        condition = self.time(torch.cat((angle.cos(), angle.sin()), dim=-1).to(pixels.dtype))
        x = self.patches(pixels)
        batch, _, rows, columns = x.shape
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, condition)
        x = self.out(x).view(batch, rows, columns, 4, 4, 3)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, rows * 4, columns * 4)


@entry("diffusion-transformer", "adaptive layer norm from a condition")
def _(s: Scale) -> Call:
    model = DiffusionTransformer(s.width(24), s.width(4), s.width(40), s.depth(4))
    return model, (image(20), torch.rand(5)), {}


class Sinusoidal(nn.Module):
    """Fixed positions in a buffer as wide as the hidden size; every layer's state returned."""

    def __init__(self, hidden: int, heads: int, mlp: int, depth: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, hidden)
        position = torch.arange(31.0)[:, None]
        rate = torch.exp(torch.arange(0, hidden, 2) * (-math.log(1e4) / hidden))
        table = torch.stack((torch.sin(position * rate), torch.cos(position * rate)), dim=-1).flatten(1)
        self.register_buffer("table", table)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                Residual(hidden, TorchAttention(hidden, heads)), Residual(hidden, Feedforward(hidden, mlp))
            )
            for _ in range(depth)
        )

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        x = self.tokens(ids) * math.sqrt(self.tokens.embedding_dim) + self.table[: ids.shape[1]]
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states[-1], states


@entry("sinusoidal-states", "fixed positions in a buffer, hidden states returned", tags=["constant"])
def _(s: Scale) -> Call:
    return Sinusoidal(s.width(24), s.width(4), s.width(40), s.depth(4)), (token_ids(),), {}


class Autoencoder(nn.Module):
    """Decoder weights are the encoder's, transposed."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.outer = nn.Linear(17, wide)
        self.inner = nn.Linear(wide, narrow)
        self.outer_bias = nn.Parameter(torch.zeros(17))
        self.inner_bias = nn.Parameter(torch.zeros(wide))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        code = torch.tanh(self.inner(torch.relu(self.outer(x))))
        wide = torch.relu(F.linear(code, self.inner.weight.T, self.inner_bias))
        return torch.addmm(self.outer_bias, wide, self.outer.weight)


@entry("tied-autoencoder", "decoder tied to the encoder, transposed", chain=False)
def _(s: Scale) -> Call:
    return Autoencoder(s.width(24), s.width(14)), (torch.randn(5, 17),), {}


class TalkingHeads(nn.Module):
    """Scores mixed across heads before and after the softmax."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * heads * HEAD_DIM)
        self.before, self.after = nn.Linear(heads, heads), nn.Linear(heads, heads)
        self.out = nn.Linear(heads * HEAD_DIM, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT * HEAD_DIM**-0.5
        weights = self.before(scores.permute(0, 2, 3, 1)).softmax(2)
        weights = self.after(weights).permute(0, 3, 1, 2)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


@entry("talking-heads", "scores mixed across heads")
def _(s: Scale) -> Call:
    return trunk(s, lambda hidden, heads, mlp: (TalkingHeads(hidden, heads), Feedforward(hidden, mlp)))
