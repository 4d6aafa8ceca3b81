"""Many recipes, and what breaks."""

from __future__ import annotations

import collections
import traceback

import hypothesis

from tests.random_modules.examine import Wrong, examine
from tests.random_modules.recipes import Recipe, recipes


def survey(draws: int, seed: int, most: int = 6) -> collections.Counter[str]:
    """Examine so many recipes; prints what breaks, the smallest recipe of each promise, and the counts."""
    counts: collections.Counter[str] = collections.Counter()
    smallest: dict[str, tuple[int, Recipe, str]] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=draws,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(recipes(most))
    def each(recipe: Recipe) -> None:
        try:
            counts[examine(recipe)] += 1
        except Exception as error:
            what = error.what if isinstance(error, Wrong) else f"{type(error).__name__}: {str(error)[:150]}"
            counts[f"WRONG {what}"] += 1
            size = len(recipe.steps)
            if what not in smallest or size < smallest[what][0]:
                text = "".join(traceback.format_exception_only(error)).strip()
                smallest[what] = size, recipe, text[:300]

    each()
    for what, (_, recipe, text) in smallest.items():
        print(f"\n{what}\n  {recipe}\n  {text}")
    print("\n" + "\n".join(f"{number:6d}  {what}" for what, number in counts.most_common()))
    return counts
