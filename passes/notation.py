"""The notation in which pipelines write option values, read and written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mlgraph.errors import MlgraphError

_WORD = re.compile(r"[A-Za-z_][\w.\-/]*")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|inf|nan)(?![\w.])")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SPACE = re.compile(r"\s*")
_CONSTANTS = {"true": True, "false": False, "none": None}
_NESTING = 32


def render(value: Any) -> str:
    """``value`` in the notation: numbers, booleans, None, strings, and tuples and mappings of those.

    Raises MlgraphError for a value of any other kind.
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return value if _is_bare(value) else json.dumps(value)
    if isinstance(value, tuple | list):
        return "[" + ",".join(render(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{render(str(key))}={render(item)}" for key, item in value.items()) + "}"
    raise MlgraphError(f"A value of type {type(value).__name__} cannot be written in a pipeline.")


def _is_bare(text: str) -> bool:
    return bool(_WORD.fullmatch(text)) and text not in _CONSTANTS and not _NUMBER.match(text)


class NotationReader:
    """Reads the notation from a text, left to right; raises MlgraphError with the column at an error."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def at_end(self) -> bool:
        """Whether only white space is left."""
        self._skip()
        return self._position == len(self._text)

    def at(self, mark: str) -> bool:
        """Whether ``mark`` comes next."""
        self._skip()
        return self._text.startswith(mark, self._position)

    def expect(self, mark: str) -> None:
        """Read ``mark``."""
        if not self.at(mark):
            raise self._error(repr(mark))
        self._position += len(mark)

    def word(self, what: str) -> str:
        """Read a bare word or a quoted string; ``what`` it stands for is told where there is none."""
        found = self._match(_WORD)
        if found is None:
            quoted = self._match(_STRING)
            if quoted is None:
                raise self._error(what)
            return self._unquote(quoted)
        return found

    def table(self, depth: int = 0) -> dict[str, Any]:
        """Read ``{name=value,…}``."""
        self.expect("{")
        table: dict[str, Any] = {}
        while not self.at("}"):
            if table:
                self.expect(",")
            name = self.word("a name")
            if name in table:
                raise MlgraphError(f"{name!r} is given twice in {self._text!r}.")
            self.expect("=")
            table[name] = self.value(depth + 1)
        self.expect("}")
        return table

    def value(self, depth: int = 0) -> Any:
        """Read one value; lists come back as tuples."""
        if depth > _NESTING:
            raise self._error(f"at most {_NESTING} nested brackets")
        if self.at("{"):
            return self.table(depth)
        if self.at("["):
            return self._list(depth)
        number = self._match(_NUMBER)
        if number is not None:
            return int(number) if re.fullmatch(r"[+-]?\d+", number) else float(number)
        if self.at('"'):
            return self.word("a string")
        word = self._match(_WORD)
        if word is None:
            raise self._error("a value")
        return _CONSTANTS.get(word, word)

    def _list(self, depth: int) -> tuple[Any, ...]:
        self.expect("[")
        items: list[Any] = []
        while not self.at("]"):
            if items:
                self.expect(",")
            items.append(self.value(depth + 1))
        self.expect("]")
        return tuple(items)

    def _unquote(self, quoted: str) -> str:
        try:
            text: str = json.loads(quoted, strict=False)
        except ValueError:
            raise MlgraphError(f"The string {quoted} in {self._text!r} has a broken escape.") from None
        return text

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._position)
        self._position = found.end() if found else self._position

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        self._skip()
        found = pattern.match(self._text, self._position)
        if found is None:
            return None
        self._position = found.end()
        return found.group()

    def _error(self, wanted: str) -> MlgraphError:
        rest = self._text[self._position : self._position + 12]
        place = f"before {rest!r}" if rest else "at the end"
        return MlgraphError(
            f"The pipeline {self._text!r} wants {wanted} at column {self._position + 1}, {place}."
        )
