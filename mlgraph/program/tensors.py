"""Parameters and buffers of a program by name, in memory or read when they are used."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    pass


_DIGESTED_BYTES = 1 << 24


@dataclass(frozen=True)
class Tensors(Mapping[str, torch.Tensor]):
    """Parameters and buffers of a program by fully qualified name.

    ``values`` holds each tensor once, under its canonical name (the first in state-dict order);
    ``aliases`` maps every further name of a tied tensor to the canonical one. ``parameters`` and
    ``persistent`` name the canonical entries that are parameters, and the entries (parameters and
    buffers) that a state dict lists. ``values`` may be lazy: read an entry once and let it go. ``digests``
    stand for the values of buffers on the meta device, so that blocks that differ in a constant are still
    told apart; see :meth:`digest`. ``frozen`` names the parameters that take no gradient, and ``stateful``
    the buffers that the model writes in evaluation too (a cache, a counter); others move in training only.
    """

    values_: Mapping[str, torch.Tensor]
    parameters: frozenset[str]
    persistent: frozenset[str]
    aliases: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    stateful: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.values_[self.aliases.get(name, name)]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)

    def __contains__(self, name: object) -> bool:
        return self.aliases.get(str(name), name) in self.values_

    def meta(self) -> dict[str, torch.Tensor]:
        """Every tensor on the meta device. Lazy values that know their shapes are not read."""
        known = getattr(self.values_, "shapes", {})
        made = {}
        for name in self:
            if name in known:
                shape, dtype = known[name]
                made[name] = torch.empty(shape, dtype=dtype, device="meta")
            else:
                made[name] = torch.empty_like(self[name], device="meta")
        return made

    def digest(self, name: str) -> str | None:
        """The SHA-1 of a tensor's bytes; None where they are unknown, or more than 16 MiB."""
        tensor = self[name]
        if tensor.device.type == "meta":
            return self.digests.get(name)
        if tensor.nbytes > _DIGESTED_BYTES or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            return None
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return hashlib.sha1(data, usedforsecurity=False).hexdigest()

    def skeleton(self) -> Tensors:
        """The same on the meta device, with digests of buffers; of lazy values, only of constants."""
        return dataclasses.replace(self, values_=self.meta(), digests=self._known_digests)

    @cached_property
    def _known_digests(self) -> dict[str, str]:
        held = isinstance(self.values_, dict)
        buffers = [n for n in self if n not in self.parameters and (held or n not in self.persistent)]
        found = {name: self.digest(name) for name in buffers}
        return {name: digest for name, digest in found.items() if digest is not None}

    def replace(self, values: Mapping[str, torch.Tensor]) -> Tensors:
        """The same names, kinds and ties with other values."""
        return dataclasses.replace(self, values_=values)
