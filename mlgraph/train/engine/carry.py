"""Optimizer state across a change of level, by the transfers that moved the weights.

The gradient with respect to a coarse weight is the adjoint of de-coalescing applied to that of the fine
one; back up it goes by the adjoint of coalescing. First moments move as gradients do, second moments by the
squares of those maps. Going up in width this gives the very gradient of the grown program, whose function
is the coarse one's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from mlgraph.program import Lineage, Program
from mlgraph.program.dims import Dim, Leaf
from mlgraph.rewrite.coarsen import group_members, narrowed, stack_down
from mlgraph.rewrite.depth.residual import residual_changes
from mlgraph.rewrite.depth.restack import restack
from mlgraph.rewrite.grouping import Grouping, Groupings, groupings_of, layers_of
from mlgraph.rewrite.plan import plan_down, plan_up
from mlgraph.rewrite.rearrange import Moves, rearrange
from mlgraph.rewrite.sharded import Layout, is_sharded, on_parts
from mlgraph.rewrite.transfer import TensorTransfer, ValueKind
from mlgraph.train.engine.optimizer_state import LazyState
from mlgraph.train.errors import TrainError
from mlgraph.train.optimizer import FIRST_MOMENTS, SECOND_MOMENTS, OptimizerState, States

StateMap = Callable[[States], States]


@dataclass(frozen=True)
class Counterpart:
    """What a fine tensor is to the coarse program.

    ``coarse``: the coarse tensor's name. ``transfer``: how its dims move. ``share``: what its block counts in
    the restriction of its group; ``rank``: which of the group's blocks that is, those that count first.
    ``scale``: by what it was multiplied in going up, where a residual branch ends in it. ``padded``: whether
    going up its block was made an identity.
    """

    coarse: str
    transfer: TensorTransfer | None
    share: float = 1.0
    rank: int = 0
    scale: float = 1.0
    padded: bool = False


def counterparts(program: Program, depth_mode: str = "copy") -> dict[str, Counterpart]:
    """Per tensor of the fine program its coarse counterpart; ``program`` was coarsened or grown."""
    lineage = program.lineage
    assert lineage is not None, "a program without lineage has no counterpart"
    return (_of_grown if lineage.direction == "up" else _of_coarsened)(lineage, depth_mode)


def _of_coarsened(lineage: Lineage, depth_mode: str) -> dict[str, Counterpart]:
    parent, layers = lineage.parent, layers_of(lineage)
    plan = plan_down(parent, groupings_of(lineage), str(lineage.options.get("tied", "exact")))
    narrow = narrowed(parent, plan)
    stacked = stack_down(narrow, layers)
    grouped = group_members(narrow, layers, stacked)
    changes = residual_changes(parent, layers, depth_mode, "fine").affine
    chains = {chain.name: chain for chain in parent.blocks} if changes else {}
    scales = {chains[c].blocks[b].tensors[at]: affine.scale for (c, b, at), affine in changes.items()}
    found = {}
    for coarse, source in stacked.sources.items():
        if coarse not in grouped:
            found[source.name] = Counterpart(coarse, plan.transfers.get(source.name))
            continue
        grouping = layers[str(source.chain)]
        for fine, block in zip(grouped[coarse], grouping.members[source.block], strict=True):
            place = _Place.of(grouping, block)
            found[fine] = Counterpart(
                coarse, plan.transfers.get(fine), place.share, place.rank, scales.get(fine, 1.0), place.padded
            )
    return found


@dataclass(frozen=True)
class _Place:
    """What a block is in its group."""

    share: float
    rank: int
    padded: bool

    @staticmethod
    def of(grouping: Grouping, block: int) -> _Place:
        coarse = grouping.coarse_of[block]
        kept = grouping.kept[coarse]
        others = tuple(other for other in grouping.members[coarse] if other not in kept)
        share = grouping.weights(restricts=True)[block]
        return _Place(share, (*kept, *others).index(block), grouping.extend == "pad" and not share)


def _of_grown(lineage: Lineage, depth_mode: str) -> dict[str, Counterpart]:
    parent, layers = lineage.parent, layers_of(lineage)
    plan = plan_up(parent, groupings_of(lineage), str(lineage.options.get("tied", "exact")))
    stacked = restack(parent, {chain: grouping.coarse_of for chain, grouping in layers.items()})
    changes = residual_changes(parent, layers, depth_mode, "coarse").affine
    found = {}
    for fine, source in stacked.sources.items():
        transfer = plan.transfers.get(source.name)
        if source.chain not in layers or source.position is None:
            found[fine] = Counterpart(source.name, transfer)
            continue
        at, affine = (
            _Place.of(layers[source.chain], source.block),
            changes.get((source.chain, source.block, source.position)),
        )
        scale = 1.0 if affine is None else affine.scale
        found[fine] = Counterpart(source.name, transfer, at.share, at.rank, scale, at.padded)
    return found


def new_parameters(program: Program) -> frozenset[str]:
    """Fine parameters that are copies of others: those of all blocks of a group but its first."""
    return frozenset(name for name, found in counterparts(program).items() if found.rank > 0)


def steps_between(before: Program, after: Program, operation: str) -> list[Program]:
    """The programs by whose lineage ``after`` was made of ``before``, in order, ``after`` the last.

    Raises:
        TrainError: it was not made of it, but is a program that ``before`` itself was made of.
    """
    chain = list(_ancestry(after))
    count = len(chain) - len(list(_ancestry(before)))
    if count < 0 or (count == 0 and _shapes(before) != _shapes(after)):
        raise TrainError(f"{operation} does not make a new level of {before.name}: use Refine to go back.")
    return chain[:count][::-1]


def _ancestry(program: Program) -> Iterator[Program]:
    while program.lineage is not None:
        yield program
        program = program.lineage.parent


def _shapes(program: Program) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in program.tensors.meta().items()}


def own_state_map(program: Program, mode: str) -> StateMap:
    """How optimizer state moves to ``program`` from the one that it was made of, down or up."""
    assert program.lineage is not None, "a program without lineage was made of none"
    lineage = program.lineage
    return state_map(program, lineage.direction, mode, str(lineage.options.get("depth_mode", "copy")))


def new_after(program: Program, new: frozenset[str]) -> frozenset[str]:
    """The parameters that are new in ``program``: copies made by its last step, and those of ``new`` ones."""
    found = counterparts(program)
    return frozenset(name for name, own in found.items() if own.rank > 0 or own.coarse in new)


def permuted_state(program: Program, moves: Moves, state: States) -> OptimizerState:
    """Optimizer state of a program whose axes are permuted by ``moves``."""
    dims = program.axes.tensor_dims
    return {
        name: {
            key: rearrange(value, dims.get(name, ()), moves)
            if value.dim() == len(dims.get(name, ()))
            else value
            for key, value in entries.items()
        }
        for name, entries in state.items()
    }


def state_map(
    program: Program, direction: Literal["down", "up"], mode: str, depth_mode: str = "copy"
) -> StateMap:
    """How optimizer state moves ``down`` to a coarse program, or ``up`` to a fine one.

    What is moved is made when it is asked for, parameter by parameter.

    ``program`` is the one whose lineage holds the transfers. ``mode``: ``reset`` drops all state, ``carry``
    moves it; ``asymmetric`` moves it, and going up zeroes it for every copy but the first: along axes
    within a tensor, and for blocks whole. ``depth_mode`` says how blocks were copied.
    """
    if mode == "reset":
        return lambda _: {}
    found = counterparts(program, depth_mode if direction == "up" else "copy")
    if direction == "down":
        return partial(_down, found)
    return partial(_up, found, depth_mode, mode == "asymmetric")


def _kind(key: str) -> ValueKind | None:
    if key in FIRST_MOMENTS:
        return "gradient"
    return "gradient_squared" if key in SECOND_MOMENTS else None


def _down(found: Mapping[str, Counterpart], state: States) -> States:
    members: dict[str, list[str]] = {}
    for name in state:
        if name in found and not found[name].padded:
            members.setdefault(found[name].coarse, []).append(name)
    return LazyState({coarse: partial(_summed, found, state, names) for coarse, names in members.items()})


def _summed(found: Mapping[str, Counterpart], state: States, names: Sequence[str]) -> dict[str, torch.Tensor]:
    into: dict[str, torch.Tensor] = {}
    for name in names:
        transfer = found[name].transfer
        for key, value in state[name].items():
            kind = _kind(key)
            if kind is None:
                into[key] = torch.maximum(into[key], value) if key in into else value.clone()
            else:
                part = value if transfer is None else transfer.down(value, kind)
                into[key] = into[key] + part if key in into else part.clone()
    return into


def _up(found: Mapping[str, Counterpart], depth_mode: str, first_only: bool, state: States) -> States:
    makers: dict[str, Callable[[], dict[str, torch.Tensor]]] = {}
    for name, counterpart in found.items():
        share = _share(counterpart, depth_mode)
        if counterpart.coarse not in state or share is None or (first_only and counterpart.rank > 0):
            continue
        makers[name] = partial(_spread, state, counterpart, share, first_only)
    return LazyState(makers)


def _spread(
    state: States, counterpart: Counterpart, share: float, first_only: bool
) -> dict[str, torch.Tensor]:
    return {
        key: _raised(value, _kind(key), counterpart.transfer, share, first_only)
        for key, value in state[counterpart.coarse].items()
    }


def _share(counterpart: Counterpart, depth_mode: str) -> float | None:
    """The part of a coarse gradient that falls to one copy of a block; none where nothing is known of it."""
    if depth_mode in ("identity", "random"):
        return 1.0 if counterpart.rank == 0 else None
    return counterpart.share / counterpart.scale if counterpart.share else None


def _raised(
    value: torch.Tensor,
    kind: ValueKind | None,
    transfer: TensorTransfer | None,
    share: float,
    first_only: bool,
) -> torch.Tensor:
    if kind is None:
        return value.clone()
    out = value if transfer is None else transfer.up(value, kind)
    out = out * (share if kind == "gradient" else share**2)
    return (
        only_first_copies(out, transfer) if first_only and transfer is not None and transfer.changes else out
    )


def only_first_copies(tensor: torch.Tensor, transfer: TensorTransfer) -> torch.Tensor:
    """A fine tensor where every index is the first of its group, and zero elsewhere."""
    for position, dim in enumerate(transfer.dims):
        column = torch.tensor(_first(dim, transfer.groupings))
        if is_sharded(tensor) and position == 0:
            column = column[slice(*Layout.of(tensor).extent(len(column)))]
        shape = [-1 if at == position else 1 for at in range(len(transfer.dims))]
        tensor = on_parts(partial(torch.mul, column.to(tensor.device).view(shape)), tensor)
    return tensor


def _first(dim: Dim, groupings: Groupings) -> list[bool]:
    out = [True]
    for term in dim:
        if not isinstance(term, Leaf):
            column = [value for part in term.parts for value in _first(part, groupings)]
        elif term.axis in groupings:
            grouping = groupings[term.axis]
            column = [grouping.members[coarse][0] == fine for fine, coarse in enumerate(grouping.coarse_of)]
        else:
            column = [True] * term.size
        out = [a and b for a in out for b in column]
    return out
