"""What is checked of a program before a pass touches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlgraph.errors import MlgraphError

if TYPE_CHECKING:
    from mlgraph.program import Program


def require_numbers(program: Program) -> None:
    """Raise MlgraphError, naming the first such tensor and how many there are, where weights are NaN.

    Every tensor with bytes is read once. An average would spread one NaN over its whole group.
    """
    import torch

    wrong: list[tuple[str, int]] = []
    for name in program.tensors:
        tensor = program.tensors[name]
        if tensor.is_floating_point() and not tensor.is_meta:
            missing = int(torch.isnan(tensor).sum())
            if missing:
                wrong.append((name, missing))
    if wrong:
        name, number = wrong[0]
        others = f", and {len(wrong) - 1} more tensors hold some" if len(wrong) > 1 else ""
        raise MlgraphError(
            f"{name} holds {number} NaN of {program.tensors[name].numel()} values{others}; "
            "averaging would spread them, so start from a checkpoint without."
        )
