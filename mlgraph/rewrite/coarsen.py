"""Coarsening: the coarse program of given groupings of axes and of blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mlgraph.errors import AxisError
from mlgraph.graph.constants import constants
from mlgraph.program import Lineage, Note, Program
from mlgraph.program.tensors import InMemory, Recipes, TensorRecipe, TensorSource
from mlgraph.rewrite.chunks import down_chunks
from mlgraph.rewrite.depth.restack import Restacked, restack
from mlgraph.rewrite.grouping import selections_of
from mlgraph.rewrite.notes import depth_notes, differing_rates, kept_constants, kept_unread, not_finite
from mlgraph.rewrite.plan import WidthPlan, plan_down
from mlgraph.rewrite.resize import rewrite
from mlgraph.rewrite.self_check import trial_notes
from mlgraph.rewrite.sharded import all_finite
from mlgraph.rewrite.weight_norm import effective, with_lengths

if TYPE_CHECKING:
    from mlgraph.rewrite.grouping import Grouping


def apply_down(
    program: Program,
    groupings: Mapping[str, Grouping],
    layers: Mapping[str, Grouping],
    tied: str,
    operation: str,
    options: Mapping[str, Any],
) -> Program:
    """The coarse program of given groupings of axes and blocks."""
    plan = plan_down(program, groupings, tied)
    narrow = narrowed(program, plan)
    _check_still_alike(program, narrow, layers)
    stacked = stack_down(narrow, layers)
    members = group_members(narrow, layers, stacked, counting=True)
    fixed = constants(program) if layers else frozenset()
    recipes = coarse_recipes(program, narrow, plan, layers, stacked)
    tensors = stacked.program.tensors.replace(realise(program, recipes, stacked.program.tensors))
    # a mean is trained where one of its terms is
    trained = {n for n, group in members.items() if not program.tensors.frozen.issuperset(group)}
    tensors = dataclasses.replace(tensors, frozen=tensors.frozen - trained)
    sizes = {axis: grouping.coarse for axis, grouping in groupings.items()}
    notes = [
        *program.notes,
        *plan.approximate,
        *trial_notes(program, groupings),
        *depth_notes(program, layers),
        *kept_constants(program, sizes),
        *kept_unread(program, sizes),
        *_selected(program, layers, fixed),
        *differing_rates(program, layers),
        *not_finite(program, [group for group in members.values() if group[0] not in fixed]),
        # a chain does not leave out a layer like its own without a word
        *(Note("kept", line) for line in (program.blocks.rejected if layers else ())),
    ]
    lineage = Lineage(
        operation,
        program.skeleton(),
        {axis: grouping.coarse_of for axis, grouping in groupings.items()},
        {chain: grouping.coarse_of for chain, grouping in layers.items()},
        dict(options),
        selections=selections_of(groupings),
        layer_selections=selections_of(layers),
    )
    coarse = stacked.program.replace(
        tensors=tensors,
        lineage=lineage,
        notes=tuple(dict.fromkeys(notes)),
        history=(*program.history, operation),
    )
    return with_lengths(coarse)


def _selected(program: Program, layers: Mapping[str, Grouping], fixed: Collection[str]) -> Iterator[Note]:
    """A note for every constant of which some group of blocks has several values."""
    for chain in program.blocks if layers else ():
        for column in chain.columns() if chain.name in layers else ():
            if column[0] not in fixed:
                continue
            digests = [program.tensors.digest(name) for name in column]
            if any(len({digests[block] for block in group}) > 1 for group in layers[chain.name].kept):
                text = f"{column[0]} to {column[-1]} differ and are not averaged: each group has its first"
                yield Note("approximate", text, column[0])


def _check_still_alike(program: Program, narrow: Program, layers: Mapping[str, Grouping]) -> None:
    if not layers:
        return
    left = {chain.name: len(chain) for chain in narrow.blocks}
    for chain in program.blocks:
        if chain.name in layers and left.get(chain.name) != len(chain):
            raise AxisError(
                f"the blocks of {chain.name} are not alike at the widths chosen, so depth cannot change with "
                "them: give an axis the same factor in all blocks, by its name instead of one block's id."
            )


def narrowed(program: Program, plan: WidthPlan) -> Program:
    """The program at its coarse widths, its tensors on the meta device."""
    if not plan.groupings:
        return program.skeleton()
    shapes = {}
    for name, tensor in program.tensors.meta().items():
        transfer = plan.transfers.get(name)
        shape = transfer.coarse_shape() if transfer else tuple(tensor.shape)
        shapes[name] = torch.empty(shape, dtype=tensor.dtype, device="meta")
    sizes = {axis: grouping.coarse for axis, grouping in plan.groupings.items()}
    return rewrite(program, sizes, program.tensors.skeleton().replace(shapes), plan.gains)


def coarse_recipes(
    program: Program,
    narrow: Program,
    plan: WidthPlan,
    layers: Mapping[str, Grouping],
    stacked: Restacked,
) -> dict[str, TensorRecipe]:
    """How every tensor of the coarse program is made: along ``plan``, and of its group's blocks."""
    members = group_members(narrow, layers, stacked, counting=True)
    fixed = constants(program) if layers else frozenset()
    moved = effective(program)
    recipes = {}
    for name in stacked.program.tensors:
        group = members.get(name, (stacked.sources[name].name,))
        made = _Coarse(moved, narrow, plan, group[:1] if group[0] in fixed else group)
        recipes[name] = TensorRecipe(made.whole, made.chunks)
    return recipes


