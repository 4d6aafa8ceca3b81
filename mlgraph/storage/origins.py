"""Origins, and what else format 2 keeps beside them, as one dict of plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlgraph.program.origin import HuggingFaceOrigin, ModuleOrigin, Origin, TimmOrigin
from mlgraph.storage.plain_values import Malformed, shorten

_BESIDE = frozenset({"kind", "history", "module", "parameters"})
_KNOWN: dict[Any, frozenset[str]] = {
    "huggingface": frozenset({"class", "config", "path", "config_path", "random", "rescales"}),
    "timm": frozenset({"model", "kwargs"}),
    "module": frozenset({"class", "path"}),
    None: frozenset(),
}
"""The entries of an origin by its kind; nothing else may stand there, for it would be lost."""


def encode_origin(origin: Origin | None) -> dict[str, Any]:
    """The entries of an origin; none where there is none."""
    match origin:
        case HuggingFaceOrigin():
            entries = {"kind": "huggingface", "class": origin.model_class, "config": dict(origin.config)}
            places = {"path": origin.path, "config_path": origin.config_path}
            entries |= {key: value for key, value in places.items() if value is not None}
            return entries | ({"random": True} if origin.config_path is not None else {})
        case TimmOrigin():
            return {"kind": "timm", "model": origin.model, "kwargs": dict(origin.kwargs)}
        case ModuleOrigin():
            entries = {"kind": "module", "class": origin.model_class}
            return entries | ({"path": origin.path} if origin.path is not None else {})
    return {}


def encode_rescales(origin: Origin | None) -> dict[str, Any]:
    """The entry of an origin's rescales, which stands behind the history; none where there are none."""
    rescales = origin.rescales if isinstance(origin, HuggingFaceOrigin) else {}
    return {"rescales": {name: list(pair) for name, pair in rescales.items()}} if rescales else {}


def decode_origin(entries: Mapping[Any, Any]) -> Origin | None:
    """The origin that entries tell of, None where they name no library. Raises ``Malformed``."""
    kind = entries.get("kind")
    if not (kind is None or isinstance(kind, str)) or kind not in _KNOWN:
        raise Malformed(f"its origin is of a kind {shorten(repr(kind))} that is not known")
    for name in entries:
        if name not in _BESIDE | _KNOWN[kind]:
            raise Malformed(f"its origin has an entry {shorten(repr(name))} that is not known")
    if kind == "huggingface":
        return HuggingFaceOrigin(
            _text(entries, "class"),
            _mapping(entries, "config"),
            _optional(entries, "path"),
            _optional(entries, "config_path"),
            {name: _pair(name, given) for name, given in _mapping(entries, "rescales").items()},
        )
    if kind == "timm":
        return TimmOrigin(_text(entries, "model"), _mapping(entries, "kwargs"))
    if kind == "module":
        return ModuleOrigin(_text(entries, "class"), _optional(entries, "path"))
    return None


def decode_history(entries: Mapping[Any, Any]) -> tuple[str, ...]:
    """The passes that made a program, the first first. Raises ``Malformed``."""
    history = entries.get("history", ())
    if not isinstance(history, tuple) or not all(isinstance(step, str) for step in history):
        raise Malformed(f"its history {shorten(repr(history))} is no list of passes")
    return history


def decode_submodule(entries: Mapping[Any, Any]) -> str | None:
    """The path of the submodule that a program is of, None where it is of a whole model. Raises
    ``Malformed``.
    """
    return _optional(entries, "module")


def _text(entries: Mapping[Any, Any], key: str) -> str:
    value = entries.get(key, "")
    if not isinstance(value, str):
        raise Malformed(f"the {key} of its origin, {shorten(repr(value))}, is no text")
    return value


def _optional(entries: Mapping[Any, Any], key: str) -> str | None:
    return _text(entries, key) if entries.get(key) is not None else None


def _mapping(entries: Mapping[Any, Any], key: str) -> dict[str, Any]:
    value = entries.get(key, {})
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise Malformed(f"the {key} of its origin, {shorten(repr(value))}, is no dict of names")
    return value


def _pair(name: str, given: Any) -> tuple[float, float]:
    if not isinstance(given, list) or len(given) != 2 or not all(type(n) in (int, float) for n in given):
        raise Malformed(f"the factor and shift of {shorten(name)} are not two numbers")
    return float(given[0]), float(given[1])
