"""The scripts in examples/ run as they are printed, on less data and for fewer steps."""

from __future__ import annotations

import gzip
import json
import re
import runpy
import struct
import sys
from pathlib import Path

import numpy
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(tmp_path, monkeypatch, capsys):
    """Run an example in an empty directory and return what it prints."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def visits(printed: str) -> list[str]:
    """The levels of the lines printed, each visit once."""
    levels = re.findall(r"level (\d)", printed)
    return [level for place, level in enumerate(levels) if levels[place - 1 : place] != [level]]


def losses(printed: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", printed)]


def test_own_module(example) -> None:
    printed = example("own_module.py")
    assert visits(printed) == ["1", "2", "1"]
    assert losses(printed)[-1] < 0.7 * losses(printed)[0]


@pytest.mark.slow
def test_bert_mlm(example) -> None:
    printed = example("bert_mlm.py", "--steps", "40")
    assert visits(printed) == ["1", "2", "1"]
    assert losses(printed)[-1] < losses(printed)[0]


@pytest.mark.slow
def test_with_transformers_trainer(example) -> None:
    printed = example("with_transformers_trainer.py", "--steps", "60")
    assert visits(printed) == ["1", "2", "1"]
    assert losses(printed)[-1] < losses(printed)[0]


@pytest.mark.slow
def test_gpt_vcycle(example, tmp_path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(path.read_text() for path in sorted(EXAMPLES.glob("*.py"))) * 4)
    printed = example("gpt_vcycle.py", str(text), "--steps", "20")
    assert len(losses(printed)) == 2
    assert re.search(r"V-cycle: loss \d+\.\d+, \S+ FLOPs", printed)
    assert "saved" not in printed


@pytest.mark.slow
def test_deit_fashion_mnist(example, tmp_path) -> None:
    generator = numpy.random.default_rng(0)
    for part in ("train", "t10k"):
        labels = generator.integers(10, size=256, dtype=numpy.uint8)
        images = numpy.repeat(labels * 25, 28 * 28).astype(numpy.uint8)
        for kind, sizes, values in (
            ("images-idx3", (256, 28, 28), images),
            ("labels-idx1", (256,), labels),
        ):
            header = struct.pack(f">HBB{len(sizes)}I", 0, 8, len(sizes), *sizes)
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))
    printed = example(
        "deit_fashion_mnist.py", str(tmp_path), "--steps", "10", "--width", "32", "--batch", "16"
    )
    assert visits(printed) == ["1", "2", "1"]
    assert len(re.findall(r"top-1 \d+\.\d%", printed)) == 3


def test_symmetry(example, tmp_path) -> None:
    printed = example("symmetry.py", "--steps", "12")
    rows = re.findall(r"^ *([\d.]+) +(\d+) +(\d+)% +([\d.]+)$", printed, re.M)
    shares = {(alpha, step): int(share) for alpha, step, share, _ in rows}
    assert shares["1.0", "12"] == 100
    assert shares["0.25", "12"] < 100
    assert (tmp_path / "symmetry.png").exists()


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "first_look.ipynb").read_text())
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        assert len(max(cell["source"], key=len)) <= 112
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    printed = capsys.readouterr().out
    assert "coarsenable" in printed
    assert "LayerNorm(weight=[16], bias=[16])" in printed
    assert (tmp_path / "mixed.pt").exists()
