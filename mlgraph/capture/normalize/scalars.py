"""Sizes that pass through a tensor of no dims on their way, as ``torch.tensor(x.size(1)).item()`` does."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from mlgraph.graph.ops import has
from mlgraph.graph.traits import Trait

aten = torch.ops.aten


def _reversed_sub(left: Any, right: Any) -> tuple[Callable[..., Any], Any, Any]:
    return operator.sub, right, left


_ARITHMETIC: dict[Any, Callable[[Any, Any], tuple[Callable[..., Any], Any, Any]]] = {
    aten.add.Tensor: lambda a, b: (operator.add, a, b),
    aten.sub.Tensor: lambda a, b: (operator.sub, a, b),
    aten.mul.Tensor: lambda a, b: (operator.mul, a, b),
    aten.rsub.Scalar: _reversed_sub,
    aten.rsub.Tensor: _reversed_sub,
    aten.floor_divide.default: lambda a, b: (operator.floordiv, a, b),
    aten.minimum.default: lambda a, b: (torch.sym_min, a, b),
    aten.maximum.default: lambda a, b: (torch.sym_max, a, b),
}


def read_sizes_directly(graph: fx.Graph) -> None:
    """Replace numbers read from tensors that only hold sizes by the same arithmetic on sizes; in place.

    What is computed stays the same, and a cut or view that takes the number for a size is known then to
    depend on the inputs' sizes alone, not on their values.
    """
    known: dict[fx.Node, Any] = {}
    for node in list(graph.nodes):
        if not has(node, Trait.READS):
            continue
        value = _plain(node.args[0], known)
        if value is None:
            continue
        node.replace_all_uses_with(value) if isinstance(value, fx.Node) else put_number(node, value)
        graph.erase_node(node)


def put_number(node: fx.Node, value: int) -> None:
    """Put a number in the place of a node in all that use it."""
    for user in list(node.users):

        def swap(argument: fx.Node) -> Any:
            return value if argument is node else argument

        user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), swap)


def _plain(value: Any, known: dict[fx.Node, Any]) -> Any:
    """The integer, or the node that computes it, behind an integer tensor of no dims; None where data is."""
    if isinstance(value, int):
        return value
    if not isinstance(value, fx.Node):
        return None
    if value not in known:
        known[value] = _computed(value, known)
    return known[value]


def _computed(node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    symbolic = node.meta.get("symbolic")
    if node.op != "call_function" or not isinstance(symbolic, torch.Tensor):
        return None
    if symbolic.dim() or symbolic.dtype not in (torch.int64, torch.int32):
        return None
    if node.target is aten.scalar_tensor.default:
        size = node.args[0]
        given = size.meta.get("symbolic") if isinstance(size, fx.Node) else size
        return size if isinstance(given, int | torch.SymInt) else None
    if has(node, Trait.IDENTITY | Trait.CASTS):
        return _plain(node.args[0], known)
    if node.target not in _ARITHMETIC or node.kwargs or len(node.args) != 2:
        return None
    left, right = (_plain(argument, known) for argument in node.args)
    if left is None or right is None:
        return None
    operation, first, second = _ARITHMETIC[node.target](left, right)
    if isinstance(first, int) and isinstance(second, int):
        return operation(first, second)
    with node.graph.inserting_before(node):
        new = node.graph.call_function(operation, (first, second))
    values = (a.meta.get("symbolic") if isinstance(a, fx.Node) else a for a in (first, second))
    new.meta = {**node.meta, "symbolic": operation(*values)}
    return new
