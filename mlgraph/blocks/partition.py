"""A division of a cut path into blocks: what each block owns, and whether two blocks are isomorphic."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import fx

from mlgraph.graph.ops import is_tensor_valued

if TYPE_CHECKING:
    from mlgraph.graph.dataflow import Dataflow


@dataclass(frozen=True)
class Partition:
    """Blocks between consecutive ``bounds`` (cut points) of a path inside ``within``.

    ``cores[j]`` are the activation nodes of block j; ``owner`` gives the block of every other node
    (tensors, constants, sizes, transparent nodes) that is used by one block only; ``effects[j]`` are
    the nodes of block j that write into a tensor of the model and yield nothing.
    """

    flow: Dataflow
    bounds: tuple[fx.Node, ...]
    within: Mapping[fx.Node, fx.Node]
    cores: tuple[frozenset[fx.Node], ...]
    owner: Mapping[fx.Node, int]
    effects: tuple[tuple[fx.Node, ...], ...]

    @classmethod
    def of(cls, flow: Dataflow, bounds: Sequence[fx.Node], within: Mapping[fx.Node, fx.Node]) -> Partition:
        """The partition at ``bounds`` of a path; ``within`` depends on the path's source."""
        cores = tuple(frozenset(flow.between(entry, exit, within)) for entry, exit in pairwise(bounds))
        core_of = {node: block for block, core in enumerate(cores) for node in core}
        effects = _effects_by_block(flow, cores)
        owner = {node: block for block, found in enumerate(effects) for node in found}
        for node in reversed(flow.nodes):
            if node in within or node in owner:
                continue
            users = {core_of[user] if user in core_of else owner.get(user) for user in flow.users(node)}
            if flow.output in node.users:
                users.add(None)
            source = core_of.get(flow.resolve(node)) if flow.is_transparent(node) else None
            if source is not None and flow.resolve(node) is not bounds[source + 1] and source in users:
                owner[node] = source
            elif len(users) == 1 and (block := users.pop()) is not None:
                owner[node] = block
        return cls(flow, tuple(bounds), within, cores, owner, effects)

    def inside(self, node: fx.Node, block: int) -> bool:
        """Whether a node belongs to the block."""
        return node in self.cores[block] or self.owner.get(node) == block

    def signature(self, block: int) -> int:
        """Digest of the block: its own part by structure, what lies outside by identity."""
        entry = self.bounds[block]

        def leaf(node: fx.Node) -> Hashable:
            if node is entry:
                return "entry"
            return None if self.inside(node, block) else ("side", node.name)

        memo: dict[fx.Node, int] = {}
        ends = [self.bounds[block + 1], *self.effects[block]]
        return self.flow.intern(("block", *(self.flow.digest(end, memo, leaf) for end in ends)))

    def same_stretches(self) -> list[tuple[int, int]]:
        """Runs ``[first, last)`` of at least two consecutive blocks with one signature."""
        signatures = [self.signature(block) for block in range(len(self.cores))]
        found, start = [], 0
        for position in range(1, len(signatures) + 1):
            if position == len(signatures) or signatures[position] != signatures[start]:
                if position - start >= 2:
                    found.append((start, position))
                start = position
        return found

    def reads_weights(self, block: int) -> bool:
        """Whether a weight enters the block, its own or shared: a parameter of two dims or more.

        Norms in a row are no layers.
        """
        parameters = self.flow.program.tensors.parameters
        args = (arg for node in self.cores[block] for arg in self.flow.data[node] if arg not in self.within)
        seen: set[fx.Node] = set()
        stack = list(args)
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.op == "get_attr" and node.target in parameters and node.meta["val"].dim() > 1:
                return True
            stack += [arg for arg in self.flow.data[node] if arg not in self.within]
        return False

    def match(self, first: int, second: int) -> dict[fx.Node, fx.Node] | None:
        """Counterparts in block ``second`` of block ``first``'s nodes, or None if they don't pair off."""
        forward: dict[fx.Node, fx.Node] = {}
        backward: dict[fx.Node, fx.Node] = {}
        ends = [[self.bounds[block + 1], *self.effects[block]] for block in (first, second)]
        stack = list(zip(*ends, strict=True))
        while stack:
            left, right = (self.flow.resolve(node) for node in stack.pop())
            if not is_tensor_valued(left):
                continue
            if left is self.bounds[first]:
                if right is not self.bounds[second]:
                    return None
                continue
            if not self.inside(left, first):
                if left is not right:
                    return None
                continue
            if left in forward or right in backward:
                if forward.get(left) is not right or backward.get(right) is not left:
                    return None
                continue
            forward[left], backward[right] = right, left
            stack += [
                (a, b)
                for a, b in zip(self.flow.operands(left), self.flow.operands(right), strict=True)
                if isinstance(a, fx.Node)
            ]
        return forward

    def ends(self, first: int, last: int, block_of: Callable[[str], int | None]) -> dict[int, fx.Node]:
        """The node at each boundary of blocks ``first..last``: entry of that block, exit of the one before.

        Transparent nodes after a cut belong to the block in whose numbered module they ran, else
        to the block before; at the outer ends, to no block.
        """
        ends: dict[int, fx.Node] = {}
        for boundary in range(first, last + 1):
            node = self.bounds[boundary]
            while True:
                users = list(node.users)
                if len(users) != 1 or not self.flow.is_transparent(users[0]):
                    break
                block = block_of(str(users[0].meta.get("module") or ""))
                if block == boundary or (boundary == last and block != boundary - 1):
                    break
                node = users[0]
            ends[boundary] = node
        return ends

    def members(self, block: int, ends: Mapping[int, fx.Node]) -> list[fx.Node]:
        """All nodes of a block in graph order, between the ends given."""
        entry, exit = ends[block], ends[block + 1]
        members = set(self.cores[block])
        members.update(node for node, owner in self.owner.items() if owner == block)
        members.difference_update(self._trail(self.bounds[block], entry))
        members.update(self._trail(self.bounds[block + 1], exit))
        return sorted(members, key=self.flow.order.__getitem__)

    def _trail(self, cut: fx.Node, end: fx.Node) -> list[fx.Node]:
        trail = [end]
        while trail[-1] is not cut:
            trail.append(trail[-1].all_input_nodes[0])
        return trail


def _effects_by_block(flow: Dataflow, cores: Sequence[frozenset[fx.Node]]) -> tuple[tuple[fx.Node, ...], ...]:
    """Writing nodes by the one block whose module they ran in."""
    blocks: dict[object, set[int]] = {}
    for block, core in enumerate(cores):
        for node in core:
            blocks.setdefault(node.meta.get("module"), set()).add(block)
    found: list[list[fx.Node]] = [[] for _ in cores]
    for effect in flow.effects:
        homes = blocks.get(effect.meta.get("module"), set())
        if len(homes) == 1:
            found[min(homes)].append(effect)
    return tuple(map(tuple, found))
