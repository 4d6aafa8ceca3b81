"""Files that run code when they are loaded: told apart by their bytes, loaded only for those who trust
them.
"""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import warnings
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
    """What a file is that only torch can load, or None. Looks at first bytes and at a zip's list of names."""
    start = file.read(16)
    file.seek(0)
    # A container's header follows the eight bytes of its length, which may look like anything.
    if start[8:9] == b"{":
        return None
    if start.startswith(b"PK"):
        return _zip_kind(file)
    # Protocol 2 and later begin with the PROTO opcode; protocol 0 and 1 with a mark, an empty container
    # or a global.
    protocol = start[1] if start[:1] == b"\x80" and len(start) > 1 else None
    if protocol is not None and 2 <= protocol <= pickle.HIGHEST_PROTOCOL:
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


def _unpickles(file: BinaryIO, size: int = 1 << 16) -> bool:
    """Whether the beginning of a file reads as the opcodes of an old pickle; nothing is run."""
    head = file.read(size)
    file.seek(0)
    last = 0
    with contextlib.suppress(ValueError), warnings.catch_warnings(action="ignore"):
        for operation, _, position in pickletools.genops(head):
            last = position or 0
            if operation.name == "STOP":
                return True
    return len(head) == size and last > size // 2


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
    from mlgraph.capture.model import capture

    if isinstance(loaded, torch.export.ExportedProgram):
        if loaded.example_inputs is None:
            raise FileError(f"{path} has no example inputs; export it again and keep them.")
        args, kwargs = loaded.example_inputs
        return capture(_Exported(loaded), args, kwargs)
    if isinstance(loaded, nn.Module):
        # Hugging Face models make their own inputs; for others capture says that it needs some.
        return capture(loaded)
    if isinstance(loaded, dict):
        raise FileError(
            f"{path} holds a dict of values and no module; load it into its model and capture that."
        )
    raise FileError(f"{path} holds a {type(loaded).__name__} and no module.")


class _Exported(nn.Module):
    """An exported program as a module that can be traced again.

    torch's own refuses ``train()`` and insists on how its arguments are passed. Parameters and submodules
    are the same objects under the same names.
    """

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        super().__init__()
        module = exported.module(check_guards=False)
        self._parameters, self._buffers, self._modules = module._parameters, module._buffers, module._modules
        self._non_persistent_buffers_set = module._non_persistent_buffers_set
        object.__setattr__(self, "_run", module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        run: Any = self._run
        return run(*args, **kwargs)
