"""Settings of a class, and a rescaling of parameters, with which the plain class computes what a program
does.

First the shapes (``probe``); then the class so built is captured and held against the program (``align``),
which tells what no shape shows: the number of heads, a factor that follows the width. Sizes are settled by
further settings, factors by folding them into parameters (``fold``).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.errors import CaptureError, MlgraphError
from mlgraph.graph.example_call import dynamic_shapes, example_call
from mlgraph.interop.fitting.advice import INSTEAD, OR_AS_CLASS
from mlgraph.interop.fitting.align import Alignment, align
from mlgraph.interop.fitting.balance import FoldError, fold
from mlgraph.interop.fitting.config_tree import (
    ConfigTree,
    Layers,
    SettingPath,
    assign,
    leaves,
    lookup,
    sequences,
)
from mlgraph.interop.fitting.probe import FieldChange, Match, ProbeError, Prober
from mlgraph.program.numbering import number_under
from mlgraph.rewrite.grouping import layers_of

if TYPE_CHECKING:
    from mlgraph.interop.fitting import probe
    from mlgraph.interop.weights import Rescale
    from mlgraph.program import Lineage, Program
    from mlgraph.program.block_table import Chain
    from mlgraph.program.dims import Dim

_CAPTURES = 24
_MATCHES = 6


def _distance(alignment: Alignment) -> tuple[int, int]:
    return alignment.cost, len(alignment.constants)


class NotExpressible(MlgraphError):
    """No configuration of the class computes what the program computes; the message says what stands in the
    way.
    """


@dataclass(frozen=True)
class Fit:
    """Settings that express a program, what they change in the base's, and how to rescale its parameters.

    ``constants`` are sentences, without an end, on numbers that the class has otherwise than the program.
    """

    settings: ConfigTree
    changes: tuple[FieldChange, ...]
    rescales: Mapping[str, Rescale]
    constants: tuple[str, ...] = ()

    def value(self, program: Program, name: str) -> torch.Tensor:
        """A tensor of the program as the class needs it; ``name`` is canonical."""
        return self._rescaled(name, program.tensors[name].detach())

    def rows(self, program: Program, name: str) -> torch.Tensor | Iterator[torch.Tensor]:
        """The same, as row chunks where the program's tensors can be made so."""
        made = program.tensors.source.chunks(name)
        if isinstance(made, torch.Tensor):
            return self._rescaled(name, made.detach())
        return (self._rescaled(name, part) for part in made)

    def _rescaled(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        rescale = self.rescales.get(name)
        return tensor if rescale is None else rescale(tensor)


@dataclass
class Fitter:
    """Searches the settings of a class for one that expresses ``program``.

    ``shapes`` gives the state dict's shapes for settings, ``model`` a model for settings that can be
    captured; ``named`` is how messages call the class. With ``as_class``, constants that the class makes from
    its settings (slopes, sinusoids) may be other than the program's.
    """

    program: Program
    base: ConfigTree
    shapes: probe.Build
    model: Callable[[ConfigTree], nn.Module]
    named: str
    as_class: bool = False
    captures: int = 0
    _aligned: dict[str, Alignment | None] = field(default_factory=dict)

    def fit(self) -> Fit:
        """The likeliest settings that hold.

        Raises:
            NotExpressible: there are none; the message names what differs with the closest.
        """
        self.program = self.program.without_weights()
        target = {name: tuple(self.program.tensors[name].shape) for name in self._state()}
        prober = Prober(
            self.shapes,
            self.base,
            target,
            _sizes(self.program),
            tuple(layer_picks(self.program)),
            moved=moved_sizes(self.program),
        )
        closest: Alignment | None = None
        own: Fit | None = None
        reason = ""
        for match in _shaped_alike(prober):
            match, alignment = self._settle(match, prober)
            if alignment is None:
                continue
            if alignment.same:
                try:
                    return Fit(match.settings, match.changes, fold(self.program, alignment.factors))
                except FoldError as error:
                    reason = reason or str(error)
            if alignment.cost == 0:
                own = own or self._with_own_constants(match, alignment)
            if closest is None or _distance(alignment) < _distance(closest):
                closest = alignment
            if self.captures >= _CAPTURES:
                break
        if own is not None and self.as_class:
            return own
        raise NotExpressible(reason or self._why(closest))

    def _with_own_constants(self, match: Match, alignment: Alignment) -> Fit:
        """The class as it is, but for factors where parameters can take all of them up."""
        rescales, factors = {}, [f"it has {factor}" for factor in alignment.factors]
        with contextlib.suppress(FoldError):
            rescales, factors = fold(self.program, alignment.factors), []
        constants = tuple(dict.fromkeys([*alignment.constants, *factors]))
        return Fit(match.settings, match.changes, rescales, constants)

    def _why(self, closest: Alignment | None) -> str:
        if closest is None:
            return f"{self.named} could not be captured on the program's inputs; {INSTEAD}."
        advice = INSTEAD
        if closest.breaks:
            what = closest.breaks[0]
        elif closest.sizes:
            ours, theirs = closest.sizes[0]
            what = f"it has a size of {theirs} where the program has {ours}"
        else:
            what, advice = closest.constants[0], OR_AS_CLASS
        return f"No configuration of {self.named} computes the same: {what}; {advice}."

    def _state(self) -> list[str]:
        tensors = self.program.tensors
        return [name for name in [*tensors, *tensors.aliases] if name in tensors.persistent]

    def _settle(self, match: Match, prober: Prober) -> tuple[Match, Alignment | None]:
        """Change settings that move no shape, one after the other, while that brings the graphs closer."""
        alignment = self._align(match.settings)
        while alignment is None or (alignment.cost and alignment.sizes):
            better = next(self._improvements(match, alignment, prober), None)
            if better is None:
                break
            match, alignment = better
        return match, alignment

    def _improvements(
        self, match: Match, alignment: Alignment | None, prober: Prober
    ) -> Iterator[tuple[Match, Alignment]]:
        if alignment is not None:
            pairs = Counter(pair for pair in alignment.sizes if min(pair) > 0)
        else:
            # it does not even run: something has to follow what was changed
            values = ((leaves(c.new), leaves(c.old)) for c in match.changes)
            each = (zip((v for _, v in new), (v for _, v in old), strict=False) for new, old in values)
            pairs = Counter((a, b) for pair in each for a, b in pair if _both_counts(a, b) and a != b)
        for move in self._silent_moves(match, pairs, prober):
            if self.captures >= _CAPTURES:
                return
            candidate = _with(match, move, prober.base)
            reached = self._align(candidate.settings)
            if reached is not None and (alignment is None or _distance(reached) < _distance(alignment)):
                yield candidate, reached

    def _silent_moves(
        self, match: Match, pairs: Counter[tuple[int, int]], prober: Prober
    ) -> Iterator[dict[SettingPath, Any]]:
        """Changes by which a size becomes the first of a pair where it is the second, likeliest first."""
        present = {change.path: change.new for change in match.changes}
        numbers = {path: v for path, v in leaves(match.settings) if isinstance(v, int) and v > 1}
        ranked: list[tuple[int, int, dict[SettingPath, Any]]] = []
        order = itertools.count()

        def add(doubt: int, move: dict[SettingPath, Any]) -> None:
            # a value that no axis has, to become one that some axis has, is most likely the one to change
            doubt += any(numbers.get(path) in prober.known for path in move)
            doubt += any(isinstance(new, int) and new not in prober.known for new in move.values())
            doubt += any(not prober.follows(path, new) for path, new in move.items())
            ranked.append((doubt, next(order), move))

        for (ours, theirs), _ in pairs.most_common():
            equal = [path for path, value in numbers.items() if value == theirs]
            for path in equal:
                add(0, {path: ours})
            if len(equal) > 1:
                add(1, dict.fromkeys(equal, ours))
            for path, items in sequences(match.settings):
                if theirs in items and all(isinstance(i, int) and i * ours % theirs == 0 for i in items):
                    add(1, {path: [i * ours // theirs for i in items]})
            scaled = {
                path: value * ours // theirs
                for path, value in numbers.items()
                if value != theirs and value * ours % theirs == 0 and value * ours >= theirs
            }
            for path, new in scaled.items():
                add(3, {path: new})
            # heads of queries and of keys, say, whose changes cancel out in a fused projection
            likely = {
                path: new for path, new in scaled.items() if path not in present and new in prober.known
            }
            alike = [
                {p: n for p, n in scaled.items() if numbers[p] == v} for v in {numbers[p] for p in scaled}
            ]
            for group in (likely, *alike):
                if len(group) > 1:
                    add(2 if group is likely else 3, group)
        tried: set[str] = set()
        for _, _, move in sorted(ranked, key=lambda item: item[:2]):
            key = repr(sorted(move.items(), key=str))
            gap = prober.gap({**present, **move}) if key not in tried else None
            tried.add(key)
            if gap is not None and gap.score == (0, 0):
                yield move

    def _align(self, settings: ConfigTree) -> Alignment | None:
        key = json.dumps(settings, sort_keys=True, default=repr)
        if key not in self._aligned:
            self.captures += 1
            try:
                model = self.model(settings)
            except Exception:  # a class may reject on real tensors what it takes on shapes alone
                self._aligned[key] = None
                return None
            try:
                self._aligned[key] = align(self.program, self._capture(model))
            except CaptureError:
                self._aligned[key] = None
        return self._aligned[key]

    def _capture(self, model: nn.Module) -> Program:
        from mlgraph.capture.model import capture

        args, kwargs = example_call(self.program)
        return capture(model, args, kwargs, dynamic_shapes=dynamic_shapes(self.program, model))


def _both_counts(a: Any, b: Any) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a > 0 and b > 0


def _with(match: Match, move: Mapping[SettingPath, Any], base: ConfigTree) -> Match:
    values = {change.path: change.new for change in match.changes} | dict(move)
    changes = tuple(FieldChange(path, lookup(base, path), new) for path, new in values.items())
    return Match(assign(base, values), changes)


def _sizes(program: Program) -> frozenset[int]:
    """Sizes that axes, neighbouring axes of a dim together, and chains of the program have."""
    sizes = {axis.size for axis in program.axes}
    for dims in program.axes.tensor_dims.values():
        for dim in dims:
            own = [leaf.size for leaf in dim.leaves()]
            sizes |= {math.prod(own[i:j]) for i in range(len(own)) for j in range(i + 1, len(own) + 1)}
    for chain in program.blocks:
        sizes |= {len(chain), len(chain) * chain.period}
    return frozenset(sizes)


def _shaped_alike(prober: Prober) -> Iterator[Match]:
    """The first settings with which the class has the program's shapes."""
    try:
        yield from itertools.islice(prober.matches(), _MATCHES)
    except ProbeError as error:
        raise NotExpressible(str(error)) from error


def moved_sizes(program: Program) -> frozenset[tuple[int, int]]:
    """Sizes of axes, of neighbouring axes of a dim together and of chains, as (before, after), in which the
    program differs from those that it came from.
    """
    pairs: set[tuple[int, int]] = set()
    lineage = program.lineage
    while lineage is not None:
        before = lineage.parent
        ours = program.axes.tensor_dims
        for name, dims in before.axes.tensor_dims.items():
            for old, new in zip(dims, ours.get(name, ()), strict=False):
                pairs |= set(_moved_runs(old, new))
        lengths = {chain.name: len(chain) for chain in before.blocks}
        pairs |= {(lengths[chain.name], len(chain)) for chain in program.blocks if chain.name in lengths}
        lineage = before.lineage
    return frozenset((old, new) for old, new in pairs if old != new)


def _moved_runs(old: Dim, new: Dim) -> Iterator[tuple[int, int]]:
    """The sizes of neighbouring axes of a dim together, before and after."""
    sizes, others = ([leaf.size for leaf in dim.leaves()] for dim in (old, new))
    if len(sizes) == len(others):
        yield from ((math.prod(sizes[i:j]), math.prod(others[i:j])) for i, j in _runs(len(sizes)))


def _runs(count: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(count) for j in range(i + 1, count + 1))


def layer_picks(program: Program) -> Iterator[Layers]:
    """How the places of every chain that changed are picked from the chain before, over all steps of the
    lineage.
    """
    lineage: Lineage | None = program.lineage
    if lineage is not None and lineage.direction == "down" and lineage.layers:
        yield from _stacks(lineage)
    picks: dict[str, tuple[int, ...]] = {}
    while lineage is not None:
        grows = lineage.direction == "up"
        chains = {chain.name: chain.period for chain in lineage.parent.blocks} if lineage.layers else {}
        for name, grouping in layers_of(lineage).items():
            period, groups = chains.get(name, 1), grouping.coarse_of
            starts = groups if grows else tuple(group[0] for group in grouping.kept)
            step = tuple(start * period + at for start in starts for at in range(period))
            picks[name] = tuple(step[at] for at in picks[name]) if name in picks else step
            before = (max(groups) + 1 if grows else len(groups)) * period
            yield Layers(before, picks[name])
        lineage = lineage.parent.lineage


def _stacks(lineage: Lineage) -> Iterator[Layers]:
    """How the places of numbered modules that hold several chains, or more than one, are picked."""
    groupings = layers_of(lineage)
    parent = lineage.parent
    by_prefix: defaultdict[str, dict[int, Chain]] = defaultdict(dict)
    for chain in parent.blocks:
        if chain.prefix is not None:
            by_prefix[chain.prefix][chain.start] = chain
    for prefix, starting in by_prefix.items():
        numbers = [n for name in parent.tensors if (n := number_under(name, prefix)) is not None]
        picks: list[int] = []
        place = 0
        while place <= max(numbers, default=-1):
            here = starting.get(place)
            taken = here.numbers if here is not None else range(place, place + 1)
            grouping = groupings.get(here.name) if here is not None else None
            if here is None or grouping is None:
                picks += taken
            else:
                firsts = (group[0] for group in grouping.kept)
                picks += [n for first in firsts for n in taken[first * here.period :][: here.period]]
            place += len(taken)
        yield Layers(place, tuple(picks))
