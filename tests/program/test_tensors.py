"""Every source of tensors tells and reads the same: whole, by rows and in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlgraph.interop.weights import DirectoryTensors, Rescale
from mlgraph.program import Program
from mlgraph.program.tensors import Checked, InMemory, Recipes, TensorRecipe, TensorSource
from mlgraph.storage import open_safetensors, write_safetensors
from tests.storage.programs import mlp

VALUES = {
    "matrix": torch.arange(35.0).view(7, 5),
    "halves": torch.arange(12.0).view(6, 2).to(torch.bfloat16),
    "vector": torch.arange(4),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
}


def like() -> dict[str, torch.Tensor]:
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in VALUES.items()}


def recipes() -> Recipes:
    made = {name: TensorRecipe(tensor.clone) for name, tensor in VALUES.items()}
    made["matrix"] = TensorRecipe(VALUES["matrix"].clone, lambda: iter(VALUES["matrix"].split(2)))
    return Recipes(made, like())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensors")
    write_safetensors(folder, InMemory(VALUES).shapes, VALUES)
    return folder


SOURCES: dict[str, Callable[[Path], TensorSource]] = {
    "memory": lambda folder: InMemory(VALUES),
    "files": open_safetensors,
    "files that are kept": lambda folder: open_safetensors(folder, keep=True),
    "a directory": lambda folder: DirectoryTensors(like(), open_safetensors(folder)),
    "recipes": lambda folder: recipes(),
    "checked recipes": lambda folder: Checked(recipes(), lambda name, tensor, rest: None),
    "checked files": lambda folder: Checked(open_safetensors(folder), lambda name, tensor, rest: None),
}


@pytest.mark.parametrize("name", SOURCES)
def test_shapes_are_told_without_reading(name: str, folder: Path) -> None:
    source = SOURCES[name](folder)
    expected = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in VALUES.items()}
    assert dict(source.shapes) == expected
    assert {key: (tuple(t.shape), t.dtype) for key, t in source.meta().items()} == expected
    assert all(tensor.is_meta for tensor in source.meta().values())
    assert not source.absent
    assert set(source) == set(VALUES)
    assert "matrix" in source
    assert "absent" not in source


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=20, deadline=None)
@given(
    key=st.sampled_from([k for k, t in VALUES.items() if t.dim()]), bounds=st.tuples(*[st.integers(0, 9)] * 2)
)
def test_rows_and_parts_are_those_of_the_whole(
    name: str, folder: Path, key: str, bounds: tuple[int, int]
) -> None:
    source, (start, stop) = SOURCES[name](folder), sorted(bounds)
    assert torch.equal(source[key], VALUES[key])
    assert torch.equal(source.rows(key, start, stop), VALUES[key][start:stop])
    made = source.chunks(key)
    assert torch.equal(made if isinstance(made, torch.Tensor) else torch.cat(list(made)), VALUES[key])


def test_what_is_rescaled_in_a_directory_is_so_in_its_parts(folder: Path) -> None:
    rescale = Rescale(2.0, 1.0)
    source = DirectoryTensors(like(), open_safetensors(folder), rescales={"matrix": rescale})
    made = source.chunks("matrix")
    whole = made if isinstance(made, torch.Tensor) else torch.cat(list(made))
    assert torch.equal(whole, rescale(VALUES["matrix"]))
    assert torch.equal(source.rows("matrix", 1, 3), whole[1:3])


def test_what_is_on_the_meta_device_is_absent() -> None:
    assert InMemory({**VALUES, "shape": torch.empty(3, device="meta")}).absent == {"shape"}


def test_other_values_keep_the_analyses() -> None:
    program: Program = mlp()
    axes = program.axes
    doubled = program.with_values(program.tensors.replace({k: v * 2 for k, v in program.tensors.items()}))
    assert doubled.axes is axes
    assert doubled.blocks is program.blocks
    assert program.replace(tensors=doubled.tensors).axes is not axes
    assert doubled.graph is program.graph
    assert torch.equal(doubled.tensors["up.weight"], program.tensors["up.weight"] * 2)
