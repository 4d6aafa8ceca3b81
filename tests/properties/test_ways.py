"""Selecting and padding as whole passes: what comes back, and of which function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import mlgraph
from mlgraph.errors import AxisError, MlgraphError
from mlgraph.passes import Coalesce, Interpolate
from mlgraph.program import Program
from tests.properties.test_algebra import PROPERTY, assert_same, captured, relative_difference
from tests.strategies import Shape, transformers
from tests.train.models import program

EXTENDS = ["copy", "pad"]


def shapes_of(of: Program) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in of.tensors.items()}


@PROPERTY
@given(shape=transformers(), extend=st.sampled_from(EXTENDS), pairing=st.sampled_from(["adjacent", "halves"]))
def test_down_after_up_is_nothing_bit_for_bit(shape: Shape, extend: Any, pairing: Any) -> None:
    fine = captured(shape)
    down = Coalesce(1, 2, pairing, reduce="select", extend=extend)
    small = down(fine)
    big = mlgraph.decoalesce(small)
    assert shapes_of(big) == shapes_of(fine)
    assert_same(down(big), small)


@PROPERTY
@given(shape=transformers(), pairing=st.sampled_from(["adjacent", "halves"]))
def test_copies_of_what_was_selected_keep_the_function(shape: Shape, pairing: Any) -> None:
    fine = captured(shape)
    small = Coalesce(1, 2, pairing, reduce="select")(fine)
    assert relative_difference(mlgraph.decoalesce(small), small, [shape.inputs()]) <= 1e-10


@PROPERTY
@given(shape=transformers())
def test_padding_inner_axes_keeps_the_function(shape: Shape) -> None:
    assume(shape.mlp_kind != "experts")
    fine = captured(shape)
    small = Coalesce(axes={"mlp": "2:select:pad"})(fine)
    assert relative_difference(mlgraph.decoalesce(small), small, [shape.inputs()]) <= 1e-10
    assert not [note for note in small.notes if note.kind == "approximate"]


@PROPERTY
@given(shape=transformers(post_norm=False, period=1, depth=4))
def test_blocks_left_out_come_back_as_identities(shape: Shape) -> None:
    fine = captured(shape)
    for down in (
        Coalesce(depth=2, reduce="select", extend="pad"),
        Coalesce(layers=(0, 3), extend="pad"),
        Coalesce(layers=(1, 2), extend="pad"),
    ):
        small = down(fine)
        big = mlgraph.decoalesce(small)
        assert relative_difference(big, small, [shape.inputs()]) <= 1e-10
        assert_same(down(big), small)


def test_depth_by_selection_skips_layers() -> None:
    fine = program()
    for down, kept in (
        (Coalesce(depth=2, reduce="select"), (0, 2)),
        (Coalesce(layers=(0, 3)), (0, 3)),
        (Coalesce(layers=(1, 2, 3)), (1, 2, 3)),
        (Coalesce(axes={"blocks": [[1], [3]]}), (1, 3)),
        (Coalesce(axes={"blocks": "2:select"}), (0, 2)),
        (Coalesce(2, pairing="halves", reduce="select"), (0, 1)),
    ):
        small = down(fine)
        assert len(small.blocks[0]) == len(kept)
        for place, block in enumerate(kept):
            own = {n: t for n, t in small.tensors.items() if n.startswith(f"blocks.{place}.")}
            assert own
            for name, tensor in own.items():
                assert torch.equal(
                    tensor, fine.tensors[name.replace(f"blocks.{place}.", f"blocks.{block}.", 1)]
                )
        back = mlgraph.decoalesce(small)
        assert shapes_of(back) == shapes_of(fine)
        assert_same(down(back), small)


def test_a_mean_may_leave_blocks_out() -> None:
    fine = program()
    small = Coalesce(axes={"blocks": [[0, 1], [3]]})(fine)
    for part in ("up.weight", "norm.bias"):
        mean = (fine.tensors[f"blocks.0.{part}"] + fine.tensors[f"blocks.1.{part}"]) / 2
        torch.testing.assert_close(small.tensors[f"blocks.0.{part}"], mean.detach())
        assert torch.equal(small.tensors[f"blocks.1.{part}"], fine.tensors[f"blocks.3.{part}"])


def test_pruning_drops_neurons_and_detail_brings_them_back() -> None:
    fine = program()
    small = Coalesce(axes={"blocks.0.mlp": "2:select:pad", "blocks.1.mlp": "2:select:pad"})(fine)
    assert torch.equal(small.tensors["blocks.0.up.weight"], fine.tensors["blocks.0.up.weight"][::2])
    assert torch.equal(small.tensors["blocks.0.down.weight"], fine.tensors["blocks.0.down.weight"][:, ::2])
    back = mlgraph.decoalesce(small)
    assert not back.tensors["blocks.0.up.weight"][1::2].any()
    whole = Interpolate(1.0, 1.0)(fine, small)
    for name, tensor in fine.tensors.items():
        torch.testing.assert_close(whole.tensors[name], tensor.detach())


@pytest.mark.parametrize("extend", EXTENDS)
def test_ways_are_saved_with_a_program(tmp_path: Any, extend: Any) -> None:
    fine = program()
    small = Coalesce(layers=(1, 3), axes={"mlp": "2:select"}, extend=extend)(fine)
    mlgraph.save(small, tmp_path / "small.pt")
    again = mlgraph.load(tmp_path / "small.pt")
    assert again.lineage is not None
    assert small.lineage is not None
    assert again.lineage.selections == small.lineage.selections
    assert again.lineage.layer_selections == small.lineage.layer_selections
    assert_same(mlgraph.decoalesce(again), mlgraph.decoalesce(small))


def test_ways_are_read_in_pieces_from_files(tmp_path: Any) -> None:
    fine = program()
    mlgraph.save(fine, tmp_path / "fine.pt")
    for down in (Coalesce(2, 2, reduce="select"), Coalesce(layers=(1, 3), extend="pad")):
        assert_same(down(mlgraph.load(tmp_path / "fine.pt")), down(fine))


def test_zeros_beside_a_norm_are_told() -> None:
    small = Coalesce(width=2, reduce="select", extend="pad")(program())
    assert [note.text for note in small.notes if "zeros that pad" in note.text]
    plain = Coalesce(width=2, reduce="select")(program())
    assert not [note for note in plain.notes if note.kind == "approximate"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 2, "extend": "pad"}, "averaged and cannot be padded: reduce it by select"),
        ({"axes": {"mlp": "2:chose"}}, "'2:chose', is no factor or size with a way down and back"),
        ({"axes": {"mlp": "two:select"}}, "no factor or size with a way"),
        ({"layers": (0, 9)}, "not what to keep of the 4 indices of the layer axis blocks"),
    ],
)
def test_ways_that_there_are_not(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AxisError, match=message):
        Coalesce(**options)(program())


def test_identities_are_not_scaled() -> None:
    small = Coalesce(layers=(0, 2), extend="pad")(program())
    with pytest.raises(MlgraphError, match="come back as identities, which cannot be scaled"):
        mlgraph.decoalesce(small, depth_mode="scaled")
