"""SOURCE strings, as the command line takes them, to programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlgraph import storage
from mlgraph.capture.inputs.example import Arguments, example_inputs, try_inputs
from mlgraph.capture.model import capture as capture_module
from mlgraph.capture.model import refilled
from mlgraph.errors import CaptureError, FileError, first_line
from mlgraph.files import file_errors
from mlgraph.interop import load as build
from mlgraph.interop.emitted import check_emitted
from mlgraph.interop.gguf import SUFFIX, gguf_model
from mlgraph.interop.identity import require_source
from mlgraph.interop.state_dict import holds_tensors, model_with, no_model, weights_in
from mlgraph.interop.trusted import load_trusted, require_trust, trusted_module
from mlgraph.program import Note, Program
from mlgraph.storage import kinds
from mlgraph.storage.kinds import GGUF, PICKLE, foreign_kind

if TYPE_CHECKING:
    import torch
    from torch import nn

_UNREADABLE = {
    ".onnx": "{path} is an ONNX graph, which mlgraph writes and does not read: give the PyTorch model that "
    "it was exported from.",
    ".json": "{path} is a configuration without weights: give its directory {folder}, or hf:{path} for "
    "random weights.",
}


def capture(
    model: nn.Module | str | os.PathLike[str],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = "auto",
    name: str | None = None,
    module: str | None = None,
    check: bool = True,
) -> Program:
    """The program that ``model`` runs on the example ``args`` and ``kwargs``.

    A string or path is opened as :func:`open_source` does. For modules, and what the other arguments mean,
    see :func:`mlgraph.capture.model.capture`. With ``check``, what is generated of the program is run beside
    it too: see :func:`mlgraph.interop.emitted.check_emitted`.
    """
    if isinstance(model, (str, os.PathLike)):
        given = (args, dict(kwargs or {})) if args or kwargs else None
        return open_source(model, inputs=given, module=module, check=check)
    program = capture_module(model, args, kwargs, dynamic_shapes, name, module, check)
    return check_emitted(program) if check else program


def load(path: str | os.PathLike[str], trust: bool = False, *, keep: bool = True) -> Program:
    """The program in a file; its tensors stay in the file until they are used.

    Of a file that :func:`mlgraph.save` wrote nothing is run; see :func:`mlgraph.storage.load` for ``keep``.
    A pickled module or a ``.pt2`` archive runs code when it is loaded, and is refused unless ``trust`` is
    true. Raises ``FileError`` in one sentence for whatever is wrong with the file.
    """
    kind = _kind(path)
    return storage.load(path, keep=keep) if kind is None else load_trusted(os.fspath(path), kind, trust)


def open_source(
    source: str | os.PathLike[str],
    *,
    trust: bool = False,
    loss: bool = True,
    inputs: Arguments | None = None,
    module: str | None = None,
    check: bool = True,
    model: str | None = None,
    model_class: str | None = None,
    known: Program | None = None,
) -> Program:
    """The program that ``source`` names.

    ``source`` is a file that mlgraph saved, a Hugging Face directory (one that mlgraph wrote gives back the
    program with its lineage), ``timm:NAME,key=value``,
    ``hf:CONFIG.json`` (random weights) or, with ``trust``, a ``.pt2`` or a pickled module, both of which
    run code on loading. A GGUF file, or a directory with one, gives the transformers model that it holds. A
    state dict, also of safetensors, is loaded into ``model`` (see
    :func:`mlgraph.interop.state_dict.model_with`). With ``loss``, a transformers head is captured with its
    labels and loss where that can be. ``inputs``, positional and keyword arguments, take the place of those
    made from the configuration. ``module`` is the path of a submodule to capture instead of the whole model;
    ``check`` is that of :func:`mlgraph.capture.model.capture`. ``model_class`` is the transformers class to
    load a directory or configuration into, where that is not the one that its config names. ``known`` is a
    program captured of an equal model: it is given back with the weights of this one, in place of a new
    capture.
    ``Program.origin`` says where it came from. Raises FileError and CaptureError.
    """
    text = os.fspath(source)
    asked = _Asked(loss, inputs, module, check, known)
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "timm":
        return _capture(build.timm_model(rest), asked)
    if colon and scheme == "hf":
        return _capture(build.huggingface_random(Path(rest), model_class=model_class), asked)
    path = Path(text)
    require_source(text)
    if not path.is_dir():
        return _open_file(path, trust, asked, model)
    if not (path / "config.json").exists():
        return _open_unnamed(path, asked, model)
    _refuse_model(path, model)
    if module is None and model_class is None:
        written = _open_directory(path, asked, trust)
        if written is not None:
            return written
    return _capture(build.huggingface_directory(path, trust=trust, model_class=model_class), asked)


def is_program(source: str | os.PathLike[str]) -> bool:
    """Whether ``source`` is a file that mlgraph saved, which is read and not captured."""
    if not Path(source).is_file():
        return False
    with file_errors(source, "be read"), open(source, "rb") as file:
        return kinds.is_program(file)


def holds_weights_alone(source: str | os.PathLike[str]) -> bool:
    """Whether ``source`` is a file or directory of weights, for which a model has to be named."""
    path = Path(source)
    return path.exists() and weights_in(path) is not None


@dataclass(frozen=True)
class _Asked:
    """How a model is captured: see ``open_source``."""

    loss: bool
    inputs: Arguments | None
    module: str | None
    check: bool
    known: Program | None = None


def _open_file(path: Path, trust: bool, asked: _Asked, model: str | None) -> Program:
    """What a file holds: a saved program, or a model that is captured."""
    kind = _kind(path)
    if path.suffix in _UNREADABLE:
        raise FileError(_UNREADABLE[path.suffix].format(path=path, folder=path.parent))
    if kind == PICKLE or holds_tensors(path):
        state = weights_in(path)
        if state is not None:
            return _capture(_with_model(path, state, model), asked)
    _refuse_model(path, model)
    if kind == GGUF:
        return _capture(gguf_model(path), asked)
    if kind is None:
        return _open_saved(path, asked)
    require_trust(path, kind, trust)
    if asked.inputs is None:
        _refuse_module(path, asked)
        return load(path, trust=trust)
    return _capture(trusted_module(path, kind), asked)


def _open_saved(path: Path, asked: _Asked) -> Program:
    if not is_program(path):
        raise FileError(
            f"{path} is no file that mlgraph reads (a saved program, safetensors, GGUF, or what torch "
            "saved), or not a whole one: check the name, and the size."
        )
    if asked.inputs is not None:
        raise FileError(
            f"{path} is a saved program, which was captured on inputs of its own: leave --input (in Python "
            "inputs=) out."
        )
    _refuse_module(path, asked)
    return load(path)


def _open_unnamed(path: Path, asked: _Asked, model: str | None) -> Program:
    """A directory without a config.json: one GGUF file, or weights of the model that was named."""
    files = sorted(path.glob(f"*{SUFFIX}"))
    if len(files) == 1 and model is None:
        return _capture(gguf_model(files[0]), asked)
    if files and model is None:
        raise FileError(f"{path} holds {len(files)} GGUF files: give one of them, as {files[0]}.")
    state = weights_in(path)
    if state is not None:
        return _capture(_with_model(path, state, model), asked)
    build.read_config(path / "config.json")
    raise AssertionError("a configuration that is not there was read")


def _with_model(path: Path, state: dict[str, torch.Tensor], model: str | None) -> build.Built:
    if model is None:
        raise no_model(path)
    return model_with(path, state, model)


def _refuse_model(path: Path, model: str | None) -> None:
    if model is not None:
        raise FileError(
            f"{path} holds no state dict, so --model (in Python model=) has nothing to load: leave it out."
        )


def _refuse_module(path: Path, asked: _Asked) -> None:
    if asked.module is not None:
        raise CaptureError(
            f"{path} is not run to be read, so {asked.module} cannot be captured on its own: name a "
            "submodule of a model source, or of a pickled module with --trust and --input"
        )


def _kind(path: str | os.PathLike[str]) -> str | None:
    with file_errors(path, "be read"), open(path, "rb") as file:
        return foreign_kind(file)


def _open_directory(path: Path, asked: _Asked, trust: bool) -> Program | None:
    """The program that a directory was written from, or one captured without weights too large for memory."""
    from mlgraph.interop import directory
    from mlgraph.interop.huggingface import read_skeleton

    written = read_skeleton(path) if asked.inputs is None else None
    if written is not None and trust:
        # what is made of it may be written in its class
        build.bring_own_class(path)
    if written is not None or not directory.is_large(path):
        return written
    config = build.read_config(path / "config.json")
    if config.get("auto_map") or not config.get("architectures"):
        return None
    return directory.open_lazily(
        path,
        str(config["architectures"][0]),
        config,
        lambda built: _capture(built, asked),
    )


def _capture(built: build.Built, asked: _Asked) -> Program:
    if asked.known is not None and (filled := refilled(asked.known, built.model, asked.module)) is not None:
        return filled
    model, notes, inputs = built.model, list(built.notes), asked.inputs
    name = built.name or type(model).__name__

    if inputs is not None:
        try_inputs(model, inputs)

    def attempt(with_loss: bool) -> Program:
        args, kwargs = inputs or example_inputs(model, loss=with_loss)
        return capture(model, args, kwargs, name=name, module=asked.module, check=asked.check)

    try:
        program = attempt(asked.loss)
    except CaptureError as error:
        program = _again(lambda: attempt(False), error, asked.loss and inputs is None)
        said = f"captured without its loss, with which it could not be: {first_line(error)}"
        notes.append(Note("call", said))
    if asked.module is not None:
        # a submodule is no model that the library could load
        return program.replace(notes=(*program.notes, *notes))
    return program.replace(origin=built.origin, notes=(*program.notes, *notes))


def _again(attempt: Callable[[], Program], error: CaptureError, loss: bool) -> Program:
    if not loss:
        raise error
    try:
        return attempt()
    except CaptureError:
        raise error from None
