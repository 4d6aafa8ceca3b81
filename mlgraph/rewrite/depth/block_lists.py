"""What a graph collects from the blocks of a chain: tuples of hidden states, lists to concatenate.

An *element* of such a list comes from one block: the block's own node, or a few nodes outside that
depend on this block alone (its *cone*). When blocks are laid out anew, so are the elements.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx
from torch.utils import _pytree as pytree

from mlgraph.errors import MlgraphError

if TYPE_CHECKING:
    from mlgraph.graph.dataflow import Dataflow

BlockPlace = tuple[int, int]
"""Index of a chain, index of a block in it."""


@dataclass(frozen=True)
class Instance:
    """A node of the new graph: the old node, and the new block it is copied into (None outside blocks)."""

    node: fx.Node
    place: BlockPlace | None = None


@dataclass(frozen=True)
class Collections:
    """Which block each node outside comes from, and how lists of such nodes are laid out anew.

    ``member`` gives the block of nodes in blocks, ``cone`` of nodes outside that depend on inner
    nodes of one block; ``kind`` is equal for the counterparts in two blocks.
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    layouts: tuple[tuple[int, ...], ...]
    member: Mapping[fx.Node, BlockPlace]
    cone: Mapping[fx.Node, BlockPlace]
    kind: Callable[[fx.Node], Hashable]

    def origin(self, node: fx.Node) -> BlockPlace | None:
        """The block from which a node, used outside the chain, comes; None for one after the whole chain."""
        return self.cone.get(node)

    def elements(self, parts: Sequence[Any], user: str) -> list[tuple[Any, BlockPlace | None]]:
        """The parts of a list as they are in the new graph: each with the new block it is read from."""
        groups: dict[tuple[int, Hashable], dict[int, Any]] = {}
        keys: list[tuple[int, Hashable] | None] = []
        for part in parts:
            place = self._place(part)
            key = None if place is None else (place[0], self._kind(part))
            if place is not None and key is not None:
                if place[1] in groups.setdefault(key, {}):
                    key = (place[0], (key[1], len(keys)))
                groups.setdefault(key, {})[place[1]] = part
            keys.append(key)
        laid: list[tuple[Any, BlockPlace | None]] = []
        done = set()
        scattered = {key for key in groups if not self._in_order(key, keys, groups[key])}
        for part, key in zip(parts, keys, strict=True):
            if key is None:
                laid.append((part, None))
            elif key in scattered:
                block = next(block for block, known in groups[key].items() if known is part)
                laid.append((part, self.single(key[0], block, user)))
            elif key not in done:
                done.add(key)
                laid += self._laid(key[0], groups[key], user)
        return laid

    @staticmethod
    def _in_order(key: Any, keys: Sequence[Any], group: Mapping[int, Any]) -> bool:
        """Whether the elements of one kind stand side by side in the order of their blocks."""
        at = [position for position, other in enumerate(keys) if other == key]
        blocks = list(group)
        return at == list(range(at[0], at[0] + len(at))) and blocks == sorted(blocks)

    def _laid(self, chain: int, group: Mapping[int, Any], user: str) -> list[tuple[Any, BlockPlace | None]]:
        layout, length = self.layouts[chain], self.lengths[chain]
        last = len(layout) - 1
        if len(group) == length:
            chosen = range(len(layout))
        elif len(group) == length - 1 and length - 1 not in group:
            chosen = range(last)
        elif len(group) == length - 1 and 0 not in group:
            chosen = range(1, len(layout))
        else:
            return [(part, self.single(chain, block, user)) for block, part in group.items()]
        like = dict(group)
        anyone = next(iter(group.values()))
        return [(like.get(layout[block], anyone), (chain, block)) for block in chosen]

    def single(self, chain: int, block: int, user: str) -> BlockPlace:
        """The new block that takes the place of an old one for a reader that wants that one.

        Raises:
            MlgraphError: the block is gone, or there are several of it.
        """
        found = [new for new, old in enumerate(self.layouts[chain]) if old == block]
        if len(found) != 1:
            what = "is dropped" if not found else f"becomes {len(found)} blocks"
            raise MlgraphError(
                f"block {block} of {self.names[chain]} {what} but {user} reads its inner values: "
                "keep the chain's depth, or capture the model without that output"
            )
        return chain, found[0]

    def _place(self, part: Any) -> BlockPlace | None:
        leaves = part if isinstance(part, list) else [part]
        places = {self.origin(leaf) for leaf in leaves if isinstance(leaf, fx.Node)}
        return places.pop() if len(places) == 1 else None

    def _kind(self, part: Any) -> Hashable:
        if isinstance(part, list):
            return tuple(self.kind(leaf) if isinstance(leaf, fx.Node) else repr(leaf) for leaf in part)
        return self.kind(part)


def cones(
    flow: Dataflow, member: Mapping[fx.Node, BlockPlace], after: frozenset[fx.Node]
) -> tuple[dict[fx.Node, BlockPlace], dict[fx.Node, set[BlockPlace]]]:
    """Nodes in or beyond one block only, and nodes outside that read several blocks at once.

    ``after`` are the chains' last exits, whose readers come after the chain.
    """
    cone: dict[fx.Node, BlockPlace] = {}
    mixed: dict[fx.Node, set[BlockPlace]] = {}
    for node in flow.nodes:
        if node in member:
            if node not in after:
                cone[node] = member[node]
            continue
        listed = {item for arg in node.args if isinstance(arg, (list, tuple)) for item in arg}
        single = {cone[arg] for arg in node.all_input_nodes if arg in cone and arg not in listed}
        gathered = {cone[arg] for arg in node.all_input_nodes if arg in cone and arg in listed}
        if len(single | gathered) == 1:
            cone[node] = (single | gathered).pop()
        elif len(single) > 1:
            mixed[node] = single
    return cone, mixed


def relayout_output(
    spec: pytree.TreeSpec, leaves: Sequence[Any], collections: Collections
) -> tuple[pytree.TreeSpec, list[tuple[Any, BlockPlace | None]]]:
    """The output tree and leaves for the new blocks: sequences follow the layout, single leaves stay."""
    if spec.is_leaf():
        leaf = leaves[0]
        place = collections.origin(leaf) if isinstance(leaf, fx.Node) else None
        return spec, [(leaf, collections.single(*place, "an output") if place else None)]
    children = spec.children()
    split: list[list[Any]] = []
    at = 0
    for child in children:
        split.append(list(leaves[at : at + child.num_leaves]))
        at += child.num_leaves
    if spec.type not in (list, tuple):
        pairs = [relayout_output(c, part, collections) for c, part in zip(children, split, strict=True)]
        flat = [leaf for _, part in pairs for leaf in part]
        return pytree.TreeSpec(spec.type, spec.context, [child for child, _ in pairs]), flat
    by_part = {id(part): child for part, child in zip(split, children, strict=True)}
    new_children, new_leaves = [], []
    for part, place in collections.elements(split, "an output"):
        child = by_part[id(part)]
        if place is None:
            child, placed = relayout_output(child, part, collections)
        else:
            placed = [(leaf, place) for leaf in part]
        new_children.append(child)
        new_leaves += placed
    return pytree.TreeSpec(spec.type, spec.context, new_children), new_leaves
