"""The conditions on input sizes under which a captured graph is what the model does.

torch.export answers questions about sizes as the example has them, and guards the answers; what it takes for
granted (no size is 0 or 1) it answers without a guard, so questions that the model's own code asks are
recorded as they are asked.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import sympy
import torch
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import uninteresting_files
from torch.utils._sympy import functions

from mlgraph import errors
from mlgraph.capture.tracing import only_checks
from mlgraph.program.size_guards import Formula, Operation, names

_TORCH = os.path.dirname(torch.__file__) + os.sep
_HERE = os.path.dirname(errors.__file__) + os.sep
# Python that models call as if it were theirs; all else of torch works on behalf of one op.
_MODEL_CODE = tuple(_TORCH + part for part in ("nn" + os.sep, "functional.py", "distributions" + os.sep))
# How an op lays its result out changes no value. These words are in the functions that ask.
_LAYOUT = ("contiguous", "channels_last", "strides", "overlapping", "perm", "__lt__", "view_helper_core")
_NEAR = 8


class Questions:
    """What was asked about symbolic sizes while a model was traced.

    ``answers`` are those to its own code. ``layout`` holds what ops asked in order to choose strides.
    """

    def __init__(self) -> None:
        self.answers: dict[Any, bool] = {}
        self.layout: set[Any] = set()

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """While a model is traced."""
        original = SymNode.guard_bool

        def guard_bool(node: Any, file: str, line: int) -> bool:
            guards = node.shape_env.guards
            known, asked = len(guards), node.expr
            answer = bool(original(node, file, line))  # type: ignore[no-untyped-call]
            self._note(asked, answer, file, [guard.expr for guard in guards[known:]])
            return answer

        SymNode.guard_bool = guard_bool  # type: ignore[method-assign, assignment]
        # torch looks who asked, to keep an assert as a check; this file is not who
        uninteresting_files().add(__file__)
        try:
            yield
        finally:
            SymNode.guard_bool = original  # type: ignore[method-assign]

    def _note(self, asked: Any, answer: bool, file: str, guards: list[Any]) -> None:
        frame = _asker(sys._getframe(2))
        if frame is None or not isinstance(asked, sympy.Basic):
            return
        name = frame.f_code.co_filename
        # C++ names its own file
        if not file and (name.startswith(_MODEL_CODE) or not name.startswith((_TORCH, _HERE))):
            # a check without a guard is one that passes for all sizes but 0 and 1
            if guards or not only_checks((name, frame.f_lineno)):
                self.answers[asked] = answer
        elif (file and _tells_ones_or_strides(asked)) or _of_layout(frame):
            self.layout.update(guards)


def _asker(frame: FrameType | None) -> FrameType | None:
    """The innermost frame that is not torch's arithmetic of symbolic sizes."""
    arithmetic = (_TORCH + "__init__.py", _TORCH + os.path.join("fx", "experimental") + os.sep)
    while frame is not None and frame.f_code.co_filename.startswith(arithmetic):
        frame = frame.f_back
    return frame


def _of_layout(frame: FrameType | None) -> bool:
    for _ in range(_NEAR):
        if frame is None or "_dispatch" in frame.f_code.co_name:
            return False
        if any(word in frame.f_code.co_name for word in _LAYOUT):
            return True
        frame = frame.f_back
    return False


def _tells_ones_or_strides(question: Any) -> bool:
    if not isinstance(question, sympy.Rel):
        return False
    first, second = question.lhs, question.rhs
    shared = set(sympy.Mul.make_args(first)) & set(sympy.Mul.make_args(second))
    return first in (0, 1) or second in (0, 1) or any(not factor.is_number for factor in shared)


def size_guards(
    environment: Any,
    questions: Questions,
    sizes: Mapping[str, Any],
    example: Mapping[str, int],
) -> tuple[Formula, ...]:
    """What must hold of the dynamic sizes of inputs, besides their bounds.

    Args:
        environment: torch.export's ``ShapeEnv`` after the export.
        questions: what was asked while the model was traced.
        sizes: torch.export's formula of every named size.
        example: every named size in the example.
    """
    terms, found = _terms(sizes)
    asked = [*_assumed(environment, questions.layout), *questions.answers.items()]
    for question, answer in asked:
        condition = environment.replace(question)
        if not answer:
            condition = sympy.Not(condition)
        if condition in (True, sympy.true) or not condition.free_symbols <= terms.keys():
            continue
        try:
            found.append(_Formulas(terms).of(condition))
        except _Unwritable:
            # What cannot be said cannot be checked: of such sizes those of the example are known to be right.
            symbols = condition.free_symbols
            labels = dict.fromkeys(label for symbol in symbols for label in names(terms[symbol]))
            found += [Operation("==", (label, example[label])) for label in labels]
    return tuple(dict.fromkeys(guard for guard in found if isinstance(guard, Operation)))


def _assumed(environment: Any, layout: set[Any]) -> Iterator[tuple[Any, bool]]:
    for guard in environment.guards:
        asked = guard.expr
        # That two sizes differ is told of a layout or of broadcasting, which ops see to themselves.
        if isinstance(asked, sympy.Ne):
            continue
        asker = str(guard.sloc).rpartition(" in ")[2].rstrip(")")
        for_layout = any(word in asker for word in _LAYOUT)
        # what C++ asks of its own accord bears the name of the dispatcher
        for_layout |= asker == "__call__" and _tells_ones_or_strides(asked)
        if isinstance(asked, sympy.Eq) or not (for_layout or asked in layout):
            yield asked, True


