"""Graphs as data: a list of nodes, each referring to earlier ones by position."""

from __future__ import annotations

import keyword
from typing import Any

from torch import fx

from mlgraph.storage.op_table import decode_target, encode_target
from mlgraph.storage.plain_values import (
    Malformed,
    array,
    boolean,
    decode,
    decode_dtype,
    encode,
    encode_dtype,
    fields,
    identifier,
    integer,
    line,
    member,
    name,
    shorten,
)

_OPS = {"in": "placeholder", "get": "get_attr", "call": "call_function", "out": "output"}
_CODES = {op: code for code, op in _OPS.items()}


def encode_graph(graph: fx.Graph) -> dict[str, Any]:
    """A graph as ``{"strings": [...], "nodes": [[op, name, target, args, kwargs, module, source], ...]}``.

    ``module`` and ``source`` are positions in ``strings``. Where the model sets autocast, there is
    ``"autocast": [[position, device, dtype, on], ...]`` of the nodes that it does so for. Raises
    ``Malformed`` naming the node that has no form.
    """
    positions: dict[fx.Node, int] = {}
    strings: dict[str, int] = {"": 0}
    rows = []
    for node in graph.nodes:
        try:
            rows.append(_encode_node(node, positions, strings))
        except Malformed as error:
            raise Malformed(f"node {node.name}: {error}") from None
        positions[node] = len(positions)
    made = {"strings": list(strings), "nodes": rows}
    regions = [(positions[node], node.meta["autocast"]) for node in graph.nodes if node.meta.get("autocast")]
    if regions:
        made["autocast"] = [[at, device, encode_dtype(dtype), on] for at, (device, dtype, on) in regions]
    return made


def _encode_node(node: fx.Node, positions: dict[fx.Node, int], strings: dict[str, int]) -> list[Any]:
    if node.op not in _CODES:
        raise Malformed(f"a {node.op} node has no form in a file")
    target = encode_target(node.target) if node.op == "call_function" else str(node.target)
    said = [_one_line(str(node.meta.get(key, ""))) for key in ("module", "source")]
    return [
        _CODES[node.op],
        node.name,
        target,
        [encode(argument, positions.__getitem__) for argument in node.args],
        [[key, encode(value, positions.__getitem__)] for key, value in node.kwargs.items()],
        *(strings.setdefault(words, len(strings)) for words in said),
    ]


def _one_line(words: str) -> str:
    return "".join(c if c.isprintable() else " " for c in words)


def decode_graph(data: Any) -> fx.Graph:
    """The graph that ``encode_graph`` wrote, without ``meta["val"]``. Raises ``Malformed`` naming the
    node.
    """
    told = isinstance(data, dict) and "autocast" in data
    strings, rows, *regions = fields(data, "strings", "nodes", *(["autocast"] if told else []))
    strings = [line(words) for words in array(strings)]
    graph = fx.Graph()
    nodes: list[fx.Node] = []
    for row in array(rows):
        row = array(row, 7)
        try:
            nodes.append(_decode_node(graph, row, nodes, strings))
        except Malformed as error:
            raise Malformed(f"node {shorten(row[1])}: {error}") from None
    _check_order(nodes)
    for region in array(regions[0]) if told else ():
        _decode_region(region, nodes)
    return graph


def _decode_region(data: Any, nodes: list[fx.Node]) -> None:
    position, device, dtype, on = array(data, 4)
    node = nodes[integer(position, 0, len(nodes) - 1)]
    node.meta["autocast"] = (identifier(device), decode_dtype(dtype), boolean(on))


def _decode_node(graph: fx.Graph, row: list[Any], nodes: list[fx.Node], strings: list[str]) -> fx.Node:
    code, node_name, target, args, kwargs, module, source = row
    op = member(_OPS, code, "kind of node")
    identifier(node_name)
    node = graph.create_node(
        op,
        _decode_node_target(op, target),
        tuple(decode(argument, nodes) for argument in array(args)),
        _decode_kwargs(kwargs, nodes),
        name=node_name,
    )
    if node.name != node_name:
        raise Malformed("its name is taken")
    for key, position in (("module", module), ("source", source)):
        node.meta[key] = strings[integer(position, 0, len(strings) - 1)]
    return node


def _decode_node_target(op: str, target: Any) -> Any:
    if op == "call_function":
        return decode_target(target)
    if op == "get_attr":
        return name(target)
    # torch prints these two as they are into the code it generates.
    if keyword.iskeyword(identifier(target)) or (op == "output" and target != "output"):
        raise Malformed(f"{shorten(target)} is no target of such a node")
    return target


def _decode_kwargs(data: Any, nodes: list[fx.Node]) -> dict[str, Any]:
    kwargs: dict[str, Any] = {}
    for pair in array(data):
        key, value = array(pair, 2)
        if identifier(key) in kwargs:
            raise Malformed(f"the argument {shorten(key)} is given twice")
        kwargs[key] = decode(value, nodes)
    return kwargs


def _check_order(nodes: list[fx.Node]) -> None:
    if [node.op for node in nodes].count("output") != 1 or nodes[-1].op != "output":
        raise Malformed("its graph has not exactly one output, at the end")
    result = nodes[-1].args
    if len(result) != 1 or not isinstance(result[0], tuple) or nodes[-1].kwargs:
        raise Malformed("its graph's output is not one tuple")
    for node in nodes:
        if node.op in ("placeholder", "get_attr") and (node.args or node.kwargs):
            raise Malformed(f"node {node.name} takes no arguments")
        if node.op != "output" and len(node.users) == 1 and node is nodes[-1]:
            raise Malformed(f"node {node.name} uses the output")
    targets = [node.target for node in nodes if node.op == "get_attr"]
    if len(set(targets)) != len(targets):
        raise Malformed("its graph reads a tensor by two nodes")
