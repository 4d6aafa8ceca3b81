"""Axes that cannot be coarsened alone: counterparts in repeated blocks, and parts of what a mean is over."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mlgraph.program.axis_table import Axis, Reason
from mlgraph.program.dims import Dim

Means = Sequence[tuple[str, Dim]]


def keep_alike(
    axes: Sequence[Axis],
    tensor_dims: Mapping[str, tuple[Dim, ...]],
    columns: Iterable[Sequence[str]],
    means: Means = (),
) -> list[Axis]:
    """The axes, with those kept that cannot be coarsened without others that are frozen or kept.

    ``columns`` list, per position in the blocks of a chain, its tensor in each block: blocks that were
    coarsened each in its own way would be no chain any more. ``means`` list what nodes average over: where
    only a part of it shrank, that part would weigh less.
    """
    known = {axis.id: axis for axis in axes}
    counterparts = [ids for column in columns for ids in _counterparts(column, tensor_dims)]
    mixed = [(node, dim) for node, dim in means if len(list(dim.leaves())) > 1]
    settled = False
    while not settled:
        held = {**dict(_without_counterpart(counterparts, known)), **dict(_in_part_of_a_mean(mixed, known))}
        settled = not held
        for name, reason in held.items():
            known[name] = dataclasses.replace(known[name], kept=reason)
    return [known[axis.id] for axis in axes]


NamedReasons = Iterator[tuple[str, Reason]]


def _without_counterpart(counterparts: Sequence[Sequence[str]], known: Mapping[str, Axis]) -> NamedReasons:
    for ids in counterparts:
        found = [known[name] for name in ids if name in known]
        stays = next((axis for axis in found if not axis.coarsenable_by_default), None)
        if stays is None:
            continue
        for axis in found:
            if axis.coarsenable_by_default:
                reason = f"its counterpart {stays.id} in another block cannot be coarsened with it"
                yield axis.id, Reason("alike", reason, stays.where)


def _in_part_of_a_mean(means: Means, known: Mapping[str, Axis]) -> NamedReasons:
    """Free axes of which the rest of what a mean is taken over is not coarsened by the same factor."""
    halves = {name: frozenset({2}) for name, axis in known.items() if axis.coarsenable_by_default}
    for node, dim in means:
        if len(dim.multiplicities(halves)) > 1:
            reason = Reason("mean", "a mean is taken over it and over others that keep their size", node)
            yield from ((leaf.axis, reason) for leaf in dim.leaves() if leaf.axis in halves)


def _counterparts(
    column: Sequence[str], tensor_dims: Mapping[str, tuple[Dim, ...]]
) -> Iterator[tuple[str, ...]]:
    """The axes, more than one, at one place in the dims of a column's tensors."""
    dims = [tensor_dims[name] for name in column if name in tensor_dims]
    for same_dim in zip(*dims, strict=False):
        for place in zip(*(dim.leaves() for dim in same_dim), strict=False):
            ids = tuple(dict.fromkeys(leaf.axis for leaf in place))
            if len(ids) > 1:
                yield ids
