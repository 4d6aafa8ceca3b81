"""Restriction and prolongation of tensors along axes.

A grouping says which coarse index every fine index belongs to. Its restriction R takes means of groups, its
prolongation P copies (arXiv 2404.07999, matrices F, R and T, G), or R selects a member of each group and P
copies it or pads it with zeros; R P = I always. A linear map W becomes R W P, and back P W R: a slot that
emits goes down by R and up by P, one that contracts goes down by P, transposed, and up by R. Gradients move
by the adjoint maps, which swap the two roles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mlgraph.program.axis_table import Role
from mlgraph.program.dims import Dim, Join, Leaf
from mlgraph.rewrite.grouping import Grouping, Groupings

Kind = Literal["weight", "gradient", "gradient_squared"]
Roles = Sequence[Role]


@dataclass(frozen=True)
class TensorTransfer:
    """How one tensor moves between a fine and a coarse program.

    ``dims`` are the fine tensor's dims in axes; ``roles`` has, per dim, the role of every leaf in order.
    """

    dims: tuple[Dim, ...]
    roles: tuple[Roles, ...]
    groupings: Groupings

    @property
    def changes(self) -> bool:
        return any(_touched(dim, self.groupings) for dim in self.dims)

    def coarse_shape(self) -> tuple[int, ...]:
        sizes = {axis: grouping.coarse for axis, grouping in self.groupings.items()}
        return tuple(dim.new_size(sizes) for dim in self.dims)

    def fine_shape(self) -> tuple[int, ...]:
        return tuple(dim.size for dim in self.dims)

    def down(self, tensor: torch.Tensor, kind: Kind = "weight") -> torch.Tensor:
        """The coarse tensor: per slot the mean (emits) or the sum (contracts) of each group."""
        return self._move(tensor, _down, kind)

    def up(self, tensor: torch.Tensor, kind: Kind = "weight") -> torch.Tensor:
        """The fine tensor: per slot copies (emits) or copies divided by the group size (contracts)."""
        return self._move(tensor, _up, kind)

    def _move(self, tensor: torch.Tensor, leaf: _LeafMap, kind: Kind) -> torch.Tensor:
        if not self.changes:
            return tensor
        if tensor.is_meta:
            shape = self.coarse_shape() if leaf is _down else self.fine_shape()
            return torch.empty(shape, dtype=tensor.dtype, device="meta")
        dtype = tensor.dtype
        wide = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
        coarse = leaf is _up
        with torch.no_grad():
            out = tensor.detach().to(wide)
            for position, (dim, roles) in enumerate(zip(self.dims, self.roles, strict=True)):
                if _touched(dim, self.groupings):
                    out = _along(out, position, dim, iter(roles), self.groupings, leaf, kind, coarse)
            out = out.to(dtype)
            return out.contiguous() if out.data_ptr() != tensor.data_ptr() else out.clone()


_LeafMap = Callable[[torch.Tensor, int, Grouping, Role, Kind], torch.Tensor]


def _touched(part: Dim | Join, groupings: Groupings) -> bool:
    return any(leaf.axis in groupings for leaf in part.leaves())


def _term_size(term: Leaf | Join, groupings: Groupings, coarse: bool) -> int:
    if isinstance(term, Leaf):
        return groupings[term.axis].coarse if coarse and term.axis in groupings else term.size
    return sum(math.prod(_term_size(t, groupings, coarse) for t in part) for part in term.parts)


def _along(
    tensor: torch.Tensor,
    position: int,
    dim: Dim,
    roles: Iterator[Role],
    groupings: Groupings,
    leaf: _LeafMap,
    kind: Kind,
    coarse: bool,
) -> torch.Tensor:
    """Apply ``leaf`` to every grouped axis within one dim of the tensor."""
    sizes = [_term_size(term, groupings, coarse) for term in dim]
    if len(dim) > 1:
        tensor = tensor.unflatten(position, sizes)
    for index, term in enumerate(dim):
        at = position + index
        if isinstance(term, Leaf):
            role = next(roles)
            if term.axis in groupings:
                tensor = leaf(tensor, at, groupings[term.axis], role, kind)
        elif _touched(term, groupings):
            cuts = [math.prod(_term_size(t, groupings, coarse) for t in part) for part in term.parts]
            pieces = []
            for piece, part in zip(tensor.split(cuts, at), term.parts, strict=True):
                pieces.append(
                    _along(piece, at, part, roles, groupings, leaf, kind, coarse) if part else piece
                )
            tensor = torch.cat(pieces, at)
        else:
            for _ in term.leaves():
                next(roles)
    return tensor.flatten(position, position + len(dim) - 1) if len(dim) > 1 else tensor


def _divides(role: Role, kind: Kind, down: bool) -> bool:
    """Whether moving by this slot divides by the group size."""
    contracts = role == "contracts"
    if kind != "weight":
        contracts = not contracts
    return contracts != down


def _scale(tensor: torch.Tensor, at: int, grouping: Grouping, kind: Kind) -> torch.Tensor:
    """Divide a coarse tensor by the group sizes, in place."""
    power = 2 if kind == "gradient_squared" else 1
    uniform = grouping.uniform
    if uniform is not None:
        return tensor if uniform == 1 else tensor.div_(uniform**power)
    sizes = torch.tensor(grouping.group_sizes, dtype=tensor.dtype, device=tensor.device)
    shape = [1] * tensor.dim()
    shape[at] = -1
    return tensor.div_(sizes.view(shape) ** power)


def _down(tensor: torch.Tensor, at: int, grouping: Grouping, role: Role, kind: Kind) -> torch.Tensor:
    restricts = _divides(role, kind, down=True)
    if not grouping.is_plain:
        return _weighed_sum(tensor, at, grouping, restricts, kind)
    out = _segment_sum(tensor, at, grouping)
    return _scale(out, at, grouping, kind) if restricts else out


def _up(tensor: torch.Tensor, at: int, grouping: Grouping, role: Role, kind: Kind) -> torch.Tensor:
    restricts = _divides(role, kind, down=False)
    if not grouping.is_plain and set(weights := grouping.weights(restricts)) != {1.0}:
        out = tensor.index_select(at, torch.tensor(grouping.coarse_of, device=tensor.device))
        return _weighed(out, at, weights, kind)
    if restricts:
        tensor = _scale(tensor.clone(), at, grouping, kind)
    factor = grouping.uniform
    if factor is not None and grouping.coarse_of == Grouping.adjacent(grouping.fine, factor).coarse_of:
        at %= tensor.dim()
        shape = [*tensor.shape[: at + 1], factor, *tensor.shape[at + 1 :]]
        return tensor.unsqueeze(at + 1).expand(shape).flatten(at, at + 1)
    if factor is not None and grouping.coarse_of == Grouping.halves(grouping.fine, factor).coarse_of:
        return torch.cat([tensor] * factor, at)
    return tensor.index_select(at, torch.tensor(grouping.coarse_of, device=tensor.device))


def _weighed_sum(
    tensor: torch.Tensor, at: int, grouping: Grouping, restricts: bool, kind: Kind
) -> torch.Tensor:
    """Sum every group, each member times what it counts in R, or what P gives it."""
    weights = grouping.weights(restricts)
    if set(weights) == {1.0}:
        return _segment_sum(tensor, at, grouping)
    if grouping.selected is not None:
        return tensor.index_select(at, torch.tensor(grouping.selected, device=tensor.device))
    return _segment_sum(_weighed(tensor.clone(), at, weights, kind), at, grouping)


def _weighed(tensor: torch.Tensor, at: int, weights: Sequence[float], kind: Kind) -> torch.Tensor:
    """Multiply every index, in place; where that is by 0 nothing of it is left, be it infinite."""
    shape = [1] * tensor.dim()
    shape[at] = -1
    factors = torch.tensor(weights, dtype=tensor.dtype, device=tensor.device).view(shape)
    factors = factors.square() if kind == "gradient_squared" else factors
    return tensor.mul_(factors).masked_fill_(factors == 0, 0)


def _segment_sum(tensor: torch.Tensor, at: int, grouping: Grouping) -> torch.Tensor:
    """Sum every group by a balanced tree, so that equal members sum exactly where their number is a power
    of two."""
    factor = grouping.uniform
    if factor is None:
        widest = max(grouping.group_sizes)
        padded = [group + group[:1] * (widest - len(group)) for group in grouping.members]
        columns = [torch.tensor(column, device=tensor.device) for column in zip(*padded, strict=True)]
        terms = []
        for rank, column in enumerate(columns):
            term = tensor.index_select(at, column)
            absent = torch.tensor([rank >= size for size in grouping.group_sizes], device=tensor.device)
            if rank:
                shape = [1] * tensor.dim()
                shape[at] = -1
                term = term.masked_fill(absent.view(shape), 0)
            terms.append(term)
        return _tree(terms)
    if factor == 1 and grouping.coarse_of == tuple(range(grouping.fine)):
        return tensor.clone()
    if grouping.coarse_of == Grouping.adjacent(grouping.fine, factor).coarse_of:
        split = tensor.unflatten(at, (grouping.coarse, factor))
        return _tree([split.select(at + 1, i) for i in range(factor)])
    if grouping.coarse_of == Grouping.halves(grouping.fine, factor).coarse_of:
        return _tree(list(tensor.chunk(factor, at)))
    columns = [torch.tensor(column, device=tensor.device) for column in zip(*grouping.members, strict=True)]
    return _tree([tensor.index_select(at, column) for column in columns])


def _tree(terms: list[torch.Tensor]) -> torch.Tensor:
    if len(terms) == 1:
        return terms[0].clone()
    while len(terms) > 1:
        terms = _pairs(terms)
    return terms[0]


def _pairs(terms: list[torch.Tensor]) -> list[torch.Tensor]:
    out = [terms[i] + terms[i + 1] for i in range(0, len(terms) - 1, 2)]
    return out + terms[len(terms) - len(terms) % 2 :]
