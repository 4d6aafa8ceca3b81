"""The steps without parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tests.random_modules.recipes import BATCH, Step


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
