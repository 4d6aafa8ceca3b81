"""What is measured on data, against the module's own activations by hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mlgraph
from mlgraph.errors import FileError
from mlgraph.program.calibration import Calibration
from tests.captured import captured
from tests.strategies import Shape
from tests.train.models import classifier, cross_entropy, points, program

BATCHES = points(3)


@pytest.fixture(scope="module")
def found() -> Calibration:
    return mlgraph.calibrate(program(), BATCHES, cross_entropy)


def hooked(module: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes into and comes out of a module on all batches."""
    model = classifier().eval()
    given: list[tuple[torch.Tensor, torch.Tensor]] = []
    model.get_submodule(module).register_forward_hook(lambda _, ins, out: given.append((ins[0], out)))
    with torch.no_grad():
        for x, _ in BATCHES:
            model(x)
    ins, outs = zip(*given, strict=True)
    return torch.cat(ins), torch.cat(outs)


def test_activations_of_an_axis_are_what_its_weights_contract(found: Calibration) -> None:
    axis = next(slot for slot in program().axes if slot.name == "mlp").id
    number = axis.split(".")[1] if "." in axis else "0"
    into, _ = hooked(f"blocks.{number}.down")
    torch.testing.assert_close(found.axes[axis].activation, into.square().mean(0).sqrt())
    samples = found.axes[axis].samples.float()
    assert samples.shape[0] == 32
    assert all(any(torch.allclose(column, row, atol=1e-2) for row in into) for column in samples.T)


def test_moments_are_those_of_a_modules_output(found: Calibration) -> None:
    for name in ("blocks.2.norm", "blocks.1.up", "norm"):
        _, out = hooked(name)
        moments = found.moments[f"{name}.weight"]
        torch.testing.assert_close(moments.mean, out.mean(0))
        torch.testing.assert_close(moments.variance, out.var(0, correction=0))


def test_influence_is_one_minus_the_cosine_of_a_blocks_input_and_output(found: Calibration) -> None:
    assert len(found.chains["blocks"].influence) == 4
    for number in range(4):
        before, after = hooked(f"blocks.{number}")
        cosine = torch.nn.functional.cosine_similarity(before, after, -1).mean()
        torch.testing.assert_close(found.chains["blocks"].influence[number], 1 - cosine)


def test_taylor_is_what_the_loss_would_change_to_first_order(found: Calibration) -> None:
    axis = next(axis for axis in program().axes if axis.name == "mlp" and axis.slots[0].tensor[7] == "1")
    sums = torch.zeros(32)
    for x, y in BATCHES:
        model = classifier().eval()
        cross_entropy(model(x), (x, y)).backward()
        up, down = model.blocks[1].up, model.blocks[1].down
        own = (up.weight * up.weight.grad).sum(1) + up.bias * up.bias.grad
        sums += (own + (down.weight * down.weight.grad).sum(0)).detach().square()
    taylor = found.axes[axis.id].taylor
    assert taylor is not None
    torch.testing.assert_close(taylor, sums / 3)


def test_a_calibration_comes_back_from_its_file(found: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "c.calibration"
    mlgraph.save_calibration(found, path)
    again = mlgraph.load_calibration(path)
    assert again.axes.keys() == found.axes.keys()
    assert again.chains.keys() == found.chains.keys()
    for axis, known in found.axes.items():
        assert torch.equal(again.axes[axis].samples, known.samples)
    assert torch.equal(again.inputs[1][0], found.inputs[1][0])
    broken = tmp_path / "broken"
    broken.write_bytes(path.read_bytes()[:100])
    for wrong in (broken, tmp_path / "absent"):
        with pytest.raises(FileError, match=wrong.name):
            mlgraph.load_calibration(wrong)


def test_an_axis_that_nothing_contracts_has_the_activations_it_ends_in() -> None:
    bert = captured("bert")
    pooler = next(a for a in bert.program.axes if a.slots[0].tensor == "pooler.dense.weight")
    made = mlgraph.calibrate(bert.program, [bert.kwargs])
    with torch.no_grad():
        pooled = bert.model.eval()(**bert.kwargs).pooler_output
    torch.testing.assert_close(made.axes[pooler.id].activation, pooled.square().mean(0).sqrt())


def test_lazy_weights_are_read_block_by_block(tmp_path: Path, found: Calibration) -> None:
    mlgraph.save(program(), tmp_path / "p.pt")
    lazy = mlgraph.load(tmp_path / "p.pt")
    again = mlgraph.calibrate(lazy, BATCHES, cross_entropy)
    for axis, known in found.axes.items():
        torch.testing.assert_close(again.axes[axis].activation, known.activation)


def test_inputs_that_are_no_tensors_are_kept() -> None:
    shape = Shape()
    made = mlgraph.calibrate(mlgraph.capture(shape.build(), (shape.inputs(),)), [shape.inputs()])
    assert torch.equal(made.inputs[0][0], shape.inputs())
    assert all(activity.taylor is None for activity in made.axes.values())


@pytest.mark.parametrize("wrong", [[], [torch.zeros(5, 9)]], ids=["none", "misfit"])
def test_data_that_does_not_fit_is_refused(wrong: Any) -> None:
    with pytest.raises(mlgraph.MlgraphError, match="alibration"):
        mlgraph.calibrate(program(), wrong)
