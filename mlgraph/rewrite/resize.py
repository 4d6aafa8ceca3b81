"""Rewrites a graph to other axis sizes.

Every integer that an op carries is recomputed from the dims it was inferred from, never by matching
numbers; the result is propagated on fake tensors and every node's shape compared with the one its axes
foretell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.errors import MlgraphError
from mlgraph.graph.copying import copy_nodes
from mlgraph.graph.propagate import propagate
from mlgraph.rewrite.gains import Gain, insert_gains
from mlgraph.rewrite.resizers import Resizer

if TYPE_CHECKING:
    from mlgraph.program import Program, Tensors


def rewrite(
    program: Program,
    sizes: Mapping[str, int],
    tensors: Tensors,
    gains: Sequence[Gain] = (),
) -> Program:
    """The program with axes of other sizes.

    Args:
        sizes: new size per axis id; axes not named keep theirs.
        tensors: the tensors at their new shapes (values may be lazy or on the meta device).
        gains: factors to put on activations before they are contracted.

    Raises:
        MlgraphError: an op cannot run, or does not give the foretold shape, at the new sizes.
    """
    made = resize_graph(program, sizes, tensors, gains)
    made.graph.lint()
    if made.added:
        tensors = tensors.replace({**tensors, **made.added})
    propagate(made.graph, program.signature, tensors)
    _check(program, sizes, made.copies)
    return program.replace(graph=made.graph, tensors=tensors)


@dataclass(frozen=True)
class ResizedGraph:
    """A graph at other axis sizes: the copy of every node, and the tensors of gains that were added.

    Nodes have the metadata of those they were copied from; nothing has been run.
    """

    graph: fx.Graph
    copies: Mapping[fx.Node, fx.Node]
    added: Mapping[str, torch.Tensor]


def resize_graph(
    program: Program,
    sizes: Mapping[str, int],
    tensors: Tensors,
    gains: Sequence[Gain] = (),
    left_out: Mapping[fx.Node, fx.Node | None] | None = None,
) -> ResizedGraph:
    """The graph of a program with its arguments recomputed for other axis sizes, not run yet.

    Nodes in ``left_out`` have no copy; an earlier node stands in where one is given.

    Raises:
        Unresizable: an op cuts an axis that changes inside one of its groups.
    """
    graph = fx.Graph()
    resizer = Resizer(program, sizes, graph)
    copies, left_out = resizer.copies, left_out or {}
    for node in program.graph.nodes:
        if node not in left_out:
            copy_nodes([node], graph, resizer.change, copies)
        elif (stand_in := left_out[node]) is not None:
            copies[node] = copies[stand_in]
    copied = {node.name for node in copies}
    added = insert_gains(graph, copies, [gain for gain in gains if gain.node in copied], tensors)
    return ResizedGraph(graph, copies, added)


def _check(program: Program, sizes: Mapping[str, int], copies: Mapping[fx.Node, fx.Node]) -> None:
    foretold = program.axes.node_dims
    for old, new in copies.items():
        found, value = foretold.get(old.name), new.meta.get("val")
        if found is None or old.op == "output":
            continue
        values: list[Any] = list(value) if isinstance(value, (tuple, list)) else [value]
        for part, got in zip(found.results, values, strict=True):
            if not isinstance(got, torch.Tensor):
                continue
            want = [dim.new_size(sizes) for dim in part]
            if any(isinstance(g, int) and w > 0 and g != w for w, g in zip(want, got.shape, strict=True)):
                changed = ", ".join(sorted(sizes)[:4])
                raise MlgraphError(
                    f"{old.target} at {old.meta.get('source', old.name)} gives shape {list(got.shape)} "
                    f"instead of {want} "
                    f"once {changed} change: freeze the axes it touches, or register a rule for it."
                )