def _terms(sizes: Mapping[str, Any]) -> tuple[dict[Any, Formula], list[Formula]]:
    """torch.export's symbols in terms of named sizes, and what holds between these."""
    terms: dict[Any, Formula] = {}
    rest = []
    for label, size in sizes.items():
        if isinstance(size, sympy.Symbol):
            terms[size] = label
        else:
            rest.append((label, size))
    found: list[Formula] = []
    for label, size in rest:
        free = [symbol for symbol in size.free_symbols if symbol not in terms]
        factor, symbol = size.as_coeff_Mul()
        if len(free) == 1 and symbol == free[0] and factor.is_Integer:
            terms[symbol] = Operation("//", (label, int(factor)))
            found.append(Operation("==", (Operation("%", (label, int(factor))), 0)))
    for label, size in rest:
        if size.free_symbols <= terms.keys():
            with contextlib.suppress(_Unwritable):
                found.append(Operation("==", (label, _Formulas(terms).of(size))))
    return terms, found


def follows(guard: Formula, label: str, low: int, high: int | None) -> bool:
    """Whether a condition says no more than that a size lies between two bounds."""
    if not isinstance(guard, Operation) or guard.operands[0] != label:
        return False
    bound = guard.operands[-1]
    if not isinstance(bound, int):
        return False
    known = {">": low > bound, ">=": low >= bound, "!=": low > bound}
    if high is not None:
        known |= {"<": high < bound, "<=": high <= bound, "!=": low > bound or high < bound}
    return known.get(guard.name, False)


class _Unwritable(Exception):
    """A formula of torch.export's that formulas of sizes have no word for."""


class _Formulas:
    """Translates sympy's expressions."""

    def __init__(self, terms: Mapping[Any, Formula]) -> None:
        self.terms = terms

    def of(self, expression: Any) -> Formula:
        if expression in self.terms:
            return self.terms[expression]
        if expression.is_Integer:
            return int(expression)
        if expression.is_Float:
            return float(expression)
        if expression.is_Rational:
            return Operation("/", (int(expression.p), int(expression.q)))
        kind = type(expression)
        if kind in (sympy.Add, sympy.Mul, sympy.And, sympy.Or):
            return self._sum_or_product(kind, expression)
        if kind is sympy.Pow and expression.exp.is_Integer and 0 < expression.exp <= 8:
            base = self.of(expression.base)
            return _chain("*", [base] * int(expression.exp))
        if kind is functions.ModularIndexing:
            base, divisor, modulus = map(self.of, expression.args)
            return Operation("%", (Operation("//", (base, divisor)), modulus))
        name = _NAMES.get(kind)
        if name == "same":
            return self.of(expression.args[0])
        if name is None:
            raise _Unwritable
        operands = [self.of(argument) for argument in expression.args]
        return Operation(name, tuple(operands)) if len(operands) < 3 else _chain(name, operands)

    def _sum_or_product(self, kind: Any, expression: Any) -> Formula:
        name = {sympy.Add: "+", sympy.Mul: "*", sympy.And: "and", sympy.Or: "or"}[kind]
        if kind is sympy.Add:
            # sizes first, numbers last; what is taken away after what is added
            ordered = sorted(
                expression.args, key=lambda e: (e.is_number, e.could_extract_minus_sign(), str(e))
            )
            total = self.of(ordered[0])
            for term in ordered[1:]:
                less = term.could_extract_minus_sign()
                total = Operation("-" if less else "+", (total, self.of(-term if less else term)))
            return total
        arguments: Sequence[Any] = sorted(expression.args, key=lambda e: (not e.is_number, str(e)))
        return _chain(name, [self.of(argument) for argument in arguments])


def _chain(name: str, operands: Sequence[Formula]) -> Formula:
    if name in ("max", "min"):
        result = operands[-1]
        for operand in reversed(operands[:-1]):
            result = Operation(name, (operand, result))
        return result
    result = operands[0]
    for operand in operands[1:]:
        result = Operation(name, (result, operand))
    return result


def _function_names() -> dict[Any, str]:
    table: dict[Any, str] = {
        sympy.Eq: "==",
        sympy.Ne: "!=",
        sympy.Lt: "<",
        sympy.Le: "<=",
        sympy.Gt: ">",
        sympy.Ge: ">=",
        sympy.Not: "not",
        sympy.Max: "max",
        sympy.Min: "min",
    }
    # not every version has every one
    for key, name in {
        "Max": "max",
        "Min": "min",
        "FloorDiv": "//",
        "CleanDiv": "//",
        "Mod": "%",
        "PythonMod": "%",
        "IntTrueDiv": "/",
        "FloatTrueDiv": "/",
        "ToFloat": "same",
        "Identity": "same",
        "TruncToInt": "int",
        "FloorToInt": "floor",
        "CeilToInt": "ceil",
        "RoundToInt": "round",
        "OpaqueUnaryFn_sqrt": "sqrt",
    }.items():
        if hasattr(functions, key):
            table[getattr(functions, key)] = name
    return table


_NAMES = _function_names()
