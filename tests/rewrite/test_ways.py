"""The ways down and back: R and P of groupings against dense matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlgraph.errors import AxisError
from mlgraph.program.dims import Dim, Leaf
from mlgraph.rewrite.grouping import Grouping
from mlgraph.rewrite.transfer import TensorTransfer
from tests.strategies import groupings

WAYS = [("mean", "copy"), ("select", "copy"), ("select", "pad")]


@st.composite
def ways(draw: st.DrawFn) -> Grouping:
    """A grouping, uneven in general, with a way down and back; some leave members out."""
    coarse_of = draw(groupings(draw(st.integers(1, 7))))
    plain = Grouping(coarse_of)
    if draw(st.booleans()):
        lists = [list(group) for group in plain.members]
        kept = [draw(st.lists(st.sampled_from(g), min_size=1, unique=True)) for g in lists]
        plain = Grouping.of(kept, plain.fine, "axis")
    reduce, extend = draw(st.sampled_from(WAYS))
    at = draw(st.sampled_from([min, max]))
    return plain.going(reduce, extend, at)  # type: ignore[arg-type]


def dense(grouping: Grouping) -> tuple[torch.Tensor, torch.Tensor]:
    """R and P as matrices, entry by entry from what the fields mean."""
    restriction = torch.zeros(grouping.coarse, grouping.fine, dtype=torch.float64)
    prolongation = torch.zeros(grouping.fine, grouping.coarse, dtype=torch.float64)
    for fine, coarse in enumerate(grouping.coarse_of):
        size = grouping.coarse_of.count(coarse)
        share = 1 / size if grouping.shares is None else grouping.shares[fine]
        restriction[coarse, fine] = share
        prolongation[fine, coarse] = 1.0 if grouping.extend == "copy" or share == 1.0 else 0.0
    return restriction, prolongation


@given(ways())
def test_up_and_down_again_is_nothing(grouping: Grouping) -> None:
    restriction, prolongation = dense(grouping)
    eye = torch.eye(grouping.coarse, dtype=torch.float64)
    torch.testing.assert_close(restriction @ prolongation, eye)


@given(ways(), ways(), st.integers(0, 9))
def test_tensors_move_as_the_matrices_say(rows: Grouping, columns: Grouping, seed: int) -> None:
    """A weight becomes R W P, and back P W R; gradients go by the adjoint maps, squares by their squares."""
    generator = torch.Generator().manual_seed(seed)
    dims = (Dim((Leaf("rows", rows.fine),)), Dim((Leaf("columns", columns.fine),)))
    transfer = TensorTransfer(dims, (("emits",), ("contracts",)), {"rows": rows, "columns": columns})
    (r1, p1), (r2, p2) = dense(rows), dense(columns)
    fine = torch.randn(rows.fine, columns.fine, dtype=torch.float64, generator=generator)
    coarse = torch.randn(rows.coarse, columns.coarse, dtype=torch.float64, generator=generator)
    expected: list[tuple[Any, Any]] = [
        (transfer.down(fine), r1 @ fine @ p2),
        (transfer.up(coarse), p1 @ coarse @ r2),
        (transfer.down(fine, "gradient"), p1.T @ fine @ r2.T),
        (transfer.up(coarse, "gradient"), r1.T @ coarse @ p2.T),
        (transfer.down(fine, "gradient_squared"), p1.T.square() @ fine @ r2.T.square()),
        (transfer.up(coarse, "gradient_squared"), r1.T.square() @ coarse @ p2.T.square()),
    ]
    for found, product in expected:
        torch.testing.assert_close(found, product)


@given(ways(), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), st.integers(0, 9))
def test_what_is_selected_comes_down_again_bit_for_bit(
    grouping: Grouping, dtype: torch.dtype, seed: int
) -> None:
    if grouping.selected is None:
        return
    tensor = torch.randn(grouping.coarse, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)
    for role in ("emits", "contracts"):
        dims = (Dim((Leaf("rows", grouping.fine),)), Dim((Leaf("other", 3),)))
        transfer = TensorTransfer(dims, ((role,), ("emits",)), {"rows": grouping})
        assert torch.equal(transfer.down(transfer.up(tensor)), tensor)


@given(st.data())
def test_one_after_another_is_the_product(data: st.DataObject) -> None:
    first = data.draw(ways())
    second = Grouping(data.draw(groupings(first.coarse))).going(*data.draw(st.sampled_from(WAYS)))  # type: ignore[arg-type]
    both = first.then(second)
    torch.testing.assert_close(dense(both)[0], dense(second)[0] @ dense(first)[0])


def test_groups_may_leave_members_out() -> None:
    grouping = Grouping.of([[0], [2]], 4, "axis")
    assert grouping.coarse_of == (0, 0, 1, 1)
    assert grouping.kept == ((0,), (2,))
    assert grouping.selected == (0, 2)
    assert Grouping.of([[1, 2], [4]], 5, "axis").shares == (0.0, 0.5, 0.5, 0.0, 1.0)
    assert Grouping.keeping([1, 3], 5, "axis") == Grouping((0, 0, 0, 1, 1), (0.0, 1.0, 0.0, 1.0, 0.0))


@pytest.mark.parametrize("kept", [[], [2, 1], [0, 0], [0, 9], [-1, 2]])
def test_what_cannot_be_kept_is_refused(kept: list[int]) -> None:
    with pytest.raises(AxisError, match="not what to keep of the 4 indices of axis: list some of 0 to 3"):
        Grouping.keeping(kept, 4, "axis")


def test_what_is_averaged_is_not_padded() -> None:
    with pytest.raises(AxisError, match="averaged cannot be padded"):
        Grouping((0, 0), extend="pad")
