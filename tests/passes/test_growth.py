"""Published growth operators: what each keeps, and how it lays out its copies."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import mlgraph
from mlgraph.graph.compare import relative_error
from mlgraph.graph.example_call import example_leaves
from mlgraph.graph.interpret import Interpretation, evaluate
from mlgraph.passes.aki import Aki
from mlgraph.passes.base import Pass
from mlgraph.passes.fpi import Fpi
from mlgraph.passes.insert import Insert
from mlgraph.passes.lemon import Lemon
from mlgraph.passes.net2net import Net2Net
from mlgraph.passes.pipeline import parse_pipeline
from mlgraph.passes.stack import Stack
from mlgraph.program import Program
from mlgraph.verify.twins import symmetry
from tests import zoo
from tests.selection import some


@cache
def small() -> Program:
    model, args, kwargs = zoo.get("fused-gpt").build("full")
    return mlgraph.capture(model.double(), args, kwargs)


def change(grown: Program) -> float:
    leaves = example_leaves(small())
    before = evaluate(small(), small().tensors, leaves)
    after = evaluate(grown, grown.tensors, leaves)
    return max(
        relative_error(y, x) for x, y in zip(before, after, strict=True) if isinstance(x, torch.Tensor)
    )


KEEPING: list[Pass] = [
    Fpi(width=2),
    Fpi(width=3),
    Net2Net(width=1.5, axes={"hidden": 1}),
    Net2Net(width=1, axes={"mlp": 1.25, "heads": 1.5}),
    Insert(depth=2),
    Insert(width=1.5),
    Insert(depth=3, axes={"mlp": 1.25}),
    Lemon(width=2, depth=2),
    Lemon(width=1.5, axes={"hidden": 1}),
    Lemon(width=1.5),
    Lemon(width=2.5, depth=2),
]


@pytest.mark.parametrize("grow", KEEPING, ids=str)
def test_function_preserving_growth_keeps_the_function(grow: Pass) -> None:
    grown = grow(small())
    assert grown.num_parameters() > small().num_parameters()
    assert change(grown) <= 1e-10


@pytest.mark.parametrize("grow", [*KEEPING, Stack(3), Aki(width=2), Aki(width=1.5, depth=2)], ids=str)
def test_growth_round_trips_as_a_pipeline(grow: Pass) -> None:
    assert list(parse_pipeline(str(grow))) == [grow]


@pytest.mark.parametrize("name", some(["gpt2", "llama", "t5", "vit"]))
def test_surplus_indices_are_unseen_by_the_norms_of_pre_norm_models(name: str) -> None:
    model, args, kwargs = zoo.get(name).build("full")
    program = mlgraph.capture(model, args, kwargs)
    grown = Lemon(width=1.5, depth=2)(program)
    assert not [note for note in grown.notes if note.kind == "approximate"]
    leaves = example_leaves(program)
    before = evaluate(program, _doubled(program), leaves)
    after = evaluate(grown, _doubled(grown), leaves)
    alike = [
        (x, y) for x, y in zip(before, after, strict=True) if getattr(x, "shape", 0) == getattr(y, "shape", 1)
    ]
    assert alike
    # The gains of norms are multiplied in float32, the precision of the weights.
    assert max(relative_error(y, x) for x, y in alike) <= 1e-6


def test_surplus_indices_of_post_norm_models_are_noted_as_approximate() -> None:
    model, args, kwargs = zoo.get("bert").build("full")
    grown = Lemon(width=1.5)(mlgraph.capture(model, args, kwargs))
    assert any("means over hidden" in str(note) for note in grown.notes)


def _doubled(program: Program) -> dict[str, torch.Tensor]:
    return {n: t.double() if t.is_floating_point() else t for n, t in program.tensors.items()}


def test_stacking_copies_block_i_from_block_i_modulo_depth() -> None:
    grown = Stack(2)(small())
    (chain,), (old,) = grown.blocks, small().blocks
    assert len(chain) == 2 * len(old)
    for index, block in enumerate(chain):
        for new, source in zip(block.tensors, old.blocks[index % len(old)].tensors, strict=True):
            assert torch.equal(grown.tensors[new], small().tensors[source])


def test_unequal_copies_under_a_norm_are_noted_as_approximate() -> None:
    grown = Net2Net(width=1.5)(small())
    assert any("means over hidden" in str(note) for note in grown.notes)


def test_new_outputs_of_advanced_initialisation_are_the_next_blocks() -> None:
    grown = Aki(width=2)(small())
    wide = Fpi(width=2)(small())
    (chain,) = small().blocks
    lower, upper = chain.blocks[0], chain.blocks[1]
    checked = 0
    for name, above in zip(lower.tensors, upper.tensors, strict=True):
        dims = small().axes.dims(name)
        if dims[0] == "mlp" and len(dims) == 2:
            half = small().tensors[name].shape[0]
            assert torch.equal(grown.tensors[name][:half], wide.tensors[name][:half])
            assert torch.equal(grown.tensors[name][half:], wide.tensors[above][half:])
            checked += 1
    assert checked
    last = chain.blocks[-1]
    assert all(torch.equal(grown.tensors[name], wide.tensors[name]) for name in last.tensors)


def test_zero_insertion_refuses_an_axis_under_a_norm() -> None:
    with pytest.raises(mlgraph.AxisError, match="a norm averages over it"):
        Insert(axes={"hidden": 2})(small())


def test_growth_to_a_fraction_is_refused_by_name() -> None:
    with pytest.raises(mlgraph.AxisError, match=r"axis .*mlp has size \d+"):
        Net2Net(width=1, axes={"mlp": 1.01})(small())


@pytest.mark.parametrize("factors", [{"width": 0}, {"depth": 0}, {"width": -2}, {"depth": -1}])
def test_growth_by_no_factor_is_refused(factors: dict[str, int]) -> None:
    with pytest.raises(mlgraph.MlgraphError, match=r"must be at least 1, not"):
        mlgraph.decoalesce(small(), **factors)  # type: ignore[arg-type]


def gradients_of_copies(grown: Program) -> float:
    """Largest difference between the gradients of the two halves of the first mlp bias."""
    tensors = {n: t.clone().requires_grad_(t.is_floating_point()) for n, t in grown.tensors.items()}
    with torch.enable_grad():
        results = Interpretation(grown, tensors, widened=True).run(example_leaves(grown))
        results[0].square().mean().backward()
    names = [n for n in grown.tensors if grown.axes.tensor_dims.get(n) and grown.axes.dims(n) == ("mlp",)]
    gradient = tensors[names[0]].grad
    assert gradient is not None
    first, second = gradient.chunk(2)
    return float((first - second).abs().max() / gradient.abs().max())


def test_uneven_fan_out_breaks_the_symmetry_that_copies_have() -> None:
    assert gradients_of_copies(Fpi(width=2)(small())) <= 1e-9
    assert gradients_of_copies(Lemon(width=2)(small())) > 1e-3


def test_twins_are_counted_and_interpolation_tells_them_apart() -> None:
    coarse = mlgraph.coalesce(small(), width=2)
    copied = mlgraph.decoalesce(coarse)
    mixed = mlgraph.interpolate(small(), copied, alpha=0.5)
    own, twin, mix = ({row.axis: row for row in symmetry(p).rows} for p in (small(), copied, mixed))
    assert twin["mlp"].share == 1.0
    assert twin["mlp"].identical == twin["mlp"].slots
    assert twin["hidden"].share == 1.0
    assert own["mlp"].share == 0.0
    assert mix["mlp"].share == 0.0
    assert "mlp" in str(symmetry(copied))
