"""What is checked of a program's tensors, and changed in them, on the way from a source to a file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlgraph.errors import MlgraphError

if TYPE_CHECKING:
    import torch

    from mlgraph.program import Program


def require_numbers(program: Program) -> None:
    """Raise MlgraphError, naming the first such tensor and how many there are, where weights are NaN.

    Tensors that are read from files as needed are left to ``checked``. An average would spread one NaN over
    its whole group.
    """
    if not program.tensors.in_memory:
        return
    wrong = [(name, nans) for name in program.tensors if (nans := _nans(program.tensors[name]))]
    if wrong:
        others = f", and {len(wrong) - 1} more tensors hold some" if len(wrong) > 1 else ""
        raise MlgraphError(_sentence(*wrong[0], program.tensors[wrong[0][0]].numel(), others))


def checked(program: Program) -> Program:
    """The program, whose lazy tensors raise MlgraphError when one that is read holds a NaN."""
    from mlgraph.program.tensors import Checked

    tensors = program.tensors
    if tensors.in_memory:
        return program
    shapes = tensors.source.shapes

    def look(name: str, tensor: torch.Tensor, rest: Iterable[torch.Tensor]) -> None:
        nans = _nans(tensor)
        if nans:
            numel = math.prod(shapes[name][0])
            raise MlgraphError(_sentence(name, nans + sum(map(_nans, rest)), numel, ""))

    return program.with_values(tensors.replace(Checked(tensors.source, look)))


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
