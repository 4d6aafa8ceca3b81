"""Files that older versions wrote: they open, compute what they computed, and are written again as they were.

The files in ``tests/data`` were written on 27 November 2026 with format 2, before origins, notes and the
direction of a lineage had types: ``bert.pt``, a transformers model coarsened in width and depth; ``vit.pt``,
a timm model grown in width; ``own.pt``, a module coarsened unevenly, with notes of every kind; and
``directory``, a transformers model whose weights were rescaled to fit its class. ``*.values.safetensors``
hold inputs (``in.NAME``) and what the programs then computed (``out.NAME``).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mlgraph
from mlgraph.interop.huggingface import read_skeleton
from mlgraph.program import Note, Program
from mlgraph.storage import load, save

DATA = Path(__file__).parents[1] / "data"
FILES = ("bert", "vit", "own")


def opened(name: str) -> Program:
    if name == "directory":
        program = read_skeleton(DATA / name)
        assert program is not None
        return program
    return load(DATA / f"{name}.pt")


@pytest.mark.parametrize("name", [*FILES, "directory"])
def test_they_compute_what_they_computed(name: str) -> None:
    values = load_file(DATA / f"{name}.values.safetensors")
    inputs = {key.removeprefix("in."): value for key, value in values.items() if key.startswith("in.")}
    module = mlgraph.emit(opened(name)).eval()
    with torch.no_grad():
        result = module(**inputs)
    found = {"result": result} if isinstance(result, torch.Tensor) else result
    for key in values.keys() - {f"in.{key}" for key in inputs}:
        torch.testing.assert_close(found[key.removeprefix("out.")], values[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", [*(f"{name}.pt" for name in FILES), "directory/mlgraph.pt"])
def test_they_are_written_again_byte_for_byte(path: str, tmp_path: Path) -> None:
    save(load(DATA / path), tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == (DATA / path).read_bytes()


def test_they_go_back_up_or_down_by_their_lineage() -> None:
    back = mlgraph.decoalesce(opened("bert"))
    assert back.num_parameters() == 5071
    with pytest.raises(mlgraph.MlgraphError, match="was not coarsened from another program"):
        mlgraph.decoalesce(opened("vit"))


@pytest.mark.slow
def test_they_are_expressed_by_their_library(tmp_path: Path) -> None:
    from mlgraph.interop import huggingface, timm

    assert huggingface.express(opened("bert")).settings["hidden_size"] == 8
    arguments, _ = timm.express(opened("vit"))
    assert arguments["embed_dim"] == 16


def test_their_notes_say_the_same_and_have_kinds() -> None:
    unread, follows = (
        "since nothing reads this parameter",
        "which nothing reads, changes as its neighbours do",
    )
    factor = "the factor 3.4641 at own.py:48, which is √hidden at hidden = 12, now 3"
    assert opened("own").notes == (
        Note("fixed", "input ids is fixed in dim 1 at 5", "ids"),
        Note("approximate", "means over hidden weigh its groups of unequal size alike", "hidden"),
        Note("kept", factor, "own.py:48"),
        Note("kept", f"spare[0], {unread}", "spare"),
        Note("assumed", f"spare[1], {follows}", "spare"),
        Note("kept", f"unread.0.weight[0], {unread}", "unread.0.weight"),
        Note("assumed", f"unread.0.weight[1], {follows}", "unread.0.weight"),
        Note("kept", f"unread.0.bias[0], {unread}", "unread.0.bias"),
    )
