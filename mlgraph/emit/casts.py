"""Which casts raise the precision and which give it back, so that emitted code runs in any dtype.

A graph captured in float32 casts float32 to float32 in two senses: ``x.to(torch.float32)`` before a norm,
and ``x.to(input_dtype)`` after it. In bfloat16, or under autocast, they differ. Values are followed
through the graph as if the model were in low precision: a cast to float32 of a value in the model's dtype
raises it, a cast of a raised value restores the dtype that it was raised from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import fx

from mlgraph.program import Program

aten = torch.ops.aten

_CASTS = {aten.to.dtype, aten._to_copy.default}
_FILLS = {
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.empty.memory_format,
    aten.scalar_tensor.default,
    aten.rand.default,
    aten.randn.default,
}
# Ops that refuse operands of different floating-point dtypes; everything else promotes.
_STRICT = {
    aten.linear.default,
    aten.matmul.default,
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.baddbmm.default,
    aten.einsum.default,
    aten.scaled_dot_product_attention.default,
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.index_add.default,
    aten.index_put.default,
    aten.index_copy.default,
    aten.scatter.src,
    aten.scatter_add.default,
    aten.masked_scatter.default,
}
# Ops that take a dtype to compute in.
_WITH_DTYPE = {aten.softmax.int: 2, aten.log_softmax.int: 2}


@dataclass(frozen=True)
class Casts:
    """``restored``: a cast node to the node whose dtype it gives back (``None``: the model's dtype).

    ``raising`` are casts to float32; ``fills`` are factory nodes that make values of the model's dtype;
    ``dtype`` is that dtype as captured.
    """

    dtype: torch.dtype
    restored: Mapping[fx.Node, fx.Node | None] = field(default_factory=dict)
    raising: frozenset[fx.Node] = frozenset()
    fills: frozenset[fx.Node] = frozenset()


def model_dtype(program: Program) -> torch.dtype:
    """The floating-point dtype that most of a program's parameters have in the graph."""
    count: dict[torch.dtype, int] = {}
    for node in program.graph.nodes:
        tensor = node.meta["val"] if node.op == "get_attr" else None
        if tensor is not None and node.target in program.tensors.parameters and tensor.is_floating_point():
            count[tensor.dtype] = count.get(tensor.dtype, 0) + tensor.numel()
    return max(count, key=count.__getitem__) if count else torch.get_default_dtype()


def follow_casts(program: Program) -> Casts:
    """Tell the raising casts of a program from the restoring ones."""
    dtype = model_dtype(program)
    relative: set[fx.Node] = set()
    while True:
        restored, raising, culprits = _simulate(program.graph, dtype, relative)
        if culprits <= relative:
            break
        relative |= culprits
    fills = frozenset(node for node in program.graph.nodes if node.target in _FILLS and _dtype(node) is dtype)
    return Casts(dtype, restored, frozenset(raising), fills)


@dataclass(frozen=True)
class _Raised:
    cast: fx.Node
    # the value whose dtype a restoring cast gives back; None where that is no activation
    origin: fx.Node | None


def _simulate(
    graph: fx.Graph, dtype: torch.dtype, relative: set[fx.Node]
) -> tuple[dict[fx.Node, fx.Node | None], set[fx.Node], set[fx.Node]]:
    """One pass; ``culprits`` are raising casts whose results meet the model's dtype where that fails."""
    raised: dict[fx.Node, _Raised] = {}
    activation: set[fx.Node] = set()
    restored: dict[fx.Node, fx.Node | None] = {}
    raising: set[fx.Node] = set()
    culprits: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or (node.op == "call_function" and activation & {*node.all_input_nodes}):
            activation.add(node)
        if node.op != "call_function" or not _is_floating(node):
            continue
        if node.op == "call_function" and any(n.op == "get_attr" for n in node.all_input_nodes):
            activation.add(node)
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if node.target in _CASTS and source is not None:
            was = raised.get(source)
            target = _dtype(node)
            if node in relative:
                restored[node] = None
            elif was is not None and target is dtype:
                restored[node] = was.origin
            elif target is torch.float32 and (target is dtype or dtype.itemsize < 4):
                known = _is_floating(source) and source in activation and source.op == "call_function"
                raised[node] = was or _Raised(node, source if known else None)
                raising.add(node)
            continue
        position = _WITH_DTYPE.get(node.target)
        if position is not None and source is not None:
            asked = node.args[position] if len(node.args) > position else node.kwargs.get("dtype")
            if asked is torch.float32:
                raised[node] = raised.get(source) or _Raised(node, source)
                continue
        if node.target in (aten.arange.default, aten.arange.start, aten.arange.start_step):
            raised[node] = _Raised(node, None)
            continue
        floats = [n for n in node.all_input_nodes if _is_floating(n)]
        high = [raised[n] for n in floats if n in raised]
        if high and _is_strict(node) and len(high) < len(floats):
            culprits.update(mark.cast for mark in high if mark.cast.target in _CASTS)
        elif high:
            raised[node] = next((mark for mark in high if mark.origin is not None), high[0])
    return restored, raising, culprits


def _is_strict(node: fx.Node) -> bool:
    # custom ops are taken to be strict: few promote
    target = node.target
    custom = isinstance(target, torch._ops.OpOverload) and target.namespace != "aten"
    return custom or target in _STRICT


def _dtype(node: fx.Node) -> torch.dtype | None:
    value = node.meta.get("val")
    return value.dtype if isinstance(value, torch.Tensor) else None


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        value = next((item for item in value if isinstance(item, torch.Tensor)), None)
    return isinstance(value, torch.Tensor) and value.is_floating_point()
