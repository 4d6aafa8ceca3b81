"""The dataflow of a graph as block detection sees it: dominators, cut segments, canonical digests.

An activation edge is an edge along which a tensor's data (not its size) flows. Nodes that only pass
a tensor on in evaluation (dropout, drop-path, alias, contiguous, a cast to the same type) are
*transparent*: two graphs that differ by such nodes are the same graph here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.graph.constants import constants
from mlgraph.graph.ops import has, is_tensor_valued, op_name
from mlgraph.graph.traits import SPREADS, Trait

if TYPE_CHECKING:
    from mlgraph.program import Program


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and not node.users and schema is not None and bool(schema.is_mutable)


def _shape(value: Any) -> Hashable:
    # sizes that data decide are alike, whichever symbols stand for them
    if isinstance(value, torch.Tensor):
        return (tuple(size if isinstance(size, int) else None for size in value.shape), str(value.dtype))
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return type(value).__name__
    if isinstance(value, (tuple, list)):
        return tuple(_shape(item) for item in value)
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _common(
    one: fx.Node, other: fx.Node, parent: Mapping[fx.Node, fx.Node], depth: Mapping[fx.Node, int]
) -> fx.Node:
    """The deepest node that is above both in a tree."""
    while one is not other:
        if depth[one] >= depth[other]:
            one = parent[one]
        else:
            other = parent[other]
    return one


class Dataflow:
    """Topological order, activation edges and dominators of one program's graph.

    Attributes:
        nodes: the nodes that results or written tensors depend on, in graph order, without the output.
        effects: nodes that write into a tensor and whose result nothing reads (a batch norm's counter).
        order: position of each of them.
        data: activation predecessors of a node, transparent nodes passed over.

    ``loose`` names constants whose values tell no nodes apart.
    """

    def __init__(self, program: Program, loose: Collection[str] = ()) -> None:
        self.program = program
        graph = program.graph
        self.output = next(iter(reversed(graph.nodes)))
        self.effects = [node for node in graph.nodes if _writes(node)]
        live = {self.output, *self.effects}
        for node in reversed(graph.nodes):
            if node in live:
                live.update(node.all_input_nodes)
        self.nodes = [node for node in graph.nodes if node in live and node.op != "output"]
        self.order = {node: position for position, node in enumerate(self.nodes)}
        self._names = {node: op_name(node) for node in self.nodes}
        self._through: dict[fx.Node, fx.Node] = {}
        for node in self.nodes:
            if self._passes(node):
                source = node.all_input_nodes[0]
                self._through[node] = self._through.get(source, source)
        self.data: dict[fx.Node, tuple[fx.Node, ...]] = {}
        for node in self.nodes:
            sources: dict[fx.Node, None] = {}
            if is_tensor_valued(node) and not has(node, Trait.LIKE):
                sources = {self.resolve(arg): None for arg in node.all_input_nodes if is_tensor_valued(arg)}
            self.data[node] = tuple(sources)
        self._tensor_valued = {node for node in self.nodes if is_tensor_valued(node)}
        self._parts: dict[fx.Node, tuple[int, tuple[fx.Node, ...]]] = {}
        self._interned: dict[Hashable, int] = {}
        self._constants: dict[str, Hashable] = {}
        self._static = constants(program).difference(loose)

    def resolve(self, node: fx.Node) -> fx.Node:
        """The node whose value ``node`` passes on: itself unless transparent."""
        return self._through.get(node, node)

    def is_transparent(self, node: fx.Node) -> bool:
        """Whether the node only passes on its input in evaluation."""
        return node in self._through

    def is_live(self, node: fx.Node) -> bool:
        """Whether a result depends on the node (or it is the output)."""
        return node in self.order or node is self.output

    def users(self, node: fx.Node) -> Iterator[fx.Node]:
        """Live users of a node, the output excepted."""
        return (user for user in node.users if user in self.order)

    def _passes(self, node: fx.Node) -> bool:
        if node.op != "call_function" or not node.all_input_nodes:
            return False
        if has(node, Trait.IDENTITY | Trait.DROPS):
            return isinstance(node.meta.get("val"), (torch.Tensor, type(None)))
        if has(node, Trait.CASTS):
            source, value = node.all_input_nodes[0].meta.get("val"), node.meta.get("val")
            if not isinstance(source, torch.Tensor) or not isinstance(value, torch.Tensor):
                return False
            return source.dtype == value.dtype and source.device == value.device
        return False

    # Dominators

    def reach(self, source: fx.Node) -> list[fx.Node]:
        """Nodes that depend on ``source`` through activation edges, in order, ``source`` first."""
        found = {source: None}
        for node in self.nodes[self.order[source] + 1 :]:
            if node not in self._through and any(arg in found for arg in self.data[node]):
                found[node] = None
        return list(found)

    def dominators(self, source: fx.Node) -> dict[fx.Node, fx.Node]:
        """Immediate dominator of every node that depends on ``source`` (which maps to itself).

        One pass in topological order, after Cooper, Harvey and Kennedy (2001).
        """
        parent = {source: source}
        depth = {source: 0}
        for node in self.reach(source)[1:]:
            known = (arg for arg in self.data[node] if arg in parent)
            common = reduce(lambda one, other: _common(one, other, parent, depth), known)
            parent[node] = common
            depth[node] = depth[common] + 1
        return parent

    def cut_paths(self, source: fx.Node) -> list[tuple[fx.Node, ...]]:
        """The dominator tree of ``source`` as downward paths.

        Consecutive nodes a, b of a path are single-tensor cuts: everything between them that b
        depends on is entered through a alone. A path goes on with the child into which the other
        children flow (the residual sum rather than the branch it sums); each other child starts a path.
        The tree is divided a second time going on with the child that most depends on: where long skips
        join late, that is where the layers are.
        """
        parent = self.dominators(source)
        children: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        size = dict.fromkeys(parent, 1)
        depth: dict[fx.Node, int] = {source: 0}
        for node, above in parent.items():
            if node is not above:
                children[above].append(node)
                depth[node] = depth[above] + 1
        for node in reversed(list(parent)):
            if node is not source:
                size[parent[node]] += size[node]
        flows: set[fx.Node] = set()
        for node in parent:
            for arg in (arg for arg in self.data[node] if arg in parent and arg is not parent[node]):
                while depth[arg] > depth[node]:
                    arg = parent[arg]
                flows.add(arg)
        last = {node: [c for c in below if c not in flows] or below for node, below in children.items()}
        paths: dict[tuple[fx.Node, ...], None] = {}
        for choices in (last, children):
            heads: list[list[fx.Node]] = [[source]]
            while heads:
                path = heads.pop()
                while below := children.get(path[-1]):
                    chosen = max(choices[path[-1]], key=lambda child: size[child])
                    heads += [[path[-1], child] for child in below if child is not chosen]
                    path.append(chosen)
                paths[tuple(path)] = None
        return list(paths)

    def between(self, entry: fx.Node, exit: fx.Node, within: Mapping[fx.Node, Any]) -> list[fx.Node]:
        """Nodes on activation paths from ``entry`` (excluded) to ``exit`` (included), inside ``within``."""
        found = {exit}
        stack = [exit]
        while stack:
            for arg in self.data[stack.pop()]:
                if arg is not entry and arg in within and arg not in found:
                    found.add(arg)
                    stack.append(arg)
        return sorted(found, key=self.order.__getitem__)

    # Canonical form

    def operands(self, node: fx.Node) -> Iterator[Any]:
        """Arguments that tell what a node computes: nodes and literals, sizes and rates left out."""
        name = self._names[node]
        args: Iterable[Any] = node.args
        kwargs = dict(node.kwargs)
        if has(node, Trait.SIZED) and has(node, Trait.RESHAPES | SPREADS):
            args = [arg for arg in node.args if isinstance(arg, fx.Node) and is_tensor_valued(arg)]
            kwargs = {}
        elif name == "scaled_dot_product_attention":
            args = [arg for position, arg in enumerate(node.args) if position != 4]
            kwargs.pop("dropout_p", None)
        elif name == "slice" and len(node.args) > 3:
            source = node.all_input_nodes[0].meta.get("val")
            dim, start, end = node.args[1:4]
            if isinstance(source, torch.Tensor) and isinstance(dim, int) and isinstance(end, int):
                args = [*node.args[:2], start or 0, min(end, source.shape[dim]), *node.args[4:]]
        elif has(node, Trait.LIKE):
            args = [arg for arg in node.args if not isinstance(arg, fx.Node)]
        kwargs.pop("device", None)
        for arg in args:
            yield from _flatten(arg)
        for key in sorted(kwargs):
            yield key
            yield from _flatten(kwargs[key])

    def tensor_key(self, node: fx.Node) -> Hashable:
        """What counterparts in two blocks must share: shape, type, kind, and the value if constant."""
        name = str(node.target)
        kind = "parameter" if name in self.program.tensors.parameters else "buffer"
        value = node.meta.get("val")
        constant = self._constant(name) if name in self._static else None
        return (kind, _shape(value if value is not None else self.program.tensors[name]), constant)

    def _constant(self, name: str) -> Hashable:
        if name not in self._constants:
            self._constants[name] = self.program.tensors.digest(name)
        return self._constants[name]

    def own_key(self, node: fx.Node) -> Hashable:
        """The node by itself: operator and result shape."""
        if node.op == "get_attr":
            return self.tensor_key(node)
        if node.op == "placeholder":
            return ("placeholder", node.name)
        return (str(node.target), _shape(node.meta.get("val")))

    def alike(self, left: fx.Node, right: fx.Node) -> bool:
        """Whether two nodes are of one operator, result shape and literals, whatever nodes they read."""
        return self._own(left)[0] == self._own(right)[0]

    def intern(self, key: Hashable) -> int:
        """A small integer, equal for equal keys."""
        return self._interned.setdefault(key, len(self._interned))

    def digest(self, node: fx.Node, memo: dict[fx.Node, int], leaf: Callable[[fx.Node], Hashable]) -> int:
        """Canonical digest of the expression that ends at ``node``.

        ``leaf(n)`` gives the key of a node at which the expression stops, or None to go on into
        its operands. Sizes count by their example value.
        """
        stack = [self.resolve(node)]
        while stack:
            top = stack[-1]
            if top in memo:
                stack.pop()
                continue
            if top not in self._tensor_valued:
                memo[top] = self.intern(("size", _shape(top.meta.get("val"))))
                continue
            key = leaf(top)
            if key is not None:
                memo[top] = self.intern(("leaf", key))
                continue
            own, operands = self._own(top)
            missing = [operand for operand in operands if operand not in memo]
            if missing:
                stack += missing
                continue
            memo[top] = self.intern((own, *(memo[operand] for operand in operands)))
        return memo[self.resolve(node)]

    def _own(self, node: fx.Node) -> tuple[int, tuple[fx.Node, ...]]:
        """A key for the node with its literals, and the operands that are nodes."""
        if node not in self._parts:
            operands = list(self.operands(node))
            literals = tuple("node" if isinstance(o, fx.Node) else _literal(o) for o in operands)
            nodes = tuple(self.resolve(o) for o in operands if isinstance(o, fx.Node))
            self._parts[node] = (self.intern((self.own_key(node), literals)), nodes)
        return self._parts[node]


def _flatten(arg: Any) -> Iterator[Any]:
    if isinstance(arg, (tuple, list)):
        yield "["
        for item in arg:
            yield from _flatten(item)
        yield "]"
    elif isinstance(arg, slice):
        yield from _flatten((arg.start, arg.stop, arg.step))
    else:
        yield arg


def _literal(value: Any) -> Hashable:
    return (type(value).__name__, value if isinstance(value, (bool, int, float, str)) else str(value))
