"""What the commands write streams as it does from Python: no tensor is made more often, none whole."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

import mlgraph
from mlgraph.cli.screening import checked
from mlgraph.errors import MlgraphError
from mlgraph.interop import directory
from mlgraph.interop.huggingface import save_huggingface
from mlgraph.interop.open import open_source
from mlgraph.program.tensors import Recipes, TensorRecipe
from tests.zoo import get


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "llama"
    get("llama").build().model.save_pretrained(folder)
    return folder


@pytest.fixture
def computed(monkeypatch):
    """The names of the tensors of coarse programs, in the order in which they are computed."""
    monkeypatch.setattr(directory, "LARGE", 1)
    names: list[str] = []
    whole, in_chunks = Recipes.__getitem__, Recipes.chunks

    def read(self, name):
        names.append(name)
        return whole(self, name)

    def chunks(self, name):
        made = in_chunks(self, name)
        # what cannot be made in chunks was read whole, and stands in the list
        names.extend([f"{name} in chunks"] * (not isinstance(made, torch.Tensor)))
        return made

    monkeypatch.setattr(Recipes, "__getitem__", read)
    monkeypatch.setattr(Recipes, "chunks", chunks)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("form", ["huggingface", "program"])
def test_a_command_computes_each_weight_as_often_as_python(llama, form, cli, computed, tmp_path):
    small = mlgraph.coalesce(open_source(llama), depth=2, width=2)
    save, ending = (save_huggingface, "") if form == "huggingface" else (mlgraph.save, ".pt")
    save(small, tmp_path / f"python{ending}")
    # afterwards the command tells of axes and blocks, for which it looks at the constants
    weights = small.tensors.persistent | {f"{name} in chunks" for name in small.tensors.persistent}
    expected = [name for name in computed if name in weights]
    assert sum("in chunks" in name for name in expected) > 10
    computed.clear()
    out = tmp_path / f"command{ending}"
    assert cli("coarsen", llama, "--depth", 2, "--width", 2, "-o", out).code == 0
    assert [name for name in computed if name in weights] == expected


@dataclasses.dataclass
class Parts:
    """A tensor in parts of two rows; ``made`` counts the parts."""

    tensor: torch.Tensor
    made: int = 0

    def chunks(self):
        for part in self.tensor.split(2):
            self.made += 1
            yield part

    @property
    def recipe(self):
        return TensorRecipe(lambda: self.tensor, self.chunks)


def lazy(parts):
    recipes = {"weight": parts.recipe, "bias": TensorRecipe(lambda: torch.zeros(8))}
    program = mlgraph.capture(nn.Linear(3, 8), (torch.randn(5, 3),))
    return program.replace(tensors=program.tensors.replace(Recipes(recipes, program.tensors.meta())))


def test_checked_tensors_come_in_the_parts_of_the_unchecked():
    given = Parts(torch.randn(8, 3))
    values = checked(lazy(given)).tensors.source
    assert values.shapes == {"weight": ((8, 3), torch.float32), "bias": ((8,), torch.float32)}
    assert given.made == 0
    parts = values.chunks("weight")
    next(parts)
    assert given.made == 1
    assert [part.shape for part in parts] == [(2, 3)] * 3
    assert torch.equal(values.chunks("bias"), torch.zeros(8))
    assert not values.reads_rows


def test_a_nan_in_a_part_is_told_with_those_of_the_parts_that_follow():
    tensor = torch.zeros(8, 3)
    tensor[3, 1] = tensor[6, 0] = tensor[7, 2] = math.nan
    values = checked(lazy(Parts(tensor))).tensors.source
    parts = values.chunks("weight")
    assert torch.equal(next(parts), torch.zeros(2, 3))
    with pytest.raises(MlgraphError, match="weight holds 3 NaN of 24 values; averaging would spread them"):
        next(parts)


def test_checked_files_are_read_by_rows(tmp_path):
    module = nn.Linear(3, 8)
    module.weight.data[5, 1] = math.nan
    mlgraph.save(mlgraph.capture(module, (torch.randn(5, 3),)), tmp_path / "model.pt")
    values = checked(mlgraph.load(tmp_path / "model.pt")).tensors.source
    assert values.reads_rows
    assert torch.equal(values.rows("weight", 1, 4), module.weight[1:4])
    with pytest.raises(MlgraphError, match="weight holds 1 NaN of 24 values"):
        values.rows("weight", 4, 6)
