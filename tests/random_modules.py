"""Random modules from op level up, with torch itself as the oracle of all that is done with them.

A :class:`Recipe` is a list of steps on a pool of features ``[batch, sequence, size]``: joins, pads,
reductions, views, gathers, writes, masks, branches on size, functions with a gradient of their own, ties,
blocks. ``examine`` captures the module that it describes and holds every promise to it.

    python -m tests.random_modules --draws 2000 --seed 0
"""

from __future__ import annotations

import argparse
import collections
import copy
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import mlgraph
from mlgraph.graph.interpret import run
from mlgraph.program import Program
from tests.oracles import relative_error

BATCH, SEQUENCE, INPUT, CLASSES = 2, 5, 7, 3


@dataclass(frozen=True)
class Step:
    """One op: its kind, the values it reads (positions in the pool), and a variant, a size, a number."""

    kind: str
    reads: tuple[int, ...]
    variant: str = ""
    size: int = 0


@dataclass(frozen=True)
class Recipe:
    """A module as data: features of ``width`` made from the input, steps, and what its results are."""

    width: int
    steps: tuple[Step, ...]
    loss: str = ""
    hidden: bool = False

    def build(self) -> Built:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            return Built(self).double()

    def inputs(self) -> tuple[torch.Tensor, ...]:
        draw = torch.Generator().manual_seed(1)
        return (torch.randn(BATCH, SEQUENCE, INPUT, generator=draw, dtype=torch.float64),)


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is turned round."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return -grads[0]


class Rounded(torch.autograd.Function):
    """Rounding with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


class Block(nn.Module):
    """A residual block, pre-norm or plain, that may read the features all blocks start from.

    It may have a mask or a table of integers of its own: those of every other block differ.
    """

    mask: torch.Tensor
    order: torch.Tensor

    def __init__(self, size: int, variant: str, odd: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size) if "norm" in variant else nn.Identity()
        self.up, self.down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.variant = variant
        order = torch.arange(SEQUENCE)
        if "masked" in variant:
            self.register_buffer("mask", (order % (2 + odd) == 0).float())
        if "ordered" in variant:
            self.register_buffer("order", order.flip(0) if odd else order.roll(1))

    def forward(self, h: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        branch = self.norm(h)
        if "ordered" in self.variant:
            branch = branch[:, self.order]
        branch = self.down(F.gelu(self.up(branch)))
        if "masked" in self.variant:
            branch = branch * self.mask[:, None]
        if "halved" in self.variant:
            h = 0.5 * h + 0.5 * first
        result: torch.Tensor = h + branch
        return result * first.sigmoid() if "outside" in self.variant else result


class Built(nn.Module):
    """The module of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.into = nn.Linear(INPUT, recipe.width)
        self.parts = nn.ModuleDict()
        sizes = [recipe.width]
        for at, step in enumerate(recipe.steps):
            part = PARTS.get(step.kind)
            if part is not None:
                self.parts[str(at)] = part(step, [sizes[i] for i in step.reads])
            sizes.append(size_after(step, [sizes[i] for i in step.reads]))
        self.out = nn.Linear(sizes[-1], CLASSES)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pool = [F.gelu(self.into(x))]
        for at, step in enumerate(self.recipe.steps):
            given = [pool[i] for i in step.reads]
            key = str(at)
            if step.kind == "tie":
                weight = self.into.weight if step.variant == "rows" else self.out.weight
                pool.append(
                    F.linear(
                        F.linear(given[0], weight.t() if step.variant == "rows" else weight),
                        weight if step.variant == "rows" else weight.t(),
                    )
                )
            elif key in self.parts:
                pool.append(self.parts[key](*given))
            else:
                pool.append(OPS[step.kind](step, *given))
        result = self.out(pool[-1])
        results = [result]
        if self.recipe.loss:
            reduction = self.recipe.loss
            target = x[..., 0].argmax(-1) % CLASSES
            results.append(F.cross_entropy(result[:, 0], target, reduction=reduction))
        if self.recipe.hidden:
            results.append(pool[-1])
        return tuple(results)


