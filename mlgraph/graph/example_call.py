"""Random arguments for a program, at the sizes with which it was captured."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from mlgraph.graph.ops import has, op_name
from mlgraph.graph.traits import CUTS, MOVES, PASSES, Trait

if TYPE_CHECKING:
    from mlgraph.program import Program

_CARRIES = PASSES | MOVES | CUTS | Trait.PADS | Trait.JOINS | Trait.REPLACES


def example_call(program: Program, seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments, made of :func:`example_leaves`."""
    args, kwargs = pytree.tree_unflatten(example_leaves(program, seed), program.signature.in_spec)
    return tuple(args), dict(kwargs)


def dynamic_shapes(program: Program, model: nn.Module) -> dict[str, Any]:
    """The sizes that are dynamic in the program, for torch.export of a model that is called alike."""
    inputs = program.signature.inputs
    leaves = [
        tuple(Dim.AUTO if s else Dim.STATIC for s in i.symbols) if i.is_tensor else None for i in inputs
    ]
    args, kwargs = pytree.tree_unflatten(leaves, program.signature.in_spec)
    return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)


def example_leaves(program: Program, seed: int = 0, mixed: bool = False) -> list[Any]:
    """Input leaves in placeholder order: normal floats, indices within their tables, ones for other integers.

    What is no tensor is as it was captured. With ``mixed``, a quarter of the ones are zeros, though none at
    the first index of the last dim, so that no row of a mask is empty.
    """
    generator = torch.Generator().manual_seed(seed)
    leaves = []
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for leaf, node in zip(program.signature.inputs, placeholders, strict=True):
        if not leaf.is_tensor or leaf.dtype is None:
            leaves.append(leaf.value)
        elif leaf.dtype.is_floating_point or leaf.dtype.is_complex:
            leaves.append(torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.dtype))
        elif leaf.dtype is not torch.bool and (bound := min(_bounds(node), default=0)):
            leaves.append(torch.randint(0, bound, leaf.shape, generator=generator).to(leaf.dtype))
        else:
            ones = torch.ones(leaf.shape, dtype=leaf.dtype)
            if mixed and leaf.shape:
                ones[..., 1:] = (torch.rand(ones[..., 1:].shape, generator=generator) > 0.25).to(leaf.dtype)
            leaves.append(ones)
    return leaves


def _bounds(node: fx.Node) -> Iterator[int]:
    """Sizes of the tables and class dims that an integer input indexes, through what passes indices on."""
    stack, seen = [node], {node}
    while stack:
        current = stack.pop()
        for user in current.users:
            indexes = len(user.args) > 1 and user.args[1] is current
            if indexes and op_name(user) == "embedding":
                yield int(user.args[0].meta["val"].shape[0])  # type: ignore[union-attr]
            elif indexes and has(user, Trait.CLASSIFIES):
                shape = user.args[0].meta["val"].shape  # type: ignore[union-attr]
                yield int(shape[1] if len(shape) > 1 else shape[0])
            elif has(user, _CARRIES) and user not in seen:
                seen.add(user)
                stack.append(user)
