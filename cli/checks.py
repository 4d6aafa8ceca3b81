"""What is checked of a program's tensors, and changed in them, on the way from a source to a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlgraph.errors import MlgraphError

if TYPE_CHECKING:
    import torch

    from mlgraph.program import Program


def require_numbers(program: Program) -> None:
    """Raise MlgraphError, naming the first such tensor and how many there are, where weights are NaN.

    Tensors that are read from files as needed are left to ``checked``. An average would spread one NaN over
    its whole group.
    """
    if not isinstance(program.tensors.values_, dict):
        return
    wrong = [(name, nans) for name in program.tensors if (nans := _nans(program.tensors[name]))]
    if wrong:
        others = f", and {len(wrong) - 1} more tensors hold some" if len(wrong) > 1 else ""
        raise MlgraphError(_sentence(*wrong[0], program.tensors[wrong[0][0]].numel(), others))


def checked(program: Program) -> Program:
    """The program, whose lazy tensors raise MlgraphError when one that is read holds a NaN."""
    values = program.tensors.values_
    if isinstance(values, dict):
        return program
    make = _CheckedRows if hasattr(values, "rows") else _Checked
    return program.replace(tensors=program.tensors.replace(make(values)))


class _Checked(Mapping[str, "torch.Tensor"]):
    """Lazy tensors, looked at as they are read; shapes cost no more and chunks come no larger than before."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        self._values: Any = values

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._look(name, self._values[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    @property
    def shapes(self) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every tensor; nothing is read."""
        known: Mapping[str, tuple[tuple[int, ...], torch.dtype]] = self._values.shapes
        return known

    def chunks(self, name: str) -> torch.Tensor | Iterator[torch.Tensor]:
        """A tensor as row chunks where it can be made so, else whole."""
        import torch

        chunks = getattr(self._values, "chunks", self._values.__getitem__)
        made: torch.Tensor | Iterable[torch.Tensor] = chunks(name)
        return self._look(name, made) if isinstance(made, torch.Tensor) else self._parts(name, iter(made))

    def _parts(self, name: str, parts: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for part in parts:
            self._look(name, part, parts)
            yield part

    def _look(self, name: str, tensor: torch.Tensor, rest: Iterable[torch.Tensor] = ()) -> torch.Tensor:
        nans = _nans(tensor)
        if nans:
            numel = math.prod(self.shapes[name][0])
            raise MlgraphError(_sentence(name, nans + sum(map(_nans, rest)), numel, ""))
        return tensor


class _CheckedRows(_Checked):
    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` (along the first dim) of a tensor."""
        return self._look(name, self._values.rows(name, start, stop))


def _nans(tensor: torch.Tensor) -> int:
    import torch

    if not tensor.is_floating_point() or tensor.is_meta:
        return 0
    return int(torch.isnan(tensor).sum())


def _sentence(name: str, nans: int, numel: int, others: str) -> str:
    return (
        f"{name} holds {nans} NaN of {numel} values{others}; averaging would spread them, so start from a "
        "checkpoint without."
    )


def floating_dtype(name: str) -> torch.dtype:
    """The floating-point dtype called ``name``, as ``bfloat16``; raises MlgraphError where there is none."""
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise MlgraphError(f"{name} is no floating-point dtype; use float32, bfloat16, float16 or float64.")
    return found


def in_dtype(program: Program, dtype: torch.dtype | None) -> Program:
    """The program with its floating-point tensors converted, or as it is where ``dtype`` is None."""
    if dtype is None:
        return program
    from mlgraph.emit.module import emit

    return emit(program, dtype=dtype).program
