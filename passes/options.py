"""Option values brought to the type that a pass declares for them."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union


class OptionError(Exception):
    """A value is not of its option's type; the text says what would be, and what was given."""


def conform(value: Any, annotation: Any) -> Any:
    """``value`` as the ``annotation`` of its field has it.

    Lists become tuples and integers become floats where a float is declared; nothing else is changed. Raises
    OptionError where the value is of another type.
    """
    fitted = _fit(value, annotation)
    if fitted is _MISFIT:
        raise OptionError(f"{_describe(annotation)}, not {value!r}")
    return fitted


_MISFIT: Any = object()
_PLAIN = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}


def _fit(value: Any, annotation: Any) -> Any:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if annotation is Any:
        return _frozen(value)
    if annotation is None or annotation is type(None):
        return None if value is None else _MISFIT
    if origin in (Union, types.UnionType):
        fits = [fit for fit in (_fit(value, choice) for choice in arguments) if fit is not _MISFIT]
        exact = [fit for fit in fits if type(fit) is type(value)]
        return (exact or fits or [_MISFIT])[0]
    if origin is Literal:
        return value if value in arguments else _MISFIT
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if annotation in _PLAIN:
        right = isinstance(value, annotation) and not (annotation is not bool and isinstance(value, bool))
        return value if right else _MISFIT
    container = origin or annotation
    if isinstance(container, type) and issubclass(container, Mapping):
        return _fit_mapping(value, arguments)
    if isinstance(container, type) and issubclass(container, Sequence):
        return _fit_sequence(value, arguments)
    return value if isinstance(container, type) and isinstance(value, container) else _MISFIT


def _fit_mapping(value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping):
        return _MISFIT
    key_type, item_type = arguments or (Any, Any)
    fitted = {_fit(key, key_type): _fit(item, item_type) for key, item in value.items()}
    return _MISFIT if any(_MISFIT in pair for pair in fitted.items()) else fitted


def _fit_sequence(value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return _MISFIT
    each = [kind for kind in arguments if kind is not Ellipsis]
    kinds = each * len(value) if len(each) < 2 else each
    if not kinds:
        kinds = [Any] * len(value)
    if len(kinds) != len(value):
        return _MISFIT
    items = tuple(_fit(item, kind) for item, kind in zip(value, kinds, strict=True))
    return _MISFIT if any(item is _MISFIT for item in items) else items


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return value


def _describe(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if annotation is None or annotation is type(None):
        return "none"
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(choice) for choice in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    container = origin or annotation
    if isinstance(container, type) and issubclass(container, Mapping):
        return "a table {name=value}"
    if isinstance(container, type) and issubclass(container, Sequence):
        return "a list [a,b]"
    return getattr(container, "__name__", str(container))
