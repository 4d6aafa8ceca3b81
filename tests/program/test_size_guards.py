"""Formulas of sizes: Python's own evaluation is the oracle, and the file's parser reads what is written."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgraph.program.size_guards import Formula, Operation, holds, names, text, value
from mlgraph.storage.formulas import decode_formula
from mlgraph.storage.plain_values import Malformed

SIZES = ("batch", "sequence")


def _operations(inner: st.SearchStrategy[Formula]) -> st.SearchStrategy[Formula]:
    pairs = st.tuples(inner, inner)
    arithmetic = st.sampled_from(["+", "-", "*", "//", "%", "max", "min", "==", "<", ">=", "and", "or"])
    single = st.sampled_from(["not", "int", "floor", "ceil"])
    return st.builds(Operation, arithmetic, pairs) | st.builds(Operation, single, st.tuples(inner))


FORMULAS = st.recursive(
    st.sampled_from(SIZES) | st.integers(0, 40) | st.sampled_from([0.5, 2.25, -3]), _operations, max_leaves=12
)


@given(FORMULAS, st.integers(1, 9), st.integers(1, 9))
def test_text_is_python_and_the_parser_reads_it_back(formula: Formula, batch: int, sequence: int) -> None:
    written = text(formula)
    read = decode_formula(written, SIZES)
    assert read == formula
    assert text(read) == written
    sizes: dict[str, Any] = {"batch": batch, "sequence": sequence}
    known = {"int": int, "floor": math.floor, "ceil": math.ceil, "max": max, "min": min, "math": math}
    try:
        expected = eval(written, known, sizes)
    except ZeroDivisionError:
        assert not holds(formula, sizes)
        return
    assert value(formula, sizes) == expected
    assert eval(text(formula, {"batch": "b"}, python=True), known, {**sizes, "b": batch}) == expected


@pytest.mark.parametrize(
    "source",
    ["", "batch <", "batch > 4)", "width > 4", "__import__('os')", "batch.real", "batch > 4; 1", "max(batch)",
     "(" * 200 + "batch" + ")" * 200, "batch ** 9", "lambda: 1", "batch if batch else 1", "9" * 40,
     "batch > " + "1 + " * 900 + "1"],
)  # fmt: skip
def test_what_is_no_formula_is_refused(source: str) -> None:
    with pytest.raises(Malformed):
        decode_formula(source, SIZES)


def test_names_come_once_in_reading_order() -> None:
    formula = decode_formula("sequence > batch + sequence", SIZES)
    assert list(names(formula)) == ["sequence", "batch"]
