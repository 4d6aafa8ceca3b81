"""The body of an op that has no rule of its own."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

# Arguments that say which dims an op works on, or how, in the same words at any width.
_OF_ANY_WIDTH = re.compile(
    r"dim|axis|axes|source|destination|dtype|layout|memory_format|reduction|ord$|n$|p$|correction|ignore_index"
)
_SIZES = re.compile(r"(Optional\[)?(int\]?|List\[(int|float)\]\]?)")


def carries_sizes(node: fx.Node) -> bool:
    """Whether an op call has numbers among its arguments that may be sizes or positions of some width."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    for position, argument in enumerate(node.target._schema.arguments):
        given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
        if (
            given is not None
            and _SIZES.fullmatch(str(argument.type))
            and not _OF_ANY_WIDTH.match(argument.name)
        ):
            return True
    return False


def decompose(node: fx.Node) -> fx.GraphModule | None:
    """The op of ``node`` in simpler ops on its example values, or ``None`` if it has no other form.

    Placeholders stand for the op's tensor operands in the order of ``node.all_input_nodes``.
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    op = node.target
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]

    def call(*values: Any) -> Any:
        known = dict(zip(tensors, values, strict=True))

        def swap(argument: Any) -> Any:
            if isinstance(argument, fx.Node):
                return known.get(argument, argument.meta.get("val"))
            return argument

        def is_node(argument: Any) -> bool:
            return isinstance(argument, fx.Node)

        args, kwargs = pytree.tree_map(swap, (node.args, dict(node.kwargs)), is_leaf=is_node)
        return op(*args, **kwargs)

    try:
        from torch._decomp import core_aten_decompositions

        table: Any = core_aten_decompositions()
        body = make_fx(call, decomposition_table=table)(*(n.meta["val"] for n in tensors))
    except Exception:  # any failure of tracing means that the op has no usable body
        return None
    calls = [n for n in body.graph.nodes if n.op == "call_function"]
    if not calls or any(n.target == op for n in calls):
        return None
    return body
