"""State dicts: weights without a model, read without running code, and loaded into a model that is named."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.capture.inputs.origin import origin_of
from mlgraph.capture.submodules import submodule
from mlgraph.errors import CaptureError, FileError, first_line
from mlgraph.files import file_errors
from mlgraph.interop.load import Built, huggingface_random, timm_model
from mlgraph.storage import open_safetensors
from mlgraph.storage.kinds import is_safetensors
from mlgraph.storage.safetensors import INDEX, SINGLE

if TYPE_CHECKING:
    from mlgraph.program import Program

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_NESTED = ("state_dict", "model_state_dict", "model", "module")
_FORMS = "a config.json, timm:NAME,key=value, or FILE.py:CLASS(ARGUMENTS)"


def read_state_dict(path: Path) -> dict[str, torch.Tensor] | None:
    """The tensors by name in a file that torch saved, or None where it holds anything else.

    Nothing in the file is run: only tensors and containers are unpickled. A checkpoint that holds the state
    dict beside other things gives it where its key is a usual one (``state_dict``, ``model``, …).
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, AttributeError):
        return None
    for found in (loaded, *(loaded.get(key) for key in _NESTED if isinstance(loaded, Mapping))):
        if isinstance(found, Mapping) and found and all(isinstance(v, torch.Tensor) for v in found.values()):
            return {str(name): tensor for name, tensor in found.items()}
    return None


def weights_in(path: Path) -> dict[str, torch.Tensor] | None:
    """The tensors by name in a file or directory that holds nothing else, or None where it is something else.

    A file is one of safetensors or a state dict that torch saved; a directory has such files and no
    ``config.json``. Nothing is run. Raises ``FileError`` where safetensors are damaged.
    """
    if not path.is_dir():
        return _safetensors(path) if holds_tensors(path) else read_state_dict(path)
    if (path / "config.json").exists():
        return None
    if (path / SINGLE).exists() or (path / INDEX).exists():
        return _safetensors(path)
    files = [file for file in sorted(path.iterdir()) if file.suffix in _WEIGHTS]
    parts = [weights_in(file) for file in files]
    if not parts or None in parts:
        return None
    return {name: tensor for part in parts for name, tensor in (part or {}).items()}


def holds_tensors(path: Path) -> bool:
    """Whether a file is one of safetensors that holds no program."""
    with file_errors(path, "be read"), open(path, "rb") as file:
        return is_safetensors(file)


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    return dict(open_safetensors(path).items())


def no_model(path: Path) -> FileError:
    """What is said of a state dict for which no model was named."""
    if path.is_dir():
        return FileError(
            f"{path} holds weights and no config.json: put the model's config.json beside them, or name the "
            f"model with --model (in Python model=), as {_FORMS}."
        )
    if (path.parent / "config.json").exists() and holds_tensors(path):
        return FileError(
            f"{path} holds weights without a model, whose config.json lies beside it: give the directory "
            f"{path.parent} instead."
        )
    return FileError(
        f"{path} holds a state dict, weights without a model: name the model with --model (in Python "
        f"model=), as {_FORMS}."
    )


def model_with(path: Path, state: Mapping[str, torch.Tensor], model: str) -> Built:
    """The model that ``model`` names, with the weights of a state dict.

    ``model`` is a transformers config, ``timm:NAME,key=value``, or ``FILE.py:CLASS(ARGUMENTS)`` with plain
    values as arguments; the file is run. Raises ``FileError`` where weights are missing or left over.
    """
    built = _built(model)
    return Built(_filled(path, built, state, model), built.origin, path.stem, built.notes)


def _filled(path: Path, built: Built, state: Mapping[str, torch.Tensor], model: str) -> nn.Module:
    target: nn.Module = built.model
    own = target.state_dict()
    for what, names in (
        ("lacks", own.keys() - state.keys()),
        ("has", state.keys() - own.keys()),
        ("has another shape for", {n for n in own.keys() & state.keys() if own[n].shape != state[n].shape}),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            beside = ", which the model does not have" if what == "has" else ""
            raise FileError(f"{path} {what} {min(names)}{more}{beside}: check that {model} is its model.")
    target.load_state_dict(state)
    return target


def model_of(program: Program, model: str) -> nn.Module:
    """The model that ``model`` names, or the part of it that was captured, with the weights of a program.

    Raises ``FileError`` where it has other ones.
    """
    built = _built(model)
    if program.submodule is not None:
        built = dataclasses.replace(built, model=submodule(built.model, program.submodule))
    return _filled(Path(program.name), built, program.state_dict(), model)


def _built(model: str) -> Built:
    scheme, _, rest = model.partition(":")
    if scheme == "timm":
        return timm_model(rest)
    file, _, call = model.partition(".py:")
    if call:
        return _constructed(Path(f"{file}.py"), call)
    path = Path(rest if scheme == "hf" else model)
    if not path.exists():
        raise FileError(f"There is no {path}: name the model as {_FORMS}.")
    return huggingface_random(path)


def _constructed(file: Path, call: str) -> Built:
    """A module made by a call of a class in a Python file, its arguments plain values."""
    if not file.is_file():
        raise FileError(f"There is no file {file}: check the path in --model.")
    name, arguments, keywords = _parsed(call, file)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)
    try:
        spec.loader.exec_module(module)
        made = getattr(module, name)(*arguments, **keywords)
    except AttributeError:
        raise CaptureError(f"{file} has no class {name}: check --model.") from None
    except Exception as error:  # a user's own file raises anything
        raise CaptureError(f"{call} in {file} makes no model: {first_line(error)}.") from error
    if not isinstance(made, nn.Module):
        raise CaptureError(f"{call} in {file} is a {type(made).__name__} and no torch.nn.Module.")
    return Built(made, origin_of(made, file), type(made).__name__)


def _parsed(call: str, file: Path) -> tuple[str, list[Any], dict[str, Any]]:
    try:
        tree = ast.parse(call, mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, [], {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            keywords = {str(word.arg): ast.literal_eval(word.value) for word in tree.keywords}
            return tree.func.id, [ast.literal_eval(argument) for argument in tree.args], keywords
    except (SyntaxError, ValueError):
        pass
    raise CaptureError(
        f"{call!r} after {file}: is no CLASS(ARGUMENTS) with plain values; write for example "
        "Net(64, layers=4)."
    )
