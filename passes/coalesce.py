"""Coalescing: one coarse index for every group of indices, of axes and of blocks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mlgraph.passes.grouped import Grouped, call
from mlgraph.passes.options import option, signed
from mlgraph.rewrite.choices import Extend, Pairing, Reduce

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.rewrite.grouping import Grouping


@dataclass(frozen=True)
class Coalesce(Grouped[Pairing]):
    """The coarse program: width and depth divided (arXiv 2404.07999, the coalescing operator: F and R).

    ``width`` divides every axis that is coarsened by default, ``depth`` every chain of blocks. ``pairing``
    is ``adjacent`` (2i, 2i+1), ``halves`` (i, i+n/2) or ``similarity`` (like weights), for neurons and
    blocks alike; ``tied`` is ``exact`` or ``paper``; ``axes`` maps axis or chain names to a factor or an
    explicit grouping, which may leave members out; ``freeze`` names axes and chains that stay. With ``check``
    an axis stays that fails a trial on a miniature of the program; ``force`` lets ``axes`` name such that can
    change approximately only (a softmax normalises over them).

    ``reduce`` and ``extend`` are what becomes of a group, going down and coming back: {mean, copy} is the
    paper; {select, copy} keeps the first of each group, so that depth skips layers, and comes back by copies
    to the function of the coarse program in width; {select, pad} prunes, and comes back with zeros where
    members were left out and with blocks that are identities. In ``axes`` an axis may go another way:
    ``"2:select:pad"``. ``layers`` lists the blocks of every chain that stay, the others being left out.
    """

    moves: ClassVar[int] = 1

    depth: int = option(1, "blocks per group", least=1, metavar="N", key="d")
    width: int = option(1, "neurons per group", least=1, metavar="N", key="w")
    reduce: Reduce = option("mean", "what a group becomes: the mean of its members, or the first", key="s")
    extend: Extend = option("copy", "what members become coming back: copies, or zeros but for one", key="x")
    layers: tuple[int, ...] = option((), "blocks that stay, counted from 0", metavar="0,2,4", least=0)
    freeze: tuple[str, ...] = option((), "leave an axis or a chain of blocks as it is", metavar="NAME")

    @property
    def asks(self) -> bool:
        """Whether anything would change."""
        factors = (self.depth, self.width, *self.axes.values())
        return bool(self.layers) or any(factor != 1 for factor in factors)

    def __call__(self, program: Program) -> Program:
        from mlgraph.rewrite.coarsen import apply_down
        from mlgraph.rewrite.notes import nothing_changed

        groupings, layers = self.groupings(program)
        options = {"pairing": self.pairing, "tied": self.tied}
        coarse = apply_down(program, groupings, layers, self.tied, str(self), options)
        if self.width == 1 or groupings:
            return coarse
        return coarse.replace(notes=(*coarse.notes, nothing_changed(program, self.width)))

    def on_shapes(self, program: Program) -> Program:
        # Shapes have no weights to compare, and groups of like ones have the sizes of groups of neighbours.
        blind = dataclasses.replace(self, pairing="adjacent") if self.pairing == "similarity" else self
        return blind(program.skeleton())

    def groupings(self, program: Program) -> tuple[dict[str, Grouping], dict[str, Grouping]]:
        """What is grouped, before anything is done: by axis id, and by chain name."""
        from mlgraph.rewrite.requests import Way, choose, coarse_grouping, group_layers

        named = {chain.name for chain in program.blocks} if self.axes or self.freeze else set()
        way, layers = Way(self.reduce, self.extend), {}
        if self.depth != 1 or named or self.layers:
            requests = {name: request for name, request in self.axes.items() if name in named}
            asked = (self.depth, self.pairing, requests, self.freeze, way, self.layers)
            layers = group_layers(program, *asked)
        groupings = choose(
            program,
            self.width,
            {name: request for name, request in self.axes.items() if name not in named},
            [name for name in self.freeze if name not in named],
            coarse_grouping(program, self.pairing, way),
            self.check,
            self.force,
        )
        return groupings, layers


@signed(Coalesce)
def coalesce(program: Program, depth: int = 1, width: int = 1, **options: Any) -> Program:
    """The coarse program; the options are the fields of :class:`Coalesce`.

    Raises:
        AxisError: a size or number of blocks does not divide, or an axis is unknown or frozen, fails its
            trial, or cannot change exactly and is not forced.
    """
    return call(Coalesce, depth=depth, width=width, **options)(program)
