"""Reasons and figures that are printed are the true ones: undo the cause, and the axis moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def kept(cli: Any, *arguments: object) -> dict[str, str]:
    found = cli("coarsen", *arguments, "--dry-run", "--json")
    assert found.code == 0, found.err
    return {axis["name"]: axis["reason"] for axis in found.json["kept"]}


def changed(cli: Any, *arguments: object) -> set[str]:
    found = cli("coarsen", *arguments, "--dry-run", "--json")
    assert found.code == 0, found.err
    return {change["name"] for change in found.json["changed"]}


@pytest.mark.parametrize(
    ("asked", "axis", "reason", "undone"),
    [
        (("--width", 2, "--freeze", "hidden"), "hidden", "you asked for it", ("--width", 2)),
        (
            ("--width", 2),
            "rep",
            "kv_heads, with which it makes up a dim, is coarsened instead",
            ("--axis", "rep=2"),
        ),
        (
            ("--width", 2, "--freeze", "kv_heads"),
            "rep",
            "a width takes the first axis of a dim alone: --axis rep=N takes this one",
            ("--width", 2, "--freeze", "kv_heads", "--axis", "rep=2"),
        ),
        (("--axis", "hidden=2"), "mlp", "no factor was asked for", ("--axis", "mlp=2")),
    ],
)
def test_a_reason_is_the_cause(
    cli, models: Path, asked: tuple[object, ...], axis: str, reason: str, undone: tuple[object, ...]
) -> None:
    llama = models / "llama.pt"
    assert kept(cli, llama, *asked)[axis] == reason
    assert axis not in changed(cli, llama, *asked)
    assert axis in changed(cli, llama, *undone)


def test_memory_is_that_of_the_dtype_that_is_written(cli, bert: Path, in_empty_folder: Path) -> None:
    result = cli("coarsen", bert, "--width", 2, "--dtype", "bfloat16", "-o", "small.pt")
    assert result.code == 0, result.err
    assert "memory (float32 → bfloat16)" in result.out
    found = cli("inspect", "small.pt", "--json").json
    written = cli("coarsen", bert, "--width", 2, "--dtype", "bfloat16", "-o", "small.pt", "--json").json
    assert written["after"]["dtypes"] == ["bfloat16"]
    assert written["after"]["bytes"] == found["bytes"]
