"""Parameters and buffers of a program by name, in memory or read when they are used."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch._subclasses.fake_tensor import FakeTensor

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of tensors by name."""

Rows = torch.Tensor | Iterable[torch.Tensor]
"""A tensor, or its parts along the first dim in order."""

_DIGESTED_BYTES = 1 << 24


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a shape and no bytes (a fake tensor, or one on the meta device)."""
    return isinstance(tensor, FakeTensor) or tensor.device.type == "meta"


class TensorSource(Mapping[str, torch.Tensor]):
    """Where tensors come from: memory, files, or recipes; a mapping by name.

    Outside memory an entry is read or made each time that it is asked for: ask once and let it go. Shapes
    and ``meta`` read nothing.
    """

    in_memory = False
    """Whether the tensors are held, so that asking for one costs nothing."""

    reads_rows = False
    """Whether ``rows`` reads no more than it gives; else it makes the whole tensor."""

    @property
    @abc.abstractmethod
    def shapes(self) -> Shapes:
        """Shape and dtype of every tensor."""

    @property
    def absent(self) -> frozenset[str]:
        """Tensors that have a shape only: they are on the meta device."""
        return frozenset()

    def meta(self) -> dict[str, torch.Tensor]:
        """Every tensor on the meta device."""
        return {
            name: torch.empty(shape, dtype=dtype, device="meta")
            for name, (shape, dtype) in self.shapes.items()
        }

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` (along the first dim) of a tensor."""
        return self[name][start:stop]

    def chunks(self, name: str) -> Rows:
        """A tensor in parts of rows where it can be made so, else whole."""
        return self[name]


class InMemory(TensorSource):
    """Tensors that are held."""

    in_memory = True
    reads_rows = True

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def let_go(self, name: str) -> None:
        """Hold a tensor's shape alone from now on."""
        self._values[name] = _meta(self._values[name])

    @property
    def shapes(self) -> Shapes:
        return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self._values.items()}

    @property
    def absent(self) -> frozenset[str]:
        return frozenset(name for name, tensor in self._values.items() if is_fake(tensor))

    def meta(self) -> dict[str, torch.Tensor]:
        # unlike a shape, a tensor has strides
        return {name: _meta(tensor) for name, tensor in self._values.items()}


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    if hasattr(tensor, "placements"):  # rows in several processes, of which the meta device knows nothing
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return torch.empty_like(tensor, device="meta")


@dataclass(frozen=True)
class TensorRecipe:
    """How a tensor is made: whole, or by ``chunks`` in parts of rows; that gives None where it cannot be."""

    make: Callable[[], torch.Tensor]
    chunks: Callable[[], Iterator[torch.Tensor] | None] = lambda: None


class Recipes(TensorSource):
    """Tensors made when they are asked for, not kept; ``like`` gives others of their shapes and dtypes."""

    def __init__(self, recipes: Mapping[str, TensorRecipe], like: Mapping[str, torch.Tensor]) -> None:
        self._recipes = dict(recipes)
        self._like = like

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._recipes[name].make()

    def __iter__(self) -> Iterator[str]:
        return iter(self._recipes)

    def __len__(self) -> int:
        return len(self._recipes)

    def __contains__(self, name: object) -> bool:
        return name in self._recipes

    @cached_property
    def shapes(self) -> Shapes:  # type: ignore[override]
        like = self._like
        return {name: (tuple((tensor := like[name]).shape), tensor.dtype) for name in self._recipes}

    def chunks(self, name: str) -> Rows:
        chunked = self._recipes[name].chunks()
        return self[name] if chunked is None else chunked


TensorCheck = Callable[[str, torch.Tensor, Iterable[torch.Tensor]], None]
"""Raises where something is wrong with a tensor or a part of one, of that name; the parts that are still to
come are given too."""


