"""What a class has no other size for stays, by name, and the rest goes out."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

import mlgraph
from mlgraph.capture.inputs.origin import origin_of
from mlgraph.cli.running import leaving
from mlgraph.errors import AxisError
from mlgraph.graph.compare import relative_error
from mlgraph.inspect.changes import effect
from mlgraph.interop.fitting.fit import NotExpressible
from mlgraph.interop.fitting.retry import expressible
from mlgraph.interop.huggingface import Saved, save_huggingface
from mlgraph.passes import Coalesce, Decoalesce
from mlgraph.program import Program

IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 3, 4, 2], [5, 5, 4, 3, 9]])


@cache
def fourier() -> Program:
    """FNet transforms its hidden dim, which so stays, but not that of its tables, which no field gives."""
    torch.manual_seed(0)
    config = transformers.FNetConfig(
        vocab_size=23,
        hidden_size=8,
        num_hidden_layers=1,
        intermediate_size=12,
        max_position_embeddings=7,
        pad_token_id=0,
    )
    model = transformers.FNetModel(config).eval()
    return mlgraph.capture(model, (), {"input_ids": IDS}).replace(origin=origin_of(model))


def coarsened(stays: tuple[str, ...]) -> Program:
    return mlgraph.coalesce(fourier(), width=2, freeze=stays)


def test_an_axis_for_which_the_class_has_no_field_stays(tmp_path: Path) -> None:
    def write(program: Program) -> Saved:
        return save_huggingface(program, tmp_path / "small")

    found = expressible(fourier(), coarsened, write)
    coarse, saved, notes = found.program, found.written, found.notes
    left = effect(fourier(), coarse, dict.fromkeys(found.stays, "so")).kept
    assert {(kept.name, kept.reason) for kept in left} >= {("hidden", "so"), ("features", "so")}
    assert any(
        note.startswith("kept: embeddings.hidden (8), since no configuration of the class has it otherwise: ")
        for note in notes
    ), notes
    assert saved.changes == ("intermediate_size 12 -> 6",)
    loaded = transformers.FNetModel.from_pretrained(tmp_path / "small").eval()
    with torch.no_grad():
        wanted = mlgraph.emit(coarse).eval()(input_ids=IDS)["last_hidden_state"]
        assert relative_error(loaded(IDS)["last_hidden_state"], wanted) < 1e-5


def test_what_would_leave_nothing_to_change_is_refused_as_it_was() -> None:
    every = tuple(axis.id for axis in fourier().axes)

    def write(program: Program) -> None:
        raise NotExpressible("the class is as it is.", every, "all differs")

    with pytest.raises(NotExpressible, match="the class is as it is"):
        expressible(fourier(), coarsened, write)


def test_what_was_asked_for_by_name_never_stays() -> None:
    assert leaving(Coalesce(width=2), ("mlp",)) == Coalesce(width=2, freeze=("mlp",))
    for asked in (Coalesce(axes={"mlp": 2}), Coalesce(layers=(0, 2)), Decoalesce()):
        assert leaving(asked, ()) is asked
        with pytest.raises(AxisError, match="says itself what changes"):
            leaving(asked, ("mlp",))


def test_a_parameter_that_nothing_reads_takes_the_size_that_the_class_has(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.EsmConfig(
        vocab_size=23,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=31,
        pad_token_id=0,
        mask_token_id=1,
        position_embedding_type="rotary",
    )
    model: nn.Module = transformers.EsmModel(config).eval()
    program = mlgraph.capture(model, (), {"input_ids": IDS}).replace(origin=origin_of(model))
    saved = save_huggingface(mlgraph.coalesce(program, width=2), tmp_path / "small")
    said = "contact_head.regression.weight is [1, 4], as the class has it; nothing reads it"
    assert said in saved.notes
    loaded = transformers.EsmModel.from_pretrained(tmp_path / "small")
    cut = model.state_dict()["contact_head.regression.weight"][:, :4]
    assert torch.equal(loaded.state_dict()["contact_head.regression.weight"], cut)
