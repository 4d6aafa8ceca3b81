"""Sizes for a target: counted rightly without being made, within 5 % or refused with the nearest named."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import mlgraph
from mlgraph.graph.flops import flops_at, forward_at_sizes
from mlgraph.passes import Coalesce
from mlgraph.program import Program
from mlgraph.rewrite.targets import Candidate, amount_of
from mlgraph.train import Coarsen, Train, run
from tests.captured import captured
from tests.train.models import cross_entropy, points, program

MODELS = [
    "deit",
    *(pytest.param(name, marks=pytest.mark.thorough) for name in ("bert", "gpt2", "t5", "llama")),
]


def amounts(of: Program) -> dict[str, float]:
    memory = sum(tensor.numel() * tensor.element_size() for tensor in of.tensors.meta().values())
    return {"parameters": of.num_parameters(), "flops": flops_at(of).forward, "bytes": memory}


@functools.cache
def fine(name: str) -> Program:
    return program() if name == "classifier" else captured(name).program


@pytest.mark.parametrize("name", ["classifier", *MODELS])
@pytest.mark.parametrize(
    "options",
    [
        {"target_params": 0.5},
        {"target_flops": 0.3},
        {"target_memory": 0.5, "keep_depth": True},
        {"target_params": 0.6, "multiple_of": 4},
    ],
    ids=lambda o: ",".join(o),
)
def test_a_target_is_met_or_refused_with_the_nearest(name: str, options: dict[str, Any]) -> None:
    of = fine(name)
    down = Coalesce(**options)
    target = down.target
    assert target is not None
    wanted = target.amount * amounts(of)[target.quantity]
    found = _found(down, of)
    if not found:
        with pytest.raises(mlgraph.AxisError, match="the nearest are"):
            down(of)
        return
    best = found[0]
    small = down.on_shapes(of)
    assert amounts(small) == best.amounts
    assert abs(amounts(small)[target.quantity] - wanted) <= 0.05 * wanted
    if "keep_depth" in options:
        assert [len(chain) for chain in small.blocks] == [len(chain) for chain in of.blocks]
    if "multiple_of" in options:
        sizes = {axis.name: axis.size for axis in of.axes}
        assert all(a.size % 4 == 0 or sizes[a.name] % 4 for a in small.axes if a.coarsenable_by_default)


def _found(down: Coalesce, of: Program) -> list[Candidate]:
    try:
        return down.candidates(of)
    except mlgraph.AxisError:
        return []


def test_operations_are_counted_without_running() -> None:
    of = fine("classifier")
    assert sum(forward_at_sizes(of, {}).values()) == flops_at(of).forward


def test_depth_and_widths_shrink_most_evenly_first() -> None:
    found = Coalesce(target_params=0.3).candidates(fine("classifier"))
    assert [round(c.spread, 6) for c in found] == sorted(round(c.spread, 6) for c in found)


def test_what_stays_stays() -> None:
    of = fine("classifier")
    small = Coalesce(target_params=0.6, freeze=("hidden", "blocks")).on_shapes(of)
    assert len(small.blocks[0]) == 4
    assert {axis.size for axis in small.axes if axis.name == "hidden"} == {16}


def test_phases_take_a_target() -> None:
    result = run(program(), [Coarsen(Coalesce(target_params=0.5)), Train(1)], points(2), loss=cross_entropy)
    assert abs(result.program.num_parameters() / program().num_parameters() - 0.5) < 0.026


def test_an_axis_may_be_asked_for_a_size() -> None:
    of = program()
    small = Coalesce(axes={"mlp": "to20", "blocks": "to3"})(of)
    assert small.tensors["blocks.0.up.weight"].shape == (20, 16)
    assert len(small.blocks[0]) == 3
    groups = torch.arange(32) * 20 // 32
    first = of.tensors["blocks.0.up.bias"].detach()
    means = torch.stack([first[groups == g].mean() for g in range(20)])
    second = of.tensors["blocks.1.up.bias"].detach()
    means = (means + torch.stack([second[groups == g].mean() for g in range(20)])) / 2
    torch.testing.assert_close(small.tensors["blocks.0.up.bias"], means)
    back = mlgraph.decoalesce(small)
    assert back.tensors["blocks.3.up.weight"].shape == (32, 16)
    for wrong in ("to33", "to0", "tofu"):
        with pytest.raises(mlgraph.AxisError):
            Coalesce(axes={"mlp": wrong})(of)


def test_what_stays_may_be_listed_axis_by_axis() -> None:
    of = program()
    small = Coalesce(axes={"blocks": "keep0,3", "mlp": "keep1,2,30:select:pad"})(of)
    expected = Coalesce(layers=(0, 3), axes={"mlp": [[1], [2], [30]]}, reduce="select", extend="pad")(of)
    for name, tensor in expected.tensors.items():
        assert torch.equal(small.tensors[name], tensor.detach())
    for wrong in ("keep", "keep0,0", "keep0,9", "keepa"):
        with pytest.raises(mlgraph.AxisError):
            Coalesce(axes={"blocks": wrong})(of)
    with pytest.raises(mlgraph.AxisError, match="grows by a factor"):
        mlgraph.decoalesce(of, axes={"mlp": "to96"})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("60M", 60e6),
        ("1.2B", 1.2e9),
        ("2GB", 2e9),
        ("512MiB", 512 * 2**20),
        ("0.3", 0.3),
        (7, 7.0),
        ("3k", 3e3),
    ],
)
def test_amounts(text: Any, number: float) -> None:
    assert amount_of(text) == number


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target_params": "many"}, "is no amount"),
        ({"target_params": 0}, "above 0"),
        ({"target_params": 0.5, "target_flops": 0.5}, "give one target"),
        ({"target_params": 0.5, "depth": 2}, "no depth"),
        ({"keep_depth": True}, "how a target is met"),
        ({"target_params": 7}, "the nearest are"),
    ],
)
def test_what_is_no_target_is_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(mlgraph.MlgraphError, match=told):
        Coalesce(**options)(fine("classifier"))
