"""A graph copied node by node, some nodes changed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import fx

Edit = Callable[[fx.Node, fx.Node], None]
"""Called with a node and its copy as soon as it is made; edits the copy, or adds nodes before it."""


def copy_nodes(
    nodes: Iterable[fx.Node],
    graph: fx.Graph,
    change: Edit | None = None,
    copies: dict[fx.Node, fx.Node] | None = None,
) -> dict[fx.Node, fx.Node]:
    """Append copies of nodes to ``graph``, metadata included; the copy of each of them.

    Every node must come after those that it reads. ``copies`` is filled on the way, for a ``change`` that
    looks other nodes up.
    """
    copies = {} if copies is None else copies
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if change is not None:
            change(node, copies[node])
    return copies


def copy_graph(graph: fx.Graph, change: Edit | None = None) -> fx.Graph:
    """A copy of a whole graph, its output included."""
    copied = fx.Graph()
    copy_nodes(graph.nodes, copied, change)
    return copied
