"""LEMON: lossless expansion with uneven fan-out, also to widths that do not divide."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from mlgraph.passes.base import Pass
from mlgraph.passes.decoalesce import apply_up
from mlgraph.passes.growth import first_then_circular, grown_groupings
from mlgraph.program import Program
from mlgraph.transfer import Grouping


@dataclass(frozen=True)
class Lemon(Pass):
    """Circular copies whose outgoing weights are split unevenly (Wang et al., arXiv 2310.07999, figure 3).

    Fan-in is copied, fan-out of the copies of one neuron is weighed by random shares that sum to 1, so that
    copies get unlike gradients from the first step on. ``depth`` adds blocks whose residual branches end in
    zeros. Axes inside blocks may grow to widths that the old ones do not divide; over an axis that a norm
    averages, unequal groups are approximate and noted.
    """

    width: float = 2.0
    depth: int = 1
    axes: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __call__(self, program: Program) -> Program:
        groupings = grown_groupings(program, self.width, self.axes, self.seed, first_then_circular, "lemon")
        uneven = {axis: _shared(g, random.Random(f"{self.seed} {axis}")) for axis, g in groupings.items()}
        layers = {
            c.name: Grouping.adjacent(len(c) * self.depth, self.depth)
            for c in program.blocks
            if self.depth > 1
        }
        return apply_up(program, uneven, layers, "exact", "identity", str(self))


def _shared(grouping: Grouping, draw: random.Random) -> Grouping:
    """Random shares between a half and three halves of the even one, normalised in every group."""
    raw = [draw.uniform(0.5, 1.5) for _ in range(grouping.fine)]
    totals = [sum(raw[i] for i in group) for group in grouping.members]
    shares = tuple(raw[i] / totals[coarse] for i, coarse in enumerate(grouping.coarse_of))
    return Grouping(grouping.coarse_of, shares)
