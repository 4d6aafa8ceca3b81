"""The module of a recipe, and the steps with parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.random_modules.ops import OPS
from tests.random_modules.recipes import BATCH, CLASSES, INPUT, SEQUENCE, Recipe, Step, size_after


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


def _cleared(m: Any, h: torch.Tensor) -> torch.Tensor:
    """Written to, through views of a copy of the weight."""
    w = m.w.clone()
    w[:, 0] = 0
    w.diagonal().add_(1)
    return F.linear(h, w)


def _registered(m: Any, h: torch.Tensor) -> torch.Tensor:
    """Made on the first call, and anew at another length."""
    if not hasattr(m, "late") or m.late.shape[0] != h.shape[1]:
        m.register_buffer("late", torch.arange(h.shape[1]).to(h.dtype).cos(), persistent=False)
    return h * m.late[:, None]


def _dropped(m: Any, h: torch.Tensor) -> torch.Tensor:
    return F.dropout(h, 0.25, training=True)


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
        "cleared": _cleared,
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
        "registered": _registered,
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
    "drop": lambda step, sizes: nn.Dropout(0.25) if not step.variant else Applied(_dropped, {}),
}


def build(recipe: Recipe) -> Built:
    """The module of a recipe, with the same weights every time."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return Built(recipe).double()


def inputs_of_all() -> tuple[torch.Tensor, ...]:
    """The inputs of every module."""
    draw = torch.Generator().manual_seed(1)
    return (torch.randn(BATCH, SEQUENCE, INPUT, generator=draw, dtype=torch.float64),)
