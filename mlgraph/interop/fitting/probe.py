"""Which settings of a configurable class give it a wanted set of tensor shapes, found by trying.

A *build* is any function from a tree of settings (a Hugging Face config as a dict, timm's keyword
arguments) to the shapes of the class so built. Nothing here knows what a setting means: a setting is
changed, the class is built anew (on the meta device), and the tensor dims that moved tell what it does.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from mlgraph.errors import MlgraphError
from mlgraph.interop.fitting.advice import INSTEAD
from mlgraph.interop.fitting.config_tree import (
    ConfigTree,
    Layers,
    SettingPath,
    assign,
    in_ratio,
    is_int,
    leaves,
    lookup,
    resize,
    sequences,
    spell,
)
from mlgraph.interop.fitting.gap import Gap, GapScore, NamedShapes, lengths_of, measure

Build = Callable[[ConfigTree], NamedShapes]


class ProbeError(MlgraphError):
    """No settings of the class give the wanted shapes; ``closest`` is how far the nearest are from them."""

    def __init__(self, message: str, closest: Gap | None = None) -> None:
        super().__init__(message)
        self.closest = closest


@dataclass(frozen=True)
class FieldChange:
    """One setting and its values before and after; ``path`` leads to it through dicts and lists."""

    path: SettingPath
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{spell(self.path)} {_short(self.old)} -> {_short(self.new)}"


@dataclass(frozen=True)
class Match:
    """Settings whose class has the wanted names and shapes, and how they differ from the base's."""

    settings: ConfigTree
    changes: tuple[FieldChange, ...]


