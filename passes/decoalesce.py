"""De-coalescing: back to the parent's architecture, or growth without a parent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mlgraph.errors import MlgraphError
from mlgraph.passes.grouped import Grouped, call
from mlgraph.passes.options import option, signed
from mlgraph.rewrite.choices import DepthMode, Placement

if TYPE_CHECKING:
    from mlgraph.program import Program


@dataclass(frozen=True)
class Decoalesce(Grouped[Placement]):
    """The fine program of a coarse one (arXiv 2404.07999, the de-coalescing operator: T and G).

    With no sizes given it goes back up to the parent's architecture, by lineage. With ``depth``, ``width``
    or ``axes`` it grows: every index of an axis gets that many copies, every block that many.
    ``depth_mode`` is ``copy`` (the paper), ``scaled`` (residual branches of copies divided by their number)
    or ``identity`` (those of extra copies end in zeros, so that the function is kept), or ``random`` (extra
    copies are drawn anew, normal with the mean and variance of each of their tensors). ``noise`` breaks the
    symmetry of copies: normal numbers of that many standard deviations on every tensor that has copies.
    ``pairing`` says where the copies of an index or block go: ``adjacent`` (2i, 2i+1; interleaved) or
    ``halves`` (i, i+n; stacked). In ``axes`` a list gives the index that every new one copies: of three
    blocks, ``[0,1,1,1,2]`` repeats the middle (MIDAS, Saunshi et al., arXiv 2409.19044). With ``check``
    an axis stays that fails a trial on a miniature of the program; ``force`` lets ``axes`` name such that can
    change approximately only (a softmax normalises over them).
    """

    moves: ClassVar[int] = -1

    depth: int | None = option(None, "grow: blocks made of each", least=1, metavar="N")
    width: int | None = option(None, "grow: neurons made of each", least=1, metavar="N")
    depth_mode: DepthMode = option("copy", "what the residual branches of a block's copies do")
    noise: float = option(0.0, "random numbers on copies, in standard deviations of each tensor", least=0)
    seed: int = option(0, "seed of what is drawn at random", metavar="N")

    @property
    def grows(self) -> bool:
        """Whether this makes a new architecture instead of going back to the parent's."""
        return self.depth is not None or self.width is not None or bool(self.axes)

    def __call__(self, program: Program) -> Program:
        from mlgraph.rewrite.refine import Noise, refine_by_lineage

        if not self.grows:
            return refine_by_lineage(program, self.depth_mode, str(self), Noise(self.noise, self.seed))
        depth, width = (1 if factor is None else factor for factor in (self.depth, self.width))
        return self._grow(program, depth, width)

    def _grow(self, program: Program, depth: int, width: int) -> Program:
        from mlgraph.rewrite.notes import nothing_changed
        from mlgraph.rewrite.refine import Noise, apply_up
        from mlgraph.rewrite.requests import choose, fine_grouping, grown_layers, passing, why_none

        chains = {chain.name: chain for chain in program.blocks} if depth != 1 or self.axes else {}
        if depth != 1 and not chains:
            raise MlgraphError(
                "depth cannot grow: the graph has no chain of repeated blocks"
                f"{why_none(program)}; leave depth out, width still works."
            )
        layers = {}
        for name, chain in chains.items():
            request = self.axes.get(name, depth)
            if request != 1:
                layers[name] = grown_layers(chain, request, self.pairing)
        if self.check:
            layers = passing(program, layers, self.axes, self.depth_mode)
        groupings = choose(
            program,
            width,
            {name: request for name, request in self.axes.items() if name not in chains},
            (),
            fine_grouping(self.pairing),
            self.check,
            self.force,
        )
        noise = Noise(self.noise, self.seed)
        grown = apply_up(program, groupings, layers, self.tied, self.depth_mode, str(self), noise)
        if width == 1 or groupings:
            return grown
        return grown.replace(notes=(*grown.notes, nothing_changed(program, width)))


@signed(Decoalesce)
def decoalesce(
    program: Program,
    depth_mode: DepthMode = "copy",
    depth: int | None = None,
    width: int | None = None,
    **options: Any,
) -> Program:
    """The fine program of a coarse one; the options are the fields of :class:`Decoalesce`.

    Raises:
        MlgraphError: there is no parent to go back to, blocks cannot be scaled as ``depth_mode`` asks, or an
            axis cannot change exactly and is not forced.
    """
    from mlgraph.program import require_program

    require_program(program)
    return call(Decoalesce, depth_mode=depth_mode, depth=depth, width=width, **options)(program)
