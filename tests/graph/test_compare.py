"""How far two values differ."""

from __future__ import annotations

import pytest
import torch

from mlgraph.graph.compare import relative_error

ONE = torch.tensor([1.0, -4.0, 2.0])
INFINITE = torch.tensor([1.0, -float("inf")])


def test_the_largest_difference_is_divided_by_the_largest_magnitude() -> None:
    assert relative_error(ONE, ONE) == 0.0
    assert relative_error(ONE + torch.tensor([0.0, 0.0, 0.5]), ONE) == pytest.approx(0.5 / 4)
    assert relative_error(ONE.bfloat16() * 1.5, ONE.bfloat16()) == pytest.approx(0.5)
    assert relative_error(ONE + 1j, ONE + 0j) == pytest.approx(1 / 4)


def test_infinities_must_be_in_the_same_places() -> None:
    assert relative_error(INFINITE, INFINITE) == 0.0
    assert relative_error(torch.tensor([1.0, 2.0]), INFINITE) == float("inf")
    assert relative_error(torch.tensor([float("nan")]), torch.tensor([1.0])) == float("inf")


@pytest.mark.parametrize(
    ("found", "expected"), [(ONE[:2], ONE), (torch.tensor([1, 2]), torch.tensor([1, 3]))]
)
def test_other_shapes_and_other_integers_are_infinitely_far(
    found: torch.Tensor, expected: torch.Tensor
) -> None:
    assert relative_error(found, expected) == float("inf")


def test_nothing_differs_from_nothing() -> None:
    assert relative_error(torch.zeros(0), torch.zeros(0)) == 0.0
