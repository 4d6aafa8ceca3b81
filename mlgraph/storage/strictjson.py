"""JSON from files that are not trusted: limited in depth and in the memory its values take."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any

from mlgraph.storage.plain_values import Malformed, shorten

MAX_DEPTH = 64
BYTES_PER_TOKEN = 64
"""What one JSON value, key included, costs as a Python object, roughly."""

# The closing quote is optional so that an unclosed string is one match and the scan stays linear.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS = b"[]{}"
_STEP = [0] * 256
for _opening, _closing in (b"[]", b"{}"):
    _STEP[_opening], _STEP[_closing] = 1, -1


def parse(data: bytes, memory: int) -> Any:
    """The value of a JSON text. Raises ``Malformed``.

    ``memory`` bounds, in bytes, what the parsed value may take. Nesting beyond ``MAX_DEPTH``, keys given
    twice, and the words NaN and Infinity are refused.
    """
    bare = _STRING.sub(b"", data)
    tokens = sum(map(bare.count, (b",", b"[", b"{")))
    if tokens * BYTES_PER_TOKEN > memory:
        raise Malformed("its header has too many parts for the size of the file")
    brackets = bare.translate(None, bytes(set(range(256)) - set(_BRACKETS)))
    if max(accumulate(_STEP[byte] for byte in brackets), default=0) > MAX_DEPTH:
        raise Malformed("its header is nested too deeply")
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed("its header is not valid JSON") from None


def dump(value: Any) -> bytes:
    """``value`` as compact ASCII JSON."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Malformed(f"its header has the key {shorten(_repeated(pairs))} twice")
    return result


def _repeated(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    raise AssertionError("no key is repeated")


def _refuse(word: str) -> Any:
    raise Malformed(f"its header has the word {word}")