def stack_down(program: Program, layers: Mapping[str, Grouping], shapes: bool = True) -> Restacked:
    """The program with one block of every group, the first that counts."""
    kept = {chain: tuple(group[0] for group in g.kept) for chain, g in layers.items()}
    return restack(program, kept, shapes)


def group_members(
    program: Program, layers: Mapping[str, Grouping], stacked: Restacked, counting: bool = False
) -> dict[str, tuple[str, ...]]:
    """Per tensor of the restacked program that a block owns, the tensors of its group's blocks.

    ``counting`` leaves out the blocks that the restriction leaves out.
    """
    chains = {chain.name: chain for chain in program.blocks} if layers else {}
    out = {}
    for name, source in stacked.sources.items():
        if source.chain is not None and source.chain in layers and source.position is not None:
            grouping = layers[source.chain]
            group = (grouping.kept if counting else grouping.members)[source.block]
            blocks = chains[source.chain].blocks
            out[name] = tuple(blocks[b].tensors[source.position] for b in group)
    return out


@dataclass(frozen=True)
class _Coarse:
    """A coarse tensor: the mean over its group of blocks of coarse tensors."""

    program: Program
    narrow: Program
    plan: WidthPlan
    sources: tuple[str, ...]

    def whole(self) -> torch.Tensor:
        return _mean([self._one(name) for name in self.sources])

    def chunks(self) -> Iterator[torch.Tensor] | None:
        """The same as row chunks, where the program's tensors can be read so."""
        transfers = self.plan.transfers
        parts = [down_chunks(self.program.tensors.source, name, transfers.get(name)) for name in self.sources]
        if any(part is None for part in parts):
            return None
        return (_mean(list(terms)) for terms in zip(*parts, strict=True))  # type: ignore[arg-type]

    def _one(self, name: str) -> torch.Tensor:
        if name not in self.program.tensors:
            return self.narrow.tensors[name].clone()
        tensor = self.program.tensors[name]
        transfer = self.plan.transfers.get(name)
        return transfer.down(tensor) if transfer is not None and transfer.changes else tensor.detach().clone()


def _mean(given: list[torch.Tensor]) -> torch.Tensor:
    """The mean, by a balanced tree of sums in at least fp32.

    Of what is no floating-point or complex number, and where a value is infinite or NaN (a mask), the first.
    """
    if len(given) == 1 or not (given[0].is_floating_point() or given[0].is_complex()):
        return given[0]
    dtype = given[0].dtype
    narrow = torch.complex64 if dtype.is_complex else torch.float32
    wide = narrow if dtype.itemsize < narrow.itemsize else dtype
    terms = [tensor.to(wide) for tensor in given]
    while len(terms) > 1:
        paired = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = paired + terms[len(terms) - len(terms) % 2 :]
    mean = (terms[0] / len(given)).to(dtype)
    return mean if mean.is_meta or all_finite(mean) else given[0]


def realise(
    program: Program, recipes: Mapping[str, TensorRecipe], like: Mapping[str, torch.Tensor]
) -> TensorSource:
    """The tensors now, or when read if the program they come from reads its own lazily.

    ``like`` gives tensors of the same shapes and dtypes.
    """
    lazy = Recipes(recipes, like)
    return InMemory(lazy) if program.tensors.in_memory else lazy
