"""Formulas of sizes as text: a parser of their own small notation, which runs nothing."""

from __future__ import annotations

import re
from collections.abc import Collection

from mlgraph.program.size_guards import FUNCTIONS, INFIX, Formula, Operation
from mlgraph.storage.plain_values import Malformed, shorten, text

_TOKEN = re.compile(
    r"\s*(?:(?P<float>\d{1,20}(?:\.\d{1,20}(?:e[+-]?\d{1,3})?|e[+-]?\d{1,3}))|(?P<int>\d{1,19})"
    r"|(?P<name>[^\W\d]\w*)|(?P<op>//|[<>=!]=|[-+*/%<>(),]))"
)
_LONGEST = 2000
_DEEPEST = 60


def decode_formula(data: object, known: Collection[str]) -> Formula:
    """The formula that a text stands for; it may speak of the ``known`` sizes. Raises ``Malformed``."""
    source = text(data)
    if len(source) > _LONGEST:
        raise Malformed(f"the size condition {shorten(source)} is too long")
    return _Parser(source, known).whole()


class _Parser:
    """Precedence climbing over the tokens of one formula."""

    def __init__(self, source: str, known: Collection[str]) -> None:
        self.source, self.known = source, known
        self.tokens = self._tokens()
        self.at = 0
        self.depth = 0

    def _tokens(self) -> list[tuple[str, str]]:
        found, at, end = [], 0, len(self.source.rstrip())
        while at < end:
            match = _TOKEN.match(self.source, at)
            if match is None or match.lastgroup is None:
                raise self._wrong()
            found.append((match.lastgroup, match[match.lastgroup]))
            at = match.end()
        return found

    def _wrong(self) -> Malformed:
        return Malformed(f"{shorten(self.source)} is no condition on sizes")

    def _next(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def _take(self, expected: str | None = None) -> tuple[str, str]:
        kind, word = self._next()
        if kind == "end" or expected not in (None, word):
            raise self._wrong()
        self.at += 1
        return kind, word

    def whole(self) -> Formula:
        formula = self._binary(1)
        if self._next()[0] != "end":
            raise self._wrong()
        return formula

    def _binary(self, least: int) -> Formula:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._wrong()
        left = self._operand()
        while True:
            word = self._next()[1]
            binds = INFIX[word][0] if word in INFIX else 0
            if not binds or binds < least:
                self.depth -= 1
                return left
            self._take()
            left = Operation(word, (left, self._binary(binds + 1)))

    def _operand(self) -> Formula:
        kind, word = self._take()
        if kind == "int":
            return int(word)
        if kind == "float":
            return float(word)
        if word == "-":
            kind, word = self._take()
            if kind not in ("int", "float"):
                raise self._wrong()
            return -(int(word) if kind == "int" else float(word))
        if word == "(":
            inner = self._binary(1)
            self._take(")")
            return inner
        if word in FUNCTIONS:
            return Operation(word, self._operands(FUNCTIONS[word][0]))
        if kind != "name" or word not in self.known:
            raise self._wrong()
        return word

    def _operands(self, count: int) -> tuple[Formula, ...]:
        self._take("(")
        found = [self._binary(1)]
        while len(found) < count:
            self._take(",")
            found.append(self._binary(1))
        self._take(")")
        return tuple(found)
