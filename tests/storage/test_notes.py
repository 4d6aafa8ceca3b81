"""Notes come back from a file as they went in, kind and subject included."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest
import torch
from torch import nn

import mlgraph
from mlgraph.program.notes import Note, NoteKind
from mlgraph.storage import load, save
from mlgraph.storage.notes import decode_note
from tests.storage.programs import mlp


class Told(nn.Module):
    """Fixed in a size, with a check of values, and a branch on a draw in training."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.isnan(x).any():
            raise ValueError("not a number")
        if self.training and torch.rand([]) < 0.5:
            return x
        return (x @ self.weight).reshape(3, 4)


def test_those_of_a_capture(tmp_path: Path) -> None:
    program = mlgraph.capture(Told(), (torch.randn(3, 4),))
    assert {note.kind for note in program.notes} == {"fixed", "traced", "mode"}
    save(program, tmp_path / "model.pt")
    assert load(tmp_path / "model.pt").notes == program.notes


@pytest.mark.parametrize(
    "note",
    [
        Note("call", "encoder.0 is called 2 times; the program is that of its first call", "encoder.0"),
        Note("call", "captured without its loss, with which it could not be: labels are missing"),
        Note("weights", "weights missing in the files, so left at random: head.bias and 3 more"),
        Note("weights", "weights in the files that the model does not have: a, b"),
        Note("weights", "weights of another shape, so left at random: head.weight"),
        Note("class", "the structure a.Holder has no form in a file and was saved as a tuple", "a.Holder"),
        Note("approximate", "aten.mm.default sums over a.hidden#2 inside an op without a rule", "a.hidden#2"),
        Note("other", "size of head is fixed"),
        Note("call", "said in words that no table knows", "encoder"),
        Note("kept", "the same, of another kind"),
        Note("other", "kept: to look like one that is not"),
    ],
    ids=str,
)
def test_of_every_kind(note: Note, tmp_path: Path) -> None:
    save(mlp().replace(notes=(note,)), tmp_path / "model.pt")
    assert load(tmp_path / "model.pt").notes == (note,)


@pytest.mark.parametrize("kind", typing.get_args(NoteKind))
def test_a_kind_that_is_shown_is_read(kind: NoteKind) -> None:
    note = Note(kind, "what is said")
    assert str(note) == "what is said" or decode_note(str(note)).kind == kind
