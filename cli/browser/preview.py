"""What coarsening would do, as factors change: computed on shapes, nothing is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlgraph.cli.pass_options import command_line
from mlgraph.inspect.changes import Change, changes
from mlgraph.inspect.summary import Summary, summarize
from mlgraph.passes.coalesce import Coalesce
from mlgraph.passes.options import choices, entries

if TYPE_CHECKING:
    from mlgraph.program import Program


@dataclass(frozen=True)
class Control:
    """An option that one key changes, upwards or to the next choice; the same key with shift goes back."""

    name: str
    key: str
    choices: tuple[Any, ...]
    help: str

    @property
    def told(self) -> str:
        """What it chooses, for the list of keys."""
        if self.choices == (False, True):
            return self.help
        return ", ".join(map(str, self.choices)) or f"{self.help}: up, down"

    def chosen(self, request: Coalesce) -> str:
        """What is chosen, in a word or two."""
        value = getattr(request, self.name)
        if isinstance(value, bool):
            return self.name if value else f"no {self.name}"
        return str(value) if self.choices else f"{self.name} {value}"


CONTROLS = tuple(
    Control(
        entry.name,
        entry.metadata["key"],
        (False, True) if entry.hint is bool else choices(entry.hint),
        entry.metadata["help"],
    )
    for entry in entries(Coalesce)
    if "key" in entry.metadata
)


def stepped(request: Coalesce, name: str, by: int) -> Coalesce:
    """The request with one option changed: a number by ``by``, not below 1, or a choice to the next one."""
    value = getattr(request, name)
    listed = next(control.choices for control in CONTROLS if control.name == name)
    new = listed[(listed.index(value) + by) % len(listed)] if listed else max(1, value + by)
    return replace(request, **{name: new})


def factored(request: Coalesce, axis: str, by: int) -> Coalesce:
    """The request with the factor of one axis changed by ``by``; one that is 1 again is not asked for."""
    factor = max(1, request.axes.get(axis, 1) + by)
    others = {name: given for name, given in request.axes.items() if name != axis}
    return replace(request, axes=others | ({axis: factor} if factor > 1 else {}))


def frozen(request: Coalesce, axis: str) -> Coalesce:
    """The request with an axis frozen, or no longer."""
    kept = tuple(name for name in request.freeze if name != axis)
    return replace(request, freeze=kept if axis in request.freeze else (*kept, axis))


def command(request: Coalesce, source: str) -> str:
    """The command line that does it."""
    return " ".join(["mlgraph coarsen", source, *command_line(request)])


@dataclass(frozen=True)
class Preview:
    """The outcome of a request: figures after it and what changed, or the sentence that refuses it.

    ``sizes`` has the new size of every axis by id. A sketch knows sizes and ``parameters`` but not ``after``.
    """

    request: Coalesce
    after: Summary | None = None
    parameters: int | None = None
    changes: tuple[Change, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    refused: str = ""


def sketch(program: Program, request: Coalesce) -> Preview:
    """What is known at once, from sizes alone: whether they divide, and how many parameters stay."""
    from mlgraph.errors import MlgraphError

    if not request.asks:
        return Preview(request)
    try:
        # sizes do not depend on which indices are alike, and looking for those reads weights
        groupings, layers = replace(request, pairing="adjacent").groupings(program)
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
        math.prod(dim.new_size(sizes) for dim in dims[name]) if name in dims else meta[name].numel()
        for name in program.tensors.parameters - merged
    )
    return Preview(request, parameters=parameters, sizes=sizes)


def preview(program: Program, request: Coalesce) -> Preview:
    """Run the coarsening on shapes."""
    from mlgraph.errors import MlgraphError

    if not request.asks:
        return Preview(request)
    try:
        coarse = request.on_shapes(program)
    except MlgraphError as error:
        return Preview(request, refused=str(error))
    groupings: dict[str, Any] = dict(coarse.lineage.groupings) if coarse.lineage else {}
    sizes = {axis: max(grouping) + 1 for axis, grouping in groupings.items() if grouping}
    after = summarize(coarse)
    return Preview(request, after, after.parameters, tuple(changes(program, coarse)), sizes)


def coarse_shape(program: Program, tensor: str, sizes: dict[str, int]) -> tuple[int, ...] | None:
    """The shape that a tensor would have, or None where nothing is known of its dims."""

    dims = program.axes.tensor_dims.get(program.tensors.aliases.get(tensor, tensor))
    return None if dims is None else tuple(dim.new_size(sizes) for dim in dims)