class Checked(TensorSource):
    """Tensors of another source, looked at as they are read; rows and chunks are those of the other."""

    def __init__(self, source: TensorSource, check: TensorCheck) -> None:
        self._source = source
        self._check = check
        self.in_memory = source.in_memory
        self.reads_rows = source.reads_rows

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._looked_at(name, self._source[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)

    def __contains__(self, name: object) -> bool:
        return name in self._source

    @property
    def shapes(self) -> Shapes:
        return self._source.shapes

    @property
    def absent(self) -> frozenset[str]:
        return self._source.absent

    def meta(self) -> dict[str, torch.Tensor]:
        return self._source.meta()

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._looked_at(name, self._source.rows(name, start, stop))

    def chunks(self, name: str) -> Rows:
        made = self._source.chunks(name)
        if isinstance(made, torch.Tensor):
            return self._looked_at(name, made)
        return self._parts(name, iter(made))

    def _looked_at(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        self._check(name, tensor, ())
        return tensor

    def _parts(self, name: str, parts: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for part in parts:
            self._check(name, part, parts)
            yield part


@dataclass(frozen=True)
class Tensors(Mapping[str, torch.Tensor]):
    """Parameters and buffers of a program by fully qualified name.

    ``source`` has each tensor once, under its canonical name (the first in state-dict order); ``aliases``
    maps every further name of a tied tensor to the canonical one. ``parameters`` and ``persistent`` name the
    canonical entries that are parameters, and the entries (parameters and buffers) that a state dict lists.
    ``digests`` stand for the values of buffers on the meta device, so that blocks that differ in a constant
    are still told apart; see :meth:`digest`. ``frozen`` names the parameters that take no gradient, and
    ``stateful`` the buffers that the model writes in evaluation too (a cache, a counter); others move in
    training only.
    """

    source: TensorSource
    parameters: frozenset[str]
    persistent: frozenset[str]
    aliases: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    stateful: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.source[self.aliases.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.source)

    def __len__(self) -> int:
        return len(self.source)

    def __contains__(self, name: object) -> bool:
        return self.aliases.get(str(name), name) in self.source

    @property
    def in_memory(self) -> bool:
        """Whether the tensors are held, not read or made when they are used."""
        return self.source.in_memory

    def meta(self) -> dict[str, torch.Tensor]:
        """Every tensor on the meta device; nothing is read."""
        return self.source.meta()

    def digest(self, name: str) -> str | None:
        """The SHA-1 of a tensor's bytes; None where they are unknown, or more than 16 MiB."""
        tensor = self[name]
        if tensor.device.type == "meta":
            return self.digests.get(name)
        plain = tensor.layout is torch.strided and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        if not plain or tensor.nbytes > _DIGESTED_BYTES:
            return None
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return hashlib.sha1(data, usedforsecurity=False).hexdigest()

    def is_mask(self, name: str) -> bool:
        """Whether a parameter takes no gradient and holds two values alone, or some that are not finite.

        Of lazy values that is not asked.
        """
        if name not in self.parameters or name not in self.frozen:
            return False
        if not self.in_memory or is_fake(self[name]):
            return name in self.digests
        tensor = self[name].detach()
        if not tensor.is_floating_point() or not tensor.numel() or type(tensor) is not torch.Tensor:
            return False
        low, high = tensor.aminmax()
        two_values = bool((low != high) & ((tensor == low) | (tensor == high)).all())
        return two_values or not bool(torch.isfinite(tensor).all())

    def skeleton(self) -> Tensors:
        """The same on the meta device, with digests of buffers and masks; of lazy values, of constants."""
        return dataclasses.replace(self, source=InMemory(self.meta()), digests=self._known_digests)

    @cached_property
    def _known_digests(self) -> dict[str, str]:
        held = self.in_memory
        buffers = [n for n in self if n not in self.parameters and (held or n not in self.persistent)]
        masks = [n for n in self.frozen if self.is_mask(n)]
        found = {name: self.digest(name) for name in [*buffers, *masks]}
        return {name: digest for name, digest in found.items() if digest is not None}

    def replace(self, values: Mapping[str, torch.Tensor]) -> Tensors:
        """The same names, kinds and ties with other values; those of a plain mapping are held."""
        source = values if isinstance(values, TensorSource) else InMemory(values)
        return dataclasses.replace(self, source=source)
