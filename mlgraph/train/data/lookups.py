"""Whether the indices in a batch lie inside the tables that they are looked up in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from mlgraph.graph.copying import copy_nodes
from mlgraph.graph.effects import is_random, memory, mutates
from mlgraph.graph.interpret import Interpretation
from mlgraph.graph.ops import argument, has, op_name
from mlgraph.graph.traits import Trait
from mlgraph.program import Program
from mlgraph.train.errors import TrainError


def check_lookups(program: Program, leaves: Sequence[Any], what: str) -> None:
    """Raise ``TrainError`` where input ``leaves`` lead outside an embedding table or the classes of a loss.

    Indices that follow from inputs, their sizes and buffers are computed; those that depend on weights or
    are drawn are left to run time. ``what`` begins the sentence.
    """
    found = [node for node in program.graph.nodes if _index_of(node) is not None]
    closures = {node: _needed(program.graph, _index_of(node)) for node in found}
    known = [
        node for node in found if not any(is_random(n) or _is_parameter(program, n) for n in closures[node])
    ]
    if not known:
        return
    for node, indices in zip(known, _computed(program, known, closures, leaves), strict=True):
        size = _size_of(node)
        inside = (indices >= 0) & (indices < size)
        if has(node, Trait.CLASSIFIES):
            inside |= indices == argument(node, "ignore_index")
        if bool(inside.all()):
            continue
        bad = int(indices[~inside].flatten()[0])
        inputs = ", ".join(source.name for source in closures[node] if source.op == "placeholder")
        raise TrainError(_sentence(node, what, bad, size, inputs))


def _is_parameter(program: Program, node: fx.Node) -> bool:
    name = str(node.target)
    return node.op == "get_attr" and program.tensors.aliases.get(name, name) in program.tensors.parameters


def _sentence(node: fx.Node, what: str, bad: int, size: int, inputs: str) -> str:
    if op_name(node) == "embedding":
        table = node.args[0]
        assert isinstance(table, fx.Node)
        name = table.target if table.op == "get_attr" else table.name
        return (
            f"{what} looks up row {bad} of {name}, which has {size}: change {inputs}, or take a model "
            "with a larger table."
        )
    return f"{what} names class {bad} where the loss takes 0 to {size - 1}: change {inputs}."


def _index_of(node: fx.Node) -> fx.Node | None:
    """The indices that a node looks up, or takes for classes."""
    if not has(node, Trait.CLASSIFIES) and op_name(node) != "embedding":
        return None
    index = node.args[1]
    assert isinstance(index, fx.Node)
    return None if index.meta["val"].dtype.is_floating_point else index


def _size_of(node: fx.Node) -> int:
    scored = node.args[0]
    assert isinstance(scored, fx.Node)
    shape = scored.meta["val"].shape
    return int(shape[0] if op_name(node) == "embedding" or len(shape) == 1 else shape[1])


def _needed(graph: fx.Graph, node: fx.Node | None) -> dict[fx.Node, None]:
    """``node`` and what it is computed from, writes into shared memory included."""
    assert node is not None
    root = memory(graph)
    needed: dict[fx.Node, None] = {}
    pending = [node]
    while pending:
        here = pending.pop()
        if here in needed:
            continue
        needed[here] = None
        pending += here.all_input_nodes
        if not pending:
            touched = {root[one] for one in needed}
            pending += [n for n in graph.nodes if mutates(n) and root[n] in touched and n not in needed]
    return needed


def _computed(
    program: Program,
    nodes: Sequence[fx.Node],
    closures: dict[fx.Node, dict[fx.Node, None]],
    leaves: Sequence[Any],
) -> list[torch.Tensor]:
    needed = {source for node in nodes for source in closures[node]}
    graph = fx.Graph()
    copies = copy_nodes((n for n in program.graph.nodes if n.op == "placeholder" or n in needed), graph)
    graph.output([copies[index] for node in nodes if (index := _index_of(node)) is not None])
    # Models may write into their inputs.
    own = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    device = next((leaf.device for leaf in own if isinstance(leaf, torch.Tensor)), torch.device("cpu"))
    buffers = {str(n.target): program.tensors[str(n.target)].to(device) for n in needed if n.op == "get_attr"}
    with torch.no_grad():
        return Interpretation(program.replace(graph=graph), buffers).run(own)
