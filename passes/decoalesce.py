"""De-coalescing: back to the parent's architecture, or growth without a parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from mlgraph.blocks.find import Chain
from mlgraph.errors import MlgraphError
from mlgraph.passes.base import Pass
from mlgraph.passes.coalesce import group_members, narrowed, realise, stack_down
from mlgraph.program import Lineage, Program
from mlgraph.rewrite.depth.residual import DEPTH_MODES, Affine, residual_changes
from mlgraph.rewrite.depth.restack import restack
from mlgraph.rewrite.notes import kept_constants, kept_unread
from mlgraph.rewrite.plan import WidthPlan, choose, fine_grouping, plan_down, plan_up
from mlgraph.rewrite.resize import rewrite
from mlgraph.rewrite.transfer import Grouping, Placement, TensorTransfer

Axes = Mapping[str, Any]


@dataclass(frozen=True)
class Decoalesce(Pass):
    """The fine program of a coarse one (arXiv 2404.07999, the de-coalescing operator: T and G).

    With no sizes given it goes back up to the parent's architecture, by lineage. With ``depth``, ``width``
    or ``axes`` it grows: every index of an axis gets that many copies, every block that many.
    ``depth_mode`` is ``copy`` (the paper), ``scaled`` (residual branches of copies divided by their number)
    or ``identity`` (those of extra copies end in zeros, so that the function is kept). ``pairing`` says
    where the copies of an index or block go: ``adjacent`` (2i, 2i+1) or ``halves`` (i, i+n).
    """

    depth_mode: str = "copy"
    depth: int | None = None
    width: int | None = None
    axes: dict[str, Any] = field(default_factory=dict)
    pairing: Placement = "adjacent"
    tied: str = "exact"

    def __call__(self, program: Program) -> Program:
        if self.depth_mode not in DEPTH_MODES:
            raise MlgraphError(f"depth_mode={self.depth_mode!r} is not known: use {', '.join(DEPTH_MODES)}.")
        if self.depth is None and self.width is None and not self.axes:
            return _by_lineage(program, self.depth_mode, str(self))
        depth, width = (1 if factor is None else factor for factor in (self.depth, self.width))
        return self._grow(program, depth, width)

    def _grow(self, program: Program, depth: int, width: int) -> Program:
        chains = {chain.name: chain for chain in program.blocks} if depth != 1 or self.axes else {}
        if depth != 1 and not chains:
            raise MlgraphError(
                "depth cannot grow: the graph has no chain of repeated blocks; leave depth out, width "
                "still works."
            )
        layers = {}
        for name, chain in chains.items():
            request = self.axes.get(name, depth)
            if request != 1:
                layers[name] = _grown_layers(chain, request, self.pairing)
        groupings = choose(
            program,
            width,
            {name: request for name, request in self.axes.items() if name not in chains},
            (),
            fine_grouping(self.pairing),
        )
        return apply_up(program, groupings, layers, self.tied, self.depth_mode, str(self))


def decoalesce(
    program: Program,
    depth_mode: str = "copy",
    depth: int | None = None,
    width: int | None = None,
    axes: Axes | None = None,
    pairing: str = "adjacent",
    tied: str = "exact",
) -> Program:
    """The fine program of a coarse one; see :class:`Decoalesce`.

    Raises:
        MlgraphError: there is no parent to go back to, or blocks cannot be scaled as ``depth_mode`` asks.
    """
    return Decoalesce(depth_mode, depth, width, dict(axes or {}), cast(Placement, pairing), tied)(program)


def _grown_layers(chain: Chain, request: Any, pairing: Placement) -> Grouping:
    count = len(chain)
    if isinstance(request, int):
        if request < 1:
            raise MlgraphError(
                f"the layer axis {chain.name} cannot grow by {request}: choose a factor of at least 1."
            )
        return Grouping.placed(pairing, count * request, request)
    made = Grouping(tuple(request))
    if set(made.coarse_of) != set(range(count)):
        raise MlgraphError(
            f"the grouping of the layer axis {chain.name} must copy each of its {count} blocks at least "
            "once: "
            "list the block that every new one copies."
        )
    return made


def apply_up(
    program: Program,
    groupings: Mapping[str, Grouping],
    layers: Mapping[str, Grouping],
    tied: str,
    depth_mode: str,
    operation: str,
) -> Program:
    """The program grown by given groupings (new index to the index it copies) of axes and blocks."""
    plan = plan_up(program, groupings, tied)
    wide = _widened(program, plan)
    stacked = restack(wide, {chain: grouping.coarse_of for chain, grouping in layers.items()})
    changes = residual_changes(wide, layers, depth_mode, "coarse")
    recipes: dict[str, Callable[[], torch.Tensor]] = {}
    for name, source in stacked.sources.items():
        place = (source.chain, source.block, source.position)
        affine = changes.get(place)  # type: ignore[arg-type]
        recipes[name] = _up_recipe(program, wide, plan.transfers.get(source.name), source.name, affine)
    lineage = Lineage(
        operation,
        program.skeleton(),
        {axis: grouping.coarse_of for axis, grouping in groupings.items()},
        {chain: grouping.coarse_of for chain, grouping in layers.items()},
        {"tied": tied, "depth_mode": depth_mode, "direction": "up"},
    )
    sizes = {axis: grouping.fine for axis, grouping in groupings.items()}
    notes = [
        *program.notes,
        *(f"approximate: {text}" for text in plan.approximate),
        *kept_constants(program, sizes),
        *kept_unread(program, sizes),
    ]
    return stacked.program.replace(
        tensors=stacked.program.tensors.replace(realise(program, recipes, stacked.program.tensors)),
        lineage=lineage,
        notes=tuple(dict.fromkeys(notes)),
        origin=_with_history(program, operation),
    )


def _with_history(program: Program, operation: str) -> dict[str, Any]:
    return {**program.origin, "history": (*program.origin.get("history", ()), operation)}


def _widened(program: Program, plan: WidthPlan) -> Program:
    if not plan.groupings:
        return program.skeleton()
    shapes = {}
    for name, tensor in program.tensors.items():
        transfer = plan.transfers.get(name)
        shape = transfer.fine_shape() if transfer else tuple(tensor.shape)
        shapes[name] = torch.empty(shape, dtype=tensor.dtype, device="meta")
    sizes = {axis: grouping.fine for axis, grouping in plan.groupings.items()}
    return rewrite(program, sizes, program.tensors.skeleton().replace(shapes), plan.gains)


def _up_recipe(
    coarse: Program, wide: Program, transfer: TensorTransfer | None, source: str, affine: Affine | None
) -> Callable[[], torch.Tensor]:
    def make() -> torch.Tensor:
        if source not in coarse.tensors:
            return wide.tensors[source].clone()
        tensor = coarse.tensors[source]
        out = transfer.up(tensor) if transfer is not None and transfer.changes else tensor.detach().clone()
        return out if affine is None else out.mul_(affine.scale).add_(affine.shift)

    return make


def _by_lineage(program: Program, depth_mode: str, operation: str) -> Program:
    lineage = program.lineage
    if lineage is None or lineage.options.get("direction") == "up":
        raise MlgraphError(
            f"{program.name} was not coarsened from another program, so there is none to go back to: say "
            "by how much to "
            "grow with depth= and width=."
        )
    parent = lineage.parent
    groupings = {axis: Grouping(coarse_of) for axis, coarse_of in lineage.groupings.items()}
    layers = {chain: Grouping(coarse_of) for chain, coarse_of in lineage.layers.items()}
    plan = plan_down(parent, groupings, str(lineage.options.get("tied", "exact")))
    narrow = narrowed(parent, plan)
    stacked = stack_down(narrow, layers)
    coarse_of = {source.name: name for name, source in stacked.sources.items()}
    for name, members in group_members(narrow, layers, stacked).items():
        coarse_of.update(dict.fromkeys(members, name))
    for name in parent.tensors:
        if name not in coarse_of:
            coarse_of[name] = _kept_counterpart(parent, layers, coarse_of, name)
    chains = {chain.name: chain for chain in parent.blocks} if depth_mode != "copy" else {}
    changes = {
        chains[chain].blocks[block].tensors[position]: affine
        for (chain, block, position), affine in residual_changes(parent, layers, depth_mode, "fine").items()
    }
    recipes = {
        name: _up_recipe(program, parent, plan.transfers.get(name), coarse_of[name], changes.get(name))
        for name in parent.tensors
    }
    return parent.replace(
        tensors=parent.tensors.replace(realise(program, recipes, parent.tensors)),
        origin=_with_history(program, operation),
    )


def _kept_counterpart(
    parent: Program, layers: Mapping[str, Grouping], coarse_of: Mapping[str, str], name: str
) -> str:
    """The coarse tensor for one that nothing reads, in a block of which another of its group was kept."""
    for chain in parent.blocks:
        block = chain.block_of(name)
        if block is None or chain.name not in layers:
            continue
        grouping = layers[chain.name]
        kept = chain.moved(name, grouping.members[grouping.coarse_of[block]][0])
        if kept in coarse_of:
            return coarse_of[kept]
    raise MlgraphError(
        f"{name} was dropped with its block and has no counterpart to be copied from: remove it from the "
        "model, for nothing reads it."
    )
