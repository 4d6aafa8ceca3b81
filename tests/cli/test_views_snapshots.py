"""Every view of the command line as it stands on a terminal of 80 and of 140 columns.

The expected screens are ``snapshots/MODEL-WIDTH.txt``. After a change that is meant, write them anew with
``MLGRAPH_SNAPSHOTS=write pytest tests/cli/test_views_snapshots.py`` and read the difference. Positions in the
source of libraries are left out of them, since they move from one release to the next.
"""

import os
import re
from pathlib import Path

import pytest

import mlgraph
from mlgraph.cli.opening import Opening
from tests.captured import captured
from tests.cli import planted
from tests.selection import some
from tests.strategies import EVEN

FOLDER = Path(__file__).parent / "snapshots"
WRITING = os.environ.get("MLGRAPH_SNAPSHOTS") == "write"
WIDTHS = (80, 140)
EXPLAINED = {"decoder": "blocks.0.attention.k.weight", "planted": "embed.weight"}
ZOO = {"bert": "bert-mlm", "llama": "llama", "t5": "t5", "swin": "swin"}
ARGUMENTS = (
    "inspect {model}",
    "inspect {model} --depth 2",
    "inspect {model} --params",
    "inspect {model} --blocks",
    "axes {model}",
    "blocks {model}",
    "diff {model} {model}-small",
    "coarsen {model} --depth 2 --width 2 --dry-run",
)
# What names nodes is shown of the project's own models: those of libraries change with their releases.
OWN = {
    "decoder": ("explain {model} {explained}",),
    "planted": (
        "inspect {model}",
        "inspect {model} --graph",
        "inspect {model} --code",
        "explain {model} {explained} --all",
    ),
}


@pytest.fixture(scope="module")
def programs():
    """Programs by name, captured when first asked for; NAME-small is NAME at half its depth and width."""
    known = {}

    def program(name: str) -> mlgraph.Program:
        if name not in known:
            known[name] = make(name)
        return known[name]

    def make(name: str) -> mlgraph.Program:
        if name.endswith("-small"):
            return mlgraph.coalesce(program(name.removesuffix("-small")), depth=2, width=2)
        if name == "planted":
            return mlgraph.capture(planted.Language(), (planted.ids(),), name="planted")
        if name == "decoder":
            shape = EVEN[0]
            return mlgraph.capture(shape.build(), (shape.inputs(),), name="decoder")
        return captured(ZOO[name]).program

    return program


@pytest.fixture
def screen(cli, programs, monkeypatch):
    """What a command line prints at a width."""

    def show(line: str, width: int) -> str:
        monkeypatch.setattr(Opening, "program", lambda _, source, **__: programs(source))
        monkeypatch.setenv("COLUMNS", str(width))
        result = cli(*line.split())
        assert result.code == 0, result.err
        return without_positions(result.out)

    return show


def without_positions(text: str) -> str:
    """Source lines outside of this folder without number and text."""
    return re.sub(r"\b(?!planted)(\w+\.py):\d+(:.*)?", r"\1", text)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("model", some([*ZOO, *OWN], lambda name: name != "t5"))
def test_views(model, width, screen):
    shown = []
    for arguments in OWN.get(model, ARGUMENTS):
        line = arguments.format(model=model, explained=EXPLAINED.get(model))
        out = screen(line, width)
        if "--code" not in line:
            assert max(map(len, out.splitlines())) <= width
        assert "\x1b" not in out
        shown.append(f"$ mlgraph {line}\n{out}")
    text = "\n".join(shown)
    file = FOLDER / f"{model}-{width}.txt"
    if WRITING:
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
