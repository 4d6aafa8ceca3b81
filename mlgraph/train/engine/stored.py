"""Programs and optimizer state as they lie in files, taken up again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch

from mlgraph.program import Program
from mlgraph.program.tensors import TensorSource
from mlgraph.rewrite.sharded import Layout
from mlgraph.train.errors import RunDirectoryError

_SEPARATOR = "::"


def flat(state: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Optimizer state with one name for each tensor."""
    return {
        f"{name}{_SEPARATOR}{key}": value for name, entries in state.items() for key, value in entries.items()
    }


class StoredState(Mapping[str, Mapping[str, torch.Tensor]]):
    """Optimizer state in files, by parameter name; read each time that it is asked for.

    With a ``layout`` that of the parameters ``sharded`` is sharded as they are; each process reads its rows.
    """

    def __init__(
        self, source: TensorSource, layout: Layout | None, sharded: frozenset[str], device: torch.device
    ) -> None:
        self._source, self._layout, self._sharded, self._device = source, layout, sharded, device

    @cached_property
    def _keys(self) -> dict[str, list[str]]:
        keys: dict[str, list[str]] = {}
        for full in self._source:
            name, _, key = full.rpartition(_SEPARATOR)
            keys.setdefault(name, []).append(key)
        return keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, name: str) -> dict[str, torch.Tensor]:
        return {key: self._read(name, f"{name}{_SEPARATOR}{key}") for key in self._keys[name]}

    def _read(self, name: str, full: str) -> torch.Tensor:
        shape = self._source.shapes[full][0]
        if self._layout is None or name not in self._sharded or not shape:
            return self._source[full]
        rows = self._source.rows(full, *self._layout.extent(shape[0]))
        return self._layout.wrap(rows.to(self._device, copy=True), shape)


def check_fit(program: Program, tensors: TensorSource, source: Path) -> None:
    """Raise RunDirectoryError where tensors are not those of a program; ``source`` is where they lie."""
    meta, shapes = program.tensors.meta(), tensors.shapes
    for name in sorted(meta.keys() ^ shapes.keys()):
        raise RunDirectoryError(
            f"{source} does not fit the model ({name} is in one of them only): give the same model."
        )
    for name, tensor in meta.items():
        if tuple(tensor.shape) != tuple(shapes[name][0]):
            raise RunDirectoryError(
                f"{source} does not fit the model ({name} is {list(shapes[name][0])} there, "
                f"{list(tensor.shape)} here): give the same model."
            )


def restored(program: Program, tensors: TensorSource, in_place: bool) -> Program:
    """The program with a checkpoint's tensors: copied into its own ``in_place``, or read into memory."""
    if not in_place:
        values = {name: tensors[name].clone() for name in program.tensors}
        return program.with_values(program.tensors.replace(values))
    with torch.no_grad():
        for name, tensor in program.tensors.items():
            tensor.copy_(tensors[name])
    return program
