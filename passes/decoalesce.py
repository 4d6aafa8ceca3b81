"""De-coalescing: back to the parent's architecture, or growth without a parent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from mlgraph.errors import MlgraphError
from mlgraph.passes.base import Pass
from mlgraph.program import Program
from mlgraph.rewrite.depth.residual import DEPTH_MODES
from mlgraph.rewrite.grouping import Placement
from mlgraph.rewrite.refine import apply_up, refine_by_lineage
from mlgraph.rewrite.requests import choose, fine_grouping, grown_layers

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
            return refine_by_lineage(program, self.depth_mode, str(self))
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
                layers[name] = grown_layers(chain, request, self.pairing)
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
