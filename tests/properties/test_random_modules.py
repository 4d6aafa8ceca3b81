"""Modules drawn at random, with torch as the oracle: exact, or refused, or kept by name."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.random_modules import Recipe, Step, examine, recipes, survey

QUIET = list(HealthCheck)

# A part of every kind, and what drawing found.
KEPT_EXAMPLES = [
    Recipe(
        8, (Step("mix", (0,), "bias", 12), Step("join", (1, 0), "cat"), Step("norm", (2,), "layer")), "mean"
    ),
    Recipe(12, (Step("write", (0,), "zeroed"), Step("reduce", (1,), "mean"))),
    Recipe(8, (Step("blocks", (0,), "norm", 2), Step("view", (1,), "gated", 4))),
]


@settings(max_examples=8, derandomize=True, database=None, deadline=None, suppress_health_check=QUIET)
@given(recipes(4))
def test_random_modules_are_exact_or_refused(recipe: Recipe) -> None:
    examine(recipe)


@pytest.mark.parametrize("recipe", KEPT_EXAMPLES, ids=str)
def test_examples_kept(recipe: Recipe) -> None:
    assert examine(recipe) == "exact"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_five_hundred_random_modules_are_exact_or_refused(seed: int) -> None:
    counts = survey(500, seed)
    assert not [what for what in counts if what.startswith("WRONG")]
