"""No model of the zoo gets worse than the committed baseline.

``python -m tests.zoo_table --accept`` makes what passes now the baseline.
"""

from __future__ import annotations

import pytest

from tests import zoo
from tests.zoo_table import table
from tests.zoo_table.checks import COLUMNS, NO, REFUSED, YES, Row, check

BASELINE = table.read_baseline()


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(BASELINE))
def test_a_model_does_not_get_worse(name: str) -> None:
    row = check(zoo.get(name))
    assert not table.worse(row, BASELINE)


def test_the_baseline_names_models_of_the_zoo() -> None:
    assert BASELINE
    assert BASELINE.keys() <= {entry.name for entry in zoo.entries()}


def test_the_zoo_is_as_wide_as_promised() -> None:
    assert len({entry.family for entry in zoo.entries(suite="hf")}) >= 60
    assert len(zoo.entries(suite="timm")) >= 50
    assert len(zoo.entries(suite="module")) >= 20


def test_a_column_that_no_longer_passes_is_reported_with_its_reason() -> None:
    row = Row("some-model", "family", "hf", {"captured": YES, "axes": NO}, {"axes": "hidden is 24"})
    lines = table.worse(row, {"some-model": ["captured", "axes", "width"]})
    assert lines == ["some-model, axes: NO hidden is 24", "some-model, width: missing"]


def test_the_table_counts_and_explains() -> None:
    rows = [
        Row("a", "f", "hf", dict.fromkeys(COLUMNS, YES)),
        Row("b", "f", "hf", {"captured": REFUSED}, {"captured": "forward branches on data"}),
    ]
    text = table.render(rows)
    assert "| all | 1 / 2 |" in text
    assert "- `b`, captured: forward branches on data" in text
