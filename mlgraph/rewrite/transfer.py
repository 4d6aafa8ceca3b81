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
from mlgraph.rewrite.sharded import Layout, is_sharded, local_part, rows_of

ValueKind = Literal["weight", "gradient", "gradient_squared"]
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

    def down(self, tensor: torch.Tensor, kind: ValueKind = "weight") -> torch.Tensor:
        """The coarse tensor: per slot the mean (emits) or the sum (contracts) of each group."""
        return self._move(tensor, _down, kind)

    def up(self, tensor: torch.Tensor, kind: ValueKind = "weight") -> torch.Tensor:
        """The fine tensor: per slot copies (emits) or copies divided by the group size (contracts)."""
        return self._move(tensor, _up, kind)

    def _move(self, tensor: torch.Tensor, leaf: _LeafMap, kind: ValueKind) -> torch.Tensor:
        if not self.changes:
            return tensor
        if tensor.is_meta:
            shape = self.coarse_shape() if leaf is _down else self.fine_shape()
            return torch.empty(shape, dtype=tensor.dtype, device="meta")
        if is_sharded(tensor):
            return _move_sharded(self, tensor, leaf, kind)
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

    def row_map(self, kind: ValueKind, down: bool) -> RowMap:
        """What becomes of the first dim, index by index."""
        coarse = torch.arange(self.dims[0].new_size({a: g.coarse for a, g in self.groupings.items()}))
        weights = torch.ones(len(coarse), dtype=torch.float64)
        weigh = _weights_down if down else _weights_up

        def spread(values: torch.Tensor, leaf: _LeafMap) -> torch.Tensor:
            return _along(values, 0, self.dims[0], iter(self.roles[0]), self.groupings, leaf, kind, True)

        return RowMap(spread(coarse, _copies), spread(weights, weigh), len(coarse))


@dataclass(frozen=True)
class RowMap:
    """One dim of a transfer index by index: the coarse index of every fine one, and what that one counts.

    Going down a coarse row is the sum of its fine rows, each times its weight; going up a fine row is its
    coarse one times its weight. ``coarse`` is the number of coarse indices.
    """

    coarse_of: torch.Tensor
    weights: torch.Tensor
    coarse: int


_LeafMap = Callable[[torch.Tensor, int, Grouping, Role, ValueKind], torch.Tensor]


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
    kind: ValueKind,
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


def _divides(role: Role, kind: ValueKind, down: bool) -> bool:
    """Whether moving by this slot divides by the group size."""
    contracts = role == "contracts"
    if kind != "weight":
        contracts = not contracts
    return contracts != down


def _scale(tensor: torch.Tensor, at: int, grouping: Grouping, kind: ValueKind) -> torch.Tensor:
    """Divide a coarse tensor by the group sizes, in place."""
    power = 2 if kind == "gradient_squared" else 1
    uniform = grouping.uniform
    if uniform is not None:
        return tensor if uniform == 1 else tensor.div_(uniform**power)
    sizes = torch.tensor(grouping.group_sizes, dtype=tensor.dtype, device=tensor.device)
    shape = [1] * tensor.dim()
    shape[at] = -1
    return tensor.div_(sizes.view(shape) ** power)


def _down(tensor: torch.Tensor, at: int, grouping: Grouping, role: Role, kind: ValueKind) -> torch.Tensor:
    restricts = _divides(role, kind, down=True)
    if not grouping.is_plain:
        return _weighed_sum(tensor, at, grouping, restricts, kind)
    out = _segment_sum(tensor, at, grouping)
    return _scale(out, at, grouping, kind) if restricts else out


def _up(tensor: torch.Tensor, at: int, grouping: Grouping, role: Role, kind: ValueKind) -> torch.Tensor:
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
    tensor: torch.Tensor, at: int, grouping: Grouping, restricts: bool, kind: ValueKind
) -> torch.Tensor:
    """Sum every group, each member times what it counts in R, or what P gives it."""
    weights = grouping.weights(restricts)
    if set(weights) == {1.0}:
        return _segment_sum(tensor, at, grouping)
    if grouping.selected is not None:
        return tensor.index_select(at, torch.tensor(grouping.selected, device=tensor.device))
    return _segment_sum(_weighed(tensor.clone(), at, weights, kind), at, grouping)


