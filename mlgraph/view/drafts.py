"""A diagram in the making: boxes and edges are gathered, then titled and marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import networkx as nx

from mlgraph.view.diagram import Box, Diagram, Edge

_LONG = 3


@dataclass
class DiagramDraft:
    """A diagram in the making; edges by their ends."""

    boxes: dict[str, Box] = field(default_factory=dict)
    edges: dict[tuple[str, str], Edge] = field(default_factory=dict)

    def connect(self, edge: Edge) -> None:
        known = self.edges.get((edge.source, edge.target))
        if known is not None:
            edge = replace(
                known,
                count=known.count + edge.count,
                families=tuple(dict.fromkeys((*known.families, *edge.families))),
                through=tuple(dict.fromkeys((*known.through, *edge.through))),
            )
        self.edges[edge.source, edge.target] = edge

    def finish(self, name: str, root: str = "", repeat: int = 1) -> Diagram:
        boxes = titled(list(self.boxes.values()), root)
        return Diagram(name, tuple(boxes), tuple(_marked(self.boxes, list(self.edges.values()))), repeat)


def titled(boxes: Sequence[Box], root: str) -> list[Box]:
    """Boxes with titles: the ends of module paths, as long as it takes to tell them apart.

    Of boxes that one module holds, each goes by the tensor that it reads.
    """
    untitled = [box for box in boxes if not box.title]
    often = Counter(box.path for box in untitled)
    named = {
        box.id: owner(box.tensors[0].name) if often[box.path] > 1 and box.tensors else box.path
        for box in untitled
    }
    paths = {id: path.removeprefix(root).strip(".") for id, path in named.items()}
    return [
        replace(box, title=_shortest(paths[box.id], paths.values()) or box.note or "op")
        if box.id in paths
        else box
        for box in boxes
    ]


def owner(tensor: str) -> str:
    """What a tensor is called after: the module whose weight it is, else itself."""
    path, _, last = tensor.rpartition(".")
    return path if path and last in ("weight", "bias") else tensor


def _shortest(path: str, others: Iterable[str]) -> str:
    parts = path.split(".")
    for length in range(1, len(parts)):
        end = ".".join(parts[-length:])
        if length > _LONG:
            break
        if not parts[-length].isdigit() and not any(
            other != path and (other == end or other.endswith("." + end)) for other in others
        ):
            return end
    if len(parts) <= _LONG:
        return path
    alike = [other.split(".") for other in others if other != path and other.endswith("." + parts[-1])]
    differs = (n for n, part in enumerate(parts) if all(other[n : n + 1] != [part] for other in alike))
    place = next(differs, 0)
    start = place - 1 if parts[place].isdigit() and place else place
    return f"{'.'.join(parts[start : place + 1])} … {parts[-1]}"


def _marked(boxes: Mapping[str, Box], edges: Sequence[Edge]) -> list[Edge]:
    """Edges with those marked residual that bypass what other edges lead through, into a sum."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_edges_from((edge.source, edge.target) for edge in edges)
    if not nx.is_directed_acyclic_graph(graph):
        return list(edges)
    kept = nx.transitive_reduction(graph)
    return [
        replace(
            edge,
            residual=boxes[edge.target].kind == "add" and not kept.has_edge(edge.source, edge.target),
        )
        for edge in edges
    ]
