"""What nodes give: the dims of a tensor or of several, beside the values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from mlgraph.axes import factors

if TYPE_CHECKING:
    from mlgraph.axes.factors import Factors


def every_dim(held: list[Any]) -> Iterator[Factors]:
    """The dims of a tensor, or of all tensors of a sequence."""
    for item in held:
        if isinstance(item, tuple):
            yield item
        else:
            yield from item


def flat(value: Any) -> Iterator[Any]:
    """The parts of a sequence of sequences, one by one."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from flat(item)
    else:
        yield value


def holds_tensor(value: Any) -> bool:
    """Whether a value is a tensor or a sequence with one."""
    if isinstance(value, (tuple, list)):
        return any(isinstance(item, torch.Tensor) for item in value)
    return isinstance(value, torch.Tensor)


def fits(result: Any, value: Any) -> bool:
    """Whether inferred dims have the sizes of the value."""
    if not isinstance(result, list):
        return False
    if isinstance(value, (tuple, list)):
        return len(result) == len(value) and all(
            fits(dims, item)
            for dims, item in zip(result, value, strict=True)
            if isinstance(item, torch.Tensor)
        )
    if len(result) != value.dim():
        return False
    return all(
        not isinstance(size, int) or factors.size_of(dim) == size
        for dim, size in zip(result, value.shape, strict=True)
    )
