"""Depth surgery: the graph of a program with the blocks of its chains laid out anew."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import fx

from mlgraph.errors import MlgraphError
from mlgraph.graph.dataflow import Dataflow
from mlgraph.graph.propagate import PropagationError, propagate
from mlgraph.rewrite.depth.block_lists import BlockPlace, Collections, Instance, cones, relayout_output
from mlgraph.rewrite.depth.block_names import Labels, OldTensor, relabel, relabel_tensors

if TYPE_CHECKING:
    from mlgraph.program import Program, Signature, Tensors
    from mlgraph.program.block_table import Chain


@dataclass(frozen=True)
class Restacked:
    """A program with other blocks, and the old tensor and node from which its own were copied."""

    program: Program
    sources: Mapping[str, OldTensor]
    origins: Mapping[fx.Node, Instance]


def restack(program: Program, layout: Mapping[str, tuple[int, ...]], shapes: bool = True) -> Restacked:
    """The program in which new block j of a chain is a copy of its old block ``layout[chain][j]``.

    Chains that ``layout`` doesn't name stay as they are. Tensors are numbered as in a class with that
    many layers; the first copy of a tensor is the old tensor itself, further ones are clones. Lists
    of per-block values (hidden states in the output, tensors that are concatenated) follow the layout.
    Without ``shapes`` nodes keep those of their old ones, and nothing is run to know them.

    Raises:
        MlgraphError: a chain or block isn't there, something takes the results of so many blocks alone, or
            something outside reads the inner values of a
            block that is dropped or multiplied.
    """
    chains = tuple(program.blocks)
    labels = Labels(chains, tuple(_layout(chain, layout) for chain in chains))
    if unknown := sorted(set(layout) - {chain.name for chain in chains}):
        known = ", ".join(chain.name for chain in chains) or "none"
        raise MlgraphError(f"there is no chain {unknown[0]!r} to change the depth of (chains: {known})")
    used = frozenset(str(node.target) for node in program.graph.nodes if node.op == "get_attr")
    sources = relabel_tensors(program, labels, used)
    surgery = _Surgery(program, labels, sources)
    graph, out_spec = surgery.run()
    signature = replace(program.signature, out_spec=out_spec)
    tensors = relabel(program, labels, sources)
    graph.lint()
    if shapes:
        _propagated(graph, signature, tensors, " and ".join(layout))
    laid = program.replace(graph=graph, tensors=tensors, signature=signature)
    return Restacked(laid, sources, {node: instance for instance, node in surgery.made.items()})


def _propagated(graph: fx.Graph, signature: Signature, tensors: Tensors, changed: str) -> None:
    try:
        propagate(graph, signature, tensors)
    except PropagationError as error:
        raise MlgraphError(
            f"the depth of {changed} cannot change: with another number of blocks {error}; freeze {changed}"
        ) from error


def _layout(chain: Chain, layouts: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    layout = tuple(layouts.get(chain.name, range(len(chain))))
    if not layout:
        raise MlgraphError(f"the chain {chain.name} would have no block left: keep at least one")
    for block in layout:
        if not 0 <= block < len(chain):
            raise MlgraphError(
                f"the chain {chain.name} has no block {block}: its blocks are 0 to {len(chain) - 1}"
            )
    return layout


def _forms(chain: Chain, layout: tuple[int, ...]) -> tuple[int, ...]:
    """The old block whose nodes each new block takes over.

    That is the block that it copies, but for a first block fed with what all blocks read: which of its reads
    are of the one and which of the other, only the blocks after it tell.
    """
    doubled = chain.blocks[0].entry in chain.blocks[0].sides
    return tuple(1 if doubled and old == 0 and new > 0 else old for new, old in enumerate(layout))


class _Surgery:
    """One rebuilding of a graph; ``run`` makes it."""

    def __init__(self, program: Program, labels: Labels, sources: Mapping[str, OldTensor]) -> None:
        self.program = program
        self.labels = labels
        self.flow = Dataflow(program)
        self.forms = tuple(map(_forms, labels.chains, labels.layouts))
        self.nodes: dict[str, fx.Node] = {node.name: node for node in program.graph.nodes}
        self.member: dict[fx.Node, BlockPlace] = {}
        self.entries: dict[BlockPlace, fx.Node] = {}
        self.exits: dict[BlockPlace, fx.Node] = {}
        self.begin: list[int] = []
        self.made: dict[Instance, fx.Node] = {}
        aligned: dict[fx.Node, int] = {}
        for index, chain in enumerate(labels.chains):
            for block in chain.blocks:
                place = (index, block.index)
                self.member.update((self.nodes[name], place) for name in block.nodes)
                self.entries[place], self.exits[place] = self.nodes[block.entry], self.nodes[block.exit]
                aligned.update((self.nodes[name], at) for at, name in enumerate(block.aligned))
            self.begin.append(self.flow.order[self.exits[index, 0]])
        last = [self.exits[index, len(chain) - 1] for index, chain in enumerate(labels.chains)]
        self.after = {node: index for index, node in enumerate(last)}
        cone, self.mixed = cones(self.flow, self.member, frozenset(last))
        digests: dict[fx.Node, int] = {}

        def leaf(node: fx.Node) -> Hashable:
            if node in self.member:
                return (
                    ("exit",)
                    if node is self.exits[self.member[node]]
                    else ("inner", aligned.get(node, node.name))
                )
            return None if node in cone else ("side", node.name)

        self.collections = Collections(
            names=tuple(chain.name for chain in labels.chains),
            lengths=tuple(map(len, labels.chains)),
            layouts=labels.layouts,
            member=self.member,
            cone=cone,
            kind=lambda node: self.flow.digest(node, digests, leaf),
        )
        self.tensor_of = {
            (s.chain, s.block, s.name): name for name, s in sources.items() if s.chain is not None
        }
        self.outside_tensor = {s.name: name for name, s in sources.items() if s.chain is None}

    def run(self) -> tuple[fx.Graph, Any]:
        """The new graph and the tree of its output."""
        leaves = self.flow.output.args[0]
        assert isinstance(leaves, (tuple, list))
        spec, placed = relayout_output(self.program.signature.out_spec, list(leaves), self.collections)
        results = [self.read(leaf, place) if isinstance(leaf, fx.Node) else leaf for leaf, place in placed]
        operands = self.reached([*results, *self.effects()])
        graph = fx.Graph()
        made = self.made
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                made[Instance(node)] = graph.node_copy(node)
        for instance in self.sorted(operands):
            if instance not in made:
                made[instance] = self.copy(graph, instance, operands[instance], made)
        output = graph.output(tuple(made[leaf] if isinstance(leaf, Instance) else leaf for leaf in results))
        output.meta.update(self.flow.output.meta)
        return graph, spec

    def effects(self) -> Iterator[Instance]:
        """Writing nodes, once for every copy of their block."""
        for node in self.flow.effects:
            place = self.member.get(node)
            if place is None:
                yield Instance(node)
                continue
            for block, old in enumerate(self.forms[place[0]]):
                if old == place[1]:
                    yield Instance(node, (place[0], block))

    def read(self, node: fx.Node, place: BlockPlace | None) -> Instance:
        """What a reader outside blocks sees for ``node``; ``place`` is the new block of a list element."""
        if node in self.after:
            return Instance(*self.exit(self.after[node], len(self.forms[self.after[node]]) - 1))
        if place is None:
            origin = self.collections.origin(node)
            place = self.collections.single(*origin, f"node {node.name}") if origin else None
        if place is None:
            return Instance(node)
        index, block = place
        old = self.member.get(node)
        if old is not None:
            counterpart = self.counterpart(node, old, (index, self.forms[index][block]))
            return Instance(counterpart, place)
        return Instance(node, place)

    def counterpart(self, node: fx.Node, old: BlockPlace, new: BlockPlace) -> fx.Node:
        """The node of another block that answers ``node``."""
        if old == new:
            return node
        if node is self.exits[old]:
            return self.exits[new]
        blocks = self.labels.chains[old[0]].blocks
        at = blocks[old[1]].aligned.index(node.name)
        return self.nodes[blocks[new[1]].aligned[at]]

    def exit(self, index: int, block: int) -> tuple[fx.Node, BlockPlace]:
        return self.exits[index, self.forms[index][block]], (index, block)

    def operand(self, instance: Instance, node: fx.Node) -> Instance:
        """The instance that ``instance`` reads where the old node read ``node``."""
        if instance.place is None:
            return self.read(node, None)
        index, block = instance.place
        old = (index, self.forms[index][block])
        if self.member.get(instance.node) != old:
            # A node beyond one block: it reads this block's copy, and others as any outside node.
            inner = self.collections.origin(node)
            return self.read(node, instance.place if inner and inner[0] == index else None)
        if node is self.entries[old]:
            if block > 0:
                return Instance(*self.exit(index, block - 1))
            return self.read(self.entries[index, 0], None)
        if self.member.get(node) == old:
            return Instance(node, instance.place)
        return self.read(node, None)

    def operands(self, instance: Instance) -> dict[int | str, Any]:
        """Arguments by position and keyword, with instances for nodes."""
        node = instance.node
        arguments: list[tuple[int | str, Any]] = [*enumerate(node.args), *node.kwargs.items()]
        return {key: self.argument(instance, arg) for key, arg in arguments}

    def argument(self, instance: Instance, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return self.operand(instance, arg)
        if (
            isinstance(arg, (list, tuple))
            and instance.place is None
            and any(isinstance(a, fx.Node) for a in arg)
        ):
            laid = self.collections.elements(arg, f"node {instance.node.name}")
            return [self.read(a, place) if isinstance(a, fx.Node) else a for a, place in laid]
        if isinstance(arg, (list, tuple)):
            return [self.argument(instance, item) for item in arg]
        if isinstance(arg, slice):
            return slice(*(self.argument(instance, part) for part in (arg.start, arg.stop, arg.step)))
        return arg

    def reached(self, results: list[Any]) -> dict[Instance, dict[int | str, Any]]:
        """All instances that the results depend on, with their arguments."""
        found: dict[Instance, dict[int | str, Any]] = {}
        stack = [leaf for leaf in results if isinstance(leaf, Instance)]
        while stack:
            instance = stack.pop()
            if instance in found:
                continue
            if instance.place is None and (places := self.mixed.get(instance.node)):
                for index, block in places:
                    self.collections.single(index, block, f"node {instance.node.name}")
            found[instance] = self.operands(instance)
            stack += _instances(list(found[instance].values()))
        return found

    def sorted(self, operands: dict[Instance, dict[int | str, Any]]) -> Iterator[Instance]:
        """Topological order that keeps to the old graph's order, blocks one after another."""
        waiting: dict[Instance, int] = {}
        readers: dict[Instance, list[Instance]] = {}
        heap: list[tuple[int, int, int, int]] = []
        numbered = list(operands)
        number = {instance: at for at, instance in enumerate(numbered)}
        for instance, arguments in operands.items():
            needed = set(_instances(list(arguments.values())))
            waiting[instance] = len(needed)
            for one in needed:
                readers.setdefault(one, []).append(instance)
            if not needed:
                heap.append((*self.key(instance), number[instance]))
        heapq.heapify(heap)
        while heap:
            instance = numbered[heapq.heappop(heap)[3]]
            yield instance
            for reader in readers.get(instance, ()):
                waiting[reader] -= 1
                if not waiting[reader]:
                    heapq.heappush(heap, (*self.key(reader), number[reader]))

    def key(self, instance: Instance) -> tuple[int, int, int]:
        position = self.flow.order[instance.node]
        if instance.place is None or instance.node not in self.member:
            return position, 0, 0
        index, block = instance.place
        return self.begin[index], 1 + block, position

    def source(self, place: BlockPlace, tensor: str) -> str:
        """The old tensor that stands in a new block where the block of its form reads ``tensor``."""
        blocks = self.labels.chains[place[0]].blocks
        form, old = self.forms[place[0]][place[1]], self.labels.layouts[place[0]][place[1]]
        return tensor if form == old else blocks[old].tensors[blocks[form].tensors.index(tensor)]

    def copy(
        self,
        graph: fx.Graph,
        instance: Instance,
        operands: Mapping[int | str, Any],
        made: Mapping[Instance, fx.Node],
    ) -> fx.Node:
        """The new node of an instance whose operands are made."""
        node, place = instance.node, instance.place
        inside = place is not None and node in self.member
        if node.op == "get_attr":
            target = str(node.target)
            if inside and place is not None:
                name = self.tensor_of[self.labels.chains[place[0]].name, place[1], self.source(place, target)]
            else:
                name = self.outside_tensor[target]
            copy = graph.create_node("get_attr", name, name=name.replace(".", "_"))
        else:
            arguments: list[Any] = fx.node.map_aggregate(
                list(operands.values()), lambda a: made[a] if isinstance(a, Instance) else a
            )
            args, values = tuple(arguments[: len(node.args)]), arguments[len(node.args) :]
            kwargs = dict(zip(node.kwargs, values, strict=True))
            copy = graph.create_node(node.op, node.target, args, kwargs, name=node.name)
        copy.meta = dict(node.meta)
        if module := copy.meta.get("module"):
            if inside and place is not None:
                home = self.forms[place[0]][place[1]]
                copy.meta["module"] = self.labels.block_path(*place, module, home)
            else:
                copy.meta["module"] = self.labels.outside_path(module)
        return copy


def _instances(arguments: Any) -> list[Instance]:
    found: list[Instance] = []
    stack = [arguments]
    while stack:
        item = stack.pop()
        if isinstance(item, Instance):
            found.append(item)
        elif isinstance(item, (list, tuple)):
            stack += item
        elif isinstance(item, slice):
            stack += [item.start, item.stop, item.step]
    return found
