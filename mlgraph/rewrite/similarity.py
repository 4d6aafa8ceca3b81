"""Groups of like neurons: indices of an axis paired by their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from mlgraph.errors import MlgraphError
from mlgraph.program.dims import Leaf
from mlgraph.rewrite.grouping import Grouping

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis
    from mlgraph.program.dims import Dim

_FEATURES = 4096
_ENTRIES = 1 << 20


def similar(program: Program, axis: Axis, factor: int, samples: torch.Tensor | None = None) -> Grouping:
    """Groups of ``factor`` indices whose slots are most alike by cosine, chosen greedily from the likest
    pair on; or whose activations ``samples`` [size, features] are."""
    if samples is None:
        scaled = [rows / rows.norm().clamp_min(1e-12) for rows in weight_rows(program, axis)]
        features = torch.cat(scaled or [torch.zeros(axis.size, 1)], 1)
    else:
        features = samples.float()
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
        rows = torch.stack([_sampled(weights(program, name).flatten()) for name in names])
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


def weights(program: Program, name: str) -> torch.Tensor:
    """A tensor in float32 on the CPU.

    Raises:
        MlgraphError: it has no values here.
    """
    tensor = program.tensors[name]
    if tensor.is_meta:
        raise MlgraphError(
            f"pairing='similarity' and scores look at weights, and {name} has none here: choose pairing "
            "'adjacent' or 'halves', and score 'position'."
        )
    return tensor.detach().to(device="cpu", dtype=torch.float32)


def _sampled(flat: torch.Tensor) -> torch.Tensor:
    return flat[:: -(-len(flat) // _ENTRIES)] if len(flat) > _ENTRIES else flat


def rows_of(value: torch.Tensor, dim: Dim, axis: Axis, position: int) -> Iterator[torch.Tensor]:
    """A tensor as rows [size, features], one per index of an axis, for every time that it is a plain factor
    of the dim at ``position``."""
    sizes = [term.size for term in dim]
    for index, term in enumerate(dim):
        if isinstance(term, Leaf) and term.axis == axis.id:
            own = value.unflatten(position, sizes) if len(sizes) > 1 else value
            yield own.movedim(position + index, 0).reshape(axis.size, -1)


def weight_rows(program: Program, axis: Axis) -> Iterator[torch.Tensor]:
    """What every slot of an axis holds, as rows [size, features] in float32."""
    for tensor, position in dict.fromkeys((slot.tensor, slot.dim) for slot in axis.slots):
        dim = program.axes.tensor_dims[tensor][position]
        yield from rows_of(weights(program, tensor), dim, axis, position)


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
