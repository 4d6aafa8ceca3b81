"""The body of an op that has no rule of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree


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
