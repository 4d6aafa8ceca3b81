"""Hand-written attention in the many ways in which people write it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.strategies import Shape, Transformer
from tests.zoo.registry import SEQUENCE, VOCABULARY, Scale, entry, image, token_ids

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
HEAD_DIM = 6


class Residual(nn.Module):
    """Pre-norm residual: ``x + branch(norm(x))``."""

    def __init__(self, hidden: int, branch: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(self.norm(x))


class Feedforward(nn.Sequential):
    def __init__(self, hidden: int, mlp: int) -> None:
        super().__init__(nn.Linear(hidden, mlp), nn.GELU(), nn.Linear(mlp, hidden))


class Trunk(nn.Module):
    """Token table, learned positions, blocks and an untied head."""

    def __init__(self, hidden: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, hidden)
        self.positions = nn.Parameter(torch.randn(SEQUENCE, hidden))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def trunk(s: Scale, branches: Any) -> Call:
    """A trunk whose blocks chain the branches that ``branches(hidden, heads, mlp)`` gives."""
    hidden, heads, mlp = s.widths(24, 4, 40)

    def block() -> nn.Module:
        return nn.Sequential(*(Residual(hidden, branch) for branch in branches(hidden, heads, mlp)))

    return Trunk(hidden, [block() for _ in range(s.depth(4))]), (token_ids(),), {}


class EinsumAttention(nn.Module):
    """One three-dimensional weight per projection: ``[heads, hidden, head_dim]``."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        shape = heads, hidden, HEAD_DIM
        self.q, self.k, self.v = (nn.Parameter(torch.randn(shape) / math.sqrt(hidden)) for _ in range(3))
        self.out = nn.Parameter(torch.randn(heads, HEAD_DIM, hidden) / math.sqrt(hidden))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (torch.einsum("bte,hed->bhtd", x, weight) for weight in (self.q, self.k, self.v))
        weights = torch.einsum("bhqd,bhkd->bhqk", q, k).div(math.sqrt(HEAD_DIM)).softmax(-1)
        return torch.einsum("bhqk,bhkd,hde->bqe", weights, v, self.out)


@entry("einsum-attention", "einsum attention")
def _(s: Scale) -> Call:
    return trunk(s, lambda hidden, heads, mlp: (EinsumAttention(hidden, heads), Feedforward(hidden, mlp)))


def packed(s: Scale, **choices: Any) -> Call:
    sizes = {"hidden": s.width(24), "kv_heads": s.width(4), "mlp": s.width(40), "depth": s.depth(4)}
    shape = Shape(**sizes, head_dim=HEAD_DIM, **choices)
    return Transformer(shape), (token_ids(vocabulary=17, sequence=SEQUENCE),), {}


for _layout in ("chunk", "split", "unbind", "interleaved"):
    for _order in ((0, 1, 2), (2, 0, 1)):
        if _layout == "interleaved" and _order != (0, 1, 2):
            continue
        _name = f"packed-{_layout}-{''.join('qkv'[i] for i in _order)}"

        @entry(_name, "packed qkv")
        def _(s: Scale, layout: str = _layout, order: tuple[int, ...] = _order) -> Call:
            return packed(s, qkv=layout, order=order, bias=True)


@entry("grouped-packed", "packed grouped-query attention")
def _(s: Scale) -> Call:
    return packed(s, qkv="interleaved", rep=3, positions="rotary", norm="rms", mlp_kind="packed", bias=False)


@entry("per-head-norm", "per-head norms")
def _(s: Scale) -> Call:
    return packed(s, head_norm=True, positions="rotary", mlp_kind="gated")


@entry("relative-shared", "relative-position table shared by all layers")
def _(s: Scale) -> Call:
    return packed(s, positions="relative_shared", manual_attention=True, causal=False)


@entry("packed-gates", "gated unit with packed weights")
def _(s: Scale) -> Call:
    return packed(s, mlp_kind="packed_interleaved", norm="rms")


@entry("alternating-windows", "alternating full and windowed attention")
def _(s: Scale) -> Call:
    return packed(s, period=2, positions="rotary")


@entry("post-norm", "post-norm, tied head")
def _(s: Scale) -> Call:
    return packed(s, post_norm=True, tied=True, causal=False)


