"""Which casts raise the precision and which give it back, so that emitted code runs in any dtype.

A graph captured in float32 casts float32 to float32 in two senses: ``x.to(torch.float32)`` before a norm,
and ``x.to(input_dtype)`` after it. In bfloat16, or under autocast, they differ. Values are followed
through the graph as if the model were in low precision: a cast to float32 of a value in the model's dtype
raises it, a cast of a raised value restores the dtype that it was raised from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import fx

from mlgraph.graph.ops import argument, has
from mlgraph.graph.traits import Trait

if TYPE_CHECKING:
    from mlgraph.program import Program


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
        found = _Simulation(program.graph, dtype, relative)
        if found.culprits <= relative:
            break
        relative |= found.culprits
    made = Trait.FILLS | Trait.DRAWS
    fills = frozenset(node for node in program.graph.nodes if has(node, made) and _dtype(node) is dtype)
    return Casts(dtype, found.restored, frozenset(found.raising), fills)


@dataclass(frozen=True)
class _Raised:
    cast: fx.Node
    # the value whose dtype a restoring cast gives back; None where that is no activation
    origin: fx.Node | None


class _Simulation:
    """The graph followed once as if it ran in low precision.

    ``relative`` are casts that go by the model's dtype wherever they stand. ``raised`` maps a value in
    float32 to the cast that raised it; ``culprits`` are raising casts whose results meet the model's dtype
    where that fails.
    """

    def __init__(self, graph: fx.Graph, dtype: torch.dtype, relative: Collection[fx.Node]) -> None:
        self.dtype = dtype
        self.relative = relative
        self.raised: dict[fx.Node, _Raised] = {}
        self.activations: set[fx.Node] = set()
        self.restored: dict[fx.Node, fx.Node | None] = {}
        self.raising: set[fx.Node] = set()
        self.culprits: set[fx.Node] = set()
        for node in graph.nodes:
            if self.is_activation(node):
                self.activations.add(node)
            if node.op == "call_function" and _is_floating(node):
                self.follow(node)

    def is_activation(self, node: fx.Node) -> bool:
        if node.op != "call_function":
            return node.op == "placeholder"
        read = node.all_input_nodes
        return any(n in self.activations for n in read) or (
            _is_floating(node) and any(n.op == "get_attr" for n in read)
        )

    def follow(self, node: fx.Node) -> None:
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if source is not None and has(node, Trait.CASTS):
            self.cast(node, source)
        elif source is not None and has(node, Trait.SOFTMAX) and argument(node, "dtype") is torch.float32:
            self.raised[node] = self.raised.get(source) or _Raised(node, source)
        elif has(node, Trait.RANGE):
            self.raised[node] = _Raised(node, None)
        else:
            self.pass_on(node)

    def cast(self, node: fx.Node, source: fx.Node) -> None:
        was, target = self.raised.get(source), _dtype(node)
        if node in self.relative:
            self.restored[node] = None
        elif was is not None and target is self.dtype:
            self.restored[node] = was.origin
        elif target is torch.float32 and (target is self.dtype or self.dtype.itemsize < 4):
            # what the model itself keeps in lower precision goes back to the model's dtype
            known = _dtype(source) is self.dtype and source in self.activations
            known = known and source.op == "call_function"
            self.raised[node] = was or _Raised(node, source if known else None)
            self.raising.add(node)

    def pass_on(self, node: fx.Node) -> None:
        """An op's result is raised where an operand is, unless the op refuses operands of two dtypes."""
        floats = [n for n in node.all_input_nodes if _is_floating(n)]
        high = [self.raised[n] for n in floats if n in self.raised]
        if high and _is_strict(node) and len(high) < len(floats):
            self.culprits.update(mark.cast for mark in high if has(mark.cast, Trait.CASTS))
        elif high:
            self.raised[node] = next((mark for mark in high if mark.origin is not None), high[0])


def _is_strict(node: fx.Node) -> bool:
    # custom ops are taken to be strict: few promote
    target = node.target
    custom = isinstance(target, torch._ops.OpOverload) and target.namespace != "aten"
    return custom or has(node, Trait.ONE_DTYPE)


def _dtype(node: fx.Node) -> torch.dtype | None:
    value = node.meta.get("val")
    return value.dtype if isinstance(value, torch.Tensor) else None


def _is_floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        value = next((item for item in value if isinstance(item, torch.Tensor)), None)
    return isinstance(value, torch.Tensor) and value.is_floating_point()
