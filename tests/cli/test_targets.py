"""Targets on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import mlgraph
from tests.train.models import program


def test_a_target_is_met_and_shown(cli: Any, tmp_path: Path) -> None:
    mlgraph.save(program(), tmp_path / "m.pt")
    shown = cli("coarsen", tmp_path / "m.pt", "--target-params", "0.5", "--dry-run")
    assert shown.code == 0, shown.err
    assert "the first is taken" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    made = cli("coarsen", tmp_path / "m.pt", "--target-params", "50%", "-o", tmp_path / "s.pt")
    assert (made.code, "is no amount" in made.err) == (1, True)
    made = cli("coarsen", tmp_path / "m.pt", "--target-params", 0.5, "-o", tmp_path / "s.pt", "--json")
    assert made.code == 0, made.err
    small = mlgraph.load(tmp_path / "s.pt")
    best = made.json["candidates"][0]
    assert small.num_parameters() == best["parameters"] == made.json["after"]["parameters"]
    assert abs(small.num_parameters() / program().num_parameters() - 0.5) < 0.026
    refused = cli("coarsen", tmp_path / "m.pt", "--target-params", "7", "-o", tmp_path / "t.pt")
    assert (refused.code, "the nearest are" in refused.err) == (1, True)
    assert not (tmp_path / "t.pt").exists()


def test_sizes_and_what_stays_are_asked_for_by_axis(cli: Any, tmp_path: Path) -> None:
    mlgraph.save(program(), tmp_path / "m.pt")
    options = ("--axis", "mlp=to20", "--axis", "blocks=keep0,3")
    made = cli("coarsen", tmp_path / "m.pt", *options, "-o", tmp_path / "s.pt")
    assert made.code == 0, made.err
    small = mlgraph.load(tmp_path / "s.pt")
    assert tuple(small.tensors["blocks.1.up.weight"].shape) == (20, 16)
    assert torch.equal(small.tensors["blocks.1.norm.bias"], program().tensors["blocks.3.norm.bias"].detach())