class TorchAttention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(hidden, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@entry("multihead-attention", "nn.MultiheadAttention", suite="torch")
def _(s: Scale) -> Call:
    return trunk(s, lambda hidden, heads, mlp: (TorchAttention(hidden, heads), Feedforward(hidden, mlp)))


@entry("torch-decoder", "nn.TransformerDecoder", suite="torch")
def _(s: Scale) -> Call:
    hidden, heads, mlp = s.widths(24, 4, 40)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerDecoderLayer(hidden, heads, mlp, batch_first=True, norm_first=True)
            self.tokens = nn.Embedding(VOCABULARY, hidden)
            self.decoder = nn.TransformerDecoder(layer, s.depth(4), norm=nn.LayerNorm(hidden))
            self.source = nn.Linear(9, hidden)
            self.head = nn.Linear(hidden, VOCABULARY)

        def forward(self, ids: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
            return self.head(self.decoder(self.tokens(ids), self.source(source)))

    return Decoder(), (token_ids(), torch.randn(5, 7, 9)), {}


class CrossAttention(nn.Module):
    """Queries from one stream, packed keys and values from another of its own width."""

    def __init__(self, hidden: int, heads: int, source: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.source_norm = nn.LayerNorm(hidden), nn.LayerNorm(source)
        self.q = nn.Linear(hidden, heads * HEAD_DIM)
        self.kv = nn.Linear(source, 2 * heads * HEAD_DIM)
        self.out = nn.Linear(heads * HEAD_DIM, hidden)

    def forward(self, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        q = self.q(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(self.source_norm(source)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Perceiver(nn.Module):
    """Learned latents that read an image's patches by cross-attention."""

    def __init__(self, hidden: int, heads: int, source: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, source, 4, stride=4)
        self.latents = nn.Parameter(torch.randn(7, hidden))
        self.blocks = nn.ModuleList(CrossAttention(hidden, heads, source) for _ in range(depth))
        self.head = nn.Linear(hidden, 13)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        source = self.patches(pixels).flatten(2).transpose(1, 2)
        x = self.latents.expand(pixels.shape[0], -1, -1)
        for block in self.blocks:
            x = block(x, source)
        return self.head(x.mean(1))


@entry("perceiver", "cross-attention from latents")
def _(s: Scale) -> Call:
    return Perceiver(s.width(24), s.width(4), s.width(28), s.depth(4)), (image(20),), {}


class LinearAttention(nn.Module):
    """Kernel attention: keys and values are summed first, in time linear in the length."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * heads * HEAD_DIM, bias=False)
        self.out = nn.Linear(heads * HEAD_DIM, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state = torch.einsum("bthd,bthe->bhde", k, v)
        norm = torch.einsum("bthd,bhd->bth", q, k.sum(1))
        return self.out((torch.einsum("bthd,bhde->bthe", q, state) / norm[..., None]).flatten(2))


@entry("linear-attention", "linear attention")
def _(s: Scale) -> Call:
    return trunk(s, lambda hidden, heads, mlp: (LinearAttention(hidden, heads), Feedforward(hidden, mlp)))


class AlibiAttention(nn.Module):
    """A constant slope per head, kept as a buffer; keys biased by distance."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("slopes", 2.0 ** -torch.arange(1.0, heads + 1), persistent=False)
        self.qkv = nn.Linear(hidden, 3 * heads * HEAD_DIM)
        self.out = nn.Linear(heads * HEAD_DIM, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, HEAD_DIM).permute(2, 0, 3, 1, 4)
        position = torch.arange(length, device=x.device)
        bias = self.slopes[:, None, None] * (position[None] - position[:, None]).clamp(max=0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(x.dtype))
        return self.out(mixed.transpose(1, 2).flatten(2))


@entry("alibi", "attention with linear biases")
def _(s: Scale) -> Call:
    return trunk(s, lambda hidden, heads, mlp: (AlibiAttention(hidden, heads), Feedforward(hidden, mlp)))


class ParallelBlock(nn.Module):
    """Attention and MLP side by side: one projection in, one projection out."""

    def __init__(self, hidden: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.heads, self.sizes = heads, (heads * HEAD_DIM,) * 3 + (mlp,)
        self.up = nn.Linear(hidden, sum(self.sizes))
        self.down = nn.Linear(heads * HEAD_DIM + mlp, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *qkv, inner = self.up(x).split(self.sizes, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, HEAD_DIM)).transpose(1, 2) for part in qkv)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.down(torch.cat((mixed, F.gelu(inner)), dim=-1))


@entry("parallel-block", "attention and MLP in parallel, packed")
def _(s: Scale) -> Call:
    return trunk(s, lambda hidden, heads, mlp: (ParallelBlock(hidden, heads, mlp),))


@entry("channel-scale", "learned scale per channel")
def _(s: Scale) -> Call:
    class Scaled(nn.Module):
        def __init__(self, inner: nn.Module, hidden: int) -> None:
            super().__init__()
            self.inner = inner
            self.gain = nn.Parameter(torch.full((hidden,), 0.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gain * self.inner(x)

    return trunk(
        s,
        lambda hidden, heads, mlp: (
            Scaled(TorchAttention(hidden, heads), hidden),
            Scaled(Feedforward(hidden, mlp), hidden),
        ),
    )
