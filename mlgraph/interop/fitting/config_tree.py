"""Settings of a configurable class as trees: their leaves, their lists, and settings with some changed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

SettingPath = tuple[str | int, ...]
ConfigTree = dict[str, Any]


def spell(path: SettingPath) -> str:
    """``("text_config", "depths", 1)`` as ``text_config.depths[1]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def leaves(settings: Any, path: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Every scalar setting with its path, through nested dicts and lists.

    A dict that numbers names from zero (class labels) holds no settings and is passed over.
    """
    if isinstance(settings, Mapping):
        values = list(settings.values())
        if len(values) > 1 and sorted(map(repr, values)) == sorted(map(repr, range(len(values)))):
            return
        for key, value in settings.items():
            if not isinstance(key, int):
                yield from leaves(value, (*path, key))
    elif isinstance(settings, list | tuple):
        for at, value in enumerate(settings):
            yield from leaves(value, (*path, at))
    else:
        yield path, settings


def sequences(settings: Any, path: SettingPath = ()) -> Iterator[tuple[SettingPath, Sequence[Any]]]:
    """Every list or tuple in the settings with its path, outermost first."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from sequences(value, (*path, key))
    elif isinstance(settings, list | tuple):
        yield path, settings
        for at, value in enumerate(settings):
            yield from sequences(value, (*path, at))


def lookup(settings: Any, path: SettingPath) -> Any:
    """The setting at a path."""
    for part in path:
        settings = settings[part]
    return settings


def assign(settings: ConfigTree, values: Mapping[SettingPath, Any]) -> ConfigTree:
    """A copy of the settings with some changed; the shallower of nested paths first."""
    changed = copy.deepcopy(settings)
    for path in sorted(values, key=len):
        holder: Any = changed
        for at, part in enumerate(path[:-1]):
            if isinstance(holder[part], tuple):
                holder[part] = list(holder[part])
            holder = holder[part]
            del at
        if isinstance(holder, list) and isinstance(path[-1], int) and path[-1] >= len(holder):
            continue
        holder[path[-1]] = values[path]
    return changed


@dataclass(frozen=True)
class Layers:
    """Which block of the base stands at each place of the result, for a chain of ``length`` blocks."""

    length: int
    picks: tuple[int, ...]


def resize(items: Sequence[Any], length: int, layers: Iterable[Layers] = ()) -> list[Any]:
    """A per-layer list for another number of layers.

    The picks of a chain of these lengths decide; without one, a shorter list is the prefix and a longer
    one repeats each entry (or the whole list, where its entries alternate).
    """
    for chain in layers:
        if chain.length == len(items) and len(chain.picks) == length:
            return [items[at] for at in chain.picks]
    if length <= len(items) or not items:
        return list(items[:length])
    return [items[at % len(items)] for at in range(length)]


def is_int(value: Any) -> bool:
    """Whether a setting is a whole number, which a flag is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def in_ratio(value: Any, numerator: int, denominator: int) -> int | None:
    """A whole number times ``numerator / denominator``, where that is a whole number above zero."""
    if not is_int(value) or not denominator:
        return None
    ratio = Fraction(value * numerator, denominator)
    return int(ratio) if ratio.denominator == 1 and ratio > 0 else None
