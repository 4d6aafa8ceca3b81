"""Boxes and edges of one program's graph, as they are written on diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mlgraph.graph.dataflow import Dataflow
from mlgraph.graph.ops import op_name
from mlgraph.view.diagram import Box, Edge
from mlgraph.view.drafts import DiagramDraft, owner
from mlgraph.view.naming import describe
from mlgraph.view.scope import Wires
from mlgraph.view.words import Words

if TYPE_CHECKING:
    from torch import fx

    from mlgraph.program import Program
    from mlgraph.view.patterns import Group


class Boxes:
    """Makes boxes of groups and edges of what they read."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.flow = Dataflow(program)
        self.wires = Wires(self.flow)
        self.words = Words(program)
        self.nodes = {node.name: node for node in program.graph.nodes}

    def terminal(self, node: fx.Node, kind: str, title: str) -> Box:
        """What comes in or goes out at a node."""
        dims, shape = self.words.result(node)
        return Box(f"{kind}:{node.name}", kind, title, result=dims, shape=shape)

    def box(self, found: Group, root: str, owned: Mapping[fx.Node, str]) -> Box:
        """The box of a group, untitled where its module names it; ``owned`` nodes have boxes of their own."""
        kind, note, title = describe(self.wires, found)
        dims, shape = self.words.result(found.nodes[-1])
        tensors = tuple(self.words.tensor(name) for name in self._tensors(found, owned))
        path = found.module
        if not title and not path.removeprefix(root).strip(".") and tensors:
            path = owner(tensors[0].name)
        sources = (str(node.meta["source"]) for node in found.nodes if node.meta.get("source"))
        return Box(
            box_id(found),
            kind,
            title,
            note,
            path,
            tensors,
            tuple(op_name(node) for node in found.nodes),
            tuple(dict.fromkeys(sources)),
            dims,
            shape,
        )

    def _tensors(self, found: Group, owned: Mapping[fx.Node, str]) -> list[str]:
        """The tensors that a group reads, also through work that no input reaches."""
        inside = set(found.nodes)
        names: dict[str, None] = {}
        stack = [arg for node in reversed(found.nodes) for arg in reversed(self.flow.data[node])]
        seen: set[fx.Node] = set()
        while stack:
            origin = self.wires.origin(stack.pop())
            if origin is None or origin in inside or origin in seen:
                continue
            seen.add(origin)
            if origin.op == "get_attr":
                names[str(origin.target)] = None
            elif origin not in self.wires.varying and origin not in owned:
                stack += self.flow.data[origin]
        return list(names)

    def edge(self, source: str, target: str, node: fx.Node, through: Sequence[fx.Node]) -> Edge:
        """The edge along which ``node`` is read, which rearranges what comes from ``source``."""
        dims, shape = self.words.result(node)
        names = tuple(op_name(passed) for passed in through)
        return Edge(source, target, dims, shape, self.words.carried(dims), names)

    def wire(
        self,
        draft: DiagramDraft,
        node: fx.Node,
        owner: Mapping[fx.Node, str],
        outside: Mapping[fx.Node, Box] | None = None,
    ) -> None:
        """Edges into one node from other boxes; boxes outside are drawn once something reads them."""
        for arg in self.flow.data[node]:
            origin, through = self.wires.trail(arg)
            if origin is None:
                continue
            source = owner.get(origin)
            if source is None and outside is not None and origin in outside:
                source = outside[origin].id
                draft.boxes.setdefault(source, outside[origin])
            if source is not None and source != owner[node]:
                draft.connect(self.edge(source, owner[node], arg, through))

    def leave(self, draft: DiagramDraft, node: fx.Node, name: str, owner: Mapping[fx.Node, str]) -> None:
        """A box for what goes out at a node, if it is made inside."""
        origin, through = self.wires.trail(node)
        if origin is not None and origin in owner:
            end = self.terminal(node, "output", name)
            draft.boxes[end.id] = end
            draft.connect(self.edge(owner[origin], end.id, node, through))


def box_id(found: Group) -> str:
    """The id of a group's box: the name of its last node."""
    return found.nodes[-1].name
