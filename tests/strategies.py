"""Hypothesis strategies: random small transformers as plain modules, and random groupings.

``transformers()`` draws a :class:`Shape`, the sizes and choices of construction of one decoder or
encoder; ``Shape.build()`` makes the module in fp64 and ``Shape.inputs()`` an example call. A shape
can also be built at other sizes, so that the expected result of coalescing is known from the class.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.perturbation import perturb_

BATCH, LENGTH, VOCABULARY = 7, 13, 17
WINDOW = 3

QKV = ("separate", "chunk", "split", "unbind", "interleaved")
MLP = ("plain", "gated", "packed", "packed_interleaved", "experts")
POSITIONS = ("none", "learned", "rotary", "relative", "relative_shared")


@dataclass(frozen=True)
class Shape:
    """Sizes and choices of one random transformer.

    ``rep`` query heads share one of ``kv_heads`` key and value heads. ``qkv`` is the layout of the
    projections: three Linears; one packed Linear cut by ``chunk``, by ``split`` of uneven sizes, by
    reshape-permute-``unbind``, or ``interleaved`` per kv head (``[kv_heads, rep + 2, head_dim]``).
    ``order`` permutes q, k and v within the packed layouts. ``period`` 2 alternates full and windowed
    attention.
    """

    hidden: int = 8
    kv_heads: int = 2
    rep: int = 1
    head_dim: int = 2
    mlp: int = 6
    depth: int = 2
    qkv: str = "separate"
    order: tuple[int, int, int] = (0, 1, 2)
    mlp_kind: str = "plain"
    experts: int = 3
    positions: str = "learned"
    norm: str = "layer"
    post_norm: bool = False
    head_norm: bool = False
    layer_scale: bool = False
    bias: bool = True
    causal: bool = True
    manual_attention: bool = False
    tied: bool = False
    embedding_scale: bool = False
    period: int = 1

    @property
    def heads(self) -> int:
        return self.kv_heads * self.rep

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Transformer:
        """The module in eval mode, with seeded random parameters."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = Transformer(self)
            perturb_(model, 0.3)
        return model.to(dtype).eval()

    def inputs(self, seed: int = 0) -> torch.Tensor:
        """Token ids ``[BATCH, LENGTH]``."""
        return torch.randint(VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))

    def coarse(self, *, hidden: int = 1, kv_heads: int = 1, mlp: int = 1, depth: int = 1) -> Shape:
        """The shape with sizes divided."""
        return dataclasses.replace(
            self,
            hidden=self.hidden // hidden,
            kv_heads=self.kv_heads // kv_heads,
            mlp=self.mlp // mlp,
            depth=self.depth // depth,
        )


