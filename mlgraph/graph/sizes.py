"""What is known of a node's sizes for every input, not only for the example."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

Size = Any  # an int, or a sympy expression in torch.export's size symbols


def size_of(value: Any) -> Size:
    """An integer or symbolic integer as an int or an expression that compares by form."""
    if isinstance(value, torch.SymInt):
        expression = value.node.expr
        return int(expression) if expression.is_Integer else expression
    return value


def sizes_of(node: fx.Node) -> tuple[Size, ...] | None:
    """The sizes of a node's tensor; ``None`` where they are not known."""
    value = node.meta.get("symbolic")
    if not isinstance(value, torch.Tensor):
        return None
    return tuple(size_of(size) for size in value.shape)


def dtype_of(node: fx.Node) -> torch.dtype | None:
    """The dtype of a node's tensor; ``None`` where it has none."""
    value = node.meta.get("symbolic")
    return value.dtype if isinstance(value, torch.Tensor) else None


def argument_size(value: Any) -> Size:
    """The size that an argument stands for: an int, or a node that computes one."""
    if isinstance(value, fx.Node):
        return size_of(value.meta.get("symbolic"))
    return value


def same_sizes(first: fx.Node, second: fx.Node) -> bool:
    """Whether two tensors have equal sizes on every input."""
    a, b = sizes_of(first), sizes_of(second)
    return a is not None and a == b
