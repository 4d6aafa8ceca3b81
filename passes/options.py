"""Options as dataclass fields: declared once with type and help, checked, and read from tables.

A field made by :func:`option` is an option of whatever its dataclass stands for: of a pass in Python, in
pipelines, on the command line and in the explorer; of a phase, a recipe or a run in Python and in TOML.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal, TypeVar, Union

from mlgraph.errors import MlgraphError, suggestion

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])


class OptionError(MlgraphError):
    """A table or call names an option that does not exist, lacks one, or gives one of the wrong type."""


class WrongValue(Exception):
    """A value is not of its option's type; the text says what would be, and what was given."""


# declaring


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    flag: str | None = None,
    metavar: str | None = None,
    key: str | None = None,
    example: str | None = None,
) -> Any:
    """A dataclass field with its documentation.

    ``help`` is half a sentence; ``least`` and ``most`` bound numbers, one by one in lists and tables;
    ``flag`` and ``metavar`` are those of the command line, where the field's name will not do, and
    ``example`` shows how a table is written there; ``key`` changes the option in the explorer.
    """
    about = {"help": help, "least": least, "most": most, "flag": flag, "metavar": metavar}
    about |= {"key": key, "example": example}
    metadata = {name: value for name, value in about.items() if value is not None}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def required(help: str) -> Any:
    """A documented dataclass field that has no default."""
    return field(metadata={"help": help})


def inline(default: Any, *names: str) -> Any:
    """A field that holds a dataclass, whose fields (all, or those named) stand in the table around it.

    ``default`` is an instance; a table that gives some of its fields changes those alone.
    """
    known = tuple(entry.name for entry in dataclasses.fields(default))
    return field(default=default, metadata={"inline": names or known})


