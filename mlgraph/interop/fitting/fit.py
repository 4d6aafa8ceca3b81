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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.errors import CaptureError, MlgraphError
from mlgraph.graph.example_call import dynamic_shapes, example_call
from mlgraph.interop.fitting.advice import INSTEAD, OR_AS_CLASS
from mlgraph.interop.fitting.align import Alignment, align
from mlgraph.interop.fitting.balance import FoldError, fold
from mlgraph.interop.fitting.config_tree import ConfigTree, SettingPath, assign, leaves, lookup, sequences
from mlgraph.interop.fitting.moved import layer_picks, moved_sizes, sizes_of
from mlgraph.interop.fitting.obstacles import obstacles_at, obstacles_of
from mlgraph.interop.fitting.probe import FieldChange, Match, ProbeError, Prober
from mlgraph.rewrite.trials import axes_in

if TYPE_CHECKING:
    from mlgraph.interop.fitting import probe
    from mlgraph.interop.fitting.gap import NamedShapes
    from mlgraph.interop.weights import Rescale
    from mlgraph.program import Program

_CAPTURES = 16
# Captures after which a class with constants of its own will do, where one may.
_CAPTURES_FOR_MORE = 6
_MATCHES = 6


def _distance(alignment: Alignment) -> tuple[int, int]:
    return alignment.cost, len(alignment.constants)


class NotExpressible(MlgraphError):
    """No configuration of the class computes what the program computes; the message says what stands in the
    way.

    ``stays`` names the axes (by id) and chains of the program that it was coarsened from which, left as they
    were, take that out of the way, as far as is known; ``what`` is the difference as a phrase.
    """

    def __init__(self, message: str, stays: tuple[str, ...] = (), what: str = "") -> None:
        super().__init__(message)
        self.stays, self.what = stays, what


