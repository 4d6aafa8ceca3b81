"""Selecting by what counts, and repairing what was averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mlgraph
from mlgraph.passes import Coalesce
from mlgraph.passes.pipeline import parse_pass
from mlgraph.program import Program
from mlgraph.program.calibration import Calibration
from mlgraph.rewrite.coarsen import apply_down
from mlgraph.rewrite.grouping import groupings_of
from mlgraph.train import Coarsen, Train, run
from tests.properties.test_algebra import FEW, assert_same, captured, relative_difference
from tests.strategies import Shape, transformers
from tests.train.models import cross_entropy, points, program

BATCHES = points(3)


@pytest.fixture(scope="module")
def known() -> Calibration:
    return mlgraph.calibrate(program(), BATCHES, cross_entropy)


def silenced(weak: tuple[int, ...]) -> Program:
    """The classifier, of whose block 2 some neurons do nearly nothing."""
    fine = program()
    with torch.no_grad():
        for name in ("up.weight", "up.bias"):
            fine.tensors[f"blocks.2.{name}"][list(weak)] *= 1e-3
        fine.tensors["blocks.2.down.weight"][:, list(weak)] *= 1e-3
    return fine


@pytest.mark.parametrize("score", ["norm", "activation", "taylor"])
def test_what_counts_little_is_left_out(score: Any) -> None:
    weak = tuple(range(0, 32, 4)) + tuple(range(1, 32, 4))
    fine = silenced(weak)
    axis = next(a.id for a in fine.axes if a.name == "mlp" and a.slots[0].tensor.startswith("blocks.2"))
    data = mlgraph.calibrate(fine, BATCHES, cross_entropy)
    down = Coalesce(axes={axis: "2:select:pad"}, score=score)
    small = down(fine, data)
    strong = [i for i in range(32) if i not in weak]
    assert torch.equal(small.tensors["blocks.2.up.weight"], fine.tensors["blocks.2.up.weight"][strong])
    assert relative_difference(small, fine, [BATCHES[0][0]]) < 1e-3


def test_blocks_of_little_influence_are_left_out() -> None:
    fine = program()
    with torch.no_grad():
        for block in (0, 1):
            fine.tensors[f"blocks.{block}.down.weight"].mul_(1e-3)
            fine.tensors[f"blocks.{block}.down.bias"].mul_(1e-3)
    data = mlgraph.calibrate(fine, BATCHES)
    for score in ("influence", "activation"):
        small = mlgraph.coalesce(fine, 2, reduce="select", score=score, calibration=data)
        assert torch.equal(small.tensors["blocks.0.up.weight"], fine.tensors["blocks.2.up.weight"])
        assert torch.equal(small.tensors["blocks.1.up.weight"], fine.tensors["blocks.3.up.weight"])


@FEW
@given(
    shape=transformers(),
    score=st.sampled_from(["norm", "activation"]),
    extend=st.sampled_from(["copy", "pad"]),
)
def test_down_after_up_is_nothing_whatever_was_selected(shape: Shape, score: Any, extend: Any) -> None:
    fine = captured(shape)
    data = mlgraph.calibrate(fine, [shape.inputs()])
    inner = {"mlp": "2:select"}
    small = Coalesce(1, 1, axes=inner, score=score, extend=extend)(fine, data)
    assert small.lineage is not None
    big = mlgraph.decoalesce(small)
    assert relative_difference(big, small, [shape.inputs()]) <= 1e-10
    groupings = groupings_of(small.lineage)
    assert_same(apply_down(big, groupings, {}, "exact", "again", {}), small)


@FEW
@given(shape=transformers(), depth=st.sampled_from([1, 2]))
def test_repaired_norms_have_the_mean_and_variance_of_before(shape: Shape, depth: int) -> None:
    fine = captured(shape)
    batches = [shape.inputs(seed) for seed in range(2)]
    before = mlgraph.calibrate(fine, batches)
    small = mlgraph.coalesce(fine, depth, axes={"mlp": 2}, calibration=before, repair=True)
    after = mlgraph.calibrate(small, batches)
    for name in ("blocks.0.norm2", "norm"):
        target, found = before.moments[f"{name}.weight"], after.moments[f"{name}.weight"]
        if depth == 2 and name != "norm":
            other = before.moments[f"{name.replace('.0.', '.1.')}.weight"]
            mean = (target.mean + other.mean) / 2
            deviation = (target.variance.sqrt() + other.variance.sqrt()) / 2
        else:
            mean, deviation = target.mean, target.variance.sqrt()
        if shape.norm == "layer" and shape.bias:
            torch.testing.assert_close(found.mean, mean, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(found.variance.sqrt(), deviation, rtol=1e-3, atol=1e-4)
        else:
            square = found.variance + found.mean.square()
            torch.testing.assert_close(square, deviation.square() + mean.square(), rtol=1e-3, atol=1e-4)


def test_repair_of_what_nothing_changed_changes_nothing(known: Calibration) -> None:
    fine = program()
    same = mlgraph.coalesce(fine, 1, axes={"mlp": 1}, calibration=known, repair=True)
    for name, tensor in fine.tensors.items():
        torch.testing.assert_close(same.tensors[name], tensor.detach())


def test_neurons_of_like_activations_are_grouped() -> None:
    fine = program()
    with torch.no_grad():
        for part in ("up.weight", "up.bias"):
            tensor = fine.tensors[f"blocks.0.{part}"]
            tensor[16:] = tensor[:16]
    data = mlgraph.calibrate(fine, BATCHES)
    axis = next(a.id for a in fine.axes if a.name == "mlp" and a.slots[0].tensor.startswith("blocks.0"))
    small = mlgraph.coalesce(fine, axes={axis: 2}, pairing="similarity", calibration=data)
    assert relative_difference(small, fine, [BATCHES[0][0]]) < 1e-5


def test_files_pipelines_and_phases_take_a_calibration(known: Calibration, tmp_path: Path) -> None:
    path = str(tmp_path / "c.calibration")
    mlgraph.save_calibration(known, path)
    down = Coalesce(2, reduce="select", score="influence", calibration=path, repair=True)
    assert parse_pass(str(down)) == down
    small = down(program())
    result = run(program(), [Coarsen(down), Train(1)], BATCHES, loss=cross_entropy, seed=0)
    assert len(result.program.blocks[0]) == len(small.blocks[0]) == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"reduce": "select", "score": "activation"}, "give a calibration"),
        ({"score": "norm"}, "add reduce='select'"),
        ({"repair": True}, "give a calibration"),
        ({"reduce": "select", "score": "influence", "width": 2, "depth": 1}, "is of blocks"),
    ],
)
def test_what_is_missing_is_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(mlgraph.MlgraphError, match=told):
        mlgraph.coalesce(program(), **{"depth": 2, **options})


def test_a_calibration_of_another_program_is_refused(known: Calibration) -> None:
    with pytest.raises(mlgraph.AxisError, match="calibrate the program"):
        mlgraph.coalesce(program(depth=6), 2, reduce="select", score="influence", calibration=known)
    without = mlgraph.calibrate(program(), BATCHES)
    with pytest.raises(mlgraph.AxisError, match="no gradients"):
        mlgraph.coalesce(program(), 2, reduce="select", score="taylor", calibration=without)
