"""Net2Net widening: new neurons are copies of random old ones."""

from __future__ import annotations

from dataclasses import dataclass

from mlgraph.passes.growth import RandomGrowth, first_then_random, grown_groupings
from mlgraph.program import Program
from mlgraph.rewrite.refine import apply_up


@dataclass(frozen=True)
class Net2Net(RandomGrowth):
    """Net2WiderNet (Chen, Goodfellow & Shlens, arXiv 1511.05641, the mapping g) on every axis that is
    coarsened by default.

    New index j copies g(j): j itself up to the old size, a random index after it; what is contracted is
    divided by the number of copies. Exact, except that means over an axis (norms) weigh unequal groups
    alike, which is noted. ``width`` need not be whole, as long as the new sizes are.
    """

    def __call__(self, program: Program) -> Program:
        groupings = grown_groupings(program, self.width, self.axes, self.seed, first_then_random, "net2net")
        return apply_up(program, groupings, {}, "exact", "copy", str(self))
