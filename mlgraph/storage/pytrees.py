"""Input and output structures as data.

Tuples, lists, dicts and their kin are written as they are; a registered dataclass or named tuple by its
qualified name and fields. On reading, a name is looked up among classes that are already registered (or
that installed transformers modelling modules register), never imported at the file's wish; a class that
cannot be found becomes a dict of its fields, and the reader says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
import sys
from collections import OrderedDict, defaultdict, deque, namedtuple
from typing import Any

from torch.utils import _pytree as pytree

from mlgraph.program import Note
from mlgraph.storage.plain_values import Malformed, array, decode, encode, fields, integer, shorten, text

_MAPPINGS = {"dict": dict, "ordered": OrderedDict}
_FACTORIES = {"none": None, "list": list, "dict": dict, "int": int, "float": float, "set": set}
_TRANSFORMERS = re.compile(r"transformers\.(modeling_outputs|models\.\w+\.modeling_\w+)\.(\w+)", re.ASCII)
_LEAF = pytree.tree_structure(0)


def encode_spec(spec: pytree.TreeSpec, notes: list[Note]) -> Any:
    """A JSON form of ``spec``; what it cannot express is added to ``notes`` and written as a plain
    container.
    """
    if spec.is_leaf():
        return None
    children = [encode_spec(child, notes) for child in _children(spec)]
    kind, context = spec.type, spec.context
    if kind is tuple or kind is list or (isinstance(kind, type) and issubclass(kind, list)):
        return {"tuple" if kind is tuple else "list": children}
    if kind is defaultdict:
        known = [name for name, factory in _FACTORIES.items() if factory is context[0]]
        if known:
            return {"default": [known[0], _pairs(context[1], children)]}
    if kind is OrderedDict:
        return {"ordered": _pairs(context, children)}
    if isinstance(kind, type) and issubclass(kind, dict) and not dataclasses.is_dataclass(kind):
        return {"dict": _pairs(context if kind is not defaultdict else context[1], children)}
    if kind is deque:
        return {"deque": [context, children]}
    if kind is namedtuple:
        return {"named": {"type": _qualified(context), "fields": list(context._fields), "children": children}}
    names, absent = _dataclass_fields(kind, context)
    if names is not None and len(names) == len(children):
        return {"data": {"type": _qualified(kind), "fields": names, "absent": absent, "children": children}}
    name = _qualified(kind)
    said = f"the structure {name} has no form in a file and was saved as a tuple of its parts"
    notes.append(Note("class", said, name))
    return {"tuple": children}


def _children(spec: pytree.TreeSpec) -> list[pytree.TreeSpec]:
    return spec.children() if hasattr(spec, "children") else spec.children_specs


def _pairs(keys: list[Any], children: list[Any]) -> list[Any]:
    return [[encode(key), child] for key, child in zip(keys, children, strict=True)]


def _qualified(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _dataclass_fields(kind: Any, context: Any) -> tuple[list[str] | None, list[str] | None]:
    """Names of a dataclass's children, and of its fields that were None where the context lists them."""
    if not dataclasses.is_dataclass(kind) or not isinstance(context, list):
        return None, None
    known = {field.name for field in dataclasses.fields(kind)}
    if all(isinstance(item, str) for item in context):
        return (list(context), None) if set(context) <= known else (None, None)
    if len(context) == 2 and all(isinstance(item, list) and set(item) <= known for item in context):
        return list(context[0]), list(context[1])
    return None, None


