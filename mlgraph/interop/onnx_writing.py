"""Programs as ONNX graphs, by torch's exporter."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mlgraph.emit.module import emit
from mlgraph.errors import FileError, MlgraphError, first_line
from mlgraph.files import atomic_write
from mlgraph.graph.compare import relative_error
from mlgraph.graph.example_call import dynamic_shapes, example_call

if TYPE_CHECKING:
    from mlgraph.program import Program

_LIMIT = 1_900_000_000
_BOUND = 1e-3


def save_onnx(program: Program, path: str | os.PathLike[str]) -> str:
    """Write the evaluation-mode graph of a program, with its own dynamic sizes; how it was checked.

    Its outputs are compared with the emitted module's where onnxruntime is installed.

    Raises:
        FileError: ``onnx`` or ``onnxscript`` is not installed, or the program is too large for one file.
        MlgraphError: torch cannot export it, or outputs differ.
    """
    out = Path(path)
    _require(program, out)
    args, kwargs = example_call(program)
    module = emit(program).eval()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.onnx"
        try:
            shapes = dynamic_shapes(program, module)
            exported = torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
            torch.onnx.export(exported, (), made, external_data=False, verbose=False)
        except Exception as error:  # torch's exporters fail with whatever they meet
            raise MlgraphError(
                f"torch could not export {program.name} to ONNX: {first_line(error)}; write a .pt2 instead."
            ) from error
        told = _compared(made, module, args, kwargs)
        with atomic_write(out) as file, open(made, "rb") as written:
            shutil.copyfileobj(written, file)
    return told


def _require(program: Program, out: Path) -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise FileError(f"{out} needs {' and '.join(missing)}: pip install 'mlgraph[onnx]'.")
    size = sum(tensor.nbytes for tensor in program.tensors.meta().values())
    if size > _LIMIT:
        raise FileError(
            f"{out} would hold {size / 1e9:.1f} GB, and an ONNX file holds 2: write a .pt2 instead."
        )


def _compared(path: Path, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Run an ONNX file beside the module; how far apart they are. Raises ``MlgraphError`` above a bound."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "not compared, for onnxruntime is not installed"
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    names = [taken.name for taken in session.get_inputs()]
    found = session.run(None, {name: leaf.numpy() for name, leaf in zip(names, given, strict=True)})
    with torch.no_grad():
        outputs = pytree.tree_leaves(module(*args, **kwargs))
    expected = [leaf for leaf in outputs if isinstance(leaf, torch.Tensor)]
    errors = [relative_error(torch.from_numpy(a), b) for a, b in zip(found, expected, strict=True)]
    worst = max(errors, default=0.0)
    if not worst <= _BOUND:
        raise MlgraphError(
            f"onnxruntime's outputs of the exported graph differ by {worst:.1e} from the model's: write a "
            ".pt2 instead."
        )
    return f"outputs within {worst:.0e} of the model's in onnxruntime"
