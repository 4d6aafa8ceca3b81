"""What can be said of programs, as data from Python: the module table and the differences of two programs."""

from __future__ import annotations

import pytest

import mlgraph
from mlgraph.inspect.modules import Module
from tests.cli.test_views import stack


def leaves_of(module: Module) -> list[Module]:
    return [module, *(inner for child in module.children for inner in leaves_of(child))]


def test_modules_are_a_table_with_repeats_folded() -> None:
    program = stack()
    found = mlgraph.modules(program)
    assert found.parameters == program.num_parameters()
    (blocks,) = (module for module in leaves_of(found) if module.repeat == 4)
    assert blocks.path == "blocks.0"
    (up,) = (module for module in leaves_of(blocks) if module.name == "up")
    assert [(leaf.path, leaf.shape, leaf.dims) for leaf in up.leaves] == [
        ("blocks.0.mlp.up.weight", (20, 24), ("mlp", "hidden")),
        ("blocks.0.mlp.up.bias", (20,), ("mlp",)),
    ]
    # of a matrix two FLOPs per weight and position
    assert (
        up.operations
        == 2 * 20 * 24 * program.signature.inputs[0].shape[0] * program.signature.inputs[0].shape[1]
    )


def test_modules_print_as_the_verb_shows_them() -> None:
    lines = str(mlgraph.modules(stack())).splitlines()
    assert lines[0].split() == ["module", "dims", "params", "share", "FLOPs"]
    assert any(line.startswith("blocks ×4") for line in lines)


def test_what_differs_is_data_that_prints() -> None:
    program = stack()
    small = mlgraph.coalesce(program, depth=2, width=2)
    found = mlgraph.diff(program, small)
    assert not found.same
    assert ("mlp", (20,), (10,)) in {(axis.name, axis.before, axis.after) for axis in found.axes}
    assert {change.name for change in found.tensors} >= {"blocks.0.mlp.up.weight", "blocks.3.mlp.up.weight"}
    assert found.modules.parameters == (program.num_parameters(), small.num_parameters())
    text = str(found)
    assert "blocks ×4 → ×2" in text
    assert max(map(len, text.splitlines())) <= 80
    assert found._repr_html_().startswith("<pre>")


def test_a_program_differs_from_itself_in_nothing() -> None:
    assert mlgraph.diff(stack(), stack()).same


def test_values_that_differ_are_measured() -> None:
    program = stack()
    values = {**program.tensors, "head.weight": program.tensors["head.weight"].detach() * 1.5}
    other = program.with_values(program.tensors.replace(values))
    (change,) = mlgraph.diff(program, other).tensors
    assert change.name == "head.weight"
    assert change.relative == pytest.approx(0.5)
