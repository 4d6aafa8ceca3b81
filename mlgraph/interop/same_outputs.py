"""A plain model's outputs against those of the module emitted from a program."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from mlgraph.interop.fitting.fit import NotExpressible
from mlgraph.program import Program

_ON_THE_WAY = (torch.ops.aten.view.default, torch.ops.aten.reshape.default, torch.ops.aten.to.dtype)


def check_outputs(program: Program, model: nn.Module, bound: float | None = None) -> float:
    """The largest difference of outputs on random inputs, relative to the largest value of each output.

    ``bound`` is 1e-5 for programs in fp32 and fp64 and 5e-2 below by default.

    Raises:
        NotExpressible: it is above ``bound``.
    """
    from mlgraph.emit.module import emit

    args, kwargs = random_call(program)
    module = emit(program).eval()
    with torch.no_grad():
        ours = pytree.tree_leaves(module(*args, **kwargs))
        theirs = pytree.tree_leaves(model(*args, **kwargs))
    if bound is None:
        bound = 1e-5 if main_dtype(program) in (torch.float32, torch.float64) else 5e-2
    if len(ours) != len(theirs):
        raise NotExpressible(f"{type(model).__name__} returns other outputs; save a program instead.")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, torch.Tensor) and a.is_floating_point():
            worst = max(worst, relative_error(a, b))
    if not worst <= bound:
        raise NotExpressible(
            f"{type(model).__name__} loaded from what was written gives outputs that differ by {worst:.1e} "
            "from the program's; save a program instead."
        )
    return worst


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest absolute difference over the largest magnitude of ``a``; infinite where shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    a, b = a.double(), b.double()
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = a[finite].abs().max().clamp_min(1e-12)
    return float((a - b)[finite].abs().max() / scale)


def main_dtype(program: Program) -> torch.dtype:
    """The floating dtype in which most parameters are."""
    sizes: dict[torch.dtype, int] = {}
    for name, tensor in program.tensors.meta().items():
        if name in program.tensors.parameters and tensor.is_floating_point():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)


def random_call(program: Program, seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Random arguments of a program's example sizes: indices that its tables have, masks of ones."""
    generator = torch.Generator().manual_seed(seed)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    leaves: list[Any] = []
    for node, leaf in zip(nodes, program.signature.inputs, strict=True):
        if not leaf.is_tensor or leaf.dtype is None:
            leaves.append(leaf.value)
        elif leaf.dtype.is_floating_point:
            leaves.append(torch.randn(leaf.shape, generator=generator).to(leaf.dtype))
        elif rows := _rows(node):
            leaves.append(torch.randint(0, rows, leaf.shape, generator=generator).to(leaf.dtype))
        else:
            leaves.append(torch.ones(leaf.shape, dtype=leaf.dtype))
    args, kwargs = pytree.tree_unflatten(leaves, program.signature.in_spec)
    return args, kwargs


def _rows(node: fx.Node) -> int | None:
    """Rows of the smallest table that a value indexes."""
    found = []
    for user in node.users:
        if user.target == torch.ops.aten.embedding.default and user.args[1] is node:
            table = user.args[0]
            assert isinstance(table, fx.Node)
            found.append(int(table.meta["val"].shape[0]))
        elif user.target in _ON_THE_WAY and (rows := _rows(user)):
            found.append(rows)
    return min(found) if found else None