def _weighed(tensor: torch.Tensor, at: int, weights: Sequence[float], kind: ValueKind) -> torch.Tensor:
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


def _copies(tensor: torch.Tensor, at: int, grouping: Grouping, _role: Role, _kind: ValueKind) -> torch.Tensor:
    return tensor.index_select(at, torch.tensor(grouping.coarse_of))


def _weights_down(
    tensor: torch.Tensor, at: int, grouping: Grouping, role: Role, kind: ValueKind
) -> torch.Tensor:
    copies = _copies(tensor, at, grouping, role, kind)
    return _weighed(copies, at, grouping.weights(_divides(role, kind, down=True)), kind)


def _weights_up(
    tensor: torch.Tensor, at: int, grouping: Grouping, role: Role, kind: ValueKind
) -> torch.Tensor:
    copies = _copies(tensor, at, grouping, role, kind)
    return _weighed(copies, at, grouping.weights(_divides(role, kind, down=False)), kind)


def _move_sharded(
    transfer: TensorTransfer, tensor: torch.Tensor, leaf: _LeafMap, kind: ValueKind
) -> torch.Tensor:
    """Move a tensor whose rows lie in several processes: what rows become first, then the other dims."""
    down = leaf is _down
    layout, dtype = Layout.of(tensor), tensor.dtype
    wide = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
    shape = transfer.coarse_shape() if down else transfer.fine_shape()
    start, stop = layout.extent(shape[0])
    with torch.no_grad():
        if not _touched(transfer.dims[0], transfer.groupings):
            part = local_part(tensor).to(wide)
        elif down:
            part = _rows_down(tensor, transfer.row_map(kind, down), start, stop, wide)
        else:
            part = _rows_up(tensor, transfer.row_map(kind, down), start, stop, wide)
        if stop == start:
            return layout.wrap(part.new_empty(0, *shape[1:], dtype=dtype), shape)
        for position, (dim, roles) in enumerate(zip(transfer.dims, transfer.roles, strict=True)):
            if position and _touched(dim, transfer.groupings):
                part = _along(part, position, dim, iter(roles), transfer.groupings, leaf, kind, not down)
        part = part.to(dtype)
        return layout.wrap(part if part.data_ptr() != local_part(tensor).data_ptr() else part.clone(), shape)


def _rows_down(tensor: torch.Tensor, rows: RowMap, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
    """Coarse rows ``start`` to ``stop``."""
    wanted = (rows.coarse_of >= start) & (rows.coarse_of < stop) & (rows.weights != 0)
    index = wanted.nonzero().flatten()
    fine = rows_of(tensor, index).to(dtype)
    if not len(index):
        return fine
    grouping = Grouping(tuple((rows.coarse_of[index] - start).tolist()))
    first = torch.tensor([group[0] for group in grouping.members])
    weights = rows.weights[index]
    own = weights[first]
    if torch.equal(own[torch.tensor(grouping.coarse_of)], weights):
        return _times(_segment_sum(fine, 0, grouping), own)
    return _segment_sum(_times(fine, weights), 0, grouping)


def _rows_up(tensor: torch.Tensor, rows: RowMap, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
    """Fine rows ``start`` to ``stop``."""
    index, copies = rows.coarse_of[start:stop].unique(return_inverse=True)
    coarse = rows_of(tensor, index).to(dtype)
    return _times(coarse.index_select(0, copies.to(coarse.device)), rows.weights[start:stop])


def _times(tensor: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Every row times its weight, in place; a weight that is one over a whole number divides by that."""
    shape = [-1] + [1] * (tensor.dim() - 1)
    if not len(weights) or bool((weights == 1).all()):
        return tensor
    zero = weights == 0
    over = torch.where(zero, 1.0, weights).reciprocal()
    whole = over.round()
    if bool(((over - whole).abs() < 1e-9 * over).all()):
        tensor.div_(whole.to(tensor).view(shape))
    else:
        tensor.mul_(weights.to(tensor).view(shape))
    return tensor.masked_fill_(zero.to(tensor.device).view(shape), 0) if bool(zero.any()) else tensor
