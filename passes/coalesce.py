"""Coalescing: one coarse index for every group of indices, of axes and of blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from mlgraph.passes.base import Pass
from mlgraph.program import Program
from mlgraph.rewrite.coarsen import apply_down
from mlgraph.rewrite.grouping import Grouping, Pairing
from mlgraph.rewrite.requests import choose, coarse_grouping, group_layers

Axes = Mapping[str, Any]


@dataclass(frozen=True)
class Coalesce(Pass):
    """The coarse program: width and depth divided (arXiv 2404.07999, the coalescing operator: F and R).

    ``width`` divides every axis that is coarsened by default, ``depth`` every chain of blocks. ``pairing``
    is ``adjacent`` (2i, 2i+1), ``halves`` (i, i+n/2) or ``similarity`` (like weights), for neurons and
    blocks alike; ``tied`` is ``exact`` or ``paper``; ``axes`` maps axis or chain names to a factor or an
    explicit grouping; ``freeze`` names axes and chains that stay.
    """

    depth: int = 1
    width: int = 1
    pairing: Pairing = "adjacent"
    tied: str = "exact"
    axes: dict[str, Any] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()

    def __call__(self, program: Program) -> Program:
        groupings, layers = self.groupings(program)
        options = {"pairing": self.pairing, "tied": self.tied}
        return apply_down(program, groupings, layers, self.tied, str(self), options)

    def groupings(self, program: Program) -> tuple[dict[str, Grouping], dict[str, Grouping]]:
        """What is grouped, before anything is done: by axis id, and by chain name."""
        chains = (
            {chain.name for chain in program.blocks} if self.depth != 1 or self.axes or self.freeze else set()
        )
        layers = (
            group_layers(
                program,
                self.depth,
                self.pairing,
                {k: v for k, v in self.axes.items() if k in chains},
                self.freeze,
            )
            if chains or self.depth != 1
            else {}
        )
        groupings = choose(
            program,
            self.width,
            {k: v for k, v in self.axes.items() if k not in chains},
            [name for name in self.freeze if name not in chains],
            coarse_grouping(program, self.pairing),
        )
        return groupings, layers


def coalesce(
    program: Program,
    depth: int = 1,
    width: int = 1,
    pairing: str = "adjacent",
    tied: str = "exact",
    axes: Axes | None = None,
    freeze: tuple[str, ...] = (),
) -> Program:
    """The coarse program; see :class:`Coalesce`.

    Raises:
        AxisError: a size or number of blocks does not divide, or an axis is unknown or frozen.
    """
    return Coalesce(depth, width, cast(Pairing, pairing), tied, dict(axes or {}), tuple(freeze))(program)