def make_norm(shape: Shape, size: int) -> nn.Module:
    return nn.LayerNorm(size, bias=shape.bias) if shape.norm == "layer" else nn.RMSNorm(size, eps=1e-6)


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions on ``[batch, heads, length, head_dim]``, by halves."""
    half = x.shape[-1] // 2
    frequency = 10.0 ** -torch.arange(half, dtype=x.dtype, device=x.device)
    angle = torch.arange(x.shape[2], dtype=x.dtype, device=x.device)[:, None] * frequency
    first, second = x[..., :half], x[..., half:]
    return torch.cat(
        (first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), dim=-1
    )


class RelativeBias(nn.Module):
    """A table of one bias per clipped distance and head, read as ``[heads, length, length]``."""

    def __init__(self, heads: int, reach: int = 4) -> None:
        super().__init__()
        self.reach = reach
        self.table = nn.Embedding(2 * reach + 1, heads)

    def forward(self, length: int) -> torch.Tensor:
        position = torch.arange(length, device=self.table.weight.device)
        distance = (position[None] - position[:, None]).clamp(-self.reach, self.reach) + self.reach
        return self.table(distance).permute(2, 0, 1)


class Attention(nn.Module):
    def __init__(self, shape: Shape, window: int | None) -> None:
        super().__init__()
        self.shape, self.window = shape, window
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        if shape.qkv == "separate":
            self.q = nn.Linear(shape.hidden, queries, bias=shape.bias)
            self.k = nn.Linear(shape.hidden, keys, bias=shape.bias)
            self.v = nn.Linear(shape.hidden, keys, bias=shape.bias)
        else:
            self.qkv = nn.Linear(shape.hidden, queries + 2 * keys, bias=shape.bias)
        if shape.head_norm:
            self.q_norm = make_norm(shape, shape.head_dim)
            self.k_norm = make_norm(shape, shape.head_dim)
        if shape.positions == "relative":
            self.relative = RelativeBias(shape.heads)
        self.out = nn.Linear(queries, shape.hidden, bias=shape.bias)

    def project(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Query ``[batch, length, heads, head_dim]``, key and value with ``kv_heads`` for ``heads``."""
        s = self.shape
        lead = x.shape[:2]
        if s.qkv == "separate":
            parts = self.q(x), self.k(x), self.v(x)
            return [part.view(*lead, -1, s.head_dim) for part in parts]
        packed = self.qkv(x)
        if s.qkv == "chunk":
            found = [part.view(*lead, s.heads, s.head_dim) for part in packed.chunk(3, dim=-1)]
            return [found[s.order.index(i)] for i in range(3)]
        if s.qkv == "unbind":
            found = packed.reshape(*lead, 3, s.heads, s.head_dim).permute(2, 0, 1, 3, 4).unbind(0)
            return [found[s.order.index(i)] for i in range(3)]
        if s.qkv == "split":
            sizes = [s.heads * s.head_dim, s.kv_heads * s.head_dim, s.kv_heads * s.head_dim]
            found = packed.split([sizes[i] for i in s.order], dim=-1)
            return [found[s.order.index(i)].unflatten(-1, (-1, s.head_dim)) for i in range(3)]
        groups = packed.view(*lead, s.kv_heads, s.rep + 2, s.head_dim)
        query, key, value = groups.split([s.rep, 1, 1], dim=3)
        return query.reshape(*lead, s.heads, s.head_dim), key.squeeze(3), value.squeeze(3)

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        s = self.shape
        batch, length, _ = x.shape
        q, k, v = (part.transpose(1, 2) for part in self.project(x))
        if s.head_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if s.positions == "rotary":
            q, k = rotate(q), rotate(k)
        if s.rep > 1:
            k, v = (
                part[:, :, None].expand(batch, s.kv_heads, s.rep, length, s.head_dim).flatten(1, 2)
                for part in (k, v)
            )
        if s.positions == "relative":
            bias = self.relative(length)
        mask = self.mask(length, x)
        if bias is not None:
            mask = bias if mask is None else bias + mask
        if s.manual_attention:
            scores = q @ k.transpose(-1, -2) / math.sqrt(s.head_dim)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, s.heads * s.head_dim))

    def mask(self, length: int, x: torch.Tensor) -> torch.Tensor | None:
        position = torch.arange(length, device=x.device)
        distance = position[:, None] - position[None]
        allowed = torch.ones_like(distance, dtype=torch.bool)
        if self.shape.causal:
            allowed = allowed & (distance >= 0)
        if self.window is not None:
            allowed = allowed & (distance.abs() < self.window)
        if not self.shape.causal and self.window is None:
            return None
        return torch.zeros(length, length, dtype=x.dtype, device=x.device).masked_fill(~allowed, -1e9)


class Plain(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.up = nn.Linear(shape.hidden, shape.mlp, bias=shape.bias)
        self.down = nn.Linear(shape.mlp, shape.hidden, bias=shape.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)))


