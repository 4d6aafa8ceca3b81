"""Modules drawn at random, with torch as the oracle: exact, or refused, or kept by name."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.random_modules.examine import examine
from tests.random_modules.recipes import Recipe, Step, recipes
from tests.random_modules.survey import survey

QUIET = list(HealthCheck)

# What drawing found at one time or another, shrunk; each is exact, refused, or kept by name now.
FOUND = [
    Recipe(12, (Step("custom", (0,), "reversed"),)),
    Recipe(12, (Step("custom", (0,), "rounded"), Step("custom", (1,), "reversed"))),
    Recipe(4, (Step("write", (0,), "moved"), Step("blocks", (1,), "norm", 4))),
    Recipe(12, (Step("write", (0,), "zeroed"), Step("cut", (1,), "max_pooled"))),
    Recipe(4, (Step("weight", (0,), "expanded"), Step("mix", (1,), "plain", 8))),
    Recipe(8, (Step("reduce", (0,), "var"),)),
    Recipe(4, (Step("drop", (0,)), Step("drop", (0,)))),
]


@settings(max_examples=8, derandomize=True, database=None, deadline=None, suppress_health_check=QUIET)
@given(recipes(4))
def test_random_modules_are_exact_or_refused(recipe: Recipe) -> None:
    examine(recipe)


@pytest.mark.parametrize(
    "recipe", FOUND, ids=lambda recipe: "-".join(s.variant or s.kind for s in recipe.steps)
)
def test_what_was_found_is_not_wrong_any_more(recipe: Recipe) -> None:
    examine(recipe)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(4))
def test_five_hundred_random_modules_are_exact_or_refused(seed: int) -> None:
    counts = survey(500, seed)
    assert not [what for what in counts if what.startswith("WRONG")]
