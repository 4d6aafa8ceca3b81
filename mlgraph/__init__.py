"""mlgraph shrinks, trains and regrows any PyTorch transformer.

Everything here is imported when it is first used, so that ``import mlgraph`` costs nothing::

    program = mlgraph.capture(model)
    small = mlgraph.coalesce(program, depth=2, width=2)
    module = mlgraph.emit(small)
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlgraph.emit.module import emit
    from mlgraph.errors import AxisError, CaptureError, FileError, MlgraphError
    from mlgraph.inspect.differences import diff
    from mlgraph.inspect.explain import explain
    from mlgraph.inspect.modules import modules
    from mlgraph.interop.export import export
    from mlgraph.interop.open import capture, load
    from mlgraph.passes.coalesce import coalesce
    from mlgraph.passes.decoalesce import decoalesce
    from mlgraph.passes.interpolate import interpolate
    from mlgraph.program import Program
    from mlgraph.program.calibration import Calibration
    from mlgraph.storage import save
    from mlgraph.storage.calibration import load_calibration, save_calibration
    from mlgraph.train.data.calibration import calibrate
    from mlgraph.verify.checks import verify

__version__ = "0.1.0"

_EXPORTS = {
    "AxisError": "mlgraph.errors",
    "CaptureError": "mlgraph.errors",
    "FileError": "mlgraph.errors",
    "MlgraphError": "mlgraph.errors",
    "Program": "mlgraph.program.program",
    "Calibration": "mlgraph.program.calibration",
    "calibrate": "mlgraph.train.data.calibration",
    "capture": "mlgraph.interop.open",
    "coalesce": "mlgraph.passes.coalesce",
    "decoalesce": "mlgraph.passes.decoalesce",
    "diff": "mlgraph.inspect.differences",
    "emit": "mlgraph.emit.module",
    "explain": "mlgraph.inspect.explain",
    "export": "mlgraph.interop.export",
    "interpolate": "mlgraph.passes.interpolate",
    "load": "mlgraph.interop.open",
    "modules": "mlgraph.inspect.modules",
    "load_calibration": "mlgraph.storage.calibration",
    "save": "mlgraph.storage",
    "save_calibration": "mlgraph.storage.calibration",
    "verify": "mlgraph.verify.checks",
}

__all__ = [
    "AxisError",
    "Calibration",
    "CaptureError",
    "FileError",
    "MlgraphError",
    "Program",
    "calibrate",
    "capture",
    "coalesce",
    "decoalesce",
    "diff",
    "emit",
    "explain",
    "export",
    "interpolate",
    "load",
    "load_calibration",
    "modules",
    "save",
    "save_calibration",
    "verify",
]


class _Package(ModuleType):
    """This package, whose functions keep their names when a submodule of the same name is imported.

    Importing ``mlgraph.emit`` would bind ``emit`` to the submodule and hide the function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _EXPORTS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
