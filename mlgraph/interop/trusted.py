"""Files that run code when they are loaded: told apart by their bytes, loaded only for those who trust
them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.capture.inputs.origin import origin_of
from mlgraph.errors import FileError, first_line
from mlgraph.interop.load import Built
from mlgraph.storage.kinds import EMPTY, EXPORT, GGUF, SCRIPT

if TYPE_CHECKING:
    from mlgraph.program import Program

_USELESS = {
    EMPTY: ": check that it was written, or copied, whole",
    GGUF: ", which is captured and not loaded: open it with mlgraph.capture(path)",
    SCRIPT: ", which has no module to capture: save the module itself, with torch.save",
}


def load_trusted(path: str, kind: str, trust: bool) -> Program:
    """The program of a pickled module or a ``.pt2`` archive. Raises ``FileError`` without ``trust``."""
    require_trust(path, kind, trust)
    loaded = _load_export(path) if kind == EXPORT else _unpickled(path)
    return _capture(path, loaded)


def require_trust(path: str | os.PathLike[str], kind: str, trust: bool) -> None:
    """Raise ``FileError`` for a file of a kind that holds no module, or that runs code without ``trust``."""
    if kind in _USELESS:
        raise FileError(f"{path} is {kind}{_USELESS[kind]}.")
    if not trust:
        raise FileError(
            f"{path} is {kind}, and loading one runs whatever code it holds; if you trust whoever made it, "
            "pass --trust (in Python, trust=True)."
        )


def trusted_module(path: Path, kind: str) -> Built:
    """The module in a pickled file or a ``.pt2`` archive, which runs the code that the file chooses."""
    loaded = _load_export(str(path)) if kind == EXPORT else _unpickled(path)
    if isinstance(loaded, torch.export.ExportedProgram):
        loaded = ExportedModule(loaded)
    if not isinstance(loaded, nn.Module):
        raise _no_module(path, loaded)
    return Built(loaded, origin_of(loaded, path), path.stem)


def _unpickled(path: str | Path) -> Any:
    # the class of a pickled module often lies in a file of the folder in which one works
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling runs any code, which raises anything
        raise FileError(f"{path} could not be unpickled: {first_line(error)}.") from error


def _no_module(path: str | Path, loaded: Any) -> FileError:
    kind = "dict of values" if isinstance(loaded, dict) else type(loaded).__name__
    return FileError(
        f"{path} holds a {kind} and no module; load it into its model, capture that and save the program."
    )


def _load_export(path: str) -> Any:
    try:
        return torch.export.load(path)
    except Exception as error:  # torch raises all kinds here
        raise FileError(f"{path} could not be loaded by torch.export: {first_line(error)}.") from error


def _capture(path: str, loaded: Any) -> Program:
    from mlgraph.capture.model import capture
    from mlgraph.interop.emitted import check_emitted

    if isinstance(loaded, torch.export.ExportedProgram):
        if loaded.example_inputs is None:
            raise FileError(f"{path} has no example inputs; export it again and keep them.")
        args, kwargs = loaded.example_inputs
        return check_emitted(capture(ExportedModule(loaded), args, kwargs))
    if isinstance(loaded, nn.Module):
        # Hugging Face models make their own inputs; for others capture says that it needs some.
        return check_emitted(capture(loaded))
    raise _no_module(path, loaded)


class ExportedModule(nn.Module):
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
