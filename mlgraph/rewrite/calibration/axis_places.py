"""Where in a graph the activations of axes and the outputs of gains and weights are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.graph.ops import has, op_name, positions
from mlgraph.graph.traits import Trait
from mlgraph.program.dims import Leaf

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import AxisTable
    from mlgraph.program.dims import Dim


@dataclass(frozen=True)
class AxisPlace:
    """An axis in the value of a node: the dim, the sizes of its factors, and which of those it is."""

    node: str
    axis: str
    dim: int
    factors: tuple[int, ...]
    factor: int

    def by_index(self, value: torch.Tensor) -> torch.Tensor:
        """The value as [rest before the dim, size, rest], the axis in the middle."""
        own = value.unflatten(self.dim, self.factors) if len(self.factors) > 1 else value
        at = self.dim + self.factor
        return own.reshape(-1, own.shape[at], own.shape[at + 1 :].numel())


def activation_places(program: Program) -> list[AxisPlace]:
    """Where an axis lies in what a parameter contracts over it, each place once; of an axis that none
    contracts, the last value that has it."""
    table = program.axes
    named = {axis.id for axis in table}
    found: dict[AxisPlace, None] = {}
    for entry in table.sums:
        if entry.carrier is not None and entry.axis in named:
            found |= dict.fromkeys(_places(table, *entry.operands[0], entry.axis))
    left = {axis.id for axis in table if axis.frozen is None} - {place.axis for place in found}
    for node in reversed(program.graph.nodes) if left else ():
        dims = table.result_dims(node.name) if node.op == "call_function" else None
        for dim, axis in [(at, leaf.axis) for at, d in enumerate(dims or ()) for leaf in d.leaves()]:
            if axis in left and (place := next(_places(table, node.name, dim, axis), None)) is not None:
                found[place] = None
                left.discard(axis)
    return list(found)


def _places(table: AxisTable, node: str, dim: int, axis: str) -> Iterator[AxisPlace]:
    dims = table.result_dims(node)
    factor = _factor(dims[dim], axis) if dims is not None else None
    if dims is not None and factor is not None:
        yield AxisPlace(node, axis, dim, tuple(term.size for term in dims[dim]), factor)


def _factor(dim: Dim, axis: str) -> int | None:
    at = [i for i, term in enumerate(dim) if isinstance(term, Leaf) and term.axis == axis]
    return at[0] if len(at) == 1 else None


@dataclass(frozen=True)
class Output:
    """What a gain or weight and a bias, each read there alone, give: ``dim`` of the node's value is theirs.

    ``norm`` says that the gain multiplies, index by index, what has been normalised.
    """

    node: str
    weight: str
    bias: str | None
    dim: int
    weight_dim: int
    norm: bool


def outputs(program: Program) -> list[Output]:
    """Every output of a gain or weight of its own, in graph order."""
    return [found for node in program.graph.nodes for found in _output(program, node)]


def _output(program: Program, node: fx.Node) -> Iterator[Output]:
    weight, bias, norm = _parameters(node)
    if not _is_own(program, weight) or (bias is not None and not _is_own(program, bias)):
        return
    table = program.axes
    dims = table.result_dims(node.name)
    own = table.tensor_dims[str(weight.target)]
    shared = [(at, i) for at, dim in enumerate(dims or ()) for i, given in enumerate(own) if dim == given]
    emitting = [(at, i) for at, i in shared if set(table.roles[str(weight.target), i]) <= {"emits"}]
    movable = {axis.id for axis in table if axis.frozen is None}
    if len(emitting) == 1 and dims is not None:
        at, i = emitting[0]
        if not movable.intersection(leaf.axis for leaf in dims[at].leaves()):
            return
        yield Output(node.name, str(weight.target), str(bias.target) if bias else None, at, i, norm)


def _parameters(node: fx.Node) -> tuple[Any, Any, bool]:
    at = positions(node)
    norm = has(node, Trait.NORM) and not has(node, Trait.COUNTS)
    if at is not None and (norm or has(node, Trait.CONTRACTS)):
        bias = node.args[at.bias] if at.bias is not None and len(node.args) > at.bias else None
        weight = node.args[at.weight] if len(node.args) > at.weight else None
        return weight, bias, norm
    if op_name(node) == "mul" and len(node.args) == 2:
        gains = [arg for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr"]
        return (gains[0] if len(gains) == 1 else None), None, True
    return None, None, False


def _is_own(program: Program, node: Any) -> bool:
    if not isinstance(node, fx.Node) or node.op != "get_attr" or len(node.users) != 1:
        return False
    name = str(node.target)
    return name in program.tensors.parameters and name in program.axes.tensor_dims
