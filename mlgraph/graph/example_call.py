"""Random arguments for a program, at the sizes with which it was captured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from mlgraph.program import Input, Program


def example_call(program: Program) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments: normal floats, zeros for integers, ones for booleans."""
    from torch.utils import _pytree as pytree

    leaves = [_tensor(leaf) if leaf.is_tensor else leaf.value for leaf in program.signature.inputs]
    args, kwargs = pytree.tree_unflatten(leaves, program.signature.in_spec)
    return tuple(args), dict(kwargs)


def _tensor(leaf: Input) -> torch.Tensor:
    import torch

    assert leaf.dtype is not None
    if leaf.dtype.is_floating_point or leaf.dtype.is_complex:
        return torch.randn(leaf.shape, generator=torch.Generator().manual_seed(0)).to(leaf.dtype)
    return torch.full(leaf.shape, leaf.dtype is torch.bool).to(leaf.dtype)
