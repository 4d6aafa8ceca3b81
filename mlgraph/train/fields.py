"""Documented dataclass fields, and dataclasses from plain tables with every mistake named."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, TypeVar

from mlgraph.errors import suggestion
from mlgraph.train.errors import TrainError

_T = TypeVar("_T")


def option(default: Any, help: str) -> Any:
    """A dataclass field with its documentation."""
    return field(default=default, metadata={"help": help})


def required(help: str) -> Any:
    """A documented dataclass field that has no default."""
    return field(metadata={"help": help})


def build(kind: type[_T], table: Mapping[str, Any], where: str = "") -> _T:
    """A dataclass from a table: unknown keys, missing ones and values of the wrong type raise ``TrainError``.

    ``where`` is the dotted name of the table in its file.
    """
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            hint = suggestion(key, known, "it takes {}.")
            raise TrainError(f"There is no field {_dotted(where, key)!r}: {hint}")
    for name, entry in known.items():
        if name not in table and entry.default is entry.default_factory is dataclasses.MISSING:
            raise TrainError(
                f"The field {_dotted(where, name)!r} is missing: {entry.metadata.get('help', 'give it')}."
            )
    return kind(**{key: _value(hints[key], value, _dotted(where, key)) for key, value in table.items()})


def _dotted(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _value(hint: Any, value: Any, where: str) -> Any:
    for choice in _choices(hint):
        found = _as(choice, value, where)
        if found is not _MISFIT:
            return found
    raise TrainError(f"The field {where!r} is {value!r}: give {describe_type(hint)}.")


_MISFIT: Any = object()


def _choices(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return list(typing.get_args(hint))
    return [hint]


def _as(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool):
        return value if type(value) is hint else _MISFIT
    if origin is tuple and isinstance(value, list):
        items = arguments[:1] * len(value) if arguments[-1:] == (...,) else arguments
        if len(items) != len(value):
            return _MISFIT
        found = [_as(item, entry, where) for item, entry in zip(items, value, strict=True)]
        return _MISFIT if any(entry is _MISFIT for entry in found) else tuple(found)
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    return _MISFIT


def describe_type(hint: Any) -> str:
    """A type in words for users of a configuration file."""
    plain = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    words = []
    for choice in _choices(hint):
        if choice in plain:
            words.append(plain[choice])
        elif typing.get_origin(choice) is tuple:
            items = typing.get_args(choice)
            words.append("a list" if items[-1:] == (...,) else f"a list of {len(items)}")
        elif typing.get_origin(choice) is dict or dataclasses.is_dataclass(choice):
            words.append("a table")
    return " or ".join(dict.fromkeys(words)) or "something else"


@dataclasses.dataclass(frozen=True)
class FieldHelp:
    """One line of a reference: dotted name, type in words, default as written or none, and what it is."""

    name: str
    type: str
    default: str | None
    help: str


def reference(kind: type[Any], where: str = "") -> Iterator[FieldHelp]:
    """Every field of a dataclass, those of nested ones after it."""
    hints = typing.get_type_hints(kind)
    for entry in dataclasses.fields(kind):
        hint, name = hints[entry.name], _dotted(where, entry.name)
        nested = next((c for c in _choices(hint) if dataclasses.is_dataclass(c)), None)
        if nested is not None:
            yield from reference(typing.cast("type[Any]", nested), name)
            continue
        missing = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        default = None if missing else _written(entry)
        yield FieldHelp(name, describe_type(hint), default, entry.metadata.get("help", ""))


def _written(entry: dataclasses.Field[Any]) -> str:
    value = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return f'"{value}"' if isinstance(value, str) else str(value)