@dataclass(frozen=True)
class Fit:
    """Settings that express a program, what they change in the base's, and how to rescale its parameters.

    ``constants`` are sentences, without an end, on numbers that the class has otherwise than the program.
    ``unread`` gives the shapes that the class has for parameters that nothing in the program reads; they are
    cut to them, or filled up with zeros.
    """

    settings: ConfigTree
    changes: tuple[FieldChange, ...]
    rescales: Mapping[str, Rescale]
    constants: tuple[str, ...] = ()
    unread: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be told of the class beside the program."""
        sized = (
            f"{name} is {list(shape)}, as the class has it; nothing reads it"
            for name, shape in self.unread.items()
        )
        return (*sized, *(f"as the class has it: {constant}" for constant in self.constants))

    def value(self, program: Program, name: str) -> torch.Tensor:
        """A tensor of the program as the class needs it; ``name`` is canonical."""
        return self._rescaled(name, program.tensors[name].detach())

    def rows(self, program: Program, name: str) -> torch.Tensor | Iterator[torch.Tensor]:
        """The same, as row chunks where the program's tensors can be made so."""
        made = program.tensors.source.chunks(name) if name not in self.unread else program.tensors[name]
        if isinstance(made, torch.Tensor):
            return self._rescaled(name, made.detach())
        return (self._rescaled(name, part) for part in made)

    def _rescaled(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name in self.unread:
            return _of_shape(tensor, self.unread[name])
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
    modes: tuple[bool, ...] = (True, False)
    _aligned: dict[str, Alignment | None] = field(default_factory=dict)

    def fit(self) -> Fit:
        """The likeliest settings that hold.

        Raises:
            NotExpressible: there are none; the message names what differs with the closest.
        """
        self.program = self.program.without_weights()
        target = self._target
        prober = Prober(
            self._shapes_read,
            self.base,
            target,
            sizes_of(self.program),
            tuple(layer_picks(self.program)),
            moved=moved_sizes(self.program),
        )
        closest: Alignment | None = None
        own: Fit | None = None
        reason = ""
        for match in self._shaped_alike(prober):
            match, alignment = self._settle(match, prober)
            if alignment is None:
                continue
            if alignment.same:
                try:
                    return self._fit(match, fold(self.program, alignment.factors))
                except FoldError as error:
                    reason = reason or str(error)
            if alignment.cost == 0:
                own = own or self._with_own_constants(match, alignment)
            if closest is None or _distance(alignment) < _distance(closest):
                closest = alignment
            if self.captures >= (_CAPTURES_FOR_MORE if own is not None and self.as_class else _CAPTURES):
                break
        if own is not None and self.as_class:
            return own
        raise self._refusal(reason, closest)

    def _shaped_alike(self, prober: Prober) -> Iterator[Match]:
        """The first settings with which the class has the program's shapes."""
        try:
            yield from itertools.islice(prober.matches(), _MATCHES)
        except ProbeError as error:
            gap = error.closest
            stays = obstacles_of(self.program, gap) if gap is not None else ()
            what = gap.examples[0] if gap is not None and gap.examples else ""
            raise NotExpressible(str(error), stays, what) from error

    def _with_own_constants(self, match: Match, alignment: Alignment) -> Fit:
        """The class as it is, but for factors where parameters can take all of them up."""
        rescales, factors = {}, [f"it has {factor}" for factor in alignment.factors]
        with contextlib.suppress(FoldError):
            rescales, factors = fold(self.program, alignment.factors), []
        constants = tuple(dict.fromkeys([*alignment.constants, *factors]))
        return self._fit(match, rescales, constants)

    def _fit(self, match: Match, rescales: Mapping[str, Rescale], constants: tuple[str, ...] = ()) -> Fit:
        have = self.shapes(match.settings)
        unread = {name: have[name] for name in self._unread if have[name] != self._target[name]}
        return Fit(match.settings, match.changes, rescales, constants, unread)

    @cached_property
    def _target(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(self.program.tensors[name].shape) for name in self._state()}

    @cached_property
    def _unread(self) -> list[str]:
        """The parameters whose sizes nothing in the program tells."""
        dims = self.program.axes.tensor_dims
        unknown = (n for n in self.program.axes.unread if any(a.startswith("~") for a in axes_in(dims[n])))
        return [name for name in unknown if name in self._target]

    def _shapes_read(self, settings: ConfigTree) -> NamedShapes:
        """The shapes of a class, with those wanted in the place of such that nothing tells."""
        have = self.shapes(settings)
        free = {n for n in self._unread if n in have and len(have[n]) == len(self._target[n])}
        return {name: self._target[name] if name in free else shape for name, shape in have.items()}

    def _refusal(self, reason: str, closest: Alignment | None) -> NotExpressible:
        if reason:
            return NotExpressible(reason)
        if closest is None:
            return NotExpressible(f"{self.named} could not be captured on the program's inputs; {INSTEAD}.")
        advice, stays = INSTEAD, obstacles_at(self.program, closest.places)
        if closest.breaks:
            what = closest.breaks[0]
        elif closest.sizes:
            ours, theirs = closest.sizes[0]
            what = f"it has a size of {theirs} where the program has {ours}"
        else:
            what, advice = closest.constants[0], OR_AS_CLASS
        return NotExpressible(
            f"No configuration of {self.named} computes the same: {what}; {advice}.", stays, what
        )

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
            self._aligned[key] = self._nearest_alignment(model)
        return self._aligned[key]

    def _nearest_alignment(self, model: nn.Module) -> Alignment | None:
        """How a model differs in training, or in evaluation where the program is that of evaluation."""
        found: dict[bool, Alignment] = {}
        for training in self.modes:
            with contextlib.suppress(CaptureError):
                found[training] = align(self.program, self._capture(model, training))
                if not found[training].breaks:
                    break
        if not found:
            return None
        nearest = min(found, key=lambda training: _distance(found[training]))
        self.modes = (nearest,)
        return found[nearest]

    def _capture(self, model: nn.Module, training: bool) -> Program:
        from mlgraph.capture.model import capture_unchecked

        shapes = dynamic_shapes(self.program, model)
        return capture_unchecked(model, example_call(self.program), shapes, training)


def _of_shape(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The leading entries of a tensor, zeros behind them."""
    made = tensor.new_zeros(shape)
    common = tuple(slice(min(sizes)) for sizes in zip(shape, tensor.shape, strict=True))
    made[common] = tensor[common]
    return made


def _both_counts(a: Any, b: Any) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a > 0 and b > 0


def _with(match: Match, move: Mapping[SettingPath, Any], base: ConfigTree) -> Match:
    values = {change.path: change.new for change in match.changes} | dict(move)
    changes = tuple(FieldChange(path, lookup(base, path), new) for path, new in values.items())
    return Match(assign(base, values), changes)
