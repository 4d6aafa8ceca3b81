"""What coarsening would do, as factors change: computed on shapes, nothing is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlgraph.inspect.changes import Change, changes
from mlgraph.inspect.summary import Summary, summarize

if TYPE_CHECKING:
    from mlgraph.passes import Coalesce
    from mlgraph.program import Program

PAIRINGS = ("adjacent", "halves", "similarity")


@dataclass(frozen=True)
class Request:
    """The options of a coarsening; every method gives the next one."""

    width: int = 1
    depth: int = 1
    pairing: str = "adjacent"
    axes: dict[str, int] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether anything would change."""
        return self.width > 1 or self.depth > 1 or any(factor > 1 for factor in self.axes.values())

    def wider(self, by: int) -> Request:
        """The factor of width changed by ``by``, not below 1."""
        return replace(self, width=max(1, self.width + by))

    def deeper(self, by: int) -> Request:
        """The factor of depth changed by ``by``, not below 1."""
        return replace(self, depth=max(1, self.depth + by))

    def paired(self) -> Request:
        """The next pairing."""
        return replace(self, pairing=PAIRINGS[(PAIRINGS.index(self.pairing) + 1) % len(PAIRINGS)])

    def factor(self, axis: str, by: int) -> Request:
        """The factor of one axis changed by ``by``; one that is 1 again is not asked for."""
        factor = max(1, self.axes.get(axis, 1) + by)
        others = {name: given for name, given in self.axes.items() if name != axis}
        return replace(self, axes=others | ({axis: factor} if factor > 1 else {}))

    def frozen(self, axis: str) -> Request:
        """An axis frozen, or no longer."""
        kept = tuple(name for name in self.freeze if name != axis)
        return replace(self, freeze=kept if axis in self.freeze else (*kept, axis))

    def command(self, source: str) -> str:
        """The command line that does it."""
        parts = ["mlgraph coarsen", source]
        parts += [f"--depth {self.depth}"] * (self.depth > 1) + [f"--width {self.width}"] * (self.width > 1)
        parts += [f"--pairing {self.pairing}"] * (self.pairing != "adjacent")
        parts += [f"--axis {name}={factor}" for name, factor in self.axes.items()]
        parts += [f"--freeze {name}" for name in self.freeze]
        return " ".join(parts)


@dataclass(frozen=True)
class Preview:
    """The outcome of a request: figures after it and what changed, or the sentence that refuses it.

    ``sizes`` has the new size of every axis by id. A sketch knows sizes and ``parameters`` but not ``after``.
    """

    request: Request
    after: Summary | None = None
    parameters: int | None = None
    changes: tuple[Change, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    refused: str = ""


def sketch(program: Program, request: Request) -> Preview:
    """What is known at once, from sizes alone: whether they divide, and how many parameters stay."""
    from mlgraph.errors import MlgraphError
    from mlgraph.program.dims import resized

    if not request.asks:
        return Preview(request)
    try:
        # sizes do not depend on which indices are alike, and looking for those reads weights
        groupings, layers = _operator(replace(request, pairing="adjacent")).groupings(program)
    except MlgraphError as error:
        return Preview(request, refused=str(error))
    sizes = {axis: grouping.coarse for axis, grouping in groupings.items()}
    merged = {
        name
        for chain in program.blocks
        if chain.name in layers
        for group in layers[chain.name].members
        for block in group[1:]
        for name in chain.blocks[block].tensors
    }
    dims = program.axes.tensor_dims
    meta = program.skeleton().tensors
    parameters = sum(
        math.prod(resized(dim, sizes) for dim in dims[name]) if name in dims else meta[name].numel()
        for name in program.tensors.parameters - merged
    )
    return Preview(request, parameters=parameters, sizes=sizes)


def _operator(request: Request) -> Coalesce:
    from mlgraph.passes import Coalesce

    return Coalesce(
        depth=request.depth,
        width=request.width,
        pairing=request.pairing,
        axes=dict(request.axes),
        freeze=request.freeze,
    )


def preview(program: Program, request: Request) -> Preview:
    """Run the coarsening on shapes; weights are read by the pairing by similarity alone."""
    from mlgraph.errors import MlgraphError

    if not request.asks:
        return Preview(request)
    try:
        coarse = _operator(request)(program if request.pairing == "similarity" else program.skeleton())
    except MlgraphError as error:
        return Preview(request, refused=str(error))
    groupings: dict[str, Any] = dict(coarse.lineage.groupings) if coarse.lineage else {}
    sizes = {axis: max(grouping) + 1 for axis, grouping in groupings.items() if grouping}
    after = summarize(coarse)
    return Preview(request, after, after.parameters, tuple(changes(program, coarse)), sizes)


def coarse_shape(program: Program, tensor: str, sizes: dict[str, int]) -> tuple[int, ...] | None:
    """The shape that a tensor would have, or None where nothing is known of its dims."""
    from mlgraph.program.dims import resized

    dims = program.axes.tensor_dims.get(program.tensors.aliases.get(tensor, tensor))
    return None if dims is None else tuple(resized(dim, sizes) for dim in dims)
