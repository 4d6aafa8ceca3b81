"""From a program to its diagrams: the whole with chains folded, and one block of each chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import networkx as nx
from torch import fx
from torch.utils import _pytree as pytree

from mlgraph.blocks import Chain
from mlgraph.dataflow import Dataflow
from mlgraph.program import Program
from mlgraph.view import ops
from mlgraph.view.diagram import Box, Diagram, Edge, View
from mlgraph.view.naming import describe
from mlgraph.view.patterns import Group, group
from mlgraph.view.scope import Wires
from mlgraph.view.words import Words


def view(program: Program) -> View:
    """The diagrams of a program; reads no tensor.

    The overview has a box per chain; ``blocks`` holds the first block of each, with what comes in from
    outside as boxes of the kinds ``input`` and ``side``.
    """
    fold = _Fold(program)
    overview = fold.overview()
    return View(
        program.name,
        program.skeleton().num_parameters(),
        overview,
        {chain.name: fold.block(chain) for chain in program.blocks},
        fold.words.families,
        tuple(fold.slots()),
        program.notes,
        program.blocks.rejected,
    )


@dataclass
class _Draft:
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
        boxes = _titled(list(self.boxes.values()), root)
        return Diagram(name, tuple(boxes), tuple(_marked(self.boxes, list(self.edges.values()))), repeat)


class _Fold:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.flow = Dataflow(program)
        self.wires = Wires(self.flow)
        self.words = Words(program)
        self.nodes = {node.name: node for node in program.graph.nodes}
        self._chain_of = {name: chain for chain in program.blocks for block in chain for name in block.nodes}
        outer = [node for node in self.flow.nodes if node.name not in self._chain_of]
        self.outer_groups = group(self.wires, outer, [""])
        self._outer_owner = {node: _box_id(found) for found in self.outer_groups for node in found.nodes}
        boxes = _titled([self._box(found, "") for found in self.outer_groups], "")
        self._outer_boxes = {box.id: box for box in boxes}

    # The whole

    def overview(self) -> Diagram:
        draft = _Draft()
        owner = dict(self._outer_owner)
        for leaf, node in zip(
            self.program.signature.inputs,
            (node for node in self.program.graph.nodes if node.op == "placeholder"),
            strict=True,
        ):
            if leaf.is_tensor and node in self.flow.order and self.wires.consumers[node]:
                box = self._terminal(node, "input", leaf.name)
                draft.boxes[box.id], owner[node] = box, box.id
        for found in self.outer_groups:
            id = _box_id(found)
            draft.boxes[id] = self._outer_boxes[id]
        for chain in self.program.blocks:
            id = f"chain:{chain.name}"
            draft.boxes[id] = self._chain_box(chain, id)
            for block in chain:
                owner.update((self.nodes[name], id) for name in block.nodes)
        for node, id in list(owner.items()):
            if self.wires.is_work(node):
                self._wire(draft, node, id, owner)
        self._outputs(draft, owner)
        return draft.finish(self.program.name)

    def _chain_box(self, chain: Chain, id: str) -> Box:
        first = chain.blocks[0]
        dims, shape = self.words.result(self.nodes[first.exit])
        tensors = tuple(self.words.tensor(name) for name in first.tensors)
        box = Box(id, "chain", chain.name, path=chain.name, tensors=tensors, result=dims, shape=shape)
        return replace(box, repeat=len(chain))

    def _outputs(self, draft: _Draft, owner: dict[fx.Node, str]) -> None:
        leaves = self.flow.output.args[0]
        assert isinstance(leaves, (tuple, list))
        for name, leaf in zip(_result_names(self.program, len(leaves)), leaves, strict=False):
            if not isinstance(leaf, fx.Node) or leaf not in self.flow.order:
                continue
            origin, through = self.wires.trail(leaf)
            if origin is not None and origin in owner:
                id = f"result:{name}"
                draft.boxes[id] = replace(self._terminal(leaf, "output", name), id=id)
                draft.connect(self._edge(owner[origin], id, leaf, through))

    # One block

    def block(self, chain: Chain) -> Diagram:
        first = chain.blocks[0]
        draft = _Draft()
        nodes = [self.nodes[name] for name in first.nodes]
        roots = [f"{chain.prefix}{number}" for number in chain.numbers[: chain.period]] or [chain.name]
        groups = group(self.wires, nodes, roots)
        root = roots[0] if len(roots) == 1 else chain.name
        owner = {node: _box_id(found) for found in groups for node in found.nodes}
        for found in groups:
            draft.boxes[_box_id(found)] = self._box(found, root)
        entry = self.flow.resolve(self.nodes[first.entry])
        outside: dict[fx.Node, Box] = {}
        for node in (entry, *(self.nodes[side] for side in first.sides)):
            origin = self.wires.origin(node)
            if origin is None or origin in outside or origin in owner or origin.op == "get_attr":
                continue
            is_entry = node is entry
            known = origin in self._outer_owner or origin.name in self._chain_of
            if not is_entry and not known and origin not in self.wires.varying:
                continue
            outside[origin] = self._terminal(node, "input", "in") if is_entry else self._side(node, origin)
        for node, id in list(owner.items()):
            self._wire(draft, node, id, owner, outside)
        for name in (first.exit, *first.extras):
            origin, through = self.wires.trail(self.nodes[name])
            if origin is not None and origin in owner:
                id = f"exit:{name}"
                draft.boxes[id] = replace(self._terminal(self.nodes[name], "output", "out"), id=id)
                draft.connect(self._edge(owner[origin], id, self.nodes[name], through))
        return draft.finish(chain.name, root, len(chain))

    def _side(self, node: fx.Node, origin: fx.Node) -> Box:
        """What a block reads from outside, named as the overview names it."""
        known = self._outer_boxes.get(self._outer_owner.get(origin, ""))
        box = self._terminal(node, "side", origin.name)
        if origin.name in self._chain_of:
            chain = self._chain_of[origin.name].name
            return replace(box, id=f"side:{chain}", title=chain)
        if known is None:
            return box
        if known.kind == "op":
            read = (self._outer_owner.get(above, "") for above in self.wires.origins(origin))
            made = (self._outer_boxes[id] for id in read if id in self._outer_boxes)
            title = next((found.title for found in made if found.tensors), known.title)
            known = replace(known, title=title)
        return replace(known, kind="side", result=box.result, shape=box.shape, tensors=())

    # Boxes and edges

    def _terminal(self, node: fx.Node, kind: str, title: str) -> Box:
        dims, shape = self.words.result(node)
        return Box(f"{kind}:{node.name}", kind, title, result=dims, shape=shape)

    def _box(self, found: Group, root: str) -> Box:
        kind, note, title = describe(self.wires, found)
        dims, shape = self.words.result(found.nodes[-1])
        tensors = tuple(self.words.tensor(name) for name in self._tensors(found))
        path = found.module
        if not title and not path.removeprefix(root).strip(".") and tensors:
            path = tensors[0].name
        return Box(
            _box_id(found),
            kind,
            title,
            note,
            path,
            tensors,
            tuple(ops.name_of(node) for node in found.nodes),
            tuple(dict.fromkeys(str(node.meta["source"]) for node in found.nodes if node.meta.get("source"))),
            dims,
            shape,
        )

    def _tensors(self, found: Group) -> list[str]:
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
            elif origin not in self.wires.varying and origin not in self._outer_owner:
                stack += self.flow.data[origin]
        return list(names)

    def _wire(
        self,
        draft: _Draft,
        node: fx.Node,
        id: str,
        owner: dict[fx.Node, str],
        outside: dict[fx.Node, Box] | None = None,
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
            if source is not None and source != id:
                draft.connect(self._edge(source, id, arg, through))

    def _edge(self, source: str, target: str, node: fx.Node, through: Sequence[fx.Node]) -> Edge:
        dims, shape = self.words.result(node)
        names = tuple(ops.name_of(passed) for passed in through)
        return Edge(source, target, dims, shape, self.words.carried(dims), names)

    def slots(self) -> Iterator[tuple[tuple[str, int, str], ...]]:
        """Per family, its slots outside chains and in first blocks."""
        later = {
            name for chain in self.program.blocks for block in chain.blocks[1:] for name in block.tensors
        }
        axes = {axis.id: axis for axis in self.program.axes}
        for family in self.words.families:
            found = dict.fromkeys(
                (slot.tensor, slot.dim, slot.role)
                for id in family.ids
                for slot in axes[id].slots
                if slot.tensor not in later
            )
            yield tuple(found)


def _box_id(found: Group) -> str:
    return found.nodes[-1].name


def _result_names(program: Program, count: int) -> list[str]:
    """What the leaves of the result are called in its structure: ``logits``, ``[0]``."""
    spec = program.signature.out_spec
    if spec.num_leaves != count:
        return [f"result {place}" for place in range(count)]
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(count)), spec))
    names = ["".join(str(key) for key in path) for path, _ in paths]
    return [name.strip(".[]'\"") or "result" for name in names]


def _titled(boxes: Sequence[Box], root: str) -> list[Box]:
    """Boxes with titles: the ends of module paths, as long as it takes to tell them apart.

    Of boxes that one module holds, each goes by a tensor of its own.
    """
    untitled = [box for box in boxes if not box.title]
    often = Counter(box.path for box in untitled)
    named = {
        box.id: box.tensors[0].name if often[box.path] > 1 and box.tensors else box.path for box in untitled
    }
    paths = {id: path.removeprefix(root).strip(".") for id, path in named.items()}
    return [
        replace(box, title=_shortest(paths[box.id], paths.values()) or box.note or "op")
        if box.id in paths
        else box
        for box in boxes
    ]


def _shortest(path: str, others: Iterable[str]) -> str:
    parts = path.split(".")
    for length in range(1, len(parts)):
        end = ".".join(parts[-length:])
        if not end.isdigit() and not any(
            other != path and (other == end or other.endswith("." + end)) for other in others
        ):
            return end
    return path


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
