"""What the core suite runs of a sweep; the rest is marked slow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

CORE = ("bert", "bert-mlm", "gpt2", "llama", "swin", "torch-encoder", "fused-gpt")
"""Families that have little in common and take little to capture; every test of families takes them."""


def some(values: Iterable[Any], chosen: Iterable[Any] | Callable[[Any], bool] = CORE) -> list[Any]:
    """The values as parameters of a test, all but the chosen ones marked slow."""
    picks = chosen if callable(chosen) else tuple(chosen).__contains__
    return [value if picks(value) else pytest.param(value, marks=pytest.mark.slow) for value in values]