@dataclass
class Prober:
    """Searches the settings whose class has the wanted names and shapes.

    ``known`` are the sizes that the result's axes have: a setting that would take another value is tried
    last, which tells half as many heads from heads of half the width. ``moved`` are the sizes that changed,
    (before, after); a setting that would change otherwise is tried later. ``layers`` says how per-layer
    lists follow a change of depth. ``budget`` bounds the number of builds.
    """

    build: Build
    base: ConfigTree
    target: NamedShapes
    known: frozenset[int] = frozenset()
    layers: tuple[Layers, ...] = ()
    moved: frozenset[tuple[int, int]] = frozenset()
    budget: int = 1500
    builds: int = 0
    _gaps: dict[str, Gap | None] = field(default_factory=dict)
    _shapes: dict[str, NamedShapes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.known:
            self.known |= frozenset(lengths_of(self.target).values())

    def matches(self) -> Iterator[Match]:
        """Every distinct way found, likeliest first.

        Raises:
            ProbeError: when there is none, with the closest build's remaining differences.
        """
        start = self.gap({})
        if start is None:
            self.build(copy.deepcopy(self.base))
            raise ProbeError("The class could not be built from its own settings; check its config.")
        order = itertools.count()
        frontier: list[tuple[int, GapScore, int, int, dict[SettingPath, Any]]] = [
            (0, start.score, 0, next(order), {})
        ]
        queued, yielded = {_key({})}, set[str]()
        closest = start
        while frontier and self.builds < self.budget:
            _, score, _, _, values = heapq.heappop(frontier)
            gap = self.gap(values)
            assert gap is not None
            closest = min(closest, gap, key=lambda item: item.score)
            if score == (0, 0):
                minimal = self._minimal(values)
                if _key(minimal) not in yielded:
                    yielded.add(_key(minimal))
                    yield self._match(minimal)
                continue
            for tier in self._tiers(values, gap):
                nearer = list(self._nearer(values, tier, score, queued))
                for child, reached in nearer:
                    entry = (self._unlikely(child), reached, len(child), next(order), child)
                    heapq.heappush(frontier, entry)
                if nearer:
                    break
        if not yielded:
            raise ProbeError(
                "No configuration of the class has these shapes; with the closest one "
                f"{'; '.join(closest.examples)}; {INSTEAD}.",
                closest,
            )

    def _nearer(
        self,
        values: dict[SettingPath, Any],
        moves: Iterable[dict[SettingPath, Any]],
        score: GapScore,
        queued: set[str],
    ) -> Iterator[tuple[dict[SettingPath, Any], GapScore]]:
        """The values after every new move that comes nearer than ``score``, with theirs."""
        for move in moves:
            child = _combined(values, move)
            if _key(child) in queued or self.builds >= self.budget:
                continue
            reached = self.gap(child)
            if reached is not None and reached.score < score:
                queued.add(_key(child))
                yield child, reached.score

    def gap(self, values: Mapping[SettingPath, Any]) -> Gap | None:
        """The distance to the target with these settings changed, or None where the class can't be built."""
        key = _key(values)
        if key not in self._gaps:
            self.builds += 1
            try:
                shapes = self.build(assign(self.base, values))
            except Exception:  # a class may reject settings with any exception at all
                self._gaps[key] = None
            else:
                self._shapes[key] = shapes
                self._gaps[key] = measure(shapes, self.target)
        return self._gaps[key]

    def _match(self, values: Mapping[SettingPath, Any]) -> Match:
        changes = tuple(FieldChange(path, lookup(self.base, path), new) for path, new in values.items())
        return Match(assign(self.base, values), changes)

    def follows(self, path: SettingPath, new: Any) -> bool:
        """Whether a setting changes as some size of the result did."""
        if not self.moved or not is_int(new):
            return True
        old = lookup(self.base, path)
        return old == new or (old, new) in self.moved

    def _unlikely(self, values: Mapping[SettingPath, Any]) -> int:
        if not self.known:
            return 0
        flat = [item for value in values.values() for _, item in leaves(value)]
        strange = sum(1 for item in flat if is_int(item) and item not in self.known)
        return strange + sum(1 for path, new in values.items() if not self.follows(path, new))

    def _minimal(self, values: dict[SettingPath, Any]) -> dict[SettingPath, Any]:
        for path in sorted(values, key=len, reverse=True):
            fewer = {other: value for other, value in values.items() if other != path}
            gap = self.gap(fewer)
            if gap is not None and gap.score == (0, 0):
                values = fewer
        return values

    def _tiers(self, values: dict[SettingPath, Any], gap: Gap) -> Iterator[Iterator[dict[SettingPath, Any]]]:
        settings = assign(self.base, values)
        numbers = {path: value for path, value in leaves(settings) if is_int(value) and value > 0}
        if gap.counts:
            yield self._depth_moves(settings, numbers, gap)
            yield self._paired(self._depth_moves(settings, numbers, gap), values, settings, numbers)
            yield self._empty_counts(settings, gap)
        yield self._equal_moves(settings, numbers, gap)
        yield (
            move
            for move in self._ratio_moves(numbers, gap)
            if all(itertools.starmap(self.follows, move.items()))
        )
        # a size may follow a setting by more than a ratio: a half of what is left to each head
        yield ({path: new} for old, new in sorted(self.moved) for path, v in numbers.items() if v == old)
        yield self._ratio_moves(numbers, gap)
        yield self._paired(self._equal_moves(settings, numbers, gap), values, settings, numbers)
        yield self._slope_moves(values, numbers)
        yield self._unset_moves(settings, gap)
        yield self._float_moves(settings, gap)
        yield self._paired(self._ratio_moves(numbers, gap), values, settings, numbers)

    def _depth_moves(
        self, settings: ConfigTree, numbers: Mapping[SettingPath, int], gap: Gap
    ) -> Iterator[dict[SettingPath, Any]]:
        for have, want in dict.fromkeys(gap.counts.values()):
            if not have or not want:
                continue
            lists = {
                path: resize(items, want, self.layers)
                for path, items in sequences(settings)
                if len(items) == have
            }
            derived = {path: None for path, _ in sequences(settings) if path not in lists}
            equal = [path for path, value in numbers.items() if value == have]
            for path in equal:
                yield {path: want}
                if lists:
                    yield {path: want, **lists}
                # lists that a class derives from its depth (names of stages) are left to it to derive
                yield {path: want, **lists, **derived}
            # a list of lengths (depths of stages) goes with the counts of several containers at once
            yield dict.fromkeys(equal, want) | lists
            for path, items in lists.items():
                yield {path: items}
            if lists:
                yield lists
            offset = {path: value + want - have for path, value in numbers.items() if value + want > have}
            for path, value in offset.items():
                if len(path) < 4 and abs(numbers[path] - have) <= 2:
                    yield {path: value} | lists
            for path, value in numbers.items():
                scaled = Fraction(value * want, have)
                if value != have and 0 in (have % value, value % have) and scaled.denominator == 1:
                    yield {path: int(scaled)} | lists

    def _empty_counts(self, settings: ConfigTree, gap: Gap) -> Iterator[dict[SettingPath, Any]]:
        for have, want in dict.fromkeys(gap.counts.values()):
            for path, value in leaves(settings):
                if value is None:
                    yield {path: want}
            for path, items in sequences(settings):
                if len(items) == have:
                    yield {path: None}

    def _equal_moves(
        self, settings: ConfigTree, numbers: Mapping[SettingPath, int], gap: Gap
    ) -> Iterator[dict[SettingPath, Any]]:
        for (have, want), _ in gap.dims.most_common():
            equal = [path for path, value in numbers.items() if value == have]
            for path in equal:
                yield {path: want}
            if len(equal) > 1:
                yield dict.fromkeys(equal, want)
            for path, items in sequences(settings):
                scaled = [in_ratio(item, want, have) for item in items]
                if None not in scaled and have in [item for item in items if is_int(item)]:
                    yield {path: scaled}

    def _ratio_moves(self, numbers: Mapping[SettingPath, int], gap: Gap) -> Iterator[dict[SettingPath, Any]]:
        for (have, want), _ in gap.dims.most_common():
            for path, value in numbers.items():
                scaled = in_ratio(value, want, have)
                if value != have and scaled and (have % value == 0 or value % have == 0):
                    yield {path: scaled}
                if value == 2 * have or have == 2 * value:
                    continue
                if value > want and scaled and value != have and value % have and have % value:
                    yield {path: scaled}

    def _paired(
        self,
        moves: Iterator[dict[SettingPath, Any]],
        values: dict[SettingPath, Any],
        settings: ConfigTree,
        numbers: Mapping[SettingPath, int],
    ) -> Iterator[dict[SettingPath, Any]]:
        # a class that can't be built with one setting changed may need a second changed by the same ratio
        for move in moves:
            if self.gap(_combined(values, move)) is not None:
                continue
            path, new = next((item for item in move.items() if is_int(item[1])), ((), 0))
            if not path:
                continue
            old = lookup(settings, path)
            companions = {
                other: scaled
                for other, value in numbers.items()
                if other not in move and (scaled := in_ratio(value, new, old))
            }
            for other, scaled in companions.items():
                yield {**move, other: scaled}
            alike = {other: scaled for other, scaled in companions.items() if old % numbers[other] == 0}
            for size in (2, 3):
                for some in itertools.combinations(alike, size):
                    yield {**move, **{other: alike[other] for other in some}}

    def _slope_moves(
        self, values: dict[SettingPath, Any], numbers: Mapping[SettingPath, int]
    ) -> Iterator[dict[SettingPath, Any]]:
        here = self._shapes[_key(values)]
        for path, value in numbers.items():
            for other in (2 * value, value + 1):
                moved = _combined(values, {path: other})
                if self.gap(moved) is None:
                    continue
                there = self._shapes[_key(moved)]
                common = here.keys() & there.keys() & self.target.keys()
                triples = (zip(here[name], there[name], self.target[name], strict=False) for name in common)
                steps = (
                    Fraction((want - a) * (other - value), b - a)
                    for a, b, want in itertools.chain.from_iterable(triples)
                    if a != b and a != want
                )
                whole = (value + int(step) for step in steps if step.denominator == 1)
                guesses = Counter(guess for guess in whole if guess > 0)
                yield from ({path: guess} for guess, _ in guesses.most_common(3))
                break

    def _unset_moves(self, settings: ConfigTree, gap: Gap) -> Iterator[dict[SettingPath, Any]]:
        for path, value in leaves(settings):
            if value is None:
                for (_, want), _ in gap.dims.most_common(4):
                    yield {path: want}

    def _float_moves(self, settings: ConfigTree, gap: Gap) -> Iterator[dict[SettingPath, Any]]:
        for path, value in leaves(settings):
            if isinstance(value, float) and value:
                for (have, want), _ in gap.dims.most_common(4):
                    yield {path: value * want / have}
                    yield {path: value * have / want}


def _combined(values: Mapping[SettingPath, Any], move: Mapping[SettingPath, Any]) -> dict[SettingPath, Any]:
    # a change of a whole list supersedes earlier ones inside it; one inside a changed list edits that list
    merged = dict(values)
    for path, value in sorted(move.items(), key=lambda item: len(item[0])):
        merged = {other: old for other, old in merged.items() if other[: len(path)] != path}
        outer = next((other for other in merged if path[: len(other)] == other), None)
        if outer is None:
            merged[path] = value
        elif isinstance(merged[outer], list | tuple | dict):
            inner: Any = assign({"": merged[outer]}, {("", *path[len(outer) :]): value})
            merged[outer] = inner[""]
    return merged


def _key(values: Mapping[SettingPath, Any]) -> str:
    return json.dumps(sorted((spell(path), value) for path, value in values.items()), default=repr)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
