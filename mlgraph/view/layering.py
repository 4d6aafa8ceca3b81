"""Boxes in layers, so that edges point down and are short, and the order in each layer, so that few cross."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import networkx as nx

if TYPE_CHECKING:
    from mlgraph.view.diagram import Diagram, Edge

_SWEEPS = 12


@dataclass(frozen=True)
class Layered:
    """A diagram in layers.

    ``layers`` hold ids of boxes and of bends, the places ``(edge, layer)`` where a long edge passes a layer;
    each layer in order from left to right. ``bypasses`` are the edges (by place) that are led around the
    layers at the side instead.
    """

    diagram: Diagram
    rank: Mapping[str, int]
    layers: tuple[tuple[str, ...], ...]
    bypasses: frozenset[int]


def bend(edge: int, layer: int) -> str:
    """The id of the place where an edge passes a layer."""
    return f"\0{edge}:{layer}"


def layered(diagram: Diagram) -> Layered:
    """Assign layers and orders; boxes from outside are drawn once for every layer that reads them."""
    diagram = _sides_where_read(diagram)
    rank = ranks(diagram)
    redundant = _redundant(diagram)
    bypasses = frozenset(
        place
        for place, edge in enumerate(diagram.edges)
        if rank[edge.target] <= rank[edge.source]
        or ((edge.source, edge.target) in redundant and rank[edge.target] - rank[edge.source] > 1)
    )
    rows: list[list[str]] = [[] for _ in range(max(rank.values(), default=0) + 1)]
    links: list[tuple[str, str]] = []
    for box in diagram.boxes:
        rows[rank[box.id]].append(box.id)
    for place, edge in enumerate(diagram.edges):
        if place in bypasses:
            continue
        stops = [edge.source]
        for layer in range(rank[edge.source] + 1, rank[edge.target]):
            stops.append(bend(place, layer))
            rows[layer].append(stops[-1])
        links += list(zip(stops, [*stops[1:], edge.target], strict=True))
    return Layered(diagram, rank, _ordered(rows, links), bypasses)


def ranks(diagram: Diagram) -> dict[str, int]:
    """The layer of every box: every edge leads at least one layer down, and edges are as short as may be.

    The least total length is a linear program whose dual is a flow of least cost; ranks are its potentials
    (Gansner, Koutsofios, North and Vo, "A Technique for Drawing Directed Graphs", 1993).
    """
    graph = _graph(diagram)
    if not nx.is_directed_acyclic_graph(graph):
        graph = _without_circles(graph)
    if not graph.edges:
        return dict.fromkeys(graph, 0)
    flow: nx.DiGraph[str] = nx.DiGraph()
    for id in graph:
        flow.add_node(id, demand=graph.in_degree(id) - graph.out_degree(id))
    flow.add_edges_from(graph.edges, weight=-1)
    _, amounts = nx.network_simplex(flow)
    rank = dict.fromkeys(graph, 0)
    tight = [(u, v) for u, v in graph.edges if amounts[u][v] > 0]
    order = list(nx.topological_sort(graph))
    for _ in range(len(graph) + 1):
        before = dict(rank)
        for id in order:
            for above in graph.predecessors(id):
                rank[id] = max(rank[id], rank[above] + 1)
        for u, v in tight:
            rank[u] = max(rank[u], rank[v] - 1)
        if rank == before:
            break
    # Parts that hang together by nothing are moved up each by itself.
    for part in nx.weakly_connected_components(graph):
        least = min(rank[id] for id in part)
        for id in part:
            rank[id] -= least
    return rank


def _graph(diagram: Diagram) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(box.id for box in diagram.boxes)
    graph.add_edges_from((edge.source, edge.target) for edge in diagram.edges)
    return graph


def _without_circles(graph: nx.DiGraph[str]) -> nx.DiGraph[str]:
    graph = graph.copy()
    while not nx.is_directed_acyclic_graph(graph):
        graph.remove_edge(*list(nx.find_cycle(graph))[-1][:2])
    return graph


def _redundant(diagram: Diagram) -> set[tuple[str, str]]:
    """Edges that bypass a longer way."""
    graph = _without_circles(_graph(diagram))
    return set(graph.edges) - set(nx.transitive_reduction(graph).edges)


def _sides_where_read(diagram: Diagram) -> Diagram:
    """Boxes from outside once for each group of readers in neighbouring layers; unread ones stay."""
    read = {edge.source for edge in diagram.edges}
    sides = {box.id: box for box in diagram.boxes if box.kind == "side" and box.id in read}
    inner = replace(
        diagram,
        boxes=tuple(box for box in diagram.boxes if box.id not in sides),
        edges=tuple(edge for edge in diagram.edges if edge.source not in sides),
    )
    rank = ranks(inner)
    readers: dict[str, list[Edge]] = defaultdict(list)
    for edge in diagram.edges:
        if edge.source in sides:
            readers[edge.source].append(edge)
    boxes, edges = list(inner.boxes), list(inner.edges)
    for id, found in readers.items():
        found.sort(key=lambda edge: rank[edge.target])
        copy, last = id, None
        for number, edge in enumerate(found):
            if last is None or rank[edge.target] - last > 0:
                copy = f"{id}@{number}"
                boxes.append(replace(sides[id], id=copy))
            last = rank[edge.target]
            edges.append(replace(edge, source=copy))
    return replace(diagram, boxes=tuple(boxes), edges=tuple(edges))


def _ordered(rows: list[list[str]], links: Sequence[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Orders by barycentres, downwards and upwards in turn; the one with the fewest crossings."""
    above: dict[str, list[str]] = defaultdict(list)
    below: dict[str, list[str]] = defaultdict(list)
    for source, target in links:
        below[source].append(target)
        above[target].append(source)
    best, fewest = rows, _crossings(rows, below)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        rows = [list(row) for row in rows]
        steps = range(1, len(rows)) if down else range(len(rows) - 2, -1, -1)
        for step in steps:
            fixed = {id: place for place, id in enumerate(rows[step - 1 if down else step + 1])}
            near = above if down else below
            own = {id: place for place, id in enumerate(rows[step])}
            rows[step].sort(key=lambda id: _barycentre(near[id], fixed, own[id]))
        crossings = _crossings(rows, below)
        if crossings < fewest:
            best, fewest = rows, crossings
    return tuple(tuple(row) for row in best)


def _barycentre(near: Sequence[str], fixed: Mapping[str, int], own: int) -> float:
    places = [fixed[id] for id in near if id in fixed]
    return sum(places) / len(places) if places else float(own)


def _crossings(rows: Sequence[Sequence[str]], below: Mapping[str, Sequence[str]]) -> int:
    total = 0
    for upper, lower in pairwise(rows):
        place = {id: number for number, id in enumerate(lower)}
        ends = [place[target] for id in upper for target in sorted(below.get(id, ()), key=place.__getitem__)]
        total += sum(a > b for number, a in enumerate(ends) for b in ends[number + 1 :])
    return total
