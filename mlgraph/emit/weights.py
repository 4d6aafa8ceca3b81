"""Weights of a saved directory, as the program that wrote them has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from mlgraph.emit.fold import Rescale
from mlgraph.storage.lazy import LazyTensors


class Rescaled(Mapping[str, torch.Tensor]):
    """Tensors of a program whose parameters lie in a directory, where some are rescaled.

    ``own`` holds every tensor of the program, those in the directory on the meta device. A factor that saving folded into
    a parameter is taken out again, and values come in the program's dtype. With ``keep`` a tensor once
    read stays, so that what is done to it in place is seen by every reader.
    """

    def __init__(
        self,
        own: Mapping[str, torch.Tensor],
        files: LazyTensors,
        rescales: Mapping[str, Sequence[float]],
        *,
        keep: bool,
    ) -> None:
        self._own = own
        self._files = files
        self._inverse = {name: Rescale(factor, shift).inverse for name, (factor, shift) in rescales.items()}
        self._kept: dict[str, torch.Tensor] | None = {} if keep else None

    def __getitem__(self, name: str) -> torch.Tensor:
        own = self._own[name]
        if own.device.type != "meta" or name not in self._files:
            return own
        if self._kept is not None and name in self._kept:
            return self._kept[name]
        tensor = self._files[name]
        if name in self._inverse:
            tensor = self._inverse[name](tensor)
        tensor = tensor.to(own.dtype)
        if self._kept is not None:
            self._kept[name] = tensor
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every tensor, read from no file."""
        return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self._own.items()}
