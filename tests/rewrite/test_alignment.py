"""Alignment: whatever the order of a block's neurons and heads, its average with another is the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mlgraph
from mlgraph.passes import Coalesce, Interpolate
from mlgraph.program import Program
from mlgraph.rewrite.alignment import movable, permuted
from mlgraph.rewrite.coarsen import apply_down
from mlgraph.rewrite.grouping import groupings_of, layers_of
from tests.properties.test_algebra import FEW, assert_same, captured, relative_difference
from tests.strategies import Shape, transformers
from tests.train.models import program


def shuffled(of: Program, seed: int, block: str = "") -> Program:
    """The same function, its axes (those of one block, if named) permuted at random."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [
        axis
        for axis in movable(of.axes)
        if axis.kept is None and (not block or all(slot.tensor.startswith(block) for slot in axis.slots))
    ]
    return permuted(of, {axis.id: torch.randperm(axis.size, generator=generator) for axis in chosen})


def nearly_alike(shape: Shape, seed: int = 0) -> Program:
    """A transformer whose odd blocks are its even ones with a little noise."""
    fine = captured(shape)
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(fine.tensors)
    for name, tensor in fine.tensors.items():
        for even in range(0, shape.depth, 2):
            other = name.replace(f"blocks.{even}.", f"blocks.{even + 1}.", 1)
            if name.startswith(f"blocks.{even}.") and other in tensors:
                noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensors[other] = tensor.detach() + 1e-3 * noise
    return fine.replace(tensors=fine.tensors.replace(tensors))


@FEW
@given(shape=transformers(period=1), seed=st.integers(0, 99))
def test_the_average_of_blocks_does_not_depend_on_the_order_of_neurons(shape: Shape, seed: int) -> None:
    fine = nearly_alike(shape)
    mixed_up = shuffled(fine, seed, "blocks.1.")
    assert relative_difference(mixed_up, fine, [shape.inputs()]) <= 1e-10
    expected = mlgraph.coalesce(fine, 2)
    assert_same(mlgraph.coalesce(fine, 2, align=True), expected)
    small = mlgraph.coalesce(mixed_up, 2, align=True)
    assert_same(small, expected)
    back = mlgraph.decoalesce(small)
    assert back.tensors.meta().keys() == fine.tensors.meta().keys()
    lineage = small.lineage
    assert lineage is not None
    again = apply_down(back, groupings_of(lineage), layers_of(lineage), "exact", "again", {})
    for name, tensor in small.tensors.items():
        torch.testing.assert_close(again.tensors[name], tensor, rtol=1e-12, atol=1e-12)


def test_blocks_go_back_to_their_own_order() -> None:
    fine = program()
    with torch.no_grad():
        move = torch.randperm(32, generator=torch.Generator().manual_seed(1))
        for part in ("norm.weight", "norm.bias", "down.bias"):
            fine.tensors[f"blocks.1.{part}"].copy_(fine.tensors[f"blocks.0.{part}"])
        fine.tensors["blocks.1.up.weight"].copy_(fine.tensors["blocks.0.up.weight"][move])
        fine.tensors["blocks.1.up.bias"].copy_(fine.tensors["blocks.0.up.bias"][move])
        fine.tensors["blocks.1.down.weight"].copy_(fine.tensors["blocks.0.down.weight"][:, move])
    small = Coalesce(2, align=True)(fine)
    for part in ("up.weight", "down.weight"):
        assert torch.equal(small.tensors[f"blocks.0.{part}"], fine.tensors[f"blocks.0.{part}"])
    back = mlgraph.decoalesce(small)
    for block in (0, 1):
        for part in ("up.weight", "up.bias", "down.weight"):
            assert torch.equal(back.tensors[f"blocks.{block}.{part}"], fine.tensors[f"blocks.{block}.{part}"])
    both = Coalesce(2, axes={"mlp": 2}, align=True)(fine)
    expected = Coalesce(axes={"mlp": 2})(Coalesce(2, align=True)(fine))
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(both.tensors[name], tensor)


@FEW
@given(shape=transformers(), seed=st.integers(0, 99))
def test_interpolation_of_a_permuted_copy_with_itself_is_itself(shape: Shape, seed: int) -> None:
    fine = captured(shape)
    copy = shuffled(fine, seed)
    assert_same(Interpolate(0.5, align=True)(fine, copy), fine)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_what_is_aligned_keeps_its_function(share: float) -> None:
    first, second = program(0), program(1)
    mixed = mlgraph.interpolate(first, second, share, align=True)
    x = torch.randn(5, 8)
    assert mixed.history[-1] == f"interpolate{{alpha={share},align=true}}"
    if share == 1.0:
        assert relative_difference(mixed, second, [x]) < 1e-5
