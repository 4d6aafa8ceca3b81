"""From a program to its diagrams: the whole with repeats folded, and one block of each chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import fx
from torch.utils import _pytree as pytree

from mlgraph.view.boxes import Boxes, box_id
from mlgraph.view.diagram import Box, Diagram, View
from mlgraph.view.drafts import DiagramDraft, titled
from mlgraph.view.patterns import Group, group, numbered_modules
from mlgraph.view.tree import module_tree

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.block_table import Chain

_MOST_BOXES = 28


def view(program: Program) -> View:
    """The diagrams of a program; reads no tensor.

    The overview has a box per chain and, where it would grow too large to be one, a box per numbered module.
    ``parts`` holds the first block of each chain and the modules that were folded, with what comes in from
    outside as boxes of the kinds ``input`` and ``side``.
    """
    fold = _Fold(program)
    return View(
        program.name,
        program.skeleton().num_parameters(),
        fold.overview(),
        fold.parts(),
        fold.boxes.words.families,
        tuple(fold.slots()),
        module_tree(program, fold.boxes.words),
        tuple(map(str, program.notes)),
        program.blocks.rejected,
    )


class _Fold:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.boxes = Boxes(program)
        self.wires = self.boxes.wires
        self._chain_of = {name: chain for chain in program.blocks for block in chain for name in block.nodes}
        outer = [node for node in self.boxes.flow.nodes if node.name not in self._chain_of]
        self.groups = group(self.wires, outer, [""])
        self._owner = _owners(self.groups)
        self._titled = {
            box.id: box for box in titled([self.boxes.box(g, "", self._owner) for g in self.groups], "")
        }
        self.folded: dict[str, list[Group]] = {}
        if len(self.groups) > _MOST_BOXES:
            inside = (str(self.boxes.nodes[name].meta.get("module") or "") for name in self._chain_of)
            self.folded = numbered_modules(self.wires, self.groups, set(inside))

    # The whole

    def overview(self) -> Diagram:
        """The whole program."""
        draft, owner = DiagramDraft(), dict(self._owner)
        inputs = (node for node in self.program.graph.nodes if node.op == "placeholder")
        for leaf, node in zip(self.program.signature.inputs, inputs, strict=True):
            if leaf.is_tensor and node in self.boxes.flow.order and self.wires.consumers[node]:
                box = self.boxes.terminal(node, "input", leaf.name)
                draft.boxes[box.id], owner[node] = box, box.id
        hidden: set[str] = set()
        for path, groups in self.folded.items():
            hidden.update(box_id(found) for found in groups)
            owner.update((node, f"module:{path}") for found in groups for node in found.nodes)
            draft.boxes[f"module:{path}"] = self._module_box(path, groups)
        draft.boxes.update((id, box) for id, box in self._titled.items() if id not in hidden)
        for chain in self.program.blocks:
            box = self._chain_box(chain)
            draft.boxes[box.id] = box
            for block in chain:
                owner.update((self.boxes.nodes[name], box.id) for name in block.nodes)
        for node in list(owner):
            if self.wires.is_work(node):
                self.boxes.wire(draft, node, owner)
        leaves = self.boxes.flow.output.args[0]
        assert isinstance(leaves, (tuple, list))
        for name, leaf in zip(_result_names(self.program, len(leaves)), leaves, strict=False):
            if isinstance(leaf, fx.Node) and leaf in self.boxes.flow.order:
                self.boxes.leave(draft, leaf, name, owner)
        return draft.finish(self.program.name)

    def _chain_box(self, chain: Chain) -> Box:
        first = chain.blocks[0]
        box = self.boxes.terminal(self.boxes.nodes[first.exit], "chain", chain.name)
        tensors = tuple(self.boxes.words.tensor(name) for name in first.tensors)
        return replace(box, id=f"chain:{chain.name}", path=chain.name, tensors=tensors, repeat=len(chain))

    def _module_box(self, path: str, groups: Sequence[Group]) -> Box:
        box = self.boxes.terminal(groups[-1].nodes[-1], "folded", path)
        found = (self._titled[box_id(one)].tensors for one in groups)
        tensors = tuple(dict.fromkeys(tensor for some in found for tensor in some))
        return replace(box, id=f"module:{path}", path=path, tensors=tensors)

    # Its parts

    def parts(self) -> dict[str, Diagram]:
        """One block of each chain and the folded modules, in graph order."""
        order = self.boxes.flow.order
        starts = {path: order[found[0].nodes[0]] for path, found in self.folded.items()}
        chains = {chain.name: chain for chain in self.program.blocks}
        first = {name: order[self.boxes.nodes[chain.blocks[0].exit]] for name, chain in chains.items()}
        names = sorted({**starts, **first}, key=lambda name: starts.get(name, first.get(name, 0)))
        return {name: self.block(chains[name]) if name in chains else self.module(name) for name in names}

    def block(self, chain: Chain) -> Diagram:
        """The first block of a chain."""
        first, nodes = chain.blocks[0], self.boxes.nodes
        roots = [f"{chain.prefix}{number}" for number in chain.numbers[: chain.period]] or [chain.name]
        groups = group(self.wires, [nodes[name] for name in first.nodes], roots)
        owner = _owners(groups)
        entry = self.boxes.flow.resolve(nodes[first.entry])
        outside = self._outside([entry, *(nodes[side] for side in first.sides)], owner, entry)
        exits = [nodes[name] for name in (first.exit, *first.extras)]
        root = roots[0] if len(roots) == 1 else chain.name
        return self._part(groups, root, outside, exits).finish(chain.name, root, len(chain))

    def module(self, path: str) -> Diagram:
        """A module that the overview folds."""
        groups = self.folded[path]
        owner = _owners(groups)
        read = [arg for node in owner for arg in self.boxes.flow.data[node]]
        entry = next(
            (arg for arg in read if self._comes_in(arg, owner) and self.boxes.edge("", "", arg, ()).families),
            None,
        )
        exits = [
            node for node in owner if any(user not in owner for user in self.wires.consumers[node])
        ] or list(owner)[-1:]
        outside = self._outside(read, owner, entry)
        return self._part(groups, path, outside, exits).finish(path, path)

    def _part(
        self, groups: Sequence[Group], root: str, outside: Mapping[fx.Node, Box], exits: Iterable[fx.Node]
    ) -> DiagramDraft:
        draft, owner = DiagramDraft(), _owners(groups)
        for found in groups:
            draft.boxes[box_id(found)] = self.boxes.box(found, root, self._owner)
        for node in owner:
            self.boxes.wire(draft, node, owner, outside)
        for node in exits:
            self.boxes.leave(draft, node, "out", owner)
        return draft

    def _comes_in(self, node: fx.Node, owner: Mapping[fx.Node, str]) -> bool:
        origin = self.wires.origin(node)
        return origin is not None and origin not in owner and origin in self.wires.varying

    def _outside(
        self, nodes: Iterable[fx.Node], owner: Mapping[fx.Node, str], entry: fx.Node | None
    ) -> dict[fx.Node, Box]:
        """Boxes for what a part reads from outside, by origin."""
        outside: dict[fx.Node, Box] = {}
        for node in nodes:
            origin = self.wires.origin(node)
            if origin is None or origin in outside or origin in owner or origin.op == "get_attr":
                continue
            known = origin in self._owner or origin.name in self._chain_of or origin in self.wires.varying
            if node is entry:
                outside[origin] = self.boxes.terminal(node, "input", "in")
            elif known:
                outside[origin] = self._side(node, origin)
        return outside

    def _side(self, node: fx.Node, origin: fx.Node) -> Box:
        """What a block reads from outside, named as the overview names it."""
        known = self._titled.get(self._owner.get(origin, ""))
        box = self.boxes.terminal(node, "side", origin.name)
        if origin.name in self._chain_of:
            chain = self._chain_of[origin.name].name
            return replace(box, id=f"side:{chain}", title=chain)
        if known is None:
            return box
        if known.kind == "op":
            read = (self._owner.get(above, "") for above in self.wires.origins(origin))
            made = (self._titled[id] for id in read if id in self._titled)
            title = next((found.title for found in made if found.tensors), known.title)
            known = replace(known, title=title)
        return replace(known, kind="side", result=box.result, shape=box.shape, tensors=())

    def slots(self) -> Iterator[tuple[tuple[str, int, str], ...]]:
        """Per family, its slots outside chains and in first blocks."""
        later = {
            name for chain in self.program.blocks for block in chain.blocks[1:] for name in block.tensors
        }
        axes = {axis.id: axis for axis in self.program.axes}
        for family in self.boxes.words.families:
            slots = (slot for id in family.ids for slot in axes[id].slots if slot.tensor not in later)
            yield tuple(dict.fromkeys((slot.tensor, slot.dim, slot.role) for slot in slots))


def _owners(groups: Iterable[Group]) -> dict[fx.Node, str]:
    return {node: box_id(found) for found in groups for node in found.nodes}


def _result_names(program: Program, count: int) -> list[str]:
    """What the leaves of the result are called in its structure: ``logits``, ``[0]``."""
    spec = program.signature.out_spec
    if spec.num_leaves != count:
        return [f"result {place}" for place in range(count)]
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(count)), spec))
    keys = ("key", "idx", "name")
    parts = (
        [next(str(getattr(key, a)) for a in keys if hasattr(key, a)) for key in path] for path, _ in paths
    )
    return [".".join(part) or "result" for part in parts]