class Gated(Plain):
    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.gate = nn.Linear(shape.hidden, shape.mlp, bias=shape.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Packed(nn.Module):
    """A gated unit whose two projections are one weight: ``[2, mlp]`` halves or ``[mlp, 2]`` pairs."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.interleaved = shape.mlp_kind == "packed_interleaved"
        self.up = nn.Linear(shape.hidden, 2 * shape.mlp, bias=shape.bias)
        self.down = nn.Linear(shape.mlp, shape.hidden, bias=shape.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        packed = self.up(x)
        if self.interleaved:
            gate, value = packed.unflatten(-1, (-1, 2)).unbind(-1)
        else:
            gate, value = packed.chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class Experts(nn.Module):
    """Every expert on every token, weighted by a top-2 router."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.router = nn.Linear(shape.hidden, shape.experts, bias=shape.bias)
        self.up = nn.Parameter(torch.randn(shape.experts, shape.hidden, shape.mlp) / math.sqrt(shape.hidden))
        self.down = nn.Parameter(torch.randn(shape.experts, shape.mlp, shape.hidden) / math.sqrt(shape.mlp))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, index = self.router(x).softmax(-1).topk(2, dim=-1)
        gate = torch.zeros(*x.shape[:2], self.up.shape[0], dtype=x.dtype, device=x.device)
        gate = gate.scatter(-1, index, weight)
        inner = F.gelu(torch.einsum("bth,ehm->btem", x, self.up))
        return torch.einsum("btem,emh,bte->bth", inner, self.down, gate)


MLPS = {
    "plain": Plain,
    "gated": Gated,
    "packed": Packed,
    "packed_interleaved": Packed,
    "experts": Experts,
}


class Block(nn.Module):
    def __init__(self, shape: Shape, window: int | None) -> None:
        super().__init__()
        self.post_norm = shape.post_norm
        self.norm1 = make_norm(shape, shape.hidden)
        self.attention = Attention(shape, window)
        self.norm2 = make_norm(shape, shape.hidden)
        self.mlp = MLPS[shape.mlp_kind](shape)
        self.scale = nn.Parameter(torch.ones(shape.hidden)) if shape.layer_scale else None

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self.post_norm:
            x = self.norm1(x + self.scaled(self.attention(x, bias)))
            return self.norm2(x + self.scaled(self.mlp(x)))
        x = x + self.scaled(self.attention(self.norm1(x), bias))
        return x + self.scaled(self.mlp(self.norm2(x)))

    def scaled(self, branch: torch.Tensor) -> torch.Tensor:
        return branch if self.scale is None else branch * self.scale


class Transformer(nn.Module):
    """Token ids ``[batch, length]`` to logits ``[batch, length, VOCABULARY]``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(VOCABULARY, shape.hidden)
        if shape.positions == "learned":
            self.positions = nn.Embedding(LENGTH + 6, shape.hidden)
        if shape.positions == "relative_shared":
            self.relative = RelativeBias(shape.heads)
        windows = [None if i % shape.period == 0 else WINDOW for i in range(shape.depth)]
        self.blocks = nn.ModuleList(Block(shape, window) for window in windows)
        self.norm = make_norm(shape, shape.hidden)
        self.head = nn.Linear(shape.hidden, VOCABULARY, bias=shape.bias)
        if shape.tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids)
        if self.shape.embedding_scale:
            x = x * math.sqrt(self.shape.hidden)
        if self.shape.positions == "learned":
            x = x + self.positions(torch.arange(ids.shape[1], device=ids.device))
        bias = self.relative(ids.shape[1]) if self.shape.positions == "relative_shared" else None
        for block in self.blocks:
            x = block(x, bias)
        return self.head(self.norm(x))


THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
"""Whether shapes are drawn freely; else from few, which tests capture once for all."""

# Between them they have every layout, kind, position and flag, sizes that meet and sizes that do not.
EVEN = (
    Shape(hidden=8, kv_heads=2, rep=2, head_dim=2, mlp=6, depth=4, positions="rotary", norm="rms", tied=True),
    Shape(hidden=4, kv_heads=4, head_dim=4, mlp=4, qkv="chunk", order=(2, 0, 1), mlp_kind="packed",
          positions="relative", post_norm=True, causal=False, manual_attention=True),
    Shape(hidden=6, kv_heads=2, rep=3, head_dim=2, mlp=4, depth=4, qkv="split", mlp_kind="gated",
          positions="relative_shared", norm="rms", layer_scale=True, bias=False, embedding_scale=True,
          period=2),
    Shape(hidden=8, kv_heads=2, head_dim=4, mlp=8, qkv="unbind", mlp_kind="experts", positions="none",
          head_norm=True, tied=True, embedding_scale=True),
    Shape(hidden=10, kv_heads=2, rep=2, head_dim=4, mlp=6, qkv="interleaved", order=(1, 2, 0),
          mlp_kind="packed_interleaved", positions="learned", post_norm=True, layer_scale=True, bias=False),
)  # fmt: skip
UNEVEN = (
    Shape(hidden=5, kv_heads=1, rep=3, head_dim=2, mlp=3, depth=3, positions="rotary", mlp_kind="gated"),
    Shape(hidden=6, kv_heads=3, head_dim=2, mlp=5, depth=1, qkv="unbind", positions="none", norm="rms",
          tied=True),
    Shape(hidden=4, kv_heads=2, rep=2, head_dim=4, mlp=2, depth=4, qkv="split", order=(0, 2, 1),
          mlp_kind="packed", positions="relative", causal=False, post_norm=True, period=2),
    Shape(hidden=3, kv_heads=2, head_dim=4, mlp=4, qkv="chunk", mlp_kind="experts",
          positions="relative_shared", layer_scale=True, head_norm=True, manual_attention=True,
          embedding_scale=True, bias=False),
    Shape(hidden=5, kv_heads=2, rep=2, head_dim=2, mlp=3, qkv="interleaved", mlp_kind="packed_interleaved"),
)  # fmt: skip


@st.composite
def transformers(draw: st.DrawFn, *, even: bool = True, **fixed: object) -> Shape:
    """A random :class:`Shape`; with ``even`` every coarsenable size and the depth are even.

    ``fixed`` sets fields instead of drawing them.
    """
    if not THOROUGH:
        return dataclasses.replace(draw(st.sampled_from(EVEN if even else UNEVEN)), **fixed)  # type: ignore[arg-type]
    step = 2 if even else 1
    sizes = st.integers(1, 4).map(lambda n: n * step)
    shape: dict[str, object] = {
        "kv_heads": draw(st.integers(1, 2).map(lambda n: n * step)),
        "rep": draw(st.sampled_from([1, 1, 2, 3])),
        "head_dim": draw(st.sampled_from([2, 4])),
        "mlp": draw(sizes.map(lambda n: n + step)),
        "depth": draw(st.sampled_from([2, 4] if even else [1, 2, 3, 4])),
        "positions": draw(st.sampled_from(POSITIONS)),
        "mlp_kind": draw(st.sampled_from(MLP)),
        "norm": draw(st.sampled_from(["layer", "rms"])),
        "order": draw(st.permutations(range(3)).map(tuple)),
    }
    flags = ("post_norm", "head_norm", "layer_scale", "bias", "causal", "manual_attention", "tied")
    shape |= {name: draw(st.booleans()) for name in (*flags, "embedding_scale")}
    shape |= fixed
    # Sometimes heads x head_dim equals the hidden size, as in most models, and must stay apart all the same.
    meets = shape["kv_heads"] * shape["rep"] * shape["head_dim"]  # type: ignore[operator]
    shape.setdefault("hidden", draw(st.one_of(st.just(meets), sizes.map(lambda n: n + step))))
    layouts = QKV if shape["rep"] == 1 else ("separate", "split", "interleaved")
    shape.setdefault("qkv", draw(st.sampled_from(layouts)))
    divides = shape["depth"] % (2 * step) == 0  # type: ignore[operator]
    shape.setdefault("period", draw(st.sampled_from([1, 2] if divides else [1])))
    return Shape(**shape)  # type: ignore[arg-type]


@st.composite
def groupings(
    draw: st.DrawFn, size: int, *, powers_of_two: bool = False, ordered: bool = False
) -> tuple[int, ...]:
    """A surjection from ``range(size)`` onto ``range(k)``: the coarse index of every fine index.

    Groups are uneven in general; with ``powers_of_two`` their sizes are 1, 2 or 4; with ``ordered``
    groups are runs of neighbours.
    """
    group_sizes: list[int] = []
    while sum(group_sizes) < size:
        left = size - sum(group_sizes)
        allowed = [n for n in ((1, 2, 4) if powers_of_two else (1, 2, 3, 5)) if n <= left]
        group_sizes.append(draw(st.sampled_from(allowed)))
    indices = [group for group, count in enumerate(group_sizes) for _ in range(count)]
    return tuple(indices if ordered else draw(st.permutations(indices)))
