"""The test of soundness that needs no oracle.

Permuting an axis in all of its slots must not change the function (design: soundness). Evaluation is by
interpreting the graph in float64 and evaluation mode, so that every value inside it can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.graph.compare import relative_error
from mlgraph.graph.interpret import double, evaluate
from mlgraph.rewrite.rearrange import Moves, rearrange

if TYPE_CHECKING:
    from mlgraph.program import Program


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
        name: rearrange(tensor, table.tensor_dims.get(name, ()), permutations)
        for name, tensor in tensors.items()
    }
    before, after = evaluate(program, tensors, inputs), evaluate(program, changed, inputs)
    results = zip(before, after, _outputs(program), strict=True)
    worst = 0.0
    for x, y, node in results:
        if isinstance(x, torch.Tensor) and isinstance(node, fx.Node):
            dims = table.result_dims(node.name)
            worst = max(worst, relative_error(y, rearrange(x, dims, permutations) if dims is not None else x))
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
    permutations: Moves,
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
        if relative_error(y, rearrange(x, dims, permutations)) > tolerance:
            return f"{node.target} at {node.meta.get('source') or node.name}"
    return "the output"
