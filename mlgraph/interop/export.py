"""Programs in formats of other tools."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mlgraph.errors import FileError, MlgraphError, first_line

if TYPE_CHECKING:
    from mlgraph.program import Program


def export(program: Program, path: str | os.PathLike[str]) -> str:
    """Write ``program`` in the format that the ending of ``path`` names, and return what that format is.

    ``.safetensors`` holds the weights (of a timm model, the checkpoint that ``create_model`` loads), ``.pth``
    a state dict, ``.pt2`` a ``torch.export`` archive of the evaluation-mode module, ``.onnx`` its ONNX
    graph, ``.gguf`` a decoder for llama.cpp; without an ending it is a Hugging Face directory.
    :func:`mlgraph.save` writes programs.

    Raises:
        FileError: the ending is not known, or the file cannot be written.
        MlgraphError: the program has no form in that format.
    """
    out = Path(path)
    require_ending(out)
    return _WRITERS[out.suffix](program, out)


def require_ending(out: Path) -> None:
    """Raise FileError where the ending of a path names no format."""
    if out.suffix not in _WRITERS:
        known = ", ".join(ending or "no ending (a Hugging Face directory)" for ending in _WRITERS)
        raise FileError(f"{out} has no ending that names a format; use {known}.")


def _safetensors(program: Program, out: Path) -> str:
    """Every name of the state dict; safetensors has no ties, so a tied tensor is written under each name.

    What came from timm is written for ``create_model``, with the call that loads it beside.
    """
    from mlgraph.program import TimmOrigin

    if isinstance(program.origin, TimmOrigin):
        from mlgraph.interop.timm import save_timm

        return f"timm model, loaded by {save_timm(program, out).call}"
    from safetensors.torch import save

    from mlgraph.files import write_bytes

    state = {name: tensor.detach().contiguous().clone() for name, tensor in program.state_dict().items()}
    write_bytes(out, save(state, metadata={"format": "pt"}))
    return "safetensors"


def _state_dict(program: Program, out: Path) -> str:
    import torch

    from mlgraph.files import write_bytes

    buffer = io.BytesIO()
    torch.save({name: tensor.detach() for name, tensor in program.state_dict().items()}, buffer)
    write_bytes(out, buffer.getvalue())
    return "state dict"


def _exported(program: Program, out: Path) -> str:
    """An eval-mode ``torch.export`` archive of the emitted module, at the sizes of its example inputs."""
    import torch

    from mlgraph.emit.module import emit
    from mlgraph.files import write_bytes
    from mlgraph.graph.example_call import example_call

    args, kwargs = example_call(program)
    buffer = io.BytesIO()
    try:
        torch.export.save(torch.export.export(emit(program).eval(), args, kwargs), buffer)
    except Exception as error:  # torch.export fails with whatever it meets
        raise MlgraphError(f"torch.export could not export {program.name}: {first_line(error)}.") from error
    write_bytes(out, buffer.getvalue())
    return "torch.export archive"


def _onnx(program: Program, out: Path) -> str:
    from mlgraph.interop.onnx_writing import save_onnx

    return f"ONNX graph, {save_onnx(program, out)}"


def _gguf(program: Program, out: Path) -> str:
    from mlgraph.interop.gguf_writing import save_gguf

    save_gguf(program, out)
    return "GGUF file, without a tokenizer"


def _huggingface(program: Program, out: Path) -> str:
    from mlgraph.interop.huggingface import save_huggingface

    save_huggingface(program, out)
    return "huggingface"


_WRITERS: dict[str, Callable[[Program, Path], str]] = {
    ".safetensors": _safetensors,
    ".pt2": _exported,
    ".pth": _state_dict,
    ".onnx": _onnx,
    ".gguf": _gguf,
    "": _huggingface,
}
