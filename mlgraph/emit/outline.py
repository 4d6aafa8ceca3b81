"""Which nodes go into which generated module: the root, and one per numbered block module."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlgraph.graph.effects import memory, mutates

if TYPE_CHECKING:
    from torch import fx

    from mlgraph.program import Program


@dataclass(frozen=True, eq=False)
class Body:
    """The nodes of one generated module in running order, with the nodes it reads and gives back."""

    path: str
    steps: tuple[fx.Node | Body, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


def outline(program: Program, extra: Mapping[fx.Node, Sequence[fx.Node]]) -> Body:
    """The root body of a program, with a body for each numbered module of its chains.

    ``extra`` names, per node, further nodes whose values its code reads. A block that cannot be run in one
    piece (something outside both reads from it and feeds it) stays in the root.
    """
    regions = _regions(program)
    order = _order(program.graph, regions, extra)
    while order is None:
        # Some block is no single step of the graph; drop the outermost cause by trying without each.
        regions = _runnable(program.graph, regions, extra)
        order = _order(program.graph, regions, extra)
    owner = {node: path for path, nodes in regions.items() for node in nodes}
    steps: list[fx.Node | Body] = []
    for item in order:
        steps.append(_body(item, regions[item], owner, extra) if isinstance(item, str) else item)
    output = next(node for node in program.graph.nodes if node.op == "output")
    inputs = tuple(node for node in program.graph.nodes if node.op == "placeholder")
    return Body("", tuple(steps), inputs, tuple(output.all_input_nodes))


def _regions(program: Program) -> dict[str, list[fx.Node]]:
    by_name = {node.name: node for node in program.graph.nodes}
    regions: dict[str, list[fx.Node]] = {}
    for chain in program.blocks:
        if chain.prefix is None:
            continue
        for block in chain.blocks:
            first = chain.start + chain.period * block.index
            number = first
            for node in (by_name[name] for name in block.nodes if by_name[name].op == "call_function"):
                number = max(number, _number(node, chain.prefix, range(first, first + chain.period)))
                regions.setdefault(f"{chain.prefix}{number}", []).append(node)
    # the numbers of a list of parameters are no modules
    return {path: nodes for path, nodes in regions.items() if path not in program.tensors}


def _number(node: fx.Node, prefix: str, numbers: range) -> int:
    path = str(node.meta.get("module", ""))
    for number in numbers:
        start = f"{prefix}{number}"
        if path == start or path.startswith(f"{start}."):
            return number
    return -1


def _order(
    graph: fx.Graph, regions: Mapping[str, Sequence[fx.Node]], extra: Mapping[fx.Node, Sequence[fx.Node]]
) -> list[fx.Node | str] | None:
    """Nodes and regions in a running order close to the graph's; ``None`` if there is none."""
    owner: dict[fx.Node, fx.Node | str] = {n: path for path, nodes in regions.items() for n in nodes}
    calls = [node for node in graph.nodes if node.op == "call_function"]
    index: dict[fx.Node | str, int] = {}
    for position, node in enumerate(calls):
        index.setdefault(owner.get(node, node), position)
    after: dict[fx.Node | str, set[fx.Node | str]] = {item: set() for item in index}
    waiting = dict.fromkeys(index, 0)

    def precede(first: fx.Node, second: fx.Node) -> None:
        a, b = owner.get(first, first), owner.get(second, second)
        if a != b and a in after and b not in after[a]:
            after[a].add(b)
            waiting[b] += 1

    for node in calls:
        for source in [*node.all_input_nodes, *extra.get(node, ())]:
            precede(source, node)
    for first, second in _write_order(graph):
        precede(first, second)
    ready = [(index[item], position, item) for position, item in enumerate(index) if not waiting[item]]
    heapq.heapify(ready)
    done: list[fx.Node | str] = []
    tie = len(index)
    while ready:
        item = heapq.heappop(ready)[2]
        done.append(item)
        for later in after[item]:
            waiting[later] -= 1
            if not waiting[later]:
                tie += 1
                heapq.heappush(ready, (index[later], tie, later))
    return done if len(done) == len(index) else None


def _write_order(graph: fx.Graph) -> list[tuple[fx.Node, fx.Node]]:
    """Pairs of calls on memory that is written to; the first must run before the second."""
    root = memory(graph)
    touched = {root[node] for node in graph.nodes if mutates(node)}
    last: dict[fx.Node, fx.Node] = {}
    pairs = []
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        for place in {root[source] for source in node.all_input_nodes} & touched:
            if place in last:
                pairs.append((last[place], node))
            last[place] = node
    return pairs


def _runnable(
    graph: fx.Graph, regions: Mapping[str, list[fx.Node]], extra: Mapping[fx.Node, Sequence[fx.Node]]
) -> dict[str, list[fx.Node]]:
    kept: dict[str, list[fx.Node]] = {}
    for path, nodes in regions.items():
        if _order(graph, {**kept, path: nodes}, extra) is not None:
            kept[path] = nodes
    return kept


def _body(
    path: str,
    nodes: Sequence[fx.Node],
    owner: Mapping[fx.Node, str],
    extra: Mapping[fx.Node, Sequence[fx.Node]],
) -> Body:
    inputs: dict[fx.Node, None] = {}
    outputs: dict[fx.Node, None] = {}
    readers: dict[fx.Node, list[fx.Node]] = {}
    for reader, sources in extra.items():
        for source in sources:
            readers.setdefault(source, []).append(reader)
    for node in nodes:
        for source in [*node.all_input_nodes, *extra.get(node, ())]:
            own = source.op == "get_attr" and str(source.target).startswith(f"{path}.")
            if not own and owner.get(source) != path:
                inputs[source] = None
        if any(owner.get(reader) != path for reader in [*node.users, *readers.get(node, ())]):
            outputs[node] = None
    return Body(path, tuple(nodes), tuple(inputs), tuple(outputs))
