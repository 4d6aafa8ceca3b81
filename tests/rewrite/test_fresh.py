"""Growth with something new: random blocks, and noise on copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import mlgraph
from mlgraph.passes import Coalesce, Decoalesce
from mlgraph.passes.pipeline import parse_pass
from mlgraph.program import Program
from mlgraph.train import Coarsen, Refine, Train, run
from tests.train.models import cross_entropy, points, program


def back(of: Program, how: str, **options: Any) -> Program:
    """Refined by lineage, or grown by as much."""
    if how == "lineage":
        return Decoalesce(**options)(Coalesce(depth=2)(of))
    return Decoalesce(depth=2, **options)(of)


@pytest.mark.parametrize("how", ["lineage", "growth"])
def test_random_blocks_have_the_moments_of_what_they_copy(how: str) -> None:
    copied, fresh = back(program(), how), back(program(), how, depth_mode="random")
    assert set(copied.tensors) == set(fresh.tensors)
    for name, tensor in copied.tensors.items():
        new = name.startswith(("blocks.1.", "blocks.3.", "blocks.5.", "blocks.7."))
        if not new:
            assert torch.equal(fresh.tensors[name], tensor.detach()), name
            continue
        drawn, was = fresh.tensors[name], tensor.detach()
        if was.numel() > 400:
            assert not torch.equal(drawn, was)
            torch.testing.assert_close(drawn.std(), was.std(), rtol=0.15, atol=0)
            torch.testing.assert_close(drawn.mean(), was.mean(), rtol=0, atol=0.2 * float(was.std()))
    ones = fresh.tensors["blocks.1.norm.weight"]
    assert torch.equal(ones, torch.ones_like(ones))
    again = back(program(), how, depth_mode="random", seed=1)
    assert not torch.equal(again.tensors["blocks.1.up.weight"], fresh.tensors["blocks.1.up.weight"])


@pytest.mark.parametrize("way", [{"depth": 2}, {"width": 2}, {"axes": {"mlp": 2}}])
def test_noise_falls_on_copies_alone(way: dict[str, Any]) -> None:
    small = Coalesce(**way)(program())
    plain, noisy = Decoalesce()(small), Decoalesce(noise=0.1)(small)
    moved = {n for n, t in plain.tensors.items() if not torch.equal(noisy.tensors[n], t.detach())}
    if "depth" in way:
        assert moved == {n for n in plain.tensors if n.startswith("blocks.")} - _constant(plain)
    elif "axes" in way:
        assert {name.split(".")[-2] for name in moved} == {"up", "down"}
        assert not any(name.endswith("down.bias") for name in moved)
    else:
        assert "inp.weight" in moved
        assert "out.bias" not in moved
    for name in moved:
        tensor = plain.tensors[name].detach()
        if tensor.numel() > 400:
            ratio = (noisy.tensors[name] - tensor).std() / tensor.std(correction=0)
            torch.testing.assert_close(ratio, torch.tensor(0.1), rtol=0.15, atol=0)
    same = Decoalesce(noise=0.1)(small)
    assert all(torch.equal(same.tensors[n], t) for n, t in noisy.tensors.items())


def _constant(of: Program) -> set[str]:
    return {name for name, tensor in of.tensors.items() if float(tensor.detach().std(correction=0)) == 0}


def test_phases_and_pipelines_take_them() -> None:
    way = Decoalesce(depth_mode="random", noise=0.5, seed=3)
    assert parse_pass(str(way)) == way
    phases = [Train(1), Coarsen(depth=2, width=1), Train(1), Refine(way), Train(1)]
    result = run(program(), phases, points(3), loss=cross_entropy)
    assert len(result.program.blocks[0]) == 4


def test_identities_cannot_be_random() -> None:
    small = Coalesce(layers=(0, 2), extend="pad")(program())
    with pytest.raises(mlgraph.MlgraphError, match="cannot be random"):
        mlgraph.decoalesce(small, depth_mode="random")
