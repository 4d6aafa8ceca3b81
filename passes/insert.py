"""Insertion of identities and zeros: growth that starts without effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlgraph.errors import AxisError
from mlgraph.passes.growth import Growth, first_then_circular, grown_groupings
from mlgraph.passes.options import option
from mlgraph.program import Program
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.refine import apply_up


@dataclass(frozen=True)
class Insert(Growth):
    """New blocks that are identities and new units that nothing reads yet: the function is kept.

    Masked structural growth at mask 0 (Yao et al., arXiv 2305.02869) and the zero insertion of earlier
    work. ``depth`` puts identity blocks (residual branches that end in zeros) behind every block; ``width``
    adds units to the axes inside blocks (heads, mlp, experts' inner width) whose outgoing weights are
    zero. An axis that a norm averages over cannot take units without effect and is refused if it is
    named in ``axes``.
    """

    width: float = option(1.0, "factor of the axes inside blocks", least=1, metavar="N")
    depth: int = option(1, "blocks made of each", least=1, metavar="N")

    def __call__(self, program: Program) -> Program:
        averaged = {axis for axis, _ in program.axes.averages}
        chosen: dict[str, Any] = {
            axis.id: self.width
            for axis in program.axes
            if self.width != 1 and axis.coarsenable_by_default and axis.id not in averaged
        }
        for name, factor in self.axes.items():
            for axis in program.axes.select(name):
                if axis.id in averaged:
                    raise AxisError(
                        f"axis {axis.id} cannot take units without effect, because a norm averages over "
                        "it: grow it by "
                        "decoalesce, fpi or lemon."
                    )
                chosen[axis.id] = factor
        groupings = grown_groupings(program, 1, chosen, 0, first_then_circular, "insert")
        silent = {
            axis: Grouping(g.coarse_of, tuple(1.0 if i < g.coarse else 0.0 for i in range(g.fine)))
            for axis, g in groupings.items()
        }
        layers = {
            c.name: Grouping.adjacent(len(c) * self.depth, self.depth)
            for c in program.blocks
            if self.depth > 1
        }
        return apply_up(program, silent, layers, "exact", "identity", str(self))
