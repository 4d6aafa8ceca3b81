"""Nodes that belong together: attention written out, rotations of queries and keys, modules, index work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx

from mlgraph.graph.ops import has, op_name
from mlgraph.graph.traits import Trait
from mlgraph.view import op_kinds as ops

if TYPE_CHECKING:
    from torch import fx

    from mlgraph.view.scope import Wires


@dataclass(frozen=True)
class Group:
    """Nodes drawn as one box, in graph order; ``pattern`` says why they belong together."""

    nodes: tuple[fx.Node, ...]
    pattern: str

    @property
    def module(self) -> str:
        """The innermost module that holds them all; where one of them contracts, that one's."""
        leading = [node for node in self.nodes if ops.is_contraction(node)]
        nodes = leading if len(leading) == 1 else self.nodes
        first, *others = (_ancestors(str(node.meta.get("module") or "")) for node in nodes)
        return [path for path in first if all(path in other for other in others)][-1]


def group(wires: Wires, scope: Iterable[fx.Node], roots: Iterable[str]) -> list[Group]:
    """The boxes of a part of a graph.

    ``roots`` are modules that are never one box, nor are those around them. Nodes that no input reaches are
    in no group unless they look something up or turn: what they compute belongs to whoever reads it.
    """
    nodes = [node for node in scope if wires.is_work(node)]
    taken: set[fx.Node] = set()
    groups: list[Group] = []

    def take(found: Iterable[Sequence[fx.Node]], pattern: str) -> None:
        for members in found:
            free = [node for node in members if node not in taken]
            if free and len(free) == len(members):
                taken.update(free)
                groups.append(Group(tuple(sorted(free, key=wires.flow.order.__getitem__)), pattern))

    inside = set(nodes)
    take(_attention(wires, nodes, inside), "attention")
    take(_rotary(wires, nodes, inside), "rotary")
    take(_plumbing(wires, [node for node in nodes if node not in taken]), "plumbing")
    take(_modules(wires, [node for node in nodes if node not in taken], set(roots)), "module")
    singles = [node for node in nodes if node not in taken]
    take(([node] for node in singles if node in wires.varying or ops.is_contraction(node)), "op")
    return sorted(_acyclic(wires, groups), key=lambda found: wires.flow.order[found.nodes[0]])


def _attention(wires: Wires, nodes: Sequence[fx.Node], inside: set[fx.Node]) -> Iterator[list[fx.Node]]:
    """Product, scaling, mask, softmax, product."""
    for node in nodes:
        if not has(node, Trait.SOFTMAX):
            continue
        path = _back_to_product(wires, node, inside)
        after = _forward_to_product(wires, node, inside)
        if path and after:
            yield [*path, node, *after]


def _is_product(wires: Wires, node: fx.Node) -> bool:
    operands = wires.origins(node)
    return (
        ops.is_contraction(node) and len(operands) > 1 and all(origin.op != "get_attr" for origin in operands)
    )


def _back_to_product(wires: Wires, node: fx.Node, inside: set[fx.Node]) -> list[fx.Node]:
    for origin in wires.origins(node):
        if origin not in inside or origin not in wires.varying:
            continue
        if _is_product(wires, origin):
            return [origin]
        if ops.is_pointwise(origin) and not ops.is_index(origin):
            rest = _back_to_product(wires, origin, inside)
            if rest:
                return [*rest, origin]
    return []


def _forward_to_product(wires: Wires, node: fx.Node, inside: set[fx.Node]) -> list[fx.Node]:
    passed: list[fx.Node] = []
    while True:
        users = [user for user in wires.consumers[node] if user in inside]
        if len(users) != 1:
            return []
        node = users[0]
        passed.append(node)
        if _is_product(wires, node):
            return passed
        if not ops.is_pointwise(node):
            return []


def _rotary(wires: Wires, nodes: Sequence[fx.Node], inside: set[fx.Node]) -> Iterator[list[fx.Node]]:
    """Products with sines and cosines, what they turn round, and the sums in which they meet."""
    turned: nx.Graph[fx.Node] = nx.Graph()
    sources: set[fx.Node] = set()
    paths: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        origins = wires.origins(node)
        plain = [origin for origin in origins if origin not in wires.turning]
        if op_name(node) == "mul" and len(origins) == 2 and len(plain) == 1 and plain[0] in wires.varying:
            turned.add_node(node)
            paths[node] = []
            sources.add(_through_joins(wires, plain[0], inside, paths[node]))
        elif has(node, Trait.SUM | Trait.JOINS) or op_name(node) == "index_put":
            known = [origin for origin in origins if origin in turned]
            rest = [origin for origin in origins if origin not in turned]
            if known and (not rest or (op_name(node) == "cat" and sources.issuperset(rest))):
                turned.add_edges_from((origin, node) for origin in known)
    for part in nx.connected_components(turned):
        if len(part) > 1:
            yield list(dict.fromkeys([*part, *(node for mul in part for node in paths.get(mul, ()))]))


def _through_joins(wires: Wires, node: fx.Node, inside: set[fx.Node], path: list[fx.Node]) -> fx.Node:
    while node in inside and ops.is_join(node):
        origins = dict.fromkeys(wires.origins(node))
        path.append(node)
        if len(origins) == 1:
            node = next(iter(origins))
            continue
        ends = {_through_joins(wires, origin, inside, path) for origin in origins}
        return ends.pop() if len(ends) == 1 else node
    return node


