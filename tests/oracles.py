"""What the tests believe without asking mlgraph: running a program, permuting it, comparing state.

Nothing here uses the emission, transfers or verifier, only the data of programs, and ``permute``, which is
tested against dense matrices on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mlgraph.program import Program
from mlgraph.rewrite.rearrange import rearrange

Value = Any


def state_shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def ties(model: nn.Module) -> set[frozenset[str]]:
    """Groups of state-dict names that are one tensor."""
    groups: dict[int, set[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        groups.setdefault(id(value), set()).add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


def program_ties(program: Program) -> set[frozenset[str]]:
    """The same of a program, among names that a state dict lists."""
    groups: dict[str, set[str]] = {}
    for alias, name in program.tensors.aliases.items():
        groups.setdefault(name, {name}).add(alias)
    listed = {frozenset(group & program.tensors.persistent) for group in groups.values()}
    return {group for group in listed if len(group) > 1}


def difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """The first difference of two tables, in words, with the number of others."""
    lines = [f"{name} is missing" for name in expected if name not in found]
    lines += [f"{name} is left over" for name in found if name not in expected]
    lines += [
        f"{name} is {found[name]}, expected {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    if not lines:
        return None
    return lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")


def double(value: Value) -> Value:
    """Floating-point tensors of a pytree in fp64."""
    return pytree.tree_map(
        lambda leaf: leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf,
        value,
    )


class _Evaluate(fx.Interpreter):
    """Run a program's graph on given tensors, in evaluation mode, all floating point in one precision."""

    def __init__(self, program: Program, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
        super().__init__(nn.Module(), graph=program.graph)
        self.tensors, self.dtype = tensors, dtype

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> torch.Tensor:
        return self.tensors[target]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map(lambda x: self.dtype if x is torch.float32 else x, (args, kwargs))
        name = getattr(target, "_opname", "") or getattr(target, "__name__", "")
        if name in {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "dropout_"}:
            return args[0]
        if name == "drop_path":
            return args[0]
        if name == "scaled_dot_product_attention":
            kwargs = {key: value for key, value in kwargs.items() if key != "dropout_p"}
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
        if name == "batch_norm" and args[3] is not None:
            args = (*args[:5], False, *args[6:])
        if name in {"_grouped_mm", "grouped_mm_fallback"}:
            return grouped_mm(*args, **kwargs)
        return super().call_function(target, args, kwargs)


def grouped_mm(x: torch.Tensor, weights: torch.Tensor, offs: torch.Tensor, **_: Any) -> torch.Tensor:
    """Rows up to ``offs[e]`` times ``weights[e]``; torch's own has no fp64."""
    ends = [0, *offs.tolist()]
    parts = [x[start:end] @ weight for start, end, weight in zip(ends, ends[1:], weights, strict=False)]
    return torch.cat([*parts, x.new_zeros(len(x) - ends[-1], weights.shape[-1])])


def evaluate(
    program: Program,
    inputs: Iterable[Any],
    tensors: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
) -> list[Any]:
    """The flat result leaves of a program on flat input leaves, by interpreting its graph."""
    # Copies: a graph in training form counts batches in place.
    values = {name: double(value).clone() for name, value in (tensors or program.tensors).items()}
    with torch.no_grad():
        return list(_Evaluate(program, values, dtype).run(*double(list(inputs))))


def flat_inputs(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The leaves of a call in the order of the program's placeholders."""
    by_name = dict(kwargs)
    call_args, call_kwargs = pytree.tree_unflatten(
        range(len(program.signature.inputs)), program.signature.in_spec
    )
    names = list(call_kwargs)
    if args and not call_args:
        given = [name for name in names if name not in by_name]
        by_name |= dict(zip(given, args, strict=False))
        args = ()
    if names:
        by_name = {name: by_name[name] for name in names}
    return pytree.tree_leaves((tuple(args), by_name))


def permutation_error(program: Program, axes: Iterable[str], inputs: Iterable[Any], seed: int = 0) -> float:
    """Largest relative change of any result when the axes are permuted in all their slots at once.

    A result that lies on a permuted axis is compared with the permuted original. fp64 throughout.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = {axis.id: axis.size for axis in program.axes}
    permutations = {}
    for name in axes:
        moved = torch.randperm(sizes[name], generator=generator)
        if torch.equal(moved, torch.arange(sizes[name])):
            moved = moved.roll(1)
        permutations[name] = moved
    inputs = list(inputs)
    moved_tensors = {
        name: rearrange(value, program.axes.tensor_dims[name], permutations)
        if name in program.axes.tensor_dims
        else value
        for name, value in program.tensors.items()
    }
    before, after = evaluate(program, inputs), evaluate(program, inputs, moved_tensors)
    nodes = program.graph.output_node().args[0]
    worst = 0.0
    for node, x, y in zip(nodes, before, after, strict=True):  # type: ignore[arg-type]
        if not isinstance(x, torch.Tensor):
            continue
        dims = program.axes.result_dims(node.name) if isinstance(node, fx.Node) else None
        worst = max(worst, relative_error(y, x if dims is None else rearrange(x, dims, permutations)))
    return worst


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference over the largest absolute value (at least 1e-30)."""
    if found.shape != expected.shape:
        return float("inf")
    if not found.numel():
        return 0.0
    if not found.is_floating_point():
        return 0.0 if torch.equal(found, expected) else 1.0
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return float("inf")
    found, expected = found[finite].double(), expected[finite].double()
    if not found.numel():
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def outputs_error(found: Any, expected: Any) -> float:
    """Largest :func:`relative_error` over the tensors of two results of one structure."""
    left, right = tensors_of(found), tensors_of(expected)
    if len(left) != len(right):
        return float("inf")
    return max((relative_error(x, y) for x, y in zip(left, right, strict=True)), default=0.0)


def tensors_of(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
