"""Ops that write their result into an argument of theirs (``out=``), as the op and a copy into it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from mlgraph.errors import CaptureError
from mlgraph.graph.effects import mutates
from mlgraph.graph.sizes import same_sizes

aten = torch.ops.aten


def write_by_copies(graph: fx.Graph) -> None:
    """Replace every op that writes to an ``out`` argument; in place.

    What such an op writes takes no gradient, for torch refuses it otherwise. Raises CaptureError for an op
    that writes to another argument than its first and has no form that does not.
    """
    for node in list(graph.nodes):
        if not mutates(node):
            continue
        target: Any = node.target
        arguments = target._schema.arguments
        outs = [argument.name for argument in arguments if argument.is_out]
        if outs:
            _replace(graph, node, outs)
        elif any(a.alias_info is not None and a.alias_info.is_write for a in arguments[1:]):
            raise CaptureError(
                f"{node.meta.get('source')} writes to another argument of {node.target} than the first, "
                "which a program cannot; assign the result instead"
            )


def _replace(graph: fx.Graph, node: fx.Node, outs: list[str]) -> None:
    target: Any = node.target
    form = _without(target, outs)
    kwargs = {name: value for name, value in node.kwargs.items() if name not in outs}
    if form is None or not all(isinstance(node.kwargs.get(name), fx.Node) for name in outs):
        raise CaptureError(
            f"{node.meta.get('source')} writes to out, which a program cannot; assign the result instead"
        )
    symbolic = node.meta.get("symbolic")
    with graph.inserting_before(node):
        made = graph.call_function(form, node.args, kwargs)
        made.meta = dict(node.meta)
        values = [made]
        if len(outs) > 1:
            values = [graph.call_function(operator.getitem, (made, at)) for at in range(len(outs))]
            for value, known in zip(values, symbolic or [None] * len(outs), strict=True):
                value.meta = {**node.meta, "symbolic": known}
        written = [_written(graph, node, node.kwargs[n], v) for n, v in zip(outs, values, strict=True)]
    if len(outs) == 1:
        node.replace_all_uses_with(written[0])
    for user in list(node.users):
        at: Any = user.args[1]
        user.replace_all_uses_with(written[at])
        graph.erase_node(user)
    graph.erase_node(node)


def _written(graph: fx.Graph, node: fx.Node, out: Any, value: fx.Node) -> fx.Node:
    if same_sizes(out, value):
        copy = graph.call_function(aten.copy_.default, (out, value))
        copy.meta = {**node.meta, "symbolic": out.meta.get("symbolic")}
        return copy
    # an out of another size is resized: whoever reads it later reads the result
    later = False
    for other in list(graph.nodes):
        if later and other is not node:
            other.replace_input_with(out, value)
        later = later or other is node
    return value


def _without(target: Any, outs: list[str]) -> Any:
    """The overload that takes the same arguments but the outs, and returns the results."""
    wanted = [a.name for a in target._schema.arguments if a.name not in outs]
    packet = target.overloadpacket
    for name in packet.overloads():
        schema = getattr(packet, name)._schema
        if [a.name for a in schema.arguments] == wanted and not schema.is_mutable:
            return getattr(packet, name)
    return None
