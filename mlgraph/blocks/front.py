"""The first block of a chain whose blocks all read a fixed value, which the first is also fed with.

Blocks ``f(x, x0)`` begin with ``x = x0``: for the first of them what enters and the fixed value are one node,
so nothing tells from the graph alone which of its reads is which. It is found by matching it against the
block after it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from torch import fx

from mlgraph.blocks.partition import Partition
from mlgraph.graph.ops import is_tensor_valued

if TYPE_CHECKING:
    from mlgraph.graph.dataflow import Dataflow

_WIDE = 0.4
_HEADS = 8


def heads(flow: Dataflow) -> Iterator[fx.Node]:
    """The first readers of values that are read far apart: from there on such a value is a side input."""
    calls = {node: at for at, node in enumerate(n for n in flow.nodes if n.op != "get_attr")}
    wide = []
    for node in calls:
        if flow.is_transparent(node) or not is_tensor_valued(node):
            continue
        users = sorted((user for user in flow.users(node) if node in flow.data[user]), key=calls.__getitem__)
        if len(users) > 2 and (span := calls[users[-1]] - calls[users[0]]) > _WIDE * len(calls):
            wide.append((span, calls[node], users[0]))
    for *_, first in sorted(wide, key=lambda found: (-found[0], found[1]))[:_HEADS]:
        yield first


def extended(partition: Partition, first: int, claimed: Collection[fx.Node]) -> Partition | None:
    """The partition that begins one block before ``first``, where there is a like one; else None."""
    flow = partition.flow
    if partition.effects[first]:
        return None
    found = _matched(partition, first, claimed)
    if found is None:
        return None
    entry, counterpart = found
    core = {counterpart[node] for node in partition.cores[first] if node in counterpart}
    begin = flow.order[partition.bounds[first]]
    after = {node: above for node, above in partition.within.items() if flow.order[node] >= begin}
    longer = Partition.of(flow, (entry, *partition.bounds[first:]), {**after, **dict.fromkeys(core, entry)})
    return longer if longer.cores[0] == core else None


def _matched(
    partition: Partition, block: int, claimed: Collection[fx.Node]
) -> tuple[fx.Node, dict[fx.Node, fx.Node]] | None:
    """What enters the block before ``block``, and its nodes by those of ``block``; None where they differ."""
    flow = partition.flow
    entry: fx.Node | None = None
    forward: dict[fx.Node, fx.Node] = {}
    stack = [(partition.bounds[block + 1], partition.bounds[block])]
    while stack:
        left, right = map(flow.resolve, stack.pop())
        if not is_tensor_valued(left) or not is_tensor_valued(right):
            continue
        if left is partition.bounds[block]:
            if entry not in (None, right):
                return None
            entry = right
            continue
        if not partition.inside(left, block):
            if left is not right:
                return None
            continue
        if left in forward:
            if forward[left] is not right:
                return None
            continue
        if right in claimed or partition.inside(right, block) or not flow.alike(left, right):
            return None
        forward[left] = right
        pairs = zip(flow.operands(left), flow.operands(right), strict=True)
        stack += [(a, b) for a, b in pairs if isinstance(a, fx.Node)]
    distinct = len(set(forward.values())) == len(forward)
    return (entry, forward) if entry is not None and distinct and entry not in forward.values() else None
