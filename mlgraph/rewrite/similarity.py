"""Groups of like neurons: indices of an axis paired by their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from mlgraph.errors import MlgraphError
from mlgraph.program.dims import Leaf
from mlgraph.rewrite.grouping import Grouping

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis

_FEATURES = 4096
_ENTRIES = 1 << 20


def similar(program: Program, axis: Axis, factor: int) -> Grouping:
    """Groups of ``factor`` indices whose slots are most alike by cosine, chosen greedily from the likest
    pair on."""
    features = torch.cat(
        [part for slot in axis.slots for part in _rows(program, axis, slot.tensor, slot.dim)], 1
    )
    if features.shape[1] > _FEATURES:
        generator = torch.Generator().manual_seed(0)
        projection = torch.randn(features.shape[1], _FEATURES, generator=generator, dtype=features.dtype)
        features = features @ projection
    features = torch.nn.functional.normalize(features, dim=1)
    likeness = features @ features.T
    return _grouped(likeness, factor)


def similar_blocks(program: Program, blocks: Sequence[Sequence[str]], factor: int) -> Grouping:
    """Groups of ``factor`` blocks whose tensors are most alike by cosine, chosen as for ``similar``.

    ``blocks`` lists the tensors of every block, position by position. All positions weigh the same; of a
    large tensor a part that is spread evenly over it is compared.
    """
    likeness = torch.zeros(len(blocks), len(blocks))
    for names in zip(*blocks, strict=True):
        rows = torch.stack([_sampled(_weights(program, name).flatten()) for name in names])
        likeness += rows @ rows.T / rows.square().sum().clamp_min(1e-12)
    scale = likeness.diagonal().clamp_min(1e-12).sqrt()
    return _grouped(likeness / (scale[:, None] * scale), factor)


def _grouped(likeness: torch.Tensor, factor: int) -> Grouping:
    groups = _greedy(likeness, factor)
    coarse_of = [0] * len(likeness)
    for coarse, group in enumerate(sorted(groups, key=min)):
        for fine in group:
            coarse_of[fine] = coarse
    return Grouping(tuple(coarse_of))


def _weights(program: Program, name: str) -> torch.Tensor:
    tensor = program.tensors[name]
    if tensor.is_meta:
        raise MlgraphError(
            f"pairing='similarity' compares weights, and {name} has none here: choose 'adjacent' or 'halves'."
        )
    return tensor.detach().to(device="cpu", dtype=torch.float32)


def _sampled(flat: torch.Tensor) -> torch.Tensor:
    return flat[:: -(-len(flat) // _ENTRIES)] if len(flat) > _ENTRIES else flat


def _rows(program: Program, axis: Axis, tensor: str, position: int) -> list[torch.Tensor]:
    """One row of weights per index of the axis; only dims in which it is a plain factor."""
    dim = program.axes.tensor_dims[tensor][position]
    value = _weights(program, tensor)
    out = []
    sizes = [term.size for term in dim]
    for index, term in enumerate(dim):
        if isinstance(term, Leaf) and term.axis == axis.id:
            own = value.unflatten(position, sizes) if len(sizes) > 1 else value
            rows = own.movedim(position + index, 0).reshape(axis.size, -1)
            out.append(rows / rows.norm().clamp_min(1e-12))
    return out or [torch.zeros(axis.size, 1)]


def _greedy(likeness: torch.Tensor, factor: int) -> list[list[int]]:
    size = likeness.shape[0]
    free = torch.ones(size, dtype=torch.bool)
    order = likeness.fill_diagonal_(-torch.inf).max(1).values.argsort(descending=True)
    groups = []
    for seed in order.tolist():
        if not free[seed]:
            continue
        group = [seed]
        free[seed] = False
        total = likeness[seed].clone()
        for _ in range(factor - 1):
            best = int(total.masked_fill(~free, -torch.inf).argmax())
            group.append(best)
            free[best] = False
            total += likeness[best]
        groups.append(group)
    return groups
