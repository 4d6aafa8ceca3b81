"""Alignment: permutations of inner axes that match the neurons of one block, or of one program, to another's.

A network is the same whatever the order of its heads and neurons, and averages of unlike ones say little.
Weight matching (Ainsworth et al., "Git Re-Basin", arXiv 2209.04836, algorithm 1): axis by axis, a linear
assignment finds the permutation with the largest inner product of all weights on the axis, the others being
as they are found so far, until none improves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.rearrange import Moves, places, rearrange
from mlgraph.rewrite.similarity import weights

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis, AxisTable
    from mlgraph.program.block_table import Block, Chain
    from mlgraph.program.dims import Dims

_ROUNDS = 20
_GAIN = 1e-7


@dataclass(frozen=True)
class Pair:
    """A tensor, the one that is to be matched to it, and the dims of both in the axes of the first."""

    first: torch.Tensor
    second: torch.Tensor
    dims: Dims


def matched(pairs: Sequence[Pair], axes: Mapping[str, int]) -> Moves:
    """The permutations of ``axes`` (id to size) of the second tensors that match them to the first."""
    from scipy.optimize import linear_sum_assignment

    moves: dict[str, torch.Tensor] = {axis: torch.arange(size) for axis, size in axes.items()}
    touching = {axis: [p for p in pairs if _has(p.dims, axis)] for axis in axes}
    for _ in range(_ROUNDS):
        improved = False
        for axis, size in axes.items():
            others = {other: move for other, move in moves.items() if other != axis}
            gains = torch.zeros(size, size, dtype=torch.float64)
            for pair in touching[axis]:
                gains += _likeness(pair, axis, size, others)
            _, columns = linear_sum_assignment(gains.numpy(), maximize=True)
            found = torch.from_numpy(columns)
            rows = torch.arange(size)
            before, after = gains[rows, moves[axis]].sum(), gains[rows, found].sum()
            if after > before + _GAIN * gains.abs().max() * size:
                moves[axis], improved = found, True
        if not improved:
            break
    return moves


def _has(dims: Dims, axis: str) -> bool:
    return any(leaf.axis == axis for dim in dims for leaf in dim.leaves())


def _likeness(pair: Pair, axis: str, size: int, moves: Moves) -> torch.Tensor:
    """The inner product [size, size] of what every index has in the first and in the second tensor, over all
    dims on the axis, all of the tensor weighing 1."""
    second = rearrange(pair.second, pair.dims, moves)
    scale = (pair.first.norm() * second.norm()).clamp_min(1e-30)
    total = torch.zeros(size, size, dtype=torch.float64)
    for position, dim in enumerate(pair.dims):
        at = places(dim, axis)
        if at is not None:
            first = pair.first.index_select(position, at).movedim(position, 0).reshape(size, -1)
            rows = second.index_select(position, at).movedim(position, 0).reshape(size, -1)
            total += (first @ rows.T).double()
    return total.div_(scale)


def movable(table: AxisTable) -> list[Axis]:
    """The axes that may be permuted for a match: neurons, heads, experts; not what activations are summed
    over with one another, where the order of a head's dims often matters."""
    summed = {found.axis for found in table.sums if found.carrier is None}
    kinds = ("minor", "inexact")
    free = [axis for axis in table if axis.frozen is None and axis.size > 1 and axis.id not in summed]
    return [axis for axis in free if axis.kept is None or axis.kept.kind in kinds]


def moves_between(first: Program, second: Program) -> Moves:
    """The permutations of axes of the second program that match it to the first, of one architecture."""
    table = first.axes
    axes = {axis.id: axis.size for axis in sorted(movable(table), key=lambda axis: axis.kept is not None)}
    pairs = [
        Pair(weights(first, name), weights(second, name), table.tensor_dims[name])
        for name in first.tensors
        if name in first.tensors.parameters and _named(table.tensor_dims.get(name, ()), axes)
    ]
    return matched(pairs, axes)


def permuted(program: Program, moves: Moves) -> Program:
    """A program of the same function, whose axes are permuted."""
    dims = program.axes.tensor_dims
    changed = {name: rearrange(t.detach(), dims.get(name, ()), moves) for name, t in program.tensors.items()}
    return program.with_values(program.tensors.replace(changed))


def _named(dims: Dims, axes: Iterable[str]) -> bool:
    named = set(axes)
    return any(leaf.axis in named for dim in dims for leaf in dim.leaves())


def aligned(
    program: Program, groupings: Mapping[str, Grouping], layers: Mapping[str, Grouping]
) -> dict[str, Grouping]:
    """The groupings of axes with which blocks that are averaged are matched to the first of their group.

    A permutation is a grouping of single indices; where an axis is grouped besides, its blocks' axes go by
    the groups of the first's.
    """
    out = dict(groupings)
    chains = {chain.name: chain for chain in program.blocks}
    for name, grouping in layers.items():
        for group in grouping.kept:
            for other in group[1:]:
                out |= _align_block(program, chains[name], group[0], other, groupings)
    return out


def _align_block(
    program: Program, chain: Chain, first: int, second: int, groupings: Mapping[str, Grouping]
) -> dict[str, Grouping]:
    table, ours, theirs = program.axes, chain.blocks[first], chain.blocks[second]
    counterpart = _counterparts(table, ours, theirs)
    inner = _inner(table, ours)
    order_ = sorted(inner, key=lambda axis: axis.kept is not None)
    axes = {axis.id: axis.size for axis in order_ if axis.id in counterpart}
    pairs = [
        Pair(weights(program, a), weights(program, b), table.tensor_dims[a])
        for a, b in zip(ours.tensors, theirs.tensors, strict=True)
        if a in program.tensors.parameters and _named(table.tensor_dims.get(a, ()), axes)
    ]
    out = {}
    for axis, move in matched(pairs, axes).items():
        group = groupings.get(axis)
        if group is None and torch.equal(move, torch.arange(len(move))):
            continue
        out[counterpart[axis]] = _permuted(group or Grouping(tuple(range(len(move)))), move)
    return out


def _permuted(grouping: Grouping, move: torch.Tensor) -> Grouping:
    """The grouping of indices that lie elsewhere: new index i was ``move[i]``."""
    coarse_of, shares = [0] * grouping.fine, [0.0] * grouping.fine
    for new, old in enumerate(move.tolist()):
        coarse_of[old] = grouping.coarse_of[new]
        shares[old] = grouping.shares[new] if grouping.shares is not None else 0.0
    return Grouping(tuple(coarse_of), tuple(shares) if grouping.shares is not None else None, grouping.extend)


def _inner(table: AxisTable, block: Block) -> list[Axis]:
    """The axes that lie in one block alone."""
    own = set(block.tensors)
    return [axis for axis in movable(table) if axis.slots and {slot.tensor for slot in axis.slots} <= own]


def _counterparts(table: AxisTable, ours: Block, theirs: Block) -> dict[str, str]:
    """Per axis of a block, the one that lies where it does in another block."""
    found: dict[str, str] = {}
    for a, b in zip(ours.tensors, theirs.tensors, strict=True):
        dims = zip(table.tensor_dims.get(a, ()), table.tensor_dims.get(b, ()), strict=True)
        pairs = (pair for first, second in dims for pair in zip(first.leaves(), second.leaves(), strict=True))
        for one, other in pairs:
            if one.size == other.size and one.axis != other.axis:
                found.setdefault(one.axis, other.axis)
    return found
