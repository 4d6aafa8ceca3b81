"""LEMON: lossless expansion with uneven fan-out, also to widths that do not divide."""

from __future__ import annotations

import random
from dataclasses import dataclass

from mlgraph.passes.growth import DeepGrowth, first_then_circular, grown_groupings
from mlgraph.program import Program
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.refine import apply_up
from mlgraph.rewrite.uneven import settle_surplus


@dataclass(frozen=True)
class Lemon(DeepGrowth):
    """Circular copies whose outgoing weights are split unevenly (Wang et al., arXiv 2310.07999, figure 3).

    Fan-in is copied, fan-out of the copies of one neuron is weighed by random shares that sum to 1, so that
    copies get unlike gradients from the first step on. ``depth`` adds blocks whose residual branches end in
    zeros. Axes may grow to widths that the old ones do not divide. Where a norm averages over such an axis,
    the indices beyond the last whole copy hold means or zeros that the norm cannot see (section 4, average
    and zero expansion); that is exact for pre-norm streams, elsewhere it is approximate and noted.
    """

    def __call__(self, program: Program) -> Program:
        groupings = grown_groupings(program, self.width, self.axes, self.seed, first_then_circular, "lemon")
        averaged = {axis for axis, _ in program.axes.averages}
        whole = {
            axis: g.fine - g.fine % g.coarse
            for axis, g in groupings.items()
            if axis in averaged and g.fine % g.coarse
        }
        uneven = {
            axis: _shared(g, random.Random(f"{self.seed} {axis}"), whole.get(axis, g.fine))
            for axis, g in groupings.items()
        }
        wide = apply_up(program, uneven, {}, "exact", "copy", str(self))
        if whole:
            wide = self._settled(wide, whole, {axis: groupings[axis].coarse for axis in whole})
        layers = {
            c.name: Grouping.adjacent(len(c) * self.depth, self.depth) for c in wide.blocks if self.depth > 1
        }
        return apply_up(wide, {}, layers, "exact", "identity", str(self)) if layers else wide

    def _settled(self, wide: Program, whole: dict[str, int], old: dict[str, int]) -> Program:
        exact, settled = settle_surplus(wide, whole, old)
        kept = tuple(n for n in exact.notes if n.kind != "approximate" or n.subject not in settled)
        return exact.replace(notes=kept, lineage=wide.lineage)


def _shared(grouping: Grouping, draw: random.Random, whole: int) -> Grouping:
    """Random shares between a half and three halves of the even one, normalised in every group; none from
    index ``whole`` on."""
    raw = [draw.uniform(0.5, 1.5) if i < whole else 0.0 for i in range(grouping.fine)]
    totals = [sum(raw[i] for i in group) for group in grouping.members]
    shares = tuple(raw[i] / totals[coarse] for i, coarse in enumerate(grouping.coarse_of))
    return Grouping(grouping.coarse_of, shares)
