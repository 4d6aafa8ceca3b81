"""Tensors of a program whose parameters lie in a directory of safetensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlgraph.program.tensors import Shapes, TensorSource

if TYPE_CHECKING:
    import torch

    from mlgraph.storage.lazy import LazyTensors


@dataclass(frozen=True)
class Rescale:
    """A parameter w becomes ``factor * (w + shift) - shift``."""

    factor: float
    shift: float = 0.0

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rescaled tensor, in its own dtype."""
        wide = tensor.detach().double()
        return ((wide + self.shift) * self.factor - self.shift).to(tensor.dtype)

    @property
    def inverse(self) -> Rescale:
        return Rescale(1 / self.factor, self.shift)


class DirectoryTensors(TensorSource):
    """Tensors by their names in a program, read from a directory when they are asked for.

    ``own`` holds every tensor of the program, those in the directory on the meta device; values come in its
    dtypes. ``named`` gives the name in the directory where it is another; ``rescales`` are applied to what is
    read.
    """

    reads_rows = True

    def __init__(
        self,
        own: Mapping[str, torch.Tensor],
        files: LazyTensors,
        *,
        named: Mapping[str, str] | None = None,
        rescales: Mapping[str, Rescale] | None = None,
    ) -> None:
        self._own = dict(own)
        self._files = files
        self._named = dict(named or {})
        self._rescales = dict(rescales or {})

    def __getitem__(self, name: str) -> torch.Tensor:
        own = self._own[name]
        if not own.is_meta:
            return own
        return self._finish(name, self._files[self._named.get(name, name)])

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)

    def __contains__(self, name: object) -> bool:
        return name in self._own

    @property
    def shapes(self) -> Shapes:
        """Shape and dtype of every tensor; nothing is read."""
        return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self._own.items()}

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` (along the first dim) of a tensor."""
        own = self._own[name]
        if not own.is_meta:
            return own[start:stop]
        return self._finish(name, self._files.rows(self._named.get(name, name), start, stop))

    def _finish(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name in self._rescales:
            tensor = self._rescales[name](tensor)
        return tensor.to(self._own[name].dtype)
