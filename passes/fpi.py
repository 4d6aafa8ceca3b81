"""bert2BERT's function-preserving initialisation."""

from __future__ import annotations

from dataclasses import dataclass

from mlgraph.passes.growth import DeepGrowth, first_then_circular, first_then_random, grown_groupings
from mlgraph.program import Program
from mlgraph.rewrite.refine import apply_up


@dataclass(frozen=True)
class Fpi(DeepGrowth):
    """Function-preserving initialisation of bert2BERT (Chen et al., arXiv 2110.07143, figure 3): width by
    copies, then depth.

    In-dimension expansion divides by the number of copies, out-dimension expansion copies; heads are copied
    whole. Where the new width is a multiple of the old, every index gets equally many copies, which norms
    keep exactly; elsewhere extra copies are drawn at random and the norms' means are noted as approximate.
    ``depth`` stacks as StackBERT does.
    """

    def __call__(self, program: Program) -> Program:
        from mlgraph.passes.stack import Stack

        mapped = first_then_circular if float(self.width).is_integer() else first_then_random
        groupings = grown_groupings(program, self.width, self.axes, self.seed, mapped, "fpi")
        wide = apply_up(program, groupings, {}, "exact", "copy", str(self))
        return wide if self.depth == 1 else Stack(self.depth)(wide)
