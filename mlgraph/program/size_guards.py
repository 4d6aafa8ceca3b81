"""Conditions on the dynamic sizes of a program's inputs, as data.

A formula is a number, the name of a size (a symbol of the signature), or an operation on formulas. Its text
is Python's own notation: ``sequence % 2 == 0``, ``max(batch, 3) > 2``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

INFIX: Mapping[str, tuple[int, Callable[..., Any]]] = {
    "or": (1, lambda a, b: a or b),
    "and": (2, lambda a, b: a and b),
    "==": (4, lambda a, b: a == b),
    "!=": (4, lambda a, b: a != b),
    "<": (4, lambda a, b: a < b),
    "<=": (4, lambda a, b: a <= b),
    ">": (4, lambda a, b: a > b),
    ">=": (4, lambda a, b: a >= b),
    "+": (5, lambda a, b: a + b),
    "-": (5, lambda a, b: a - b),
    "*": (6, lambda a, b: a * b),
    "/": (6, lambda a, b: a / b),
    "//": (6, lambda a, b: a // b),
    "%": (6, lambda a, b: a % b),
}
"""Operators of two operands: how tightly they bind, and what they do. All associate to the left."""
FUNCTIONS: Mapping[str, tuple[int, Callable[..., Any], str]] = {
    "max": (2, max, "max"),
    "min": (2, min, "min"),
    "not": (1, lambda a: not a, "not "),
    "int": (1, int, "int"),
    "floor": (1, math.floor, "math.floor"),
    "ceil": (1, math.ceil, "math.ceil"),
    "round": (1, round, "round"),
    "sqrt": (1, math.sqrt, "math.sqrt"),
}
"""Functions: how many operands they take, what they do, and what Python calls them."""


@dataclass(frozen=True)
class Operation:
    """An operator of :data:`INFIX` or a function of :data:`FUNCTIONS` on its operands."""

    name: str
    operands: tuple[Formula, ...]

    def __str__(self) -> str:
        return text(self)


Formula = int | float | str | Operation


def names(formula: Formula) -> Iterator[str]:
    """The sizes that a formula speaks of, in reading order, each once."""
    yield from dict.fromkeys(_names(formula))


def _names(formula: Formula) -> Iterator[str]:
    if isinstance(formula, str):
        yield formula
    elif isinstance(formula, Operation):
        for operand in formula.operands:
            yield from _names(operand)


def text(formula: Formula, rename: Mapping[str, str] | None = None, python: bool = False) -> str:
    """A formula in Python's notation, its sizes under other names; with ``python``, ready to run."""
    return _text(formula, rename or {}, python, 0)


def _text(formula: Formula, rename: Mapping[str, str], python: bool, outer: int) -> str:
    if isinstance(formula, str):
        return rename.get(formula, formula)
    if not isinstance(formula, Operation):
        return repr(formula) if formula >= 0 else f"({formula!r})"
    if formula.name in FUNCTIONS:
        function = FUNCTIONS[formula.name][2].strip() if python else formula.name
        inner = ", ".join(_text(operand, rename, python, 0) for operand in formula.operands)
        called = f"{function}({inner})"
        # ``not`` binds less tightly than what may stand around it
        return f"({called})" if formula.name == "not" and outer > 2 else called
    binds = INFIX[formula.name][0]
    left, right = formula.operands
    # comparisons do not chain
    first = _text(left, rename, python, binds + 1 if binds == 4 else binds)
    written = f"{first} {formula.name} {_text(right, rename, python, binds + 1)}"
    return f"({written})" if binds < outer else written


def value(formula: Formula, sizes: Mapping[str, int]) -> Any:
    """What a formula comes to at given sizes.

    Raises:
        ArithmeticError: it divides by zero, or has the root of a negative number.
        KeyError: a size is not given.
    """
    if isinstance(formula, str):
        return sizes[formula]
    if not isinstance(formula, Operation):
        return formula
    function = FUNCTIONS[formula.name][1] if formula.name in FUNCTIONS else INFIX[formula.name][1]
    try:
        return function(*(value(operand, sizes) for operand in formula.operands))
    except ValueError as error:
        raise ArithmeticError(str(error)) from None


def holds(guard: Formula, sizes: Mapping[str, int]) -> bool:
    """Whether a condition holds at given sizes; one that cannot be worked out does not."""
    try:
        return bool(value(guard, sizes))
    except ArithmeticError:
        return False
