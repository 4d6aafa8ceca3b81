"""The directory of a run: its configuration, levels and atomic checkpoints.

    run.json                       what the run is; another run is refused
    metrics.jsonl                  one JSON object per line
    levels/initial.pt              the architecture of the user's model, and levels/0003.pt that which phase 3
                                   made
    levels/aside-0001/             the tensors of the program that phase 1 set aside, and its optimizer state,
                                   where that is mixed in again (see ``shard_files``)
    checkpoints/000000100-0002/    state.json and the tensors of model and optimizer: 100 steps, in phase 2

Checkpoints and levels are written beside their place by all processes and renamed by the first, so that
killed processes leave the last complete ones; machines must share the file system. No file holds anything
that runs code when it is read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlgraph.errors import FileError
from mlgraph.files import put_directory, sync_tree, write_text
from mlgraph.program import Program
from mlgraph.program.tensors import InMemory, TensorSource
from mlgraph.storage.safetensors import open_safetensors
from mlgraph.train.engine.same_run import batches_of, refuse_other
from mlgraph.train.engine.shard_files import MANIFEST, Part, ShardFiles, complete, write_parts
from mlgraph.train.errors import RunDirectoryError

INITIAL = "initial"
"""The name of the level that the user gave."""

NOTHING = InMemory({})


@dataclass(frozen=True)
class Stored:
    """The tensors of a program and its optimizer state (``name::key``) in files, read when asked for."""

    tensors: TensorSource
    optimizer: TensorSource


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: ``state`` is the JSON part."""

    path: Path
    state: dict[str, Any]

    def open(self) -> Stored:
        """Its tensors. Raises RunDirectoryError where files are missing or damaged."""
        return _open(self.path, "model.safetensors")


class FolderDraft:
    """A folder that takes its place when it is complete.

    The first process makes it and calls ``publish``; every process writes its parts.
    """

    def __init__(self, target: Path, parts: Mapping[str, Part], rank: int, processes: int) -> None:
        self.target, self.folder = target, target.with_name(f".{target.name}.partial")
        self._parts, self._rank, self._processes = parts, rank, processes

    def make(self) -> None:
        """Make the folder, empty."""
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise RunDirectoryError(f"{self.folder} could not be made ({error.strerror}).") from error

    def write(self) -> None:
        """Write this process's parts; what goes wrong is in its report, which ``publish`` reads."""
        write_parts(self.folder, self._rank, self._parts)

    def publish(self, texts: Mapping[str, str], abandoned: Callable[[], bool]) -> None:
        """Wait for all parts, add ``texts`` by file name, and put the folder in its place."""
        try:
            complete(self.folder, self._processes, abandoned)
            for name, text in texts.items():
                write_text(self.folder / name, text)
            sync_tree(self.folder)
            put_directory(self.folder, self.target)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise


class RunDirectory:
    """A run's files. ``RunDirectoryError`` where another configuration has run here.

    ``defaults`` stand for options that the version which wrote the configuration did not have.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: Mapping[str, Any],
        keep: int = 2,
        defaults: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.path, self._keep = Path(path), max(keep, 1)
        plain = json.loads(json.dumps(config))
        known = self.path / "run.json"
        if known.exists():
            refuse_other(known, plain, json.loads(json.dumps(defaults or {})))
            return
        try:
            if self.path.exists() and any(self.path.iterdir()):
                raise RunDirectoryError(
                    f"{self.path} holds files but no run: name an empty or new directory."
                )
            for folder in (self.path / "levels", self.path / "checkpoints"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path} cannot be made a run directory ({error.strerror}): name another."
            ) from error
        write_text(known, json.dumps(plain, indent=1))

    def accumulate(self, processes: int) -> int:
        """Batches per process and optimizer step, so that a step takes what it took when the run began."""
        try:
            began = json.loads((self.path / "run.json").read_text()).get("run", {})
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{self.path / 'run.json'} cannot be read ({error}).") from error
        batches = batches_of(began)
        if batches % processes:
            fitting = [str(count) for count in range(1, batches + 1) if batches % count == 0]
            raise RunDirectoryError(
                f"{self.path} holds a run of {batches} batches a step, which {processes} processes cannot "
                f"share: start {', '.join(fitting)} of them."
            )
        return batches // processes

    @property
    def metrics(self) -> Path:
        """The metrics file."""
        return self.path / "metrics.jsonl"

    def has_level(self, name: str) -> bool:
        """Whether the architecture of that name is saved."""
        return self._level(name).exists()

    def save_level(self, name: str, program: Program) -> None:
        """Save a program for its architecture."""
        from mlgraph.storage import save

        save(program, self._level(name))

    def load_level(self, name: str) -> Program:
        """Load what ``save_level`` saved."""
        from mlgraph.storage import load

        return load(self._level(name))

    def aside(self, name: str) -> Path:
        """Where a program set aside lies."""
        return self.path / "levels" / name

    def open_aside(self, name: str) -> Stored:
        """A program set aside, and its optimizer state, empty where none was kept."""
        return _open(self.aside(name), "tensors.safetensors")

    def _level(self, name: str) -> Path:
        return self.path / "levels" / f"{name}.pt"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        folder = self.path / "checkpoints"
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        return [folder / name for name in names if _is_checkpoint(name)]

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, or none."""
        found = self.checkpoints()
        if not found:
            return None
        try:
            return Checkpoint(found[-1], json.loads((found[-1] / "state.json").read_text()))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(
                f"{found[-1]} is damaged ({error}): remove it to go on from the one before."
            ) from error

    def checkpoint(self, step: int, phase: int) -> Path:
        """Where the checkpoint after ``step`` steps in all lies."""
        return self.path / "checkpoints" / f"{step:09d}-{phase:04d}"

    def prune(self, newest: Path) -> None:
        """Drop all checkpoints but the last ``keep``, and the levels that no checkpoint needs."""
        found = self.checkpoints()
        for old in found[: -self._keep]:
            if old != newest:
                # A name that is no number is no checkpoint: a kill half way leaves nothing that looks whole.
                doomed = old.with_name(f".{old.name}.old")
                shutil.rmtree(doomed, ignore_errors=True)
                old.rename(doomed)
        for entry in (self.path / "checkpoints").iterdir():
            if not _is_checkpoint(entry.name):
                shutil.rmtree(entry, ignore_errors=True)
        self._prune_levels()

    def _prune_levels(self) -> None:
        needed: set[str | None] = {INITIAL}
        for path in self.checkpoints():
            state = json.loads((path / "state.json").read_text())
            needed |= {state["architecture"], *(name for pair in state["aside"] for name in pair)}
        for entry in (self.path / "levels").iterdir():
            if entry.name.partition(".")[0] in needed:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _is_checkpoint(name: str) -> bool:
    return name.replace("-", "").isdigit()


def _open(folder: Path, before: str) -> Stored:
    """What lies in a folder; ``before`` is the file that held the tensors in the first format."""
    try:
        if (folder / MANIFEST).exists() or not (folder / before).exists():
            files = ShardFiles(folder)
            return Stored(files.tensors("model/"), files.tensors("optimizer/"))
        optimizer = folder / "optimizer.safetensors"
        held = open_safetensors(optimizer) if optimizer.exists() else NOTHING
        return Stored(open_safetensors(folder / before), held)
    except FileError as error:
        raise RunDirectoryError(str(error)) from error
