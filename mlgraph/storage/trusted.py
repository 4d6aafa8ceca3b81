"""Files that run code when they are loaded: told apart by their bytes, loaded only for those who trust
them.
"""

from __future__ import annotations

import pickletools
import zipfile
from typing import Any, BinaryIO

import torch
from torch import nn

from mlgraph.errors import FileError
from mlgraph.program import Program

_PICKLE = "a pickled file"
_EXPORT = "a torch.export archive"
_SCRIPT = "a TorchScript archive"


def foreign_kind(file: BinaryIO) -> str | None:
    """What a file is that only torch can load, or None. Looks at the first bytes and at a zip's list of
    names.
    """
    start = file.read(16)
    file.seek(0)
    if start.startswith(b"PK"):
        return _zip_kind(file)
    # Protocol 2 and later begin with the PROTO opcode; protocol 0 and 1 begin with a mark or a global.
    if start[:1] == b"\x80" and 2 <= start[1] <= 5 if len(start) > 1 else False:
        return _PICKLE
    return _PICKLE if start[:1] in (b"(", b"c", b"}", b"]") and _unpickles(file) else None


def _zip_kind(file: BinaryIO) -> str:
    try:
        names = [name.partition("/")[2] or name for name in zipfile.ZipFile(file).namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return _PICKLE
    finally:
        file.seek(0)
    if any(name.startswith(("models/", "archive_format", "serialized_exported_program")) for name in names):
        return _EXPORT
    return _SCRIPT if any(name.startswith("code/") for name in names) else _PICKLE


def _unpickles(file: BinaryIO) -> bool:
    """Whether a file reads as the opcodes of an old pickle; nothing is run."""
    head = file.read(1 << 16)
    file.seek(0)
    try:
        return any(op.name == "STOP" for op, _, _ in pickletools.genops(head))
    except ValueError:
        return False


def load_trusted(path: str, kind: str, trust: bool) -> Program:
    """The program of a pickled module or a ``.pt2`` archive. Raises ``FileError`` without ``trust``."""
    if not trust:
        raise FileError(
            f"{path} is {kind}, and loading one runs whatever code it holds; if you trust whoever made it, "
            "pass --trust (in Python, trust=True)."
        )
    if kind == _SCRIPT:
        raise FileError(
            f"{path} is a TorchScript archive, which has no module to capture; save the module itself."
        )
    loaded = _load_export(path) if kind == _EXPORT else _load_pickle(path)
    return _capture(path, loaded)


def _load_export(path: str) -> Any:
    try:
        return torch.export.load(path)
    except Exception as error:  # torch raises all kinds here
        raise FileError(f"{path} could not be loaded by torch.export: {_first_line(error)}.") from error


def _load_pickle(path: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling runs any code, which raises anything
        raise FileError(f"{path} could not be unpickled: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def _capture(path: str, loaded: Any) -> Program:
    from mlgraph.capture import capture  # the one thing here that needs the tracer

    if isinstance(loaded, torch.export.ExportedProgram):
        if loaded.example_inputs is None:
            raise FileError(f"{path} has no example inputs; export it again and keep them.")
        args, kwargs = loaded.example_inputs
        return capture(loaded.module(), args, kwargs)
    if isinstance(loaded, nn.Module):
        # Hugging Face models make their own inputs; for others capture says that it needs some.
        return capture(loaded)
    if isinstance(loaded, dict):
        raise FileError(
            f"{path} holds a dict of values and no module; load it into its model and capture that."
        )
    raise FileError(f"{path} holds a {type(loaded).__name__} and no module.")
