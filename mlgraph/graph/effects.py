"""Which nodes write to memory, which share it, and which draw random numbers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from mlgraph.graph import ops
from mlgraph.graph.traits import Trait

aten = torch.ops.aten


def mutates(node: fx.Node) -> bool:
    """Whether a node writes into its first argument."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def is_random(node: fx.Node) -> bool:
    """Whether a node draws random numbers, so that two equal calls differ."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded in target.tags
    return target in ops.RANDOM


def views(node: fx.Node) -> fx.Node | None:
    """The node whose memory this one's result may share."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return node.args[0] if ops.op_name(node) == "getitem" else None
    arguments = target._schema.arguments
    shares = bool(arguments) and arguments[0].alias_info is not None
    return node.args[0] if shares or ops.has(node, Trait.MAY_SHARE) else None


def memory(graph: fx.Graph, fresh: Collection[fx.Node] = ()) -> dict[fx.Node, fx.Node]:
    """For every node, the node that made the memory its result may lie in; ``fresh`` nodes make their own."""
    root: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        base = views(node) if node not in fresh else None
        root[node] = root[base] if base is not None else node
    return root


def written(graph: fx.Graph) -> set[fx.Node]:
    """Every node whose memory is written to at some point."""
    root = memory(graph)
    touched = {root[node] for node in graph.nodes if mutates(node)}
    return {node for node in graph.nodes if root[node] in touched}
