"""Weights that a model keeps as a direction and a length (Salimans & Kingma 2016, arXiv 1602.07868).

W = g · v / |v|, the length taken over all dims but one, or over all. What a change of width or depth moves is
the effective weight W: before it, v is set to W and g to |W|, which changes no result; after it, g is |v|
again, so that W' is exactly what became of W.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from mlgraph.graph.ops import op_name
from mlgraph.program.tensors import InMemory, Recipes, TensorRecipe

if TYPE_CHECKING:
    from mlgraph.program import Program

NamedTensors = Mapping[str, torch.Tensor]


def lengths(program: Program) -> dict[str, tuple[str, int]]:
    """The lengths g of a program's normalised weights: the direction v of each, and the dim kept."""
    found = {}
    for node in program.graph.nodes:
        if op_name(node) == "_weight_norm":
            given: tuple[Any, ...] = (*node.args, 0)
            direction, length, dim = given[:3]
            # read elsewhere too, they would be moved as what they are there
            if direction.op == length.op == "get_attr" and len(direction.users) == len(length.users) == 1:
                found[str(length.target)] = (str(direction.target), int(dim))
    return found


def effective(program: Program) -> Program:
    """The same program with every direction its effective weight, and every length that weight's.

    A direction that has its length already is left bit for bit as it is.
    """
    tensors = program.tensors
    made: dict[str, Callable[[], torch.Tensor]] = {}
    for length, (direction, dim) in lengths(program).items():
        weight = partial(_effective, tensors, direction, length, dim)
        made[direction] = weight
        made[length] = partial(_length_of, weight, dim)
    return _with(program, made)


def with_lengths(program: Program) -> Program:
    """The program with every length that of its direction; where that is 0, the direction becomes ones."""
    tensors = program.tensors
    made: dict[str, Callable[[], torch.Tensor]] = {}
    for length, (direction, dim) in lengths(program).items():
        made[direction] = partial(_never_zero, tensors, direction, dim)
        made[length] = partial(_length_of, partial(tensors.__getitem__, direction), dim)
    return _with(program, made)


def _effective(tensors: NamedTensors, direction: str, length: str, dim: int) -> torch.Tensor:
    v, g = tensors[direction].detach(), tensors[length].detach()
    if not v.is_meta and torch.equal(torch.norm_except_dim(v, 2, dim), g):
        return v
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _length_of(weight: Callable[[], torch.Tensor], dim: int) -> torch.Tensor:
    return torch.norm_except_dim(weight().detach(), 2, dim)


def _never_zero(tensors: NamedTensors, direction: str, dim: int) -> torch.Tensor:
    v = tensors[direction].detach()
    return torch.where(torch.norm_except_dim(v, 2, dim) == 0, torch.ones_like(v), v)


def _with(program: Program, made: Mapping[str, Callable[[], torch.Tensor]]) -> Program:
    tensors = program.tensors
    if not made:
        return program
    if tensors.in_memory:
        values = {name: made[name]() if name in made else tensors[name] for name in tensors}
        return program.with_values(tensors.replace(InMemory(values)))
    recipes = {name: TensorRecipe(made.get(name, partial(tensors.__getitem__, name))) for name in tensors}
    return program.with_values(tensors.replace(Recipes(recipes, tensors.meta())))