class Applied(nn.Module):
    """A module made of a function of its parameters and buffers."""

    def __init__(
        self, function: Callable[..., torch.Tensor], buffers: dict[str, Any], **parameters: Any
    ) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=not name.startswith("t"))

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self.function(self, *given)


def _mixed(step: Step, sizes: Sequence[int]) -> nn.Module:
    return nn.Linear(sizes[0], step.size, bias=step.variant != "plain")


def _normed(step: Step, sizes: Sequence[int]) -> nn.Module:
    if step.variant == "layer":
        return nn.LayerNorm(sizes[0])
    if step.variant == "rms":
        return nn.RMSNorm(sizes[0])
    return Applied(
        lambda m, h: F.batch_norm(h.transpose(1, 2), m.mean, m.var, m.gain, m.shift, m.training).transpose(
            1, 2
        ),
        {"mean": torch.zeros(sizes[0]), "var": torch.ones(sizes[0])},
        gain=0.5 + torch.rand(sizes[0]),
        shift=torch.rand(sizes[0]),
    )


def _weighted(step: Step, sizes: Sequence[int]) -> nn.Module:
    size = sizes[0]
    functions: dict[str, Callable[..., torch.Tensor]] = {
        "scaled": lambda m, h: h * m.w[0],
        "itself": lambda m, h: h * torch.einsum("oi,oi->o", m.w, m.w),
        "product": lambda m, h: h @ (m.w @ m.w),
        "expanded": lambda m, h: h + F.linear(h, m.w[:1, :1].expand(1, h.shape[-1])),
        "normalised": lambda m, h: F.linear(h, m.w / m.w.norm(dim=1, keepdim=True)),
        "averaged": lambda m, h: h + m.w.mean(0),
        "softmaxed": lambda m, h: h @ m.w.softmax(0),
        "twice": lambda m, h: F.linear(F.gelu(F.linear(h, m.w)), m.w.t()),
        "transposed": lambda m, h: h @ m.w,
        "sliced": lambda m, h: torch.cat(
            [F.linear(h, m.w[: m.w.shape[0] // 2]), h[..., m.w.shape[0] // 2 :]], -1
        ),
    }
    return Applied(functions[step.variant], {}, w=torch.randn(size, size) / size**0.5)


def _buffered(step: Step, sizes: Sequence[int]) -> nn.Module:
    size = sizes[0]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(size))
    functions: dict[str, Callable[..., torch.Tensor]] = {
        "added": lambda m, h: h + m.t,
        "multiplied": lambda m, h: h * m.kept,
        "masked": lambda m, h: h.masked_fill(m.flags, 0.0),
        "gathered": lambda m, h: h[..., m.order],
        "selected": lambda m, h: h.index_select(-1, m.order),
        "looked_up": lambda m, h: h + m.table[m.positions][:, :1],
        "where": lambda m, h: torch.where(m.flags, h, m.kept),
    }
    held = {
        "t": torch.rand(size),
        "kept": torch.rand(size),
        "flags": torch.arange(size) % 3 == 0,
        "order": order,
        "positions": torch.arange(SEQUENCE) % 2,
    }
    function = functions[step.variant]
    wanted = set(function.__code__.co_names)
    used = {name: value for name, value in held.items() if name in wanted}
    return Applied(function, used, **({"table": torch.randn(2, size)} if step.variant == "looked_up" else {}))


class Blocks(nn.Module):
    def __init__(self, step: Step, sizes: Sequence[int]) -> None:
        super().__init__()
        made = [Block(sizes[0], step.variant, at % 2 == 1) for at in range(step.size)]
        self.blocks = nn.ModuleList([made[0]] * step.size if "same" in step.variant else made)
        self.gathers = "gathered" in step.variant

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        first, found = h, []
        for block in self.blocks:
            h = block(h, first)
            found.append(h)
        return torch.stack(found).mean(0) if self.gathers else h


class Convolved(nn.Module):
    """What is done along the sequence, with features as channels."""

    def __init__(self, step: Step, sizes: Sequence[int]) -> None:
        super().__init__()
        size = sizes[0]
        two = 2 if size % 2 == 0 else 1
        made: dict[str, Callable[[], nn.Module]] = {
            "full": lambda: nn.Conv1d(size, size, 3, padding=1),
            "circular": lambda: nn.Conv1d(size, size, 3, padding=1, padding_mode="circular"),
            "grouped": lambda: nn.Conv1d(size, size, 3, padding=1, groups=two),
            "depthwise": lambda: nn.Conv1d(size, size, 3, padding=1, groups=size),
            "transposed": lambda: nn.ConvTranspose1d(size, size, 3, padding=1, groups=two),
            "prelu": lambda: nn.PReLU(size),
            "group_norm": lambda: nn.GroupNorm(two, size),
            "instance_norm": lambda: nn.InstanceNorm1d(size, affine=True),
            "response": lambda: nn.LocalResponseNorm(3),
            "shuffled": lambda: nn.ChannelShuffle(two),
            "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(size, size, 1)),
            "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv1d(size, size, 1)),
        }
        self.part = made[step.variant]()

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.part(h.transpose(1, 2)).transpose(1, 2)
        return result


PARTS: dict[str, Callable[[Step, Sequence[int]], nn.Module]] = {
    "mix": _mixed,
    "norm": _normed,
    "weight": _weighted,
    "buffer": _buffered,
    "blocks": Blocks,
    "channels": Convolved,
    "drop": lambda step, sizes: nn.Dropout(0.25),
}


def _unary(step: Step, h: torch.Tensor) -> torch.Tensor:
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "tanh": torch.tanh,
        "relu": F.relu,
        "silu": F.silu,
        "softmax": lambda h: h.softmax(-1),
        "softmax_over_sequence": lambda h: h.softmax(1),
        "layer_norm": lambda h: F.layer_norm(h, (h.shape[-1],)),
        "normalize": lambda h: F.normalize(h, dim=-1),
        "cumsum": lambda h: h.cumsum(-1),
        "cumsum_over_sequence": lambda h: h.cumsum(1),
        "flip": lambda h: h.flip(-1),
        "roll": lambda h: h.roll(1, -1),
        "sort": lambda h: h.sort(-1).values,
        "triu": lambda h: h.triu(),
        "detached": lambda h: h + h.detach(),
        "clamped": lambda h: h.clamp(-0.5, 0.5),
    }
    return functions[step.variant](h)


def _reduce(step: Step, h: torch.Tensor) -> torch.Tensor:
    """What a reduction over the features, or over the sequence, adds to them."""
    functions: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
        "mean": lambda h, d: h.mean(d, keepdim=True),
        "sum": lambda h, d: h.sum(d, keepdim=True),
        "amax": lambda h, d: h.amax(d, keepdim=True),
        "max": lambda h, d: h.max(d, keepdim=True).values,
        "var": lambda h, d: h.var(d, keepdim=True),
        "std": lambda h, d: h.std(d, keepdim=True, unbiased=False),
        "logsumexp": lambda h, d: h.logsumexp(d, keepdim=True),
        "norm": lambda h, d: torch.linalg.vector_norm(h, dim=d, keepdim=True),
        "prod": lambda h, d: h.tanh().prod(d, keepdim=True),
        "count": lambda h, d: torch.count_nonzero(h > 0, d).unsqueeze(d).to(h.dtype),
        "median": lambda h, d: h.median(d, keepdim=True).values,
    }
    return h + functions[step.variant](h, -1 if step.size == 0 else 1)


