"""Factors on activations, put in where what is summed has become more or less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

if TYPE_CHECKING:
    from mlgraph.program import Tensors


@dataclass(frozen=True)
class Gain:
    """A factor on an activation before it is contracted: on dim ``position`` of ``operand`` where ``node``
    reads it.

    ``values`` has one factor for all indices, or one per index of the dim at its new size. Where the node
    reads the operand twice, the factor is put on one of them, unless on ``every_use``.
    """

    node: str
    operand: str
    position: int
    values: tuple[float, ...]
    every_use: bool = False


def insert_gains(
    graph: fx.Graph, copies: Mapping[fx.Node, fx.Node], gains: Sequence[Gain], tensors: Tensors
) -> dict[str, torch.Tensor]:
    """The tensors that were added: those of gains with a factor per index.

    ``copies`` are the nodes of ``graph`` by those that they were copied from.
    """
    by_name = {old.name: new for old, new in copies.items()}
    scaled: dict[tuple[str, str], fx.Node] = {}
    added: dict[str, torch.Tensor] = {}
    for gain in gains:
        node, key = by_name[gain.node], (gain.node, gain.operand)
        operand = scaled.get(key, by_name[gain.operand])
        values = gain.values
        with graph.inserting_before(node):
            factor: Any = values[0]
            if len(set(values)) > 1:
                value = by_name[gain.operand].meta["val"]
                trailing = value.dim() - 1 - gain.position % value.dim()
                name = _free_name(tensors, added)
                added[name] = torch.tensor(values, dtype=value.dtype).view(-1, *([1] * trailing))
                factor = graph.get_attr(name)
            new = graph.call_function(torch.ops.aten.mul.Tensor, (operand, factor))
        new.meta = {k: v for k, v in node.meta.items() if k in ("module", "source")}
        if gain.every_use:
            node.replace_input_with(operand, new)
        else:
            _replace_first(node, operand, new)
        scaled[key] = new
    return added


def _replace_first(node: fx.Node, old: fx.Node, new: fx.Node) -> None:
    """Replace the first use of an input: where a node reads a value twice, one factor suffices."""
    left = [new]
    swapped = fx.map_arg((node.args, node.kwargs), lambda n: left.pop() if n is old and left else n)
    node.args, node.kwargs = swapped


def _free_name(tensors: Tensors, added: Mapping[str, torch.Tensor]) -> str:
    count = 0
    while f"gain_{count}" in tensors or f"gain_{count}" in added:
        count += 1
    return f"gain_{count}"