def _modules(wires: Wires, nodes: Sequence[fx.Node], roots: set[str]) -> Iterator[list[fx.Node]]:
    """Modules that do one thing, outermost first."""
    barred = {part for root in roots for part in _ancestors(root)} | {""}
    members: dict[str, list[fx.Node]] = {}
    for node in nodes:
        if not wires.flow.data[node] or (ops.is_index(node) and node not in wires.varying):
            continue
        for path in _ancestors(str(node.meta.get("module") or "")):
            if path not in barred:
                members.setdefault(path, []).append(node)
    for path in sorted(members, key=lambda path: path.count(".")):
        for part in wires.connected(members[path]):
            if _does_one_thing(wires, part):
                yield part


def _ancestors(path: str) -> list[str]:
    parts = path.split(".") if path else []
    return [".".join(parts[:length]) for length in range(len(parts) + 1)]


def _does_one_thing(wires: Wires, nodes: Sequence[fx.Node]) -> bool:
    """One contraction; or none, and one varying input."""
    inside = set(nodes)
    outside = {o for n in nodes for o in wires.origins(n) if o not in inside and o in wires.varying}
    contractions = [node for node in nodes if ops.is_contraction(node)]
    if not contractions:
        if not any(node in wires.varying for node in nodes):
            return any(has(node, Trait.TURNS) for node in nodes)
        norms = sum(bool(ops.norm_words(node)) for node in nodes)
        return len(outside) <= 1 and norms <= 1 and not any(map(ops.is_index, nodes))
    if len(contractions) > 1 or any(has(node, Trait.SOFTMAX) for node in nodes) != any(
        op_name(node) == "topk" for node in nodes
    ):
        return False
    if any(op_name(node) == "topk" for node in nodes):
        return not any(ops.norm_words(node) for node in nodes)
    return not any(
        ops.norm_words(node)
        or ops.is_activation(node)
        or meets(wires, node)
        or has(node, Trait.REDUCES)
        or (ops.is_index(node) and node in wires.varying)
        for node in nodes
    )


def meets(wires: Wires, node: fx.Node) -> bool:
    """Whether two activations meet, element by element."""
    made = [o for o in wires.origins(node) if o in wires.varying or ops.is_contraction(o)]
    return ops.meets(node) and len(made) > 1


def _plumbing(wires: Wires, nodes: Sequence[fx.Node]) -> Iterator[list[fx.Node]]:
    """Work on indices and masks, and what only serves it or is made of it alone."""
    found = {node for node in nodes if ops.is_index(node) and node in wires.varying}
    candidates = [n for n in nodes if n in wires.varying and n not in found and not ops.is_contraction(n)]
    for node in reversed(candidates):
        users = wires.consumers[node]
        if users and all(user in found for user in users):
            found.add(node)
    for node in candidates:
        if _is_made_of_indices(wires, node, found):
            found.add(node)
    yield from wires.connected(found)


def _is_made_of_indices(wires: Wires, node: fx.Node, found: set[fx.Node]) -> bool:
    varying = [origin for origin in wires.origins(node) if origin in wires.varying]
    return (
        bool(varying)
        and not any(o.op == "get_attr" or ops.is_contraction(o) for o in wires.origins(node))
        and all(o in found or (o.op == "placeholder" and ops.is_index(o)) for o in varying)
    )


def _acyclic(wires: Wires, groups: list[Group]) -> list[Group]:
    """The groups, those that would close a circle taken apart."""
    while True:
        graph = links(wires, groups)
        circles = [part for part in nx.strongly_connected_components(graph) if len(part) > 1]
        split = {number for part in circles for number in part if len(groups[number].nodes) > 1}
        if not split:
            return groups
        groups = [
            single
            for number, whole in enumerate(groups)
            for single in ([Group((node,), "op") for node in whole.nodes] if number in split else [whole])
        ]


def links(wires: Wires, groups: Sequence[Group]) -> nx.DiGraph[int]:
    """Which group reads which, by number."""
    owner = {node: number for number, found in enumerate(groups) for node in found.nodes}
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(len(groups)))
    for node, number in owner.items():
        for origin in wires.origins(node):
            if owner.get(origin, number) != number:
                graph.add_edge(owner[origin], number)
    return graph


def numbered_modules(
    wires: Wires, groups: Sequence[Group], barred: set[str], least: int = 6
) -> dict[str, list[Group]]:
    """The outermost numbered modules of at least ``least`` groups that may be drawn as one box, by path.

    ``barred`` are modules, which no such module may hold.
    """
    held = {part for path in barred for part in _ancestors(path)}
    members: dict[str, list[Group]] = {}
    for found in groups:
        for path in _ancestors(found.module):
            if path.rpartition(".")[2].isdigit() and path not in held:
                members.setdefault(path, []).append(found)
                break
    whole: dict[str, list[Group]] = {}
    for path, inner in members.items():
        rest = [found for found in groups if found not in inner]
        one = Group(tuple(node for found in inner for node in found.nodes), "module")
        if len(inner) >= least and nx.is_directed_acyclic_graph(links(wires, [one, *rest])):
            whole[path] = inner
    return whole
