"""Rearranging tensors along axes, and the test of soundness that needs no oracle.

Permuting an axis in all of its slots must not change the function (design: soundness). Evaluation is by
interpreting the graph in float64 and evaluation mode, so that every value inside it can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from mlgraph.graph.compare import relative_error
from mlgraph.graph.interpret import Interpretation, double
from mlgraph.program import Program
from mlgraph.program.dims import DimExpr, Join

Permutations = Mapping[str, torch.Tensor]


def order(dim: DimExpr, permutations: Permutations) -> torch.Tensor:
    """For every index of a dim, the index that comes to its place when axes are permuted."""
    indices = torch.zeros(1, dtype=torch.long)
    for term in dim:
        if isinstance(term, Join):
            parts, start = [], 0
            for part in term.parts:
                inner = order(part, permutations)
                parts.append(inner + start)
                start += len(inner)
            own = torch.cat(parts)
        else:
            own = permutations.get(term.axis, torch.arange(term.size))
        indices = (indices[:, None] * len(own) + own).flatten()
    return indices


def permute(value: torch.Tensor, dims: Iterable[DimExpr], permutations: Permutations) -> torch.Tensor:
    """The value with every dim rearranged as its axes are."""
    for position, dim in enumerate(dims):
        if value.shape[position] > 1:
            moved = order(dim, permutations)
            if len(moved) == value.shape[position]:
                value = value.index_select(position, moved)
    return value


@dataclass(frozen=True)
class Deviation:
    """The largest relative change of a result, and the first node (with its op and source line) that shows
    one."""

    error: float
    where: str = ""


def permutation_error(
    program: Program, axes: Sequence[str], inputs: Sequence[Any], seed: int = 0, tolerance: float = 1e-9
) -> Deviation:
    """How far the results move when axes (by id) are permuted at random in all their slots.

    Args:
        inputs: flat input leaves, in placeholder order.
    """
    generator = torch.Generator().manual_seed(seed)
    table = program.axes
    sizes = {axis.id: axis.size for axis in table}
    permutations = {}
    for axis in axes:
        moved = torch.randperm(sizes[axis], generator=generator)
        if torch.equal(moved, torch.arange(sizes[axis])):
            moved = moved.roll(1)
        permutations[axis] = moved
    tensors = {name: double(tensor.detach()) for name, tensor in program.tensors.items()}
    changed = {
        name: permute(tensor, table.tensor_dims[name], permutations) if name in table.tensor_dims else tensor
        for name, tensor in tensors.items()
    }
    before, after = evaluate(program, tensors, inputs), evaluate(program, changed, inputs)
    results = zip(before, after, _outputs(program), strict=True)
    worst = 0.0
    for x, y, node in results:
        if isinstance(x, torch.Tensor) and isinstance(node, fx.Node):
            dims = table.result_dims(node.name)
            worst = max(worst, relative_error(y, permute(x, dims, permutations) if dims is not None else x))
    if worst <= tolerance:
        return Deviation(worst)
    return Deviation(worst, _first_deviation(program, tensors, changed, inputs, permutations, tolerance))


def _outputs(program: Program) -> list[Any]:
    return list(program.graph.output_node().args[0])  # type: ignore[arg-type]


def _first_deviation(
    program: Program,
    tensors: Mapping[str, torch.Tensor],
    changed: Mapping[str, torch.Tensor],
    inputs: Sequence[Any],
    permutations: Permutations,
    tolerance: float,
) -> str:
    before: dict[fx.Node, Any] = {}
    after: dict[fx.Node, Any] = {}
    evaluate(program, tensors, inputs, before)
    evaluate(program, changed, inputs, after)
    for node, x in before.items():
        dims, y = program.axes.result_dims(node.name), after[node]
        if (
            node.op != "call_function"
            or not isinstance(x, torch.Tensor)
            or dims is None
            or len(dims) != x.dim()
        ):
            continue
        if relative_error(y, permute(x, dims, permutations)) > tolerance:
            return f"{node.target} at {node.meta.get('source') or node.name}"
    return "the output"


def evaluate(
    program: Program,
    tensors: Mapping[str, torch.Tensor],
    inputs: Iterable[Any],
    kept: dict[fx.Node, Any] | None = None,
) -> list[Any]:
    """The flat results in float64 and evaluation mode, without gradients; random ops draw alike each time."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Interpretation(program, tensors, widened=True, kept=kept).run(inputs)
