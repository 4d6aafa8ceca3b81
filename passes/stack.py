"""Progressive stacking: a deeper model from copies of the whole stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlgraph.errors import MlgraphError
from mlgraph.passes.base import Pass
from mlgraph.passes.options import option
from mlgraph.program import Program
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.refine import apply_up


@dataclass(frozen=True)
class Stack(Pass):
    """Every chain ``factor`` times as deep: block i copies block i modulo the old depth.

    Progressive stacking (Gong et al., ICML 2019) with factor 2; the depthwise stacking G_stack (Du et al.,
    arXiv 2405.15319) with growth factor g.
    """

    moves: ClassVar[int] = -1

    factor: int = option(2, "how many times the whole stack is laid over itself", least=1, metavar="N")

    def __call__(self, program: Program) -> Program:
        layers = {c.name: Grouping.halves(len(c) * self.factor, self.factor) for c in program.blocks}
        if not layers:
            raise MlgraphError(
                f"{program.name} has no chain of repeated blocks to stack: grow it in width instead."
            )
        return apply_up(program, {}, layers, "exact", "copy", str(self))
