"""Coalescing: one coarse index for every group of indices, of axes and of blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mlgraph.errors import MlgraphError
from mlgraph.passes.grouped import Grouped, call
from mlgraph.passes.options import option, signed
from mlgraph.rewrite.choices import Extend, Pairing, Reduce, Score

if TYPE_CHECKING:
    import torch

    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis
    from mlgraph.program.calibration import Calibration
    from mlgraph.rewrite.grouping import Grouping
    from mlgraph.rewrite.targets import Candidate, Target

Amount = float | str


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

    ``score`` selects by what members count instead: ``norm`` of their weights; on data, ``activation``,
    ``taylor`` (what the loss would change without them) and, of blocks, ``influence`` (1 - cosine of input
    and output). The one that counts most stays in each group; of blocks, and of what is padded coming back,
    those of the whole axis do, unless pairing is ``similarity``. ``calibration`` is a file of what data shows
    of the program (:func:`mlgraph.calibrate`); calling the pass, it may be given itself. With one, pairing
    ``similarity`` groups neurons by their activations, and ``repair`` gives norms, behind all else, gains and
    biases with which the coarse activations have the mean and variance of the fine ones.

    ``target_params``, ``target_flops`` (of a forward pass) and ``target_memory`` ask for what is to be left
    instead of by how much less: ``60e6``, ``"60M"``, ``"2GB"``, or a share of at most 1. Of the sizes within
    5 % those are taken that shrink depth and widths most evenly (:meth:`candidates`); ``keep_depth`` leaves
    depth, and new widths are multiples of ``multiple_of`` where they were. In ``axes``, ``"to96"`` asks for
    96 groups.

    ``align`` permutes neurons, heads and experts of blocks that are averaged to match those of the first of
    their group (Ainsworth et al., arXiv 2209.04836); going back up they return to their places.
    """

    moves: ClassVar[int] = 1

    depth: int = option(1, "blocks per group", least=1, metavar="N", key="d")
    width: int = option(1, "neurons per group", least=1, metavar="N", key="w")
    reduce: Reduce = option("mean", "what a group becomes: the mean of its members, or the first", key="s")
    extend: Extend = option("copy", "what members become coming back: copies, or zeros but for one", key="x")
    layers: tuple[int, ...] = option((), "blocks that stay, counted from 0", metavar="0,2,4", least=0)
    score: Score = option("position", "what selects: position, or what a member counts")
    calibration: str | None = option(
        None,
        "what data shows of the model: a file of calibrate, or the data itself as train takes it",
        flag="--calibrate",
        metavar="FILE",
    )
    repair: bool = option(False, "give norms the mean and variance that data shows before")
    align: bool = option(False, "order the neurons and heads of blocks alike before they are averaged")
    target_params: Amount | None = option(
        None, "parameters to be left, or a share of at most 1", metavar="60M|0.5"
    )
    target_flops: Amount | None = option(None, "the same of FLOPs of a forward pass", metavar="0.3")
    target_memory: Amount | None = option(None, "the same of bytes", metavar="2GB|0.5")
    keep_depth: bool = option(False, "meet a target by widths alone")
    multiple_of: int | None = option(None, "of which new widths are multiples", least=1, metavar="N")
    freeze: tuple[str, ...] = option((), "leave an axis or a chain of blocks as it is", metavar="NAME")

    @property
    def asks(self) -> bool:
        """Whether anything would change."""
        factors = (self.depth, self.width, *self.axes.values())
        return bool(self.layers) or self.target is not None or any(factor != 1 for factor in factors)

    @property
    def target(self) -> Target | None:
        """What is to be left, if that is what is asked for.

        Raises:
            MlgraphError: there are several targets, or sizes beside one; or it is no amount.
        """
        given = {"parameters": self.target_params, "flops": self.target_flops, "bytes": self.target_memory}
        wanted = [(quantity, amount) for quantity, amount in given.items() if amount is not None]
        if not wanted:
            if self.keep_depth or self.multiple_of is not None:
                raise MlgraphError("keep_depth and multiple_of say how a target is met: give one.")
            return None
        if len(wanted) > 1 or self.depth != 1 or self.width != 1 or self.axes or self.layers:
            raise MlgraphError("a target chooses all sizes: give one target, and no depth, width or axes.")
        from mlgraph.rewrite.targets import Target, amount_of

        ((quantity, amount),) = wanted
        return Target(quantity, amount_of(amount))  # type: ignore[arg-type]

    def candidates(self, program: Program) -> list[Candidate]:
        """The sizes that meet the target, the best first; the pass takes the first.

        Raises:
            AxisError: none do; the message names the nearest.
        """
        from mlgraph.rewrite.targets import candidates

        target = self.target
        assert target is not None, "there is no target"
        return candidates(program, target, self.keep_depth, self.multiple_of, self.freeze)

    def meeting(self, candidate: Candidate) -> Coalesce:
        """This pass with the sizes of a candidate in place of a target."""
        return dataclasses.replace(
            self,
            axes=dict(candidate.requests),
            target_params=None,
            target_flops=None,
            target_memory=None,
            keep_depth=False,
            multiple_of=None,
        )

    def __call__(self, program: Program, calibration: Calibration | None = None) -> Program:
        from mlgraph.rewrite.coarsen import apply_down
        from mlgraph.rewrite.notes import nothing_changed

        if self.target is not None:
            return self.meeting(self.candidates(program)[0])(program, calibration)
        known = self._calibration(calibration)
        groupings, layers = self.groupings(program, known)
        options = {"pairing": self.pairing, "tied": self.tied}
        coarse = apply_down(program, groupings, layers, self.tied, str(self), options)
        if self.repair:
            from mlgraph.rewrite.calibration.repair import repaired

            assert known is not None
            coarse = repaired(coarse, known)
        if self.width == 1 or groupings:
            return coarse
        return coarse.replace(notes=(*coarse.notes, nothing_changed(program, self.width)))

    def _calibration(self, given: Calibration | None) -> Calibration | None:
        """What is known of the program on data, and needed.

        Raises:
            MlgraphError: nothing is, and an option needs it; or a score is given where nothing is selected.
        """
        selects = bool(self.reduce == "select" or any("select" in str(way) for way in self.axes.values()))
        if self.score != "position" and not selects:
            raise MlgraphError(
                f"score={self.score!r} says what is selected, and all is averaged: add reduce='select', or "
                "leave it out."
            )
        if given is None and self.calibration is not None:
            from mlgraph.storage.calibration import load_calibration

            given = load_calibration(self.calibration)
        if self.repair and given is None:
            raise MlgraphError("repair measures activations: give a calibration.")
        return given

    def on_shapes(self, program: Program) -> Program:
        # Shapes have no weights to compare, and groups of like ones have the sizes of groups of neighbours.
        pairing: Pairing = "adjacent" if self.pairing == "similarity" else self.pairing
        if self.target is not None:
            return self.meeting(self.candidates(program)[0]).on_shapes(program)
        blind = dataclasses.replace(
            self, pairing=pairing, score="position", calibration=None, repair=False, align=False
        )
        return blind(program.skeleton())

    def groupings(
        self, program: Program, calibration: Calibration | None = None
    ) -> tuple[dict[str, Grouping], dict[str, Grouping]]:
        """What is grouped, before anything is done: by axis id, and by chain name."""
        from mlgraph.rewrite.calibration.score import Scores
        from mlgraph.rewrite.requests import Way, choose, coarse_grouping, group_layers

        scores = None if self.score == "position" else Scores(self.score, calibration)
        way = Way(self.reduce, self.extend, scores, None if calibration is None else _samples(calibration))
        layers: dict[str, Grouping] = {}
        named = {chain.name for chain in program.blocks} if self.axes or self.freeze else set()
        if self.depth != 1 or named or self.layers:
            requests = {name: request for name, request in self.axes.items() if name in named}
            asked = (self.depth, self.pairing, requests, self.freeze, way, self.layers, self.check)
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
        if self.align and layers:
            from mlgraph.rewrite.alignment import aligned

            groupings = aligned(program, groupings, layers)
        return groupings, layers


def _samples(calibration: Calibration) -> Callable[[Axis], torch.Tensor]:
    return lambda axis: calibration.axis(axis.id, axis.size).samples


@signed(Coalesce, "calibration")
def coalesce(
    program: Program,
    depth: int = 1,
    width: int = 1,
    calibration: Calibration | str | None = None,
    **options: Any,
) -> Program:
    """The coarse program; the options are the fields of :class:`Coalesce`.

    ``calibration`` may be one, or its file.

    Raises:
        AxisError: a size or number of blocks does not divide, or an axis is unknown or frozen, fails its
            trial, or cannot change exactly and is not forced.
    """
    from mlgraph.program import require_program

    require_program(program)
    path = calibration if isinstance(calibration, str) else None
    operator = call(Coalesce, depth=depth, width=width, calibration=path, **options)
    assert isinstance(operator, Coalesce)
    return operator(program, None if isinstance(calibration, str) else calibration)
