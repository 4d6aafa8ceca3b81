"""Where tensors come from once views, casts and factors are left out of the picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlgraph.graph.ops import has, is_tensor_valued, op_name
from mlgraph.graph.traits import Trait
from mlgraph.view.op_kinds import is_join, is_layout

if TYPE_CHECKING:
    from torch import fx

    from mlgraph.graph.dataflow import Dataflow


class Wires:
    """The activation edges of a program with layout ops passed over.

    ``varying`` are the nodes that depend on an input of the program; ``turning`` those made of sines and
    cosines alone (rotary tables).
    """

    def __init__(self, flow: Dataflow) -> None:
        self.flow = flow
        self._layout = {node for node in flow.nodes if node.op == "call_function" and is_layout(node)}
        self.varying: set[fx.Node] = set()
        self.turning: set[fx.Node] = set()
        self.consumers: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node in flow.nodes:
            above = flow.data[node]
            if node.op == "placeholder" or any(arg in self.varying for arg in above):
                self.varying.add(node)
            if self._turns(node, above):
                self.turning.add(node)
            if self.is_work(node):
                for origin in dict.fromkeys(self.origins(node)):
                    self.consumers[origin].append(node)

    def _turns(self, node: fx.Node, above: tuple[fx.Node, ...]) -> bool:
        if node.op != "call_function":
            return False
        if has(node, Trait.TURNS):
            return True
        rest = [arg for arg in above if arg not in self.turning]
        rearranges = is_layout(node) or is_join(node) or op_name(node) == "mul"
        return rearranges and len(rest) < len(above) and not any(arg in self.varying for arg in rest)

    def is_layout(self, node: fx.Node) -> bool:
        """Whether the node is folded into the edges that pass it."""
        return node in self._layout or self.flow.is_transparent(node)

    def is_work(self, node: fx.Node) -> bool:
        """Whether the node computes something that a reader would draw."""
        return (
            node.op == "call_function"
            and node in self.flow.data
            and is_tensor_valued(node)
            and not self.is_layout(node)
        )

    def trail(self, node: fx.Node) -> tuple[fx.Node | None, tuple[fx.Node, ...]]:
        """The node whose data ``node`` rearranges, and the layout ops on the way, first to last."""
        passed: list[fx.Node] = []
        current = self.flow.resolve(node)
        while current in self._layout:
            passed.append(current)
            above = self.flow.data[current]
            if not above:
                return None, tuple(reversed(passed))
            current = self.flow.resolve(above[0])
        return current, tuple(reversed(passed))

    def origin(self, node: fx.Node) -> fx.Node | None:
        """The node whose data ``node`` rearranges: itself unless it is a layout op."""
        return self.trail(node)[0]

    def origins(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """The origins of what a node reads, in order."""
        found = (self.origin(arg) for arg in self.flow.data[node])
        return tuple(node for node in found if node is not None)

    def connected(self, nodes: Iterable[fx.Node]) -> list[list[fx.Node]]:
        """The nodes in connected parts, each in graph order."""
        left = dict.fromkeys(sorted(nodes, key=self.flow.order.__getitem__))
        parts = []
        while left:
            stack = [next(iter(left))]
            part = {stack[0]}
            while stack:
                node = stack.pop()
                near = dict.fromkeys((*self.origins(node), *self.consumers[node]))
                new = [other for other in near if other in left and other not in part]
                part.update(new)
                stack += new
            parts.append([node for node in left if node in part])
            for node in part:
                del left[node]
        return parts
