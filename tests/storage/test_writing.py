"""Saving: streamed, atomic, and whole again after any interruption."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from mlgraph.errors import FileError
from mlgraph.program.tensors import Shapes, TensorSource
from mlgraph.storage import load, save
from tests.storage.programs import mlp


class OneAtATime(TensorSource):
    """A source that makes its tensors when asked, and says how often."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        self.made = dict(values)
        self.known = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in values.items()}
        self.asked: list[str] = []

    @property
    def shapes(self) -> Shapes:
        return self.known

    def __getitem__(self, name: str) -> torch.Tensor:
        self.asked.append(name)
        return self.made[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self.made)

    def __len__(self) -> int:
        return len(self.made)


def test_lazy_tensors_are_asked_for_once(tmp_path: Path) -> None:
    program = mlp()
    lazy = OneAtATime(program.tensors)
    save(program.replace(tensors=program.tensors.replace(lazy)), tmp_path / "model.pt")
    assert sorted(lazy.asked) == sorted(program.tensors)
    loaded = load(tmp_path / "model.pt")
    assert all(torch.equal(loaded.tensors[name], program.tensors[name]) for name in program.tensors)


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    save(mlp(), tmp_path / "model.pt", progress=lambda *numbers: seen.append(numbers))
    size = (tmp_path / "model.pt").stat().st_size
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


@pytest.mark.parametrize("place", ["absent/model.pt", "model.pt/inside.pt"])
def test_places_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "model.pt").touch()
    with pytest.raises(FileError, match=f"{place} could not be written"):
        save(mlp(), tmp_path / place)


def test_a_tensor_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    save(mlp(), tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    program = mlp(seed=1)
    lazy = OneAtATime(program.tensors)
    lazy.made["mask"] = torch.ones(2)
    with pytest.raises(
        FileError, match=r"tensor mask is torch.float32 \[2\] where torch.bool \[5, 5\] is expected"
    ):
        save(program.replace(tensors=program.tensors.replace(lazy)), tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


KILLED = """
import sys
import torch
from mlgraph.storage import save
from tests.storage.programs import mlp
program = mlp()
values = dict(program.tensors)
for number in range(10**9):
    values["up.weight"] = torch.full_like(values["up.weight"], float(number))
    values["down.weight"] = torch.full_like(values["down.weight"], float(number))
    save(program.replace(tensors=program.tensors.replace(values)), sys.argv[1])
    if not number:
        print("ready", flush=True)
"""


@pytest.mark.parametrize(
    "rounds", [pytest.param(3, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.thorough)]
)
def test_kills_at_random_moments_leave_a_whole_file(tmp_path: Path, rounds: int) -> None:
    path = tmp_path / "model.pt"
    generator = random.Random(rounds)
    for _ in range(rounds):
        command = [sys.executable, "-c", KILLED, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(generator.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
        loaded = load(path)
        for name in loaded.tensors:
            assert loaded.tensors[name] is not None
        assert loaded.tensors["up.weight"].unique() == loaded.tensors["down.weight"].unique()
    save(mlp(), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


LARGE = """
import resource, sys
import torch
from tests.storage.programs import mlp
from mlgraph.storage import load, save
program = mlp()
if sys.argv[2] == "save":
    noise = torch.randn(200, 10_000)
    values = {**program.tensors, **{f"extra{i}": noise for i in range(5)}}
    save(program.replace(tensors=program.tensors.replace(values)), sys.argv[1])
    raise SystemExit
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
program = load(sys.argv[1], keep=sys.argv[2] == "keep")
for name in program.tensors:
    program.tensors[name].sum()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize(("mode", "share"), [("keep", 1.5), ("drop", 0.7)])
@pytest.mark.slow
def test_loading_takes_no_more_memory_than_the_file(tmp_path: Path, mode: str, share: float) -> None:
    """A file of 40 MB, every tensor read: kept, its size; given back, little more than two of five."""
    path = tmp_path / "model.pt"

    def run(what: str) -> str:
        command = [sys.executable, "-c", LARGE, str(path), what]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    run("save")
    assert int(run(mode)) < share * path.stat().st_size
