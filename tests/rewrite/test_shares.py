"""What a softmax over an axis gives is shared out among copies: growth by equal groups keeps the function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import mlgraph

FORMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "gate": lambda h, v: h.softmax(-1) * v,
    "read twice by one op": lambda h, v: h.softmax(-1).pow(2) * v + (p := h.softmax(-1)) * p,
    "read by several": lambda h, v: (p := h.softmax(-1)) * v + p.exp(),
    "in another dim": lambda h, v: (h.unsqueeze(-1).softmax(-2) * v.unsqueeze(-1)).squeeze(-1),
    "temperature": lambda h, v: (h / 3).softmax(dim=-1, dtype=torch.float64) * v,
}


class Gated(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.enter, self.gate, self.value, self.leave = (
            nn.Linear(3, 8),
            nn.Linear(8, 4),
            nn.Linear(8, 4),
            nn.Linear(4, 2),
        )
        self.form = form

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.enter(x)
        return self.leave(FORMS[self.form](self.gate(h), self.value(h)))


def program_of(form: str) -> tuple[mlgraph.Program, torch.Tensor, str]:
    torch.manual_seed(1)
    x = torch.randn(5, 3, dtype=torch.float64)
    program = mlgraph.capture(Gated(form).double(), (x,))
    [axis] = [a.id for a in program.axes if a.size == 4]
    return program, x, axis


@pytest.mark.parametrize("form", FORMS)
def test_growth_by_equal_groups_is_exact(form: str) -> None:
    program, x, axis = program_of(form)
    grown = mlgraph.decoalesce(program, axes={axis: 3})
    assert grown.tensors["gate.weight"].shape == (12, 8)
    assert not [note for note in grown.notes if note.kind == "approximate"]
    torch.testing.assert_close(mlgraph.emit(grown)(x), mlgraph.emit(program)(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_coming_back_keeps_the_coarse_function(form: str) -> None:
    program, x, axis = program_of(form)
    coarse = mlgraph.coalesce(program, axes={axis: 2})
    fine = mlgraph.decoalesce(coarse)
    torch.testing.assert_close(mlgraph.emit(fine)(x), mlgraph.emit(coarse)(x), rtol=1e-12, atol=1e-12)


def test_groups_of_unequal_size_are_told_to_be_approximate() -> None:
    program, _, axis = program_of("gate")
    grown = mlgraph.decoalesce(program, axes={axis: [0, 0, 1, 2, 3]})
    assert [note for note in grown.notes if note.kind == "approximate" and note.subject == axis]


def test_it_stays_by_default() -> None:
    program, _, axis = program_of("gate")
    assert "softmax" in str(program.axes[axis].kept)
    assert axis not in mlgraph.coalesce(program, width=2).lineage.groupings  # type: ignore[union-attr]
