"""Rearranging tensors along axes, and the test of soundness that needs no oracle.

Permuting an axis in all of its slots must not change the function (design: soundness). Evaluation is by
interpreting the graph in float64 and evaluation mode, so that every value inside it can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mlgraph import ops
from mlgraph.axes.expressions import DimExpr, Join
from mlgraph.program import Program

Permutations = Mapping[str, torch.Tensor]
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


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
    tensors = {name: _double(tensor) for name, tensor in program.tensors.items()}
    changed = {
        name: permute(tensor, table.tensor_dims[name], permutations) if name in table.tensor_dims else tensor
        for name, tensor in tensors.items()
    }
    before, after = Evaluation(program, tensors), Evaluation(program, changed)
    results = zip(before.run_flat(inputs), after.run_flat(inputs), _outputs(program), strict=True)
    worst = 0.0
    for x, y, node in results:
        if isinstance(x, torch.Tensor) and isinstance(node, fx.Node):
            dims = table.node_dims.get(node.name)
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
    before = Evaluation(program, tensors, keep=True)
    after = Evaluation(program, changed, keep=True)
    before.run_flat(inputs), after.run_flat(inputs)
    for node, x in before.kept.items():
        dims, y = program.axes.node_dims.get(node.name), after.kept[node]
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


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference over the largest expected magnitude; infinite for other shapes or NaN."""
    if found.shape != expected.shape:
        return float("inf")
    if not (found.is_floating_point() or found.is_complex()):
        return 0.0 if torch.equal(found, expected) else float("inf")
    if not found.numel():
        return 0.0
    both = torch.isfinite(expected)
    if not torch.equal(both, torch.isfinite(found)):
        return float("inf")
    if not bool(both.any()):
        return 0.0
    scale = expected[both].abs().max().clamp_min(1e-12)
    return float((found[both] - expected[both]).abs().max() / scale)


def _double(value: Any) -> Any:
    return value.detach().double() if isinstance(value, torch.Tensor) and value.dtype in _FLOATS else value


class Evaluation(fx.Interpreter):
    """Runs a program's graph on given tensors in evaluation mode and float64; ``keep`` retains every
    value."""

    def __init__(self, program: Program, tensors: Mapping[str, torch.Tensor], keep: bool = False) -> None:
        super().__init__(nn.Module(), garbage_collect_values=not keep, graph=program.graph)
        self.tensors = tensors
        self.kept: dict[fx.Node, Any] = {}
        self.keep = keep

    def run_flat(self, inputs: Iterable[Any]) -> list[Any]:
        """The flat results on flat input leaves."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return list(self.run(*(_double(value) for value in inputs)))

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if self.keep:
            self.kept[n] = value
        return value

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.tensors[target]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map(lambda a: torch.float64 if _is_narrow(a) else a, (args, dict(kwargs)))
        name = getattr(target, "_opname", "").rstrip("_")
        if name in ("dropout", "feature_dropout", "alpha_dropout") or target is ops.drop_path:
            return args[0]
        if name == "scaled_dot_product_attention" and len(args) > 4:
            args = (*args[:4], 0.0, *args[5:])
        if name == "batch_norm" and args[3] is not None:
            args = (*args[:5], False, *args[6:])
        if name in ("_grouped_mm", "grouped_mm_fallback"):
            return _grouped_product(*args)
        return super().call_function(target, args, kwargs)


def _is_narrow(argument: Any) -> bool:
    return isinstance(argument, torch.dtype) and argument in _FLOATS


def _grouped_product(x: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor, *_: Any) -> torch.Tensor:
    """Rows up to ``ends[e]`` times ``weights[e]``; torch's own has no float64."""
    parts: list[torch.Tensor] = []
    start = 0
    for end, weight in zip(ends.tolist(), weights, strict=True):
        parts.append(x[start:end] @ weight)
        start = end
    return torch.cat([*parts, x.new_zeros(len(x) - start, weights.shape[-1])])


def example_leaves(program: Program, seed: int = 0) -> list[Any]:
    """Random input leaves at the program's example sizes: indices within their tables, ones for other
    integers."""
    generator = torch.Generator().manual_seed(seed)
    leaves = []
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for leaf, node in zip(program.signature.inputs, placeholders, strict=True):
        if leaf.dtype is None:
            leaves.append(leaf.value)
        elif leaf.dtype.is_floating_point:
            leaves.append(torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.dtype))
        elif leaf.dtype is torch.bool:
            leaves.append(torch.ones(leaf.shape, dtype=torch.bool))
        else:
            bound = min(_bounds(node, program), default=None)
            drawn = (
                torch.randint(0, bound, leaf.shape, generator=generator) if bound else torch.ones(leaf.shape)
            )
            leaves.append(drawn.to(leaf.dtype))
    return leaves


def _bounds(node: fx.Node, program: Program) -> Iterator[int]:
    """Sizes of the tables and class dims that an integer input indexes, through views and slices."""
    stack, seen = [node], {node}
    while stack:
        current = stack.pop()
        for user in current.users:
            name = getattr(user.target, "_opname", "") if user.op == "call_function" else ""
            if name == "embedding" and user.args[1] is current:
                yield int(user.args[0].meta["val"].shape[0])  # type: ignore[union-attr]
            elif name in ("cross_entropy_loss", "nll_loss", "nll_loss_nd") and user.args[1] is current:
                shape = user.args[0].meta["val"].shape  # type: ignore[union-attr]
                yield int(shape[1] if len(shape) > 1 else shape[0])
            elif name in _CARRIES and user not in seen:
                seen.add(user)
                stack.append(user)


# fmt: off
_CARRIES = {
    "view", "reshape", "slice", "to", "contiguous", "constant_pad_nd", "pad", "flatten", "transpose",
    "unsqueeze", "squeeze", "clone", "expand", "masked_fill", "where", "cat", "roll", "copy",
    "slice_scatter", "select_scatter", "clamp",
}
# fmt: on
