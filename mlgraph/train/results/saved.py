"""The program in a checkpoint of a run, its tensors read as they are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlgraph.program import Program
from mlgraph.train.engine.checkpoint import INITIAL, Checkpoint, RunDirectory
from mlgraph.train.engine.stored import check_fit
from mlgraph.train.errors import RunDirectoryError


def is_saved_run(path: Path) -> bool:
    """Whether ``path`` is a run directory or one of its checkpoints."""
    return (path / "run.json").is_file() or (path / "state.json").is_file()


def saved_program(path: Path, open_program: Callable[[str], Program] | None = None) -> Program:
    """The program in a run directory's newest checkpoint, or in the checkpoint ``path``.

    No tensor is read before it is asked for. ``open_program`` opens the run's model where the directory is of
    the first format, which did not keep its architecture.

    Raises:
        RunDirectoryError: there is no checkpoint, or something of it is missing or damaged.
    """
    run = path if (path / "run.json").is_file() else path.parent.parent
    try:
        config: dict[str, Any] = json.loads((run / "run.json").read_text())
        directory = RunDirectory(run, config)
        found = directory.latest() if run == path else _checkpoint(path)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read as a run ({error}).") from error
    if found is None:
        raise RunDirectoryError(f"{run} has no checkpoint yet: train first.")
    program = _architecture(directory, found.state["architecture"], config, open_program)
    tensors = found.open().tensors
    check_fit(program, tensors, found.path)
    return program.with_values(program.tensors.replace(tensors))


def _checkpoint(path: Path) -> Checkpoint:
    return Checkpoint(path, json.loads((path / "state.json").read_text()))


def _architecture(
    directory: RunDirectory,
    name: str | None,
    config: dict[str, Any],
    open_program: Callable[[str], Program] | None,
) -> Program:
    if directory.has_level(name or INITIAL):
        return directory.load_level(name or INITIAL)
    if open_program is None or "model" not in config:
        raise RunDirectoryError(
            f"{directory.path} does not hold the architecture of its model: go on with it for a step, which "
            "adds that."
        )
    return open_program(str(config["model"]))
