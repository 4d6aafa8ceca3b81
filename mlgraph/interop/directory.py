"""Hugging Face directories whose weights stay in their files: captured without, read tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.capture.inputs.origin import origin_of
from mlgraph.errors import FileError, MlgraphError
from mlgraph.graph.propagate import without_tracebacks
from mlgraph.interop.hollow import configuration, hollow
from mlgraph.interop.load import Built
from mlgraph.interop.weights import DirectoryTensors

if TYPE_CHECKING:
    from mlgraph.program import Program, Tensors

LARGE = 2 << 30
"""Bytes of weights from which on a directory is read lazily."""


def is_large(path: Path) -> bool:
    """Whether a directory's safetensors are too large to be read into memory without need."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors")) >= LARGE


def open_lazily(
    path: Path, name: str, config: dict[str, Any], capture: Callable[[Built], Program]
) -> Program | None:
    """The program of class ``name`` with the weights of a directory, none of which is held in memory.

    ``capture`` makes the program of a model. None where the names in the files
    are not those of the model, so that transformers has to convert them, or where the model cannot be run
    without its weights.
    """
    from mlgraph.storage import open_safetensors

    try:
        files = open_safetensors(path)
    except FileError:
        return None
    model = hollow(name, configuration(config, name))
    held = _held(model, files.shapes)
    if held is None:
        return None
    try:
        with without_tracebacks():
            program = capture(Built(model, origin_of(model, path), path.resolve().name))
    except MlgraphError:
        return None
    named = {
        key: found for key in program.tensors if (found := stored_name(key, program.tensors, files.shapes))
    }
    own = {key: _shape_only(tensor) if key in named else tensor for key, tensor in program.tensors.items()}
    return program.replace(tensors=program.tensors.replace(DirectoryTensors(own, files, named=named)))


def _held(model: nn.Module, stored: Any) -> set[str] | None:
    """The names of the state dict, where the files hold each tensor of it and nothing else."""
    names: dict[int, list[str]] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    for aliases in names.values():
        found = [stored[name][0] for name in aliases if name in stored]
        if not found or any(tuple(shape) != tuple(state[aliases[0]].shape) for shape in found):
            return None
    return set(state) if set(stored) <= set(state) else None


def stored_name(name: str, tensors: Tensors, stored: Any) -> str | None:
    """The name under which files hold a tensor of a state dict, one of its own; None where they do not."""
    if name not in tensors.persistent:
        return None
    aliases = [name, *(alias for alias, to in tensors.aliases.items() if to == name)]
    return next((alias for alias in aliases if alias in stored), None)


def _shape_only(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device="meta")
