"""What was asked for, as groupings of axes and of chains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from mlgraph.errors import AxisError, MlgraphError
from mlgraph.rewrite.calibration.score import best, best_of_groups
from mlgraph.rewrite.choices import Extend, Reduce
from mlgraph.rewrite.depth_trials import check_layers
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.self_check import check_groupings
from mlgraph.rewrite.similarity import similar, similar_blocks

if TYPE_CHECKING:
    import torch

    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis
    from mlgraph.program.block_table import Chain
    from mlgraph.rewrite.calibration.score import Scores
    from mlgraph.rewrite.choices import Pairing, Placement

AxisRequest = int | str | Sequence[int] | Sequence[Sequence[int]]
"""A factor, a grouping, or ``SIZE:REDUCE:EXTEND`` as ``2:select:pad``, where ``toN`` as size asks for N
indices instead of a factor, and ``keep0,2,4`` for these."""


@dataclass(frozen=True)
class Count:
    """So many groups, as even as can be."""

    groups: int


@dataclass(frozen=True)
class Way:
    """How groups go down and come back, unless a request says otherwise.

    ``scores`` say which members are selected; by position where there are none. ``samples`` gives the
    activations of an axis by which its indices are alike; without it, their weights.
    """

    reduce: Reduce = "mean"
    extend: Extend = "copy"
    scores: Scores | None = None
    samples: Callable[[Axis], torch.Tensor] | None = None

    def of(self, request: AxisRequest, axis: str) -> tuple[AxisRequest | Count, Way]:
        """A request without what it says of the way, and the way.

        Raises:
            AxisError: the request is a text that does not read so.
        """
        if not isinstance(request, str):
            return request, self
        size, *rest = request.split(":")
        number = size.removeprefix("to")
        listed = size.removeprefix("keep").split(",") if size.startswith("keep") else []
        reduce, extend = (*rest, "", "")[:2]
        known = (reduce or self.reduce) in get_args(Reduce) and (extend or self.extend) in get_args(Extend)
        sized = number.isdecimal() and int(number) > 0
        if not (sized or (listed and all(map(str.isdecimal, listed)))) or len(rest) > 2 or not known:
            raise AxisError(
                f"what is asked of {axis}, {request!r}, is no factor or size with a way down and back: write "
                "for example 2:select, 2:select:pad, to96 or keep0,2,4."
            )
        if listed:
            ways: Any = {"reduce": "select", "extend": extend or self.extend, "scores": None}
            return [[int(index)] for index in listed], dataclasses.replace(self, **ways)
        ways = {"reduce": reduce or self.reduce, "extend": extend or self.extend}
        asked = int(number) if size == number else Count(int(number))
        return asked, dataclasses.replace(self, **ways)

    def going(self, grouping: Grouping, axis: str) -> Grouping:
        """The grouping going this way.

        Raises:
            AxisError: what is averaged is to be padded.
        """
        if self.extend == "pad" and self.reduce == "mean":
            raise AxisError(
                f"{axis} is averaged and cannot be padded: reduce it by select, or extend it by copy."
            )
        return grouping.going(self.reduce, self.extend)

    def selects(self) -> Scores | None:
        """The scores by which members are selected, if they are."""
        return self.scores if self.reduce == "select" else None


_PAPERS = Way()


def choose(
    program: Program,
    factor: int,
    requests: Mapping[str, AxisRequest],
    freeze: Iterable[str],
    grouping: Callable[[Axis, AxisRequest], Grouping],
    check: bool = True,
    force: bool = False,
) -> dict[str, Grouping]:
    """The grouping of every axis that is to change, by axis id.

    ``factor`` applies to axes that are coarsened by default, ``requests`` to axes by id or name; ``freeze``
    exempts. With ``check``, what is chosen is tried on a miniature first, and axes that fail are left out
    unless they were requested in spite of a reason to keep them. ``force`` lets requests change axes that
    cannot change exactly.

    Raises:
        AxisError: a request names no axis, a frozen one, one that fails or one that cannot change exactly, or
            does not fit its size.
    """
    table = program.axes
    exempt = {axis.id for name in freeze for axis in table.select(name)}
    wanted: dict[str, tuple[Axis, AxisRequest]] = {}
    asked: set[str] = set()
    if factor != 1:
        wanted |= {axis.id: (axis, factor) for axis in table if axis.coarsenable_by_default}
    for name, request in requests.items():
        for axis in table.select(name):
            if axis.frozen is not None:
                raise AxisError(f"axis {axis.id} ({axis.size}) cannot change: {axis.frozen} ({axis.where}).")
            if not axis.exact and not force and request != 1:
                raise AxisError(
                    f"axis {axis.id} ({axis.size}) cannot change exactly: {axis.kept} ({axis.where}); "
                    "add force to change it approximately."
                )
            wanted[axis.id] = (axis, request)
            asked.add(axis.id)
    chosen = {}
    for axis_id, (axis, request) in wanted.items():
        if axis_id in exempt or request in (1, "1"):
            continue
        chosen[axis_id] = grouping(axis, request)
    faults = check_groupings(program, chosen).faults if check else {}
    for axis_id, reason in faults.items():
        axis, _ = wanted[axis_id]
        if axis_id in asked and axis.kept is not None:
            continue  # asked for in spite of the reason why it is kept: done, and noted as approximate
        if axis_id in asked:
            where = f" ({reason.node})" if reason.node else ""
            raise AxisError(f"axis {axis_id} ({axis.size}) cannot change: {reason}{where}.")
        del chosen[axis_id]
    return chosen


def coarse_grouping(
    program: Program, pairing: Pairing, way: Way = _PAPERS
) -> Callable[[Axis, AxisRequest], Grouping]:
    """How an axis is grouped going down: by ``pairing`` and ``way``, or as requested explicitly."""

    def group(axis: Axis, given: AxisRequest) -> Grouping:
        what = f"axis {axis.id}"
        request, own = way.of(given, what)
        made, scores = grouped(axis, request), own.selects()
        if scores is None:
            return own.going(made, what)
        found = scores.of_axis(program, axis)
        # what is copied back sums up its group going down, and must be like it
        if pairing == "similarity" or own.extend == "copy" or not isinstance(request, int | Count):
            return best_of_groups(made, found, own.extend)
        return best(found, made.coarse, what, own.extend)

    def grouped(axis: Axis, request: AxisRequest | Count) -> Grouping:
        if isinstance(request, Count):
            return Grouping.even(axis.size, request.groups, f"axis {axis.id}")
        if not isinstance(request, int):
            return Grouping.of(request, axis.size, axis.id)  # type: ignore[arg-type]
        if request < 1 or axis.size % request:
            raise AxisError(
                f"axis {axis.id} has size {axis.size}, which {request} does not divide: choose a divisor, "
                f"an explicit grouping, or freeze {axis.name}."
            )
        if pairing == "similarity":
            return similar(program, axis, request, None if way.samples is None else way.samples(axis))
        return Grouping.placed(pairing, axis.size, request)

    return group


def fine_grouping(pairing: Placement) -> Callable[[Axis, AxisRequest], Grouping]:
    """How an axis grows: every index gets ``factor`` copies, or as requested explicitly (coarse index per
    new index)."""

    def group(axis: Axis, request: AxisRequest) -> Grouping:
        if isinstance(request, str):
            raise AxisError(f"axis {axis.id} grows by a factor or by a list of indices, not by {request!r}.")
        if isinstance(request, int):
            if request < 1:
                raise AxisError(
                    f"axis {axis.id} cannot grow by a factor of {request}: choose one of at least 1."
                )
            return Grouping.placed(pairing, axis.size * request, request)
        listed: Any = list(request)
        nested = bool(listed) and not isinstance(listed[0], int)
        made = Grouping.of(listed, sum(map(len, listed)), axis.id) if nested else Grouping(tuple(listed))
        if made.coarse != axis.size or set(made.coarse_of) != set(range(axis.size)):
            raise AxisError(
                f"the grouping of axis {axis.id} must copy each of its {axis.size} indices at least once: "
                "list the index that every new one copies."
            )
        return made

    return group


def group_layers(
    program: Program,
    depth: int,
    pairing: Pairing,
    requests: Mapping[str, AxisRequest],
    freeze: Iterable[str],
    way: Way = _PAPERS,
    kept: Sequence[int] = (),
    check: bool = True,
) -> dict[str, Grouping]:
    """The grouping of blocks of every chain that is to change, by chain name.

    ``kept`` lists the blocks of a chain that stay, where no request is made of it. With ``check`` it is tried
    on a miniature first, and chains that fail are left out unless they were requested by name.

    Raises:
        AxisError: there is no chain, a chain's number of blocks does not divide, or one that was requested
            fails.
    """
    out = _grouped_layers(program, depth, pairing, requests, freeze, way, kept)
    return passing(program, out, requests) if check else out


def passing(
    program: Program,
    layers: Mapping[str, Grouping],
    requests: Mapping[str, AxisRequest],
    depth_mode: str | None = None,
) -> dict[str, Grouping]:
    """The chains of a change of depth that pass their trial, going down or growing in a ``depth_mode``.

    Raises:
        AxisError: one that was requested by name fails.
    """
    faults = check_layers(program, layers, depth_mode).faults
    for chain, reason in faults.items():
        if chain in requests:
            raise AxisError(f"the layer axis {chain} cannot change: {reason} ({reason.node}).")
    return {chain: grouping for chain, grouping in layers.items() if chain not in faults}


def _grouped_layers(
    program: Program,
    depth: int,
    pairing: Pairing,
    requests: Mapping[str, AxisRequest],
    freeze: Iterable[str],
    way: Way,
    kept: Sequence[int],
) -> dict[str, Grouping]:
    chains = list(program.blocks)
    if (depth != 1 or kept) and not chains:
        raise AxisError(
            "depth cannot change: the graph has no chain of repeated blocks"
            f"{why_none(program)}; leave depth at 1, width still works."
        )
    frozen = set(freeze)
    out = {}
    for chain in chains:
        what, count = f"the layer axis {chain.name}", len(chain)
        request, own = way.of(requests.get(chain.name, depth), what)
        if chain.name in frozen:
            continue
        if kept and chain.name not in requests:
            out[chain.name] = Grouping.keeping(kept, count, what, way.extend)
            continue
        if request == 1:
            continue
        if isinstance(request, Count):
            even = Grouping.even(count, request.groups, what)
            out[chain.name] = _selected(program, chain, own, even, whole=True)
            continue
        if not isinstance(request, int):
            listed = Grouping.of(request, count, chain.name)  # type: ignore[arg-type]
            out[chain.name] = _selected(program, chain, own, listed, whole=False)
            continue
        if request < 1 or count % request:
            raise AxisError(
                f"the layer axis {chain.name} has {count} blocks"
                f"{f' of {chain.period} layers each' if chain.period > 1 else ''}, which {request} does "
                f"not divide{why_none(program)}: choose a divisor, give an explicit grouping, "
                f"or freeze {chain.name}."
            )
        if pairing == "similarity":
            grouping = similar_blocks(program, [block.tensors for block in chain.blocks], request)
        else:
            grouping = Grouping.placed(pairing, count, request)
        out[chain.name] = _selected(program, chain, own, grouping, whole=pairing != "similarity")
    return out


def _selected(program: Program, chain: Chain, way: Way, grouping: Grouping, whole: bool) -> Grouping:
    """The grouping of blocks going its way; ``whole`` selects those that count most of the whole chain."""
    what, scores = f"the layer axis {chain.name}", way.selects()
    if scores is None:
        return way.going(grouping, what)
    found = scores.of_chain(program, chain)
    if whole:
        return best(found, grouping.coarse, what, way.extend)
    return best_of_groups(grouping, found, way.extend)


def why_none(program: Program) -> str:
    """Why modules that look alike are in no chain, in brackets; else nothing."""
    rejected = program.blocks.rejected
    return f" ({'; '.join(rejected)})" if rejected else ""


def grown_layers(chain: Chain, request: Any, pairing: Placement) -> Grouping:
    """How a chain of blocks grows: by a factor, or as a list of the block that every new one copies.

    Raises:
        MlgraphError: the factor is below 1, or a block is copied by none.
    """
    count = len(chain)
    if isinstance(request, str):
        raise MlgraphError(
            f"the layer axis {chain.name} grows by a factor or by a list of blocks, not by {request!r}."
        )
    if isinstance(request, int):
        if request < 1:
            raise MlgraphError(
                f"the layer axis {chain.name} cannot grow by {request}: choose a factor of at least 1."
            )
        return Grouping.placed(pairing, count * request, request)
    made = Grouping(tuple(request))
    if set(made.coarse_of) != set(range(count)):
        raise MlgraphError(
            f"the grouping of the layer axis {chain.name} must copy each of its {count} blocks at least "
            "once: "
            "list the block that every new one copies."
        )
    return made
