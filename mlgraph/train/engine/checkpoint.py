"""The directory of a run: its configuration, levels and atomic checkpoints.

    run.json                       what the run is; another run is refused
    metrics.jsonl                  one JSON object per line
    levels/0003.pt                 the architecture that phase 3 made
    levels/aside-0001/             tensors.safetensors of the program that phase 1 set aside, and
                                   optimizer.safetensors, its optimizer state, where that is mixed in again
    checkpoints/000000100-0002/    model.safetensors, optimizer.safetensors, state.json: 100 steps, in phase 2

Checkpoints and levels are written beside their place and renamed, so a killed process leaves the last
complete ones. No file holds anything that runs code when it is read.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mlgraph.errors import FileError
from mlgraph.files import atomic_directory, write_text
from mlgraph.program import Program
from mlgraph.train.errors import RunDirectoryError
from mlgraph.train.optimizer import OptimizerState

_SEPARATOR = "::"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: ``state`` is the JSON part, tensors are read on demand."""

    path: Path
    state: dict[str, Any]

    def tensors(self) -> dict[str, torch.Tensor]:
        """The program's tensors by canonical name."""
        return read_tensors(self.path / "model.safetensors")

    def optimizer(self) -> OptimizerState:
        """The optimizer's state by parameter name."""
        return read_optimizer(self.path / "optimizer.safetensors")


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
            _refuse_other(known, plain, json.loads(json.dumps(defaults or {})))
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

    def set_aside(
        self,
        name: str,
        tensors: Mapping[str, torch.Tensor],
        optimizer: Mapping[str, Mapping[str, torch.Tensor]] | None,
    ) -> None:
        """Write the tensors of a program set aside, and its optimizer state if that is wanted again."""
        folder = self.path / "levels" / name
        with atomic_directory(folder) as temporary:
            save_tensors(tensors, temporary / "tensors.safetensors")
            if optimizer is not None:
                save_optimizer(optimizer, temporary / "optimizer.safetensors")

    def read_aside(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of a program set aside."""
        return read_tensors(self.path / "levels" / name / "tensors.safetensors")

    def read_aside_optimizer(self, name: str) -> OptimizerState:
        """The optimizer state of a program set aside; empty where none was kept."""
        path = self.path / "levels" / name / "optimizer.safetensors"
        return read_optimizer(path) if path.exists() else {}

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

    def write(
        self,
        step: int,
        phase: int,
        tensors: Mapping[str, torch.Tensor],
        optimizer: Mapping[str, Mapping[str, torch.Tensor]],
        state: Mapping[str, Any],
    ) -> Path:
        """Write the checkpoint after ``step`` steps in all, then drop all but the last ``keep``."""
        path = self.path / "checkpoints" / f"{step:09d}-{phase:04d}"
        text = json.dumps(state)
        before = self.checkpoints()
        try:
            with atomic_directory(path) as temporary:
                save_tensors(tensors, temporary / "model.safetensors")
                save_optimizer(optimizer, temporary / "optimizer.safetensors")
                (temporary / "state.json").write_text(text)
        except FileError as error:
            whole = (
                f"the checkpoint before, {before[-1]}, is whole"
                if before
                else "there is no checkpoint before it"
            )
            raise RunDirectoryError(f"{str(error).rstrip('.')}; {whole}.") from error
        self._prune(path)
        return path

    def _prune(self, newest: Path) -> None:
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
        needed: set[str | None] = set()
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


def _refuse_other(known: Path, config: dict[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> None:
    try:
        before = json.loads(known.read_text())
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{known} cannot be read ({error}): name another run directory.") from error
    for name, old, new in differences(filled(before, defaults), filled(config, defaults)):
        raise RunDirectoryError(
            f"{known.parent} holds a run with {name} = {old}, and now {name} = {new}: "
            "restore it to go on, or name another run directory."
        )


def filled(config: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A configuration with the defaults of what the version that wrote it did not know, table by table."""
    known = {name: {**defaults[name], **config[name]} for name in defaults if name in config}
    return {**config, **known}


_ABSENT: Any = object()


def differences(before: Any, after: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted name, old and new value of every entry in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from differences(
                before.get(key, _ABSENT), after.get(key, _ABSENT), f"{name}.{key}".lstrip(".")
            )
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from differences(old, new, f"{name}[{index}]")
    elif _is_nothing(before) and _is_nothing(after):
        return
    elif before != after or isinstance(before, bool) is not isinstance(after, bool):
        yield name, _shown(before), _shown(after)


def _is_nothing(value: Any) -> bool:
    """Whether an option was not there, or there and empty: which of both may differ between versions."""
    return value is _ABSENT or value is None or value in ([], {})


def _shown(value: Any) -> str:
    text = "nothing" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_checkpoint(name: str) -> bool:
    return name.replace("-", "").isdigit()


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors by name to a safetensors file; what shares memory is written once per name."""
    try:
        save_file({name: _separate(tensor) for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        # The library reports what the disk says in words of its own.
        raise OSError(errno.EIO, str(error), str(path)) from error


def _separate(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach().cpu().contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, memory-mapped."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FileError(
            f"{path} cannot be read ({error}): remove its directory to go on from the one before."
        ) from error


def save_optimizer(state: Mapping[str, Mapping[str, torch.Tensor]], path: Path) -> None:
    """Write optimizer state to a safetensors file."""
    flat = {
        f"{name}{_SEPARATOR}{key}": value for name, entries in state.items() for key, value in entries.items()
    }
    save_tensors(flat, path)


def read_optimizer(path: Path) -> OptimizerState:
    """Read what ``save_optimizer`` wrote."""
    state: OptimizerState = {}
    for full, value in read_tensors(path).items():
        name, _, key = full.rpartition(_SEPARATOR)
        state.setdefault(name, {})[key] = value
    return state


def restore(program: Program, tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """Copy a checkpoint's tensors into the program's own."""
    missing: Iterable[str] = program.tensors.keys() ^ tensors.keys()
    for name in sorted(missing):
        raise RunDirectoryError(
            f"{source} does not fit the model ({name} is in one of them only): give the same model."
        )
    with torch.no_grad():
        for name, tensor in program.tensors.items():
            if tensor.shape != tensors[name].shape:
                raise RunDirectoryError(
                    f"{source} does not fit the model ({name} is {list(tensors[name].shape)} there, "
                    f"{list(tensor.shape)} here): give the same model."
                )
            tensor.copy_(tensors[name])
