"""Sharded runs that are stopped, killed and taken up, on other numbers of processes too."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mlgraph
from mlgraph.train import Optimizer, PeerError, RunDirectoryError, run
from mlgraph.train.engine import checkpoint
from mlgraph.train.engine.worker import Worker
from mlgraph.train.results.saved import is_saved_run, saved_program
from tests.processes import Processes
from tests.train.engine.test_sharded import PHASES
from tests.train.models import cross_entropy, points, program

STEPS = 10


def life(out: str, weights: str | None, options: dict[str, Any], end: tuple[str, int, int] | None) -> str:
    """Train to the end, or until process ``end[1]`` ends at its ``end[2]``-th step or publication."""
    rank = int(os.environ.get("RANK", 0))
    if end is not None and end[1] == rank:
        _arm(*end)
    accumulate = 4 // int(os.environ.get("WORLD_SIZE", 1)) if options.pop("same batch", False) else 1
    try:
        done = run(
            program(seed=0, width=20, dropout=0.1 if weights else 0.0),
            PHASES["three levels"],
            points(batches=7, size=4),
            None,
            cross_entropy,
            out,
            optimizer=Optimizer(lr=1e-2),
            accumulate=accumulate,
            log_every=1,
            checkpoint_every=1,
            trackers=(),
            **options,
        )
    except PeerError as error:
        return str(error)
    if weights is not None and rank == 0:
        save_file({name: t.detach().clone() for name, t in done.program.tensors.items()}, weights)
    return "done"


def _arm(how: str, _rank: int, count: int) -> None:
    number = signal.SIGTERM if how == "term" else signal.SIGKILL
    if how == "time":
        threading.Timer(count / 100, lambda: os.kill(os.getpid(), number)).start()
        return
    owner, name = {"publish": (checkpoint.FolderDraft, "write")}.get(how, (Worker, "step"))
    whole, calls = getattr(owner, name), 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), number)
        return whole(*arguments)

    setattr(owner, name, counted)


def _losses(out: Path) -> list[float]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


@pytest.mark.slow
def test_a_run_goes_on_on_other_numbers_of_processes(tmp_path: Path) -> None:
    """SIGTERM to one process stops all after a checkpoint; 4, 2, 1 and 4 processes see it through."""
    Processes(1, life, str(tmp_path / "one"), None, {"same batch": True}, None).results()
    out = tmp_path / "run"
    sharded = {"fsdp": True}
    stages = [
        (4, sharded, ("term", 3, 3)),
        (2, {**sharded, "background": True}, ("term", 0, 2)),
        (1, {}, ("term", 0, 2)),
        (4, {**sharded, "fsdp_replicas": 2}, None),
    ]
    for count, options, end in stages:
        codes = Processes(count, life, str(out), None, options, end).ended(300)
        assert codes == [0] * count
    assert len(_losses(out)) == STEPS
    assert _losses(out) == pytest.approx(_losses(tmp_path / "one"), abs=1e-4)
    with pytest.raises(
        RunDirectoryError, match="4 batches a step, which 3 processes cannot share: start 1, 2, 4"
    ):
        checkpoint.RunDirectory(out, json.loads((out / "run.json").read_text())).accumulate(3)
    _exported_from_any_checkpoint(out, tmp_path)
    _damaged_files_are_named(out)


def _exported_from_any_checkpoint(out: Path, folder: Path) -> None:
    newest = saved_program(out)
    assert not newest.tensors.in_memory
    assert newest.num_parameters() == program(seed=0, width=20).num_parameters()
    mlgraph.save(newest, folder / "newest.pt")
    again = mlgraph.load(folder / "newest.pt")
    assert all(torch.equal(again.tensors[name], newest.tensors[name]) for name in newest.tensors)
    assert mlgraph.emit(again)(points(1)[0][0]).shape == (5, 3)
    before = sorted((out / "checkpoints").iterdir())[0]
    assert is_saved_run(before)
    assert saved_program(before).tensors.keys() == newest.tensors.keys()


def _damaged_files_are_named(out: Path) -> None:
    newest = sorted((out / "checkpoints").iterdir())[-1]
    assert not list(newest.rglob("*.p*kl*"))
    assert not list(newest.rglob("*metadata*"))
    directory = checkpoint.RunDirectory(out, json.loads((out / "run.json").read_text()))
    part = newest / "rows-00001.safetensors"
    held = part.read_bytes()
    for content, message in (
        (held[:-1], r"rows-00001.safetensors has \d+ bytes of"),
        (held[:-1] + bytes([held[-1] ^ 1]), "rows-00001.safetensors is damaged: the bytes of tensor"),
        (None, "rows-00001.safetensors is missing: remove its directory"),
    ):
        part.write_bytes(content) if content is not None else part.unlink()
        with pytest.raises(RunDirectoryError, match=message):
            _read(directory)
    manifest = json.loads((newest / "manifest.json").read_text())
    part.write_bytes(held)
    name = next(name for name, entry in manifest["tensors"].items() if len(entry["parts"]) > 1)
    manifest["tensors"][name]["parts"].pop(0)
    (newest / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunDirectoryError, match=f"lacks rows 0 on of {name}"):
        _read(directory)


def _read(directory: checkpoint.RunDirectory) -> None:
    found = directory.latest()
    assert found is not None
    stored = found.open()
    for source in (stored.tensors, stored.optimizer):
        list(source.values())


def _killed(folder: Path, kill: tuple[str, int, int]) -> bool:
    """Whether the kill came before the end; the others must end with a sentence, and soon."""
    group = Processes(4, life, str(folder / "run"), str(folder / "w"), {"fsdp": True}, kill)
    group.each[kill[1]].join(120)
    since = time.monotonic()
    codes = group.ended(60)
    assert time.monotonic() - since < 60
    assert codes[kill[1]] in (-signal.SIGKILL, 0)
    if codes[kill[1]] == 0:
        return False
    said = [pipe.recv()[0] for rank, pipe in enumerate(group._pipes) if rank != kill[1] and pipe.poll()]
    assert len(said) == 3, said
    return True


def _equal_after(folder: Path, whole: Path, kill: tuple[str, int, int]) -> bool:
    died = _killed(folder, kill)
    assert (
        Processes(4, life, str(folder / "run"), str(folder / "w"), {"fsdp": True}, None).ended(300) == [0] * 4
    )
    ours, theirs = load_file(folder / "w"), load_file(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), kill
    return died


@pytest.mark.thorough
@pytest.mark.parametrize("count", [40])
def test_whichever_process_is_killed_the_run_goes_on(tmp_path: Path, count: int) -> None:
    whole = tmp_path / "whole"
    Processes(4, life, str(tmp_path / "uncut"), str(whole), {"fsdp": True}, None).results(300)
    draw, died = random.Random(count), 0
    for number in range(count):
        how = ("publish", "step", "time")[number % 3]
        kill = (how, draw.randrange(4), draw.randrange(1, 9) if how != "time" else draw.randrange(300, 900))
        folder = tmp_path / str(number)
        folder.mkdir()
        died += _equal_after(folder, whole, kill)
    assert died >= count // 2