def decode_spec(data: Any, notes: list[Note]) -> pytree.TreeSpec:
    """The structure that ``data`` describes. A class that is not at hand is noted in ``notes``."""
    if data is None:
        return _LEAF
    if not isinstance(data, dict) or len(data) != 1:
        raise Malformed("a structure has no tag")
    ((tag, body),) = data.items()
    match tag:
        case "tuple" | "list":
            return pytree.TreeSpec(tuple if tag == "tuple" else list, None, _decode_all(body, notes))
        case "dict" | "ordered":
            keys, children = _decode_pairs(body, notes)
            return pytree.TreeSpec(_MAPPINGS[tag], keys, children)
        case "default":
            factory, pairs = array(body, 2)
            if not isinstance(factory, str) or factory not in _FACTORIES:
                raise Malformed(f"{shorten(factory)} is no default factory")
            keys, children = _decode_pairs(pairs, notes)
            return pytree.TreeSpec(defaultdict, [_FACTORIES[factory], keys], children)
        case "deque":
            length, children = array(body, 2)
            return pytree.TreeSpec(
                deque, None if length is None else integer(length, 0, 1 << 31), _decode_all(children, notes)
            )
        case "named":
            kind, names, children = fields(body, "type", "fields", "children")
            return _decode_named(text(kind), _names(names), _decode_all(children, notes), notes)
        case "data":
            kind, names, absent, children = fields(body, "type", "fields", "absent", "children")
            absent = None if absent is None else _names(absent)
            return _decode_dataclass(text(kind), _names(names), absent, _decode_all(children, notes), notes)
    raise Malformed(f"a structure has the unknown tag {shorten(tag)}")


def _decode_all(data: Any, notes: list[Note]) -> list[pytree.TreeSpec]:
    return [decode_spec(child, notes) for child in array(data)]


def _decode_pairs(data: Any, notes: list[Note]) -> tuple[list[Any], list[pytree.TreeSpec]]:
    pairs = [array(pair, 2) for pair in array(data)]
    keys = [decode(key) for key, _ in pairs]
    if not all(isinstance(key, str | int | float | None) for key in keys) or len(set(keys)) != len(keys):
        raise Malformed("a dict structure has a key twice or one that is no scalar")
    return keys, [decode_spec(child, notes) for _, child in pairs]


def _names(data: Any) -> list[str]:
    names = [text(name) for name in array(data)]
    if len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
        raise Malformed("a structure has a field twice or one that is no identifier")
    return names


def _decode_named(
    kind: str, names: list[str], children: list[pytree.TreeSpec], notes: list[Note]
) -> pytree.TreeSpec:
    _check_lengths(names, children)
    module, _, name = kind.rpartition(".")
    found = getattr(sys.modules.get(module), "__dict__", {}).get(name)
    if (
        isinstance(found, type)
        and issubclass(found, tuple)
        and getattr(found, "_fields", None) == tuple(names)
    ):
        return pytree.TreeSpec(namedtuple, found, children)
    return _as_dict(kind, names, children, notes)


def _decode_dataclass(
    kind: str, names: list[str], absent: list[str] | None, children: list[pytree.TreeSpec], notes: list[Note]
) -> pytree.TreeSpec:
    _check_lengths(names, children)
    found = _registered(kind)
    if found is None and (match := _TRANSFORMERS.fullmatch(kind)):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"transformers.{match[1]}")
        found = _registered(kind)
    if found is None or not {*names, *(absent or ())} <= {field.name for field in dataclasses.fields(found)}:
        return _as_dict(kind, names, children, notes)
    return pytree.TreeSpec(found, names if absent is None else [names, absent], children)


def _registered(kind: str) -> Any:
    for known in pytree.SUPPORTED_NODES:
        if dataclasses.is_dataclass(known) and _qualified(known) == kind:
            return known
    return None


def _check_lengths(names: list[str], children: list[pytree.TreeSpec]) -> None:
    if len(names) != len(children):
        raise Malformed("a structure has not as many fields as parts")


def _as_dict(
    kind: str, names: list[str], children: list[pytree.TreeSpec], notes: list[Note]
) -> pytree.TreeSpec:
    name = shorten(kind)
    said = f"the class {name} is not registered here, so a dict of its fields stands in for it"
    notes.append(Note("class", said, name))
    return pytree.TreeSpec(dict, names, children)
