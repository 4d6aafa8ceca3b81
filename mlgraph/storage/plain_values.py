"""Plain values as JSON: what a graph's arguments, contexts and options may hold, and nothing else.

JSON's own scalars stand for themselves. Everything else is an object of one tag: ``{"list": [...]}``,
``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``, ``{"node": 3}``, ``{"dtype": "float32"}``,
``{"device": "cuda:0"}``, ``{"layout": "strided"}``, ``{"memory_format": "channels_last"}``,
``{"slice": [a, b, c]}``, ``{"ellipsis": null}``, ``{"float": "inf"}``, ``{"complex": [re, im]}``.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

DTYPES: Mapping[str, torch.dtype] = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}
_LAYOUTS = {"strided": torch.strided, "sparse_coo": torch.sparse_coo, "sparse_csr": torch.sparse_csr}
_MEMORY_FORMATS = {
    "contiguous_format": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
    "preserve_format": torch.preserve_format,
}
_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_DEVICE = re.compile(r"[a-z]{1,20}(:[0-9]{1,4})?")
_NAME = re.compile(r"[^\x00-\x1f\x7f\"'\\(){}\ud800-\udfff]{1,1024}")
_IDENTIFIER = re.compile(r"[^\W\d]\w{0,1023}")
_MAX_INT = 1 << 64


class Malformed(ValueError):
    """A value is not what the file format says; the message is the end of a sentence."""


def encode(value: Any, index_of: Callable[[fx.Node], int] | None = None) -> Any:
    """A JSON form of ``value``; ``index_of`` numbers the nodes that it may refer to. Raises ``Malformed``."""
    if value is None or isinstance(value, bool):
        return value
    if value is Ellipsis:
        return {"ellipsis": None}
    if isinstance(value, fx.Node) and index_of is not None:
        return {"node": index_of(value)}
    for kind, plain in _SCALARS:
        if isinstance(value, kind):
            return plain(value)
    for kind, tag, parts in _STRUCTURES:
        if isinstance(value, kind):
            return {tag: [encode(part, index_of) for part in parts(value)]}
    if isinstance(value, Mapping):
        return {"dict": [[encode(k), encode(v, index_of)] for k, v in value.items()]}
    return _encode_int(value)


def _encode_float(value: float) -> Any:
    return float(value) if math.isfinite(value) else {"float": repr(float(value))}


def _encode_int(value: Any) -> int:
    if isinstance(value, torch.Tensor | torch.SymInt) or not hasattr(type(value), "__index__"):
        raise Malformed(f"a value of type {type(value).__name__} has no form in a file")
    number = operator.index(value)
    if not -_MAX_INT <= number <= _MAX_INT:
        raise Malformed("an integer exceeds 64 bits")
    return number


def _name_in(table: Mapping[str, Any], value: Any) -> str:
    for name, known in table.items():
        if known == value:
            return name
    raise Malformed(f"{value} has no form in a file")


def encode_text(value: str) -> str:
    """``value``, if it can be written as UTF-8."""
    text(value)
    return str(value)


def encode_dtype(value: torch.dtype) -> str:
    """The name of a dtype, without ``torch.``."""
    return str(value).removeprefix("torch.")


def decode(data: Any, nodes: Sequence[fx.Node] = ()) -> Any:
    """The value that ``encode`` made ``data`` from; it may refer to ``nodes``. Raises ``Malformed``."""
    if data is None or isinstance(data, bool):
        return data
    if isinstance(data, str):
        return text(data)
    if isinstance(data, int):
        return integer(data, -_MAX_INT, _MAX_INT)
    if isinstance(data, float):
        return number(data)
    if not isinstance(data, dict) or len(data) != 1:
        raise Malformed("a value is no scalar and has no tag")
    ((tag, body),) = data.items()
    if tag == "node":
        position = integer(body, 0, None)
        if position >= len(nodes):
            raise Malformed("a node uses one that does not come before it")
        return nodes[position]
    if tag == "dict":
        return _decode_dict(body, nodes)
    if tag in _PARTS:
        make, length = _PARTS[tag]
        return make(decode(part, nodes) for part in array(body, length))
    if tag in _TAGS:
        return _TAGS[tag](body)
    raise Malformed(f"a value has the unknown tag {shorten(tag)}")


def _decode_complex(body: Any) -> complex:
    real, imaginary = (decode(part) for part in array(body, 2))
    return complex(number(real, finite=False), number(imaginary, finite=False))


def _decode_dict(body: Any, nodes: Sequence[fx.Node]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for pair in array(body):
        key, value = array(pair, 2)
        key = decode(key)
        if not isinstance(key, str | int | float | bool | tuple | None) or _unhashable(key):
            raise Malformed("a dict has a key that is no scalar")
        if key in result:
            raise Malformed(f"a dict has the key {shorten(key)} twice")
        result[key] = decode(value, nodes)
    return result


def _unhashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return True
    return False


def _decode_device(body: Any) -> torch.device:
    if not isinstance(body, str) or not _DEVICE.fullmatch(body):
        raise Malformed(f"{shorten(body)} is no device")
    try:
        return torch.device(body)
    except RuntimeError:
        raise Malformed(f"{shorten(body)} is no device") from None


def decode_dtype(body: Any) -> torch.dtype:
    """The dtype of a name. Raises ``Malformed``."""
    dtype = member(DTYPES, body, "dtype")
    assert isinstance(dtype, torch.dtype)
    return dtype


def member(table: Mapping[str, Any], key: Any, what: str) -> Any:
    """``table[key]``, or ``Malformed`` saying that ``key`` is no such ``what``."""
    if not isinstance(key, str) or key not in table:
        raise Malformed(f"{shorten(key)} is no known {what}")
    return table[key]


def array(data: Any, length: int | None = None) -> list[Any]:
    """A JSON array, of ``length`` items if given."""
    if not isinstance(data, list) or (length is not None and len(data) != length):
        raise Malformed("an array is missing or has the wrong length")
    return data


def fields(data: Any, *names: str) -> list[Any]:
    """The values of a JSON object that has exactly the keys ``names``."""
    if not isinstance(data, dict) or data.keys() != set(names):
        raise Malformed(f"an object has not exactly the fields {', '.join(names)}")
    return [data[name] for name in names]


def integer(data: Any, low: int, high: int | None) -> int:
    """A JSON integer from ``low`` to ``high``, both included."""
    if (
        isinstance(data, bool)
        or not isinstance(data, int)
        or data < low
        or (high is not None and data > high)
    ):
        raise Malformed("an integer is missing or out of range")
    return data


def boolean(data: Any) -> bool:
    """A JSON boolean."""
    if not isinstance(data, bool):
        raise Malformed("a boolean is missing")
    return data


def number(data: Any, *, finite: bool = True) -> float:
    """A float, by default a finite one (JSON's 1e999 is none)."""
    if not isinstance(data, float) or (finite and not math.isfinite(data)):
        raise Malformed("a float is missing or out of range")
    return data


def text(data: Any) -> str:
    """A string that can be written as UTF-8."""
    if not isinstance(data, str):
        raise Malformed("a string is missing")
    if not data.isascii():
        try:
            data.encode()
        except UnicodeEncodeError:
            raise Malformed("a string is not valid Unicode") from None
    return data


def line(data: Any) -> str:
    """A string of one line."""
    if len(text(data).splitlines()) > 1 or not data.replace("\t", " ").isprintable():
        raise Malformed("a string that should be one line is not")
    return str(data)


def name(data: Any) -> str:
    """A tensor's, input's or symbol's name.

    Quotes, backslashes, brackets and control characters are refused: names end up inside code that torch
    generates from a graph.
    """
    if not isinstance(data, str) or not _NAME.fullmatch(data):
        raise Malformed(f"{shorten(data)} is no name")
    return data


def identifier(data: Any) -> str:
    """A node's name."""
    if not isinstance(data, str) or not _IDENTIFIER.fullmatch(data):
        raise Malformed(f"{shorten(data)} is no identifier")
    return data


def shape(data: Any) -> tuple[int, ...]:
    """A shape whose number of elements fits 62 bits."""
    sizes = tuple(integer(size, 0, 1 << 62) for size in array(data))
    if len(sizes) > 64 or math.prod(size for size in sizes if size) > 1 << 62:
        raise Malformed("a shape is too large")
    return sizes


def shorten(data: Any) -> str:
    """``data`` in at most 60 printable characters, for a message."""
    shown = ascii(data) if isinstance(data, str | int | float | None) else type(data).__name__
    return shown if len(shown) <= 60 else shown[:57] + "..."


# How values are written: those without parts, and those whose parts are values themselves.
_SCALARS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, encode_text),
    (float, _encode_float),
    (complex, lambda value: {"complex": [encode(value.real), encode(value.imag)]}),
    (torch.dtype, lambda value: {"dtype": encode_dtype(value)}),
    (torch.device, lambda value: {"device": str(value)}),
    (torch.layout, lambda value: {"layout": _name_in(_LAYOUTS, value)}),
    (torch.memory_format, lambda value: {"memory_format": _name_in(_MEMORY_FORMATS, value)}),
)
_STRUCTURES: tuple[tuple[type, str, Callable[[Any], Iterable[Any]]], ...] = (
    (slice, "slice", lambda value: (value.start, value.stop, value.step)),
    (list, "list", list),
    (tuple, "tuple", tuple),
)
# How tagged values are read.
_TAGS: dict[str, Callable[[Any], Any]] = {
    "dtype": decode_dtype,
    "device": _decode_device,
    "layout": lambda body: member(_LAYOUTS, body, "layout"),
    "memory_format": lambda body: member(_MEMORY_FORMATS, body, "memory format"),
    "float": lambda body: member(_FLOATS, body, "float"),
    "complex": _decode_complex,
    "ellipsis": lambda _: ...,
}
_PARTS: dict[str, tuple[Callable[[Iterable[Any]], Any], int | None]] = {
    "list": (list, None),
    "tuple": (tuple, None),
    "slice": (lambda parts: slice(*parts), 3),
}
