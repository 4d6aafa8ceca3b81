"""Round trips: what is saved is what is loaded."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

import mlgraph
from mlgraph.errors import FileError
from mlgraph.interop.open import load as opened
from mlgraph.program import HuggingFaceOrigin, ModuleOrigin, Origin, Program, TimmOrigin
from mlgraph.storage import load, save
from tests.storage.programs import Pair, Result, descended, mlp, run


def same(first: Program, second: Program) -> None:
    """Assert that two programs are equal in every part."""
    assert str(first.graph) == str(second.graph)
    for a, b in zip(first.graph.nodes, second.graph.nodes, strict=True):
        assert (a.name, a.op, a.target, str(a.args), str(a.kwargs)) == (
            b.name,
            b.op,
            b.target,
            str(b.args),
            str(b.kwargs),
        )
        assert (a.meta["module"], a.meta["source"]) == (b.meta["module"], b.meta["source"])
        assert str(a.meta["val"]) == str(b.meta["val"])
    assert first.signature == second.signature
    assert list(first.tensors) == list(second.tensors)
    assert first.tensors.aliases == second.tensors.aliases
    assert first.tensors.parameters == second.tensors.parameters
    assert first.tensors.persistent == second.tensors.persistent
    for name, tensor in first.tensors.items():
        other = second.tensors[name]
        assert (tensor.shape, tensor.dtype) == (other.shape, other.dtype)
        if tensor.device.type != "meta":
            assert torch.equal(tensor, other)
    assert (first.name, first.notes, first.origin) == (second.name, second.notes, second.origin)
    assert (first.history, first.submodule) == (second.history, second.submodule)
    assert (first.lineage is None) == (second.lineage is None)
    if first.lineage is not None and second.lineage is not None:
        assert first.lineage.operation == second.lineage.operation
        assert first.lineage.groupings == second.lineage.groupings
        assert first.lineage.layers == second.lineage.layers
        assert first.lineage.options == second.lineage.options
        assert first.lineage.direction == second.lineage.direction
        same(first.lineage.parent, second.lineage.parent)


def test_everything_comes_back(tmp_path: Path) -> None:
    program = mlp()
    save(program, tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt")
    same(program, loaded)
    ids = torch.randint(11, (2, 4))
    first, second = run(program, ids), run(loaded, ids)
    assert torch.equal(first["logits"], second["logits"])
    assert torch.equal(first["first"], second["first"])


def test_lineage_comes_back_and_shares_what_is_equal(tmp_path: Path) -> None:
    program = descended(3)
    save(program, tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt")
    same(program, loaded)
    assert loaded.lineage is not None
    assert loaded.graph is loaded.lineage.parent.graph
    assert all(t.is_meta for t in loaded.lineage.parent.tensors.values())


def test_saving_what_was_loaded_gives_the_same_bytes(tmp_path: Path) -> None:
    save(descended(), tmp_path / "first.pt")
    save(load(tmp_path / "first.pt"), tmp_path / "second.pt")
    assert (tmp_path / "first.pt").read_bytes() == (tmp_path / "second.pt").read_bytes()


@pytest.mark.parametrize(
    "origin",
    [
        None,
        HuggingFaceOrigin("Toy", {"width": 8}, rescales={"up.weight": (2.0, 0.5)}),
        HuggingFaceOrigin("Toy", {}, config_path="a/config.json"),
        TimmOrigin("vit", {"depth": 2, "img_size": (8, 8)}),
        ModuleOrigin("models.Toy"),
        ModuleOrigin("models.Toy", "a/b.pth"),
    ],
)
def test_origins_come_back(tmp_path: Path, origin: Origin | None) -> None:
    save(mlp().replace(origin=origin, submodule="encoder.0"), tmp_path / "model.pt")
    same(mlp().replace(origin=origin, submodule="encoder.0"), load(tmp_path / "model.pt"))


def test_a_skeleton_keeps_its_shapes(tmp_path: Path) -> None:
    save(mlp().skeleton(), tmp_path / "model.pt")
    same(mlp().skeleton(), load(tmp_path / "model.pt"))


def test_other_tools_read_the_weights(tmp_path: Path) -> None:
    program = mlp()
    save(program, tmp_path / "model.pt")
    with safetensors.safe_open(tmp_path / "model.pt", framework="pt") as file:
        assert set(file.keys()) == set(program.tensors)
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            assert torch.equal(file.get_tensor(name), program.tensors[name])


def test_the_package_exports_both() -> None:
    assert mlgraph.save is save
    assert mlgraph.load is opened


@pytest.mark.parametrize(
    "result",
    [
        (0, 1),
        [0, (1,)],
        {"b": 0, "a": [(), 1]},
        OrderedDict(z=0, a=1),
        {3: 0, "x": (1, {})},
        deque([0, 1], maxlen=4),
        Pair(0, 1),
        Result(0, 1),  # type: ignore[arg-type]
        (Result(0), 1),  # type: ignore[arg-type]
        defaultdict(list, a=0, b=1),
    ],
    ids=str,
)
def test_result_structures_come_back(tmp_path: Path, result: Any) -> None:
    program = mlp(result=result)
    save(program, tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt")
    assert loaded.signature.out_spec == program.signature.out_spec
    found = run(loaded, torch.randint(11, (2, 4)))
    assert type(found) is type(result)


def test_training_changes_the_program_and_never_the_file(tmp_path: Path) -> None:
    save(mlp(), tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    program = load(tmp_path / "model.pt")
    parameter = torch.nn.Parameter(program.tensors["up.weight"])
    with torch.no_grad():
        parameter.zero_()
    del parameter
    assert not program.tensors["up.weight"].any()
    assert (tmp_path / "model.pt").read_bytes() == before
    assert load(tmp_path / "model.pt").tensors["up.weight"].any()
    save(program, tmp_path / "model.pt")
    assert not load(tmp_path / "model.pt").tensors["up.weight"].any()
    assert program.tensors["down.weight"].any()


# What cannot be saved.


def test_an_operation_outside_the_table_is_named(tmp_path: Path) -> None:
    program = mlp()
    node = next(node for node in program.graph.nodes if node.name == "mul_tensor")
    node.target = print
    with pytest.raises(FileError, match="node mul_tensor: 'print' is not among the operations"):
        save(program, tmp_path / "model.pt")
    assert not any(tmp_path.iterdir())


def test_a_value_without_a_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="a value of type object has no form"):
        save(mlp().replace(origin=TimmOrigin("x", {"model": object()})), tmp_path / "model.pt")
    assert not any(tmp_path.iterdir())
