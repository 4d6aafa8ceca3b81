"""Refining: the fine program of a coarse one, by lineage or by groupings that grow it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mlgraph.errors import MlgraphError
from mlgraph.program import Lineage, Program
from mlgraph.program.tensors import TensorRecipe
from mlgraph.rewrite.coarsen import apply_down, group_members, narrowed, realise, stack_down
from mlgraph.rewrite.depth.residual import Changes, CopyScaling, residual_changes
from mlgraph.rewrite.depth.restack import Restacked, restack
from mlgraph.rewrite.grouping import Grouping, groupings_of, layers_of, selections_of
from mlgraph.rewrite.notes import depth_notes, kept_constants, kept_unread
from mlgraph.rewrite.plan import WidthPlan, plan_down, plan_up
from mlgraph.rewrite.resize import rewrite
from mlgraph.rewrite.self_check import trial_notes
from mlgraph.rewrite.weight_norm import effective, with_lengths

if TYPE_CHECKING:
    from mlgraph.rewrite.transfer import TensorTransfer


@dataclass(frozen=True)
class Noise:
    """Random numbers on what is copied: normal, ``scale`` times the standard deviation of each tensor."""

    scale: float = 0.0
    seed: int = 0


_STILL = Noise()


def apply_up(
    program: Program,
    groupings: Mapping[str, Grouping],
    layers: Mapping[str, Grouping],
    tied: str,
    depth_mode: str,
    operation: str,
    noise: Noise = _STILL,
) -> Program:
    """The program grown by given groupings (new index to the index it copies) of axes and blocks."""
    plan = plan_up(program, groupings, tied)
    wide = _widened(program, plan)
    stacked = restack(wide, {chain: grouping.coarse_of for chain, grouping in layers.items()})
    changes = residual_changes(wide, layers, depth_mode, "coarse")
    recipes = grown_recipes(program, wide, plan, layers, stacked, changes, noise)
    lineage = Lineage(
        operation,
        program.skeleton(),
        {axis: grouping.coarse_of for axis, grouping in groupings.items()},
        {chain: grouping.coarse_of for chain, grouping in layers.items()},
        {"tied": tied, "depth_mode": depth_mode},
        "up",
        selections_of(groupings),
        selections_of(layers),
    )
    sizes = {axis: grouping.fine for axis, grouping in groupings.items()}
    notes = [
        *program.notes,
        *plan.approximate,
        *changes.approximate,
        *trial_notes(program, groupings),
        *depth_notes(program, layers, depth_mode),
        *kept_constants(program, sizes),
        *kept_unread(program, sizes),
    ]
    grown = stacked.program.replace(
        tensors=stacked.program.tensors.replace(realise(program, recipes, stacked.program.tensors)),
        lineage=lineage,
        notes=tuple(dict.fromkeys(notes)),
        history=(*program.history, operation),
    )
    return with_lengths(grown)


def grown_recipes(
    program: Program,
    wide: Program,
    plan: WidthPlan,
    layers: Mapping[str, Grouping],
    stacked: Restacked,
    changes: Changes,
    noise: Noise = _STILL,
) -> dict[str, TensorRecipe]:
    """How every tensor of the grown program is made: along ``plan``, and as copies of blocks change."""
    moved = effective(program)
    recipes: dict[str, TensorRecipe] = {}
    for name, source in stacked.sources.items():
        place = (source.chain, source.block, source.position)
        copy = _Copy(
            name,
            source.name,
            plan.transfers.get(source.name),
            changes.affine.get(place),  # type: ignore[arg-type]
            source.chain in layers,
        )
        recipes[name] = _up_recipe(moved, wide, copy, noise)
    return recipes


def _widened(program: Program, plan: WidthPlan) -> Program:
    if not plan.groupings:
        return program.skeleton()
    shapes = {}
    for name, tensor in program.tensors.meta().items():
        transfer = plan.transfers.get(name)
        shape = transfer.fine_shape() if transfer else tuple(tensor.shape)
        shapes[name] = torch.empty(shape, dtype=tensor.dtype, device="meta")
    sizes = {axis: grouping.fine for axis, grouping in plan.groupings.items()}
    return rewrite(program, sizes, program.tensors.skeleton().replace(shapes), plan.gains)


@dataclass(frozen=True)
class _Copy:
    """How one fine tensor is made of a coarse one; ``of_block``, of one whose block is copied."""

    name: str
    source: str
    transfer: TensorTransfer | None
    affine: CopyScaling | None
    of_block: bool


def _up_recipe(coarse: Program, wide: Program, copy: _Copy, noise: Noise) -> TensorRecipe:
    transfer, affine = copy.transfer, copy.affine
    changes = transfer is not None and transfer.changes

    def make() -> torch.Tensor:
        if copy.source not in coarse.tensors:
            return wide.tensors[copy.source].clone()
        tensor = coarse.tensors[copy.source]
        out = transfer.up(tensor) if transfer is not None and changes else tensor.detach().clone()
        if affine is not None and affine.fresh:
            return _drawn(out, copy.name, noise.seed).add_(out.mean())
        out = out if affine is None else out.mul_(affine.scale).add_(affine.shift)
        parameter = copy.source in coarse.tensors.parameters and out.is_floating_point()
        if noise.scale and parameter and (changes or copy.of_block):
            out += noise.scale * _drawn(out, copy.name, noise.seed)
        return out

    return TensorRecipe(make)


def _drawn(like: torch.Tensor, name: str, seed: int) -> torch.Tensor:
    """Normal random numbers of the standard deviation of a tensor, the same for one name and seed."""
    if like.is_meta:
        return torch.empty_like(like)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    drawn = torch.randn(like.shape, generator=generator).to(like)
    return drawn * like.float().std(correction=0).to(like)


def is_coarse(program: Program, fine: Program) -> bool:
    """Whether ``program`` was coarsened from one of the architecture of ``fine``."""
    lineage = program.lineage
    if lineage is None or lineage.direction == "up":
        return False
    parent = lineage.parent.tensors.meta()
    own = fine.tensors.meta()
    return parent.keys() == own.keys() and all(own[name].shape == parent[name].shape for name in own)


def smoothed(fine: Program, coarse: Program, depth_mode: str = "copy") -> Program:
    """P R ``fine``: what of it remains on the way down to the architecture of ``coarse`` and back up.

    ``coarse`` was coarsened from a program of the architecture of ``fine``; the groupings are those.
    """
    lineage = coarse.lineage
    assert lineage is not None, "a program without lineage was coarsened from none"
    groupings, layers = groupings_of(lineage), layers_of(lineage)
    tied = str(lineage.options.get("tied", "exact"))
    down = apply_down(fine, groupings, layers, tied, lineage.operation, lineage.options)
    return refine_by_lineage(down, depth_mode, "decoalesce")


def refine_by_lineage(program: Program, depth_mode: str, operation: str, noise: Noise = _STILL) -> Program:
    """The program in the architecture of the one that it was coarsened from.

    Raises:
        MlgraphError: it was not coarsened, or its blocks cannot be scaled as ``depth_mode`` asks.
    """
    lineage = program.lineage
    if lineage is None or lineage.direction == "up":
        raise MlgraphError(
            f"{program.name} was not coarsened from another program, so there is none to go back to: say "
            "by how much to "
            "grow with depth= and width=."
        )
    parent = lineage.parent
    groupings, layers = groupings_of(lineage), layers_of(lineage)
    plan = plan_down(parent, groupings, str(lineage.options.get("tied", "exact")))
    narrow = narrowed(parent, plan)
    stacked = stack_down(narrow, layers)
    coarse_of = {source.name: name for name, source in stacked.sources.items()}
    for name, members in group_members(narrow, layers, stacked).items():
        coarse_of.update(dict.fromkeys(members, name))
    for name in parent.tensors:
        if name not in coarse_of:
            coarse_of[name] = _kept_counterpart(parent, layers, coarse_of, name)
    found = residual_changes(parent, layers, depth_mode, "fine")
    chains = {chain.name: chain for chain in parent.blocks} if found.affine else {}
    changes = {
        chains[chain].blocks[block].tensors[position]: affine
        for (chain, block, position), affine in found.affine.items()
    }
    moved = effective(program)
    owned = {t for chain in parent.blocks if chain.name in layers for b in chain for t in b.tensors}
    copies = [
        _Copy(name, coarse_of[name], plan.transfers.get(name), changes.get(name), name in owned)
        for name in parent.tensors
    ]
    recipes = {copy.name: _up_recipe(moved, parent, copy, noise) for copy in copies}
    fine = parent.replace(
        tensors=parent.tensors.replace(realise(program, recipes, parent.tensors)),
        notes=tuple(dict.fromkeys([*parent.notes, *found.approximate])),
        origin=program.origin,
        history=(*program.history, operation),
    )
    return with_lengths(fine)


def _kept_counterpart(
    parent: Program, layers: Mapping[str, Grouping], coarse_of: Mapping[str, str], name: str
) -> str:
    """The coarse tensor for one that nothing reads, in a block of which another of its group was kept."""
    for chain in parent.blocks:
        block = chain.block_of(name)
        if block is None or chain.name not in layers:
            continue
        grouping = layers[chain.name]
        kept = chain.moved(name, grouping.kept[grouping.coarse_of[block]][0])
        if kept in coarse_of:
            return coarse_of[kept]
    raise MlgraphError(
        f"{name} was dropped with its block and has no counterpart to be copied from: remove it from the "
        "model, for nothing reads it."
    )
