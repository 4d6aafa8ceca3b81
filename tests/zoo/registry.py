"""The registry of tiny models: every entry builds one class at full size, half width and half depth.

The coarse class is built by its own constructor from halved configuration fields, so what
coalescing has to produce (parameter names and shapes) is known without asking mlgraph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from tests.perturbation import perturb_

BATCH = 5
SEQUENCE = 11
VOCABULARY = 97


@dataclass(frozen=True)
class Scale:
    """Divisors of the width-like and of the depth-like fields of a configuration."""

    name: str
    width_divisor: int = 1
    depth_divisor: int = 1

    def width(self, size: int) -> int:
        """A width-like field (hidden, heads, kv heads, mlp, expert inner width) at this scale."""
        return _divide(size, self.width_divisor)

    def depth(self, layers: int) -> int:
        """A number of layers at this scale."""
        return _divide(layers, self.depth_divisor)

    def widths(self, *sizes: int) -> tuple[int, ...]:
        return tuple(self.width(size) for size in sizes)

    def depths(self, *layers: int) -> tuple[int, ...]:
        return tuple(self.depth(count) for count in layers)


def _divide(size: int, divisor: int) -> int:
    if size % divisor:
        raise ValueError(f"the zoo's size {size} does not divide by {divisor}")
    return size // divisor


SCALES: Mapping[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale("full"),
        Scale("half_width", width_divisor=2),
        Scale("half_depth", depth_divisor=2),
        Scale("half_both", width_divisor=2, depth_divisor=2),
    )
}


class Built(NamedTuple):
    """A model in eval mode and an example call."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Builder = Callable[[Scale], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True)
class Entry:
    """One tiny model.

    ``suite`` says where its class lives (``hf``, ``timm``, ``torch`` or ``module``); ``chain`` is
    False where the class has no repeated blocks to halve; ``tags`` are free labels for selecting.
    ``fixed`` are fragments of the names of tensors some of whose widths the class has no field for
    (a bias table's MLP of 512): a program may halve these widths where the class keeps them.
    """

    name: str
    family: str
    builder: Builder
    suite: str = "module"
    chain: bool = True
    tags: frozenset[str] = field(default_factory=frozenset)
    fixed: tuple[str, ...] = ()

    def build(self, scale: str = "full", seed: int = 0) -> Built:
        """The model at ``scale``, every parameter perturbed so that no gain is 1 and no bias 0."""
        devices: list[int] = []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            model, args, kwargs = self.builder(SCALES[scale])
            perturb_(model)
        return Built(model.eval(), args, kwargs)

    def __str__(self) -> str:
        return self.name


_ENTRIES: dict[str, Entry] = {}


def entry(
    name: str,
    family: str,
    *,
    suite: str = "module",
    chain: bool = True,
    tags: Iterable[str] = (),
    fixed: Iterable[str] = (),
) -> Callable[[Builder], Builder]:
    """Register the decorated builder under ``name``; names are unique."""

    def register(builder: Builder) -> Builder:
        if name in _ENTRIES:
            raise ValueError(f"the zoo has two entries named {name}")
        _ENTRIES[name] = Entry(name, family, builder, suite, chain, frozenset(tags), tuple(fixed))
        return builder

    return register


def entries(*, suite: str | None = None, tag: str | None = None) -> list[Entry]:
    """Registered entries in order of registration, optionally of one suite or with one tag."""
    return [
        e for e in _ENTRIES.values() if (suite is None or e.suite == suite) and (tag is None or tag in e.tags)
    ]


def get(name: str) -> Entry:
    return _ENTRIES[name]


def token_ids(sequence: int = SEQUENCE, vocabulary: int = VOCABULARY, batch: int = BATCH) -> torch.Tensor:
    """Random ids ``[batch, sequence]``; id 0 and 1 (often padding) are left out."""
    return torch.randint(2, vocabulary, (batch, sequence))


def attention_mask(sequence: int = SEQUENCE, batch: int = BATCH) -> torch.Tensor:
    """Ones ``[batch, sequence]`` with a padded tail in the last row."""
    mask = torch.ones(batch, sequence, dtype=torch.long)
    mask[-1, -2:] = 0
    return mask


def image(size: int, channels: int = 3, batch: int = BATCH) -> torch.Tensor:
    return torch.randn(batch, channels, size, size)