def _pad(step: Step, h: torch.Tensor) -> torch.Tensor:
    if step.variant in ("constant", "one"):
        return F.pad(h, (0, step.size), value=float(step.variant == "one"))
    return F.pad(h, (step.size, 0), mode=step.variant)


def _view(step: Step, h: torch.Tensor) -> torch.Tensor:
    """Something done with the features in two parts, and the parts put together again."""
    split = h.unflatten(-1, (step.size, h.shape[-1] // step.size))
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "swapped": lambda s: s.transpose(-1, -2).flatten(-2),
        "softmaxed": lambda s: s.softmax(-2).flatten(-2),
        "gated": lambda s: (s * s.mean(-1, keepdim=True)).flatten(-2),
        "gated_major": lambda s: (s * s.mean(-2, keepdim=True)).flatten(-2),
        "first": lambda s: (s + s[..., :1, :]).flatten(-2),
        "rolled": lambda s: s.roll(1, -2).flatten(-2),
        "unbound": lambda s: torch.stack(s.unbind(-2)[::-1], -2).flatten(-2),
        "permuted": lambda s: s.permute(0, 1, 3, 2).reshape(h.shape),
        "products": lambda s: (s @ s.transpose(-1, -2) @ s).flatten(-2),
    }
    return functions[step.variant](split)


def _cut(step: Step, h: torch.Tensor) -> torch.Tensor:
    size = h.shape[-1]
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "front": lambda h: h[..., : size // 2],
        "back": lambda h: h[..., size // 2 :],
        "even": lambda h: h[..., ::2],
        "glu": lambda h: F.glu(h, -1),
        "chunked": lambda h: h.chunk(2, -1)[0] * h.chunk(2, -1)[1].sigmoid(),
        "split": lambda h: h.split([size // 4, size - size // 4], -1)[1][..., : size // 2],
        "narrow": lambda h: h.narrow(-1, size // 4, size // 2),
        "unfolded": lambda h: h.unflatten(-1, (-1, 2)).select(-1, 1),
        "max_pooled": lambda h: F.max_pool1d(h, 2),
    }
    return functions[step.variant](h)


def _write(step: Step, h: torch.Tensor) -> torch.Tensor:
    size = h.shape[-1]
    w = h.clone()
    if step.variant == "zeroed":
        w[..., : size // 2] = 0
    elif step.variant == "moved":
        w[..., : size // 2] = h[..., size // 2 : 2 * (size // 2)]
    elif step.variant == "masked":
        w[h > 0.5] = 0.5
    elif step.variant == "scaled":
        w.mul_(2).add_(h)
    elif step.variant == "first":
        w[:, 0] = h[:, -1]
    elif step.variant == "added":
        w[..., :1].add_(1)
    elif step.variant == "filled":
        w.masked_fill_(h < 0, 0.25)
    elif step.variant == "copied":
        w[:, 1:].copy_(h[:, :-1])
    return w


def _join(step: Step, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if step.variant == "cat":
        return torch.cat([a, b], -1)
    if step.variant == "cat_with_constant":
        return torch.cat([a, b, torch.ones_like(b[..., :2])], -1)
    size = min(a.shape[-1], b.shape[-1])
    a, b = a[..., :size], b[..., :size]
    return torch.stack([a, b], -1 if step.variant == "interleaved" else -2).flatten(-2)


def _pair(step: Step, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    size = min(a.shape[-1], b.shape[-1])
    a, b = a[..., :size], b[..., :size]
    functions: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "add": torch.add,
        "mul": torch.mul,
        "sub": lambda a, b: a - 2 * b,
        "maximum": torch.maximum,
        "where": lambda a, b: torch.where(a > 0, a, b),
        "attend": lambda a, b: (a @ b.transpose(1, 2) / 3).softmax(-1) @ b,
        "attention": lambda a, b: F.scaled_dot_product_attention(a, b, b),
        "outer": lambda a, b: torch.einsum("bti,btj->bti", a, b),
        "lerp": lambda a, b: torch.lerp(a, b, 0.3),
        "cosine": lambda a, b: a * F.cosine_similarity(a, b, dim=-1).unsqueeze(-1),
        "distance": lambda a, b: a + (a - b).square().mean(-1, keepdim=True).sqrt(),
    }
    return functions[step.variant](a, b)


def _measure(step: Step, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """What a loss between two features adds to the first."""
    size = min(a.shape[-1], b.shape[-1])
    a, b = a[..., :size], b[..., :size]
    signs = torch.ones(BATCH, dtype=a.dtype)
    functions: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "mse": F.mse_loss,
        "mse_sum": lambda a, b: F.mse_loss(a, b, reduction="sum"),
        "l1_none": lambda a, b: F.l1_loss(a, b, reduction="none").sum(-1, keepdim=True),
        "huber": F.huber_loss,
        "kl": lambda a, b: F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="batchmean"),
        "bce": lambda a, b: F.binary_cross_entropy(a.sigmoid(), b.sigmoid()),
        "bce_weighted": lambda a, b: F.binary_cross_entropy_with_logits(
            a, b.sigmoid(), pos_weight=torch.linspace(1, 2, size, dtype=a.dtype)
        ),
        "cosine": lambda a, b: F.cosine_embedding_loss(a[:, 0], b[:, 0], signs),
        "triplet": lambda a, b: F.triplet_margin_loss(a, b, b.flip(1)),
        "margin": lambda a, b: F.margin_ranking_loss(a, b, torch.ones_like(a)),
        "soft": lambda a, b: F.cross_entropy(a[:, 0], b[:, 0].softmax(-1), label_smoothing=0.1),
        "classes": lambda a, b: F.cross_entropy(a[:, 0], b[:, 0].argmax(-1), ignore_index=0),
    }
    return a + functions[step.variant](a, b)


def _branch(step: Step, h: torch.Tensor) -> torch.Tensor:
    if step.variant == "batch":
        return h * 2 if h.shape[0] > 1 else h
    if step.variant == "sequence":
        return h + h[:, :1] if h.shape[1] > 3 else h
    return h.tanh() if h.shape[-1] % 4 == 0 else h.sigmoid()


def _custom(step: Step, h: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = {"reversed": Reversed, "rounded": Rounded}[step.variant].apply(h)
    return result


OPS: dict[str, Callable[..., torch.Tensor]] = {
    "unary": _unary,
    "reduce": _reduce,
    "pad": _pad,
    "view": _view,
    "cut": _cut,
    "write": _write,
    "join": _join,
    "pair": _pair,
    "measure": _measure,
    "branch": _branch,
    "custom": _custom,
}

VARIANTS: dict[str, tuple[str, ...]] = {
    "mix": ("plain", "bias"),
    "norm": ("layer", "rms", "batch"),
    "weight": (
        "scaled",
        "itself",
        "product",
        "expanded",
        "normalised",
        "averaged",
        "softmaxed",
        "twice",
        "transposed",
        "sliced",
    ),
    "buffer": ("added", "multiplied", "masked", "gathered", "selected", "looked_up", "where"),
    "blocks": (
        "",
        "norm",
        "outside",
        "norm outside",
        "same",
        "norm masked",
        "ordered",
        "halved",
        "norm gathered",
    ),
    "channels": (
        "full",
        "circular",
        "grouped",
        "depthwise",
        "transposed",
        "prelu",
        "group_norm",
        "instance_norm",
        "response",
        "shuffled",
        "weight_norm",
        "spectral_norm",
    ),
    "measure": (
        "mse",
        "mse_sum",
        "l1_none",
        "huber",
        "kl",
        "bce",
        "bce_weighted",
        "cosine",
        "triplet",
        "margin",
        "soft",
        "classes",
    ),
    "drop": ("",),
    "unary": (
        "tanh",
        "relu",
        "silu",
        "softmax",
        "softmax_over_sequence",
        "layer_norm",
        "normalize",
        "cumsum",
        "cumsum_over_sequence",
        "flip",
        "roll",
        "sort",
        "triu",
        "detached",
        "clamped",
    ),
    "reduce": ("mean", "sum", "amax", "max", "var", "std", "logsumexp", "norm", "prod", "count", "median"),
    "pad": ("constant", "one", "reflect", "replicate", "circular"),
    "view": (
        "swapped",
        "softmaxed",
        "gated",
        "gated_major",
        "first",
        "rolled",
        "unbound",
        "permuted",
        "products",
    ),
    "cut": ("front", "back", "even", "glu", "chunked", "split", "narrow", "unfolded", "max_pooled"),
    "write": ("zeroed", "moved", "masked", "scaled", "first", "added", "filled", "copied"),
    "join": ("cat", "cat_with_constant", "interleaved", "end_to_end"),
    "pair": (
        "add",
        "mul",
        "sub",
        "maximum",
        "where",
        "attend",
        "attention",
        "outer",
        "lerp",
        "cosine",
        "distance",
    ),
    "branch": ("batch", "sequence", "features"),
    "custom": ("reversed", "rounded"),
    "tie": ("rows", "columns"),
}
WIDTHS = (4, 8, 12)


def size_after(step: Step, sizes: Sequence[int]) -> int:
    """The features that a step gives."""
    if step.kind == "mix":
        return step.size
    if step.kind == "pad":
        return sizes[0] + step.size
    if step.kind == "cut":
        return sizes[0] // 2
    if step.kind == "join":
        both = {"cat": sum(sizes), "cat_with_constant": sum(sizes) + min(2, sizes[1])}
        return both.get(step.variant, 2 * min(sizes))
    if step.kind in ("pair", "measure"):
        return min(sizes)
    return sizes[0]


@st.composite
def recipes(draw: st.DrawFn, most: int = 6) -> Recipe:
    """A random :class:`Recipe` of up to ``most`` steps."""
    width = draw(st.sampled_from(WIDTHS))
    sizes = [width]
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(sorted(VARIANTS)))
        # mostly the latest value, so that steps build on one another
        reads = [draw(st.sampled_from([len(sizes) - 1, len(sizes) - 1, *range(len(sizes))]))]
        if kind in ("join", "pair", "measure"):
            reads.append(draw(st.integers(0, len(sizes) - 1)))
        variant = draw(st.sampled_from(VARIANTS[kind]))
        size, given = 0, [sizes[i] for i in reads]
        if kind == "mix":
            size = draw(st.sampled_from(WIDTHS))
        elif kind == "pad":
            size = draw(st.integers(1, 3))
        elif kind == "reduce":
            size = draw(st.integers(0, 1))
        elif kind == "blocks":
            size = draw(st.sampled_from([2, 4]))
        elif kind == "view":
            size = draw(st.sampled_from([n for n in (2, 4, 3) if given[0] % n == 0] or [1]))
        fits = given[0] <= 24 and given[0] >= 4 and sum(given) <= 32
        if (kind == "cut" and given[0] % 4) or (
            kind == "tie" and given[0] != (width if variant == "rows" else -1)
        ):
            fits = False
        if not fits:
            continue
        step = Step(kind, tuple(reads), variant, size)
        steps.append(step)
        sizes.append(size_after(step, given))
    loss = draw(st.sampled_from(["", "", "mean", "sum"]))
    return Recipe(width, tuple(steps), loss, draw(st.booleans()))


class Wrong(AssertionError):
    """A result that differs without a word; ``what`` says which promise it breaks."""

    def __init__(self, what: str, error: float) -> None:
        super().__init__(f"{what}: relative error {error:.2g}")
        self.what = what


def _run(
    module: nn.Module, inputs: Sequence[torch.Tensor], training: bool
) -> tuple[list[Any], dict[str, Any]]:
    module.train(training)
    module.zero_grad()
    torch.manual_seed(3)
    results = list(module(*inputs))
    total = sum((r.square().mean() for r in results if r.requires_grad), torch.zeros(()))
    if isinstance(total, torch.Tensor) and total.requires_grad:
        total.backward()
    gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    return [r.detach() for r in results], gradients


def _same(what: str, found: Sequence[Any], wanted: Sequence[Any], bound: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        error = relative_error(a, b) if a.shape == b.shape else float("inf")
        if error > bound and not (a.shape == b.shape and float((a - b).abs().max()) < 1e-13):
            raise Wrong(what, error)


def examine(recipe: Recipe) -> str:
    """What became of a recipe: ``"exact"`` or ``"refused: …"``; raises :class:`Wrong` where a promise breaks.

    Captured and emitted it is the module (results, gradients, both modes); coarsened by two and refined, or
    grown by two, it keeps its function; coarsening undoes refining; a file keeps every bit. What is noted as
    approximate is let off.
    """
    model, inputs = recipe.build(), recipe.inputs()
    try:
        program = mlgraph.capture(model.eval(), inputs, dynamic_shapes=None)
    except mlgraph.MlgraphError as error:
        return f"refused: {type(error).__name__}"
    # the module's buffers are the program's, and training writes some
    emitted = copy.deepcopy(mlgraph.emit(program))
    quiet = not [note for note in program.notes if note.kind in ("mode", "traced")]
    for training in (False, True):
        wanted, slopes = _run(model, inputs, training)
        found, own = _run(emitted, inputs, training)
        if training and not quiet:
            continue
        name = "training" if training else "evaluation"
        _same(f"results in {name}", found, wanted, 1e-10)
        missing = {n for n, g in slopes.items() if g.abs().max() > 1e-12} ^ {
            n for n, g in own.items() if g.abs().max() > 1e-12
        }
        if missing:
            raise Wrong(f"parameters with gradients in {name}", float("inf"))
        both = sorted(slopes.keys() & own.keys())
        _same(f"gradients in {name}", [own[n] for n in both], [slopes[n] for n in both], 1e-8)
    heads = 2 if recipe.loss else 1

    def results(of: Program) -> list[Any]:
        return list(run(of, inputs))[:heads]

    with torch.no_grad():
        base = results(program)
        try:
            coarse = mlgraph.coalesce(program, width=2)
            fine = mlgraph.decoalesce(coarse)
            grown = mlgraph.decoalesce(program, width=2)
        except mlgraph.AxisError:
            return "refused: width"
        if not [note for note in coarse.notes if note.kind == "approximate"]:
            _same("de-coalesced after coalescing", results(fine), results(coarse), 1e-10)
            _same("grown", results(grown), base, 1e-10)
            again = mlgraph.coalesce(fine, width=2, check=False)
            for name, tensor in coarse.tensors.items():
                if again.tensors[name].shape == tensor.shape:
                    _same("coalesced after de-coalescing", [again.tensors[name]], [tensor], 1e-12)
        for axis in [axis for axis in program.axes if axis.kept is not None and axis.size > 1][:1]:
            try:
                asked = mlgraph.decoalesce(program, axes={axis.id: 2})
            except mlgraph.MlgraphError:
                continue
            if not [note for note in asked.notes if note.kind == "approximate"]:
                _same("grown as asked", results(asked), base, 1e-10)
        if [chain for chain in program.blocks if len(chain) % 2 == 0]:
            try:
                deep = mlgraph.decoalesce(program, depth=2, depth_mode="identity")
            except mlgraph.MlgraphError:
                deep = None
            if deep is not None and not [note for note in deep.notes if note.kind == "approximate"]:
                _same("deepened by identities", results(deep), base, 1e-10)
        with tempfile.TemporaryDirectory() as folder:
            mlgraph.save(program, Path(folder) / "p.pt")
            loaded = mlgraph.load(Path(folder) / "p.pt")
        _same("saved and loaded", results(loaded), base, 0.0)
    return "exact"


def survey(draws: int, seed: int, most: int = 6) -> collections.Counter[str]:
    """Examine so many recipes; prints what breaks, the smallest recipe of each promise, and the counts."""
    counts: collections.Counter[str] = collections.Counter()
    smallest: dict[str, tuple[int, Recipe, str]] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=draws,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(recipes(most))
    def each(recipe: Recipe) -> None:
        try:
            counts[examine(recipe)] += 1
        except Exception as error:
            what = error.what if isinstance(error, Wrong) else f"{type(error).__name__}: {str(error)[:150]}"
            counts[f"WRONG {what}"] += 1
            size = len(recipe.steps)
            if what not in smallest or size < smallest[what][0]:
                text = "".join(traceback.format_exception_only(error)).strip()
                smallest[what] = size, recipe, text[:300]

    each()
    for what, (_, recipe, text) in smallest.items():
        print(f"\n{what}\n  {recipe}\n  {text}")
    print("\n" + "\n".join(f"{number:6d}  {what}" for what, number in counts.most_common()))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    start = time.time()
    counts = survey(options.draws, options.seed, options.steps)
    print(f"{options.draws} draws, seed {options.seed}, {time.time() - start:.0f} s")
    raise SystemExit(any(what.startswith("WRONG") for what in counts))


if __name__ == "__main__":
    main()