def hints(kind: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields; type variables stand for what the class was made with."""
    found = typing.get_type_hints(kind)
    given: dict[Any, Any] = {}
    for parent in kind.__mro__:
        for base in getattr(parent, "__orig_bases__", ()):
            origin = typing.get_origin(base)
            given.update(zip(getattr(origin, "__parameters__", ()), typing.get_args(base), strict=False))
    return {entry.name: given.get(found[entry.name], found[entry.name]) for entry in dataclasses.fields(kind)}


def default_of(entry: dataclasses.Field[Any]) -> Any:
    """The default of a field, or ``dataclasses.MISSING``."""
    return entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()


def signed(kind: type[Any], *without: str) -> Callable[[_F], _F]:
    """Show the fields of a dataclass in the signature of a function that takes them as ``**options``."""

    def decorate(function: _F) -> _F:
        signature = inspect.signature(function)
        shown = {p.name: p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD}
        for entry in _written(kind):
            if entry.name not in shown and entry.name not in without:
                kept = inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=entry.value)
                shown[entry.name] = kept.replace(annotation=entry.hint)
        function.__signature__ = signature.replace(parameters=list(shown.values()))  # type: ignore[attr-defined]
        return function

    return decorate


# checking


def conform(value: Any, annotation: Any) -> Any:
    """``value`` as the ``annotation`` of its field has it.

    Lists become tuples and integers become floats where a float is declared, tables become the dataclasses
    that are declared; nothing else is changed. Raises Misfit where the value is of another type.
    """
    fitted = _fit(value, annotation, "")
    if fitted is _MISFIT:
        raise WrongValue(f"{describe(annotation)}, not {value!r}")
    return fitted


def check_bounds(value: Any, metadata: Mapping[str, Any]) -> None:
    """Raise Misfit where a number in ``value`` is outside the bounds that a field's metadata sets."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value]
    least, most = metadata.get("least", -float("inf")), metadata.get("most", float("inf"))
    for item in items:
        if isinstance(item, int | float) and not isinstance(item, bool) and not least <= item <= most:
            bounds = f"between {least} and {most}" if "most" in metadata else f"at least {least}"
            raise WrongValue(f"{bounds}, not {item!r}")


_MISFIT: Any = object()
_PLAIN = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def choices(hint: Any) -> tuple[Any, ...]:
    """The values that a type lists one by one; none where it is no ``Literal``."""
    return tuple(
        v for one in _choices(hint) if typing.get_origin(one) is Literal for v in typing.get_args(one)
    )


def _fit(value: Any, annotation: Any, where: str) -> Any:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if annotation is Any:
        return _frozen(value)
    if annotation is None or annotation is type(None):
        return None if value is None else _MISFIT
    if origin in (Union, types.UnionType):
        fits = [fit for fit in (_fit(value, choice, where) for choice in arguments) if fit is not _MISFIT]
        exact = [fit for fit in fits if type(fit) is type(value)]
        return (exact or fits or [_MISFIT])[0]
    if origin is Literal:
        return value if value in arguments else _MISFIT
    if annotation in _PLAIN:
        return _fit_plain(value, annotation)
    if dataclasses.is_dataclass(annotation) and isinstance(value, Mapping):
        return build(typing.cast("type[Any]", annotation), value, where)
    container = origin or annotation
    if not isinstance(container, type):
        return _MISFIT
    if issubclass(container, Mapping):
        return _fit_mapping(value, arguments, where)
    if issubclass(container, Sequence):
        return _fit_sequence(value, _items(container, arguments), (*arguments, Any)[0], where)
    return value if isinstance(value, container) else _MISFIT


def _fit_plain(value: Any, annotation: Any) -> Any:
    value = _frozen(value)
    if isinstance(value, bool):
        return value if annotation is bool else _MISFIT
    if annotation is float and isinstance(value, int):
        return float(value)
    if annotation is int and isinstance(value, Integral):
        return int(value)
    return value if isinstance(value, annotation) else _MISFIT


def _fit_mapping(value: Any, arguments: tuple[Any, ...], where: str) -> Any:
    if not isinstance(value, Mapping):
        return _MISFIT
    key_type, item_type = arguments or (Any, Any)
    fitted = {_fit(key, key_type, where): _fit(item, item_type, where) for key, item in value.items()}
    return _MISFIT if any(_MISFIT in pair for pair in fitted.items()) else fitted


def _items(container: type, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The types of a sequence's items, one by one, or None where it has any number of one type."""
    return arguments if container is tuple and arguments and arguments[-1] is not Ellipsis else None


def _fit_sequence(value: Any, kinds: tuple[Any, ...] | None, every: Any, where: str) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return _MISFIT
    kinds = (every,) * len(value) if kinds is None else kinds
    if len(kinds) != len(value):
        return _MISFIT
    items = tuple(_fit(item, kind, where) for item, kind in zip(value, kinds, strict=True))
    return _MISFIT if any(item is _MISFIT for item in items) else items


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # a tensor, an array or a number of one
        return _frozen(value.tolist())
    return value


def describe(hint: Any) -> str:
    """A type in words, for users; that it may be none is left out."""
    words = []
    for choice in _choices(hint):
        container = typing.get_origin(choice) or choice
        if choice in _PLAIN:
            words.append(_PLAIN[choice])
        elif container is Literal:
            words.append("one of " + ", ".join(str(value) for value in typing.get_args(choice)))
        elif isinstance(container, type) and issubclass(container, Sequence):
            items = _items(container, typing.get_args(choice))
            words.append("a list" if items is None else f"a list of {len(items)}")
        elif dataclasses.is_dataclass(choice) or (
            isinstance(container, type) and issubclass(container, Mapping)
        ):
            words.append("a table")
        elif choice is not None and choice is not type(None):
            words.append(getattr(container, "__name__", str(container)))
    return " or ".join(dict.fromkeys(words)) or "none"


# tables


@dataclass(frozen=True)
class TableKey:
    """A key of a table: the field it sets, in the dataclass itself or in one that stands inline."""

    name: str
    hint: Any
    value: Any
    metadata: Mapping[str, Any]
    inside: str | None = None


def _written(kind: type[Any], default: Any = None) -> Iterator[TableKey]:
    """The keys of a dataclass's table in order, with their defaults."""
    found = hints(kind)
    for entry in dataclasses.fields(kind):
        value = default_of(entry) if default is None else getattr(default, entry.name)
        if "inline" not in entry.metadata:
            yield TableKey(entry.name, found[entry.name], value, entry.metadata)
            continue
        for inner in _written(type(value), value):
            if inner.name in entry.metadata["inline"]:
                yield dataclasses.replace(inner, inside=entry.name)


def entries(kind: type[Any]) -> list[TableKey]:
    """The options that a dataclass declares, in order, those that stand inline in it included."""
    return list(_written(kind))


def build(kind: type[_T], table: Mapping[str, Any], where: str = "") -> _T:
    """A dataclass from a table.

    ``where`` is the dotted name of the table in its file. Raises OptionError at keys that are not known, at
    missing ones and at values of the wrong type.
    """
    known = {entry.name: entry for entry in _written(kind)}
    for key in table:
        if key not in known:
            raise OptionError(
                f"There is no field {_dotted(where, key)!r}: {suggestion(key, known, 'it takes {}.')}"
            )
    for name, entry in known.items():
        if name not in table and entry.value is dataclasses.MISSING:
            wanted = entry.metadata.get("help", "give it")
            raise OptionError(f"The field {_dotted(where, name)!r} is missing: {wanted}.")
    values: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    for key, value in table.items():
        fitted = _value(known[key], value, _dotted(where, key))
        owner = known[key].inside
        (values if owner is None else inside.setdefault(owner, {}))[key] = fitted
    for owner, given in inside.items():
        default = next(default_of(entry) for entry in dataclasses.fields(kind) if entry.name == owner)  # type: ignore[arg-type]
        values[owner] = dataclasses.replace(default, **given)
    return kind(**values)


def _dotted(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _value(entry: TableKey, value: Any, where: str) -> Any:
    fitted = _fit(value, entry.hint, where)
    if fitted is _MISFIT:
        raise OptionError(f"The field {where!r} is {value!r}: give {describe(entry.hint)}.")
    try:
        check_bounds(fitted, entry.metadata)
    except WrongValue as wrong:
        raise OptionError(f"The field {where!r} must be {wrong}.") from None
    return fitted


def table_of(value: Any, whole: bool = False) -> dict[str, Any]:
    """The table of a dataclass instance, which :func:`build` reads again: ``whole``, or without defaults."""
    table = {}
    for entry in _written(type(value)):
        holder = value if entry.inside is None else getattr(value, entry.inside)
        own = getattr(holder, entry.name)
        if whole or own != entry.value:
            table[entry.name] = table_of(own, whole) if dataclasses.is_dataclass(own) else own
    return table


@dataclass(frozen=True)
class FieldHelp:
    """One line of a reference: dotted name, type in words, default as written or none, and what it is."""

    name: str
    type: str
    default: str | None
    help: str


def reference(kind: type[Any], where: str = "", default: Any = None) -> Iterator[FieldHelp]:
    """Every field of a dataclass, those of nested ones after it."""
    for entry in _written(kind, default):
        name = _dotted(where, entry.name)
        nested = next((c for c in _choices(entry.hint) if dataclasses.is_dataclass(c)), None)
        if nested is not None:
            own = entry.value if isinstance(entry.value, nested) else None  # type: ignore[arg-type]
            yield from reference(typing.cast("type[Any]", nested), name, own)
            continue
        shown = None if entry.value is dataclasses.MISSING else _shown(entry.value)
        yield FieldHelp(name, describe(entry.hint), shown, entry.metadata.get("help", ""))


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return f'"{value}"' if isinstance(value, str) else str(value)
