"""SOURCE strings, as the command line takes them, to programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlgraph import storage
from mlgraph.capture.inputs.example import Arguments, example_inputs, try_inputs
from mlgraph.capture.model import capture as capture_module
from mlgraph.errors import CaptureError, FileError, first_line
from mlgraph.files import file_errors
from mlgraph.interop import load as build
from mlgraph.interop.state_dict import model_with, no_model, read_state_dict
from mlgraph.interop.trusted import load_trusted, trusted_module
from mlgraph.program import Note, Program
from mlgraph.storage.kinds import PICKLE, foreign_kind

if TYPE_CHECKING:
    from torch import nn


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
    see :func:`mlgraph.capture.model.capture`.
    """
    if isinstance(model, (str, os.PathLike)):
        given = (args, dict(kwargs or {})) if args or kwargs else None
        return open_source(model, inputs=given, module=module, check=check)
    return capture_module(model, args, kwargs, dynamic_shapes, name, module, check)


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
) -> Program:
    """The program that ``source`` names.

    ``source`` is a file that mlgraph saved, a Hugging Face directory (one that mlgraph wrote gives back the
    program with its lineage), ``timm:NAME,key=value``,
    ``hf:CONFIG.json`` (random weights) or, with ``trust``, a ``.pt2`` or a pickled module, both of which
    run code on loading. A state dict is loaded into ``model`` (see
    :func:`mlgraph.interop.state_dict.model_with`). With ``loss``, a transformers head is captured with its
    labels and loss where that can be. ``inputs``, positional and keyword arguments, take the place of those
    made from the configuration. ``module`` is the path of a submodule to capture instead of the whole model;
    ``check`` is that of :func:`mlgraph.capture.model.capture`.
    ``Program.origin`` says where it came from. Raises FileError and CaptureError.
    """
    text = os.fspath(source)
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "timm":
        return _capture(build.timm_model(rest), loss, inputs, module, check)
    if colon and scheme == "hf":
        return _capture(build.huggingface_random(Path(rest)), loss, inputs, module, check)
    path = Path(text)
    if not path.exists():
        raise FileError(_unknown(text))
    if path.is_dir():
        known = _open_directory(path, loss, inputs, check) if module is None else None
        if known is not None:
            return known
        return _capture(build.huggingface_directory(path, trust=trust), loss, inputs, module, check)
    if _kind(path) == PICKLE:
        state = read_state_dict(path)
        if state is not None and model is None:
            raise no_model(path)
        if state is not None and model is not None:
            return _capture(model_with(path, state, model), loss, inputs, module, check)
    if model is not None:
        raise FileError(
            f"{path} holds no state dict, so --model (in Python model=) has nothing to load: leave it out."
        )
    return _open_file(path, trust, loss, inputs, module, check)


def _kind(path: str | os.PathLike[str]) -> str | None:
    with file_errors(path, "be read"), open(path, "rb") as file:
        return foreign_kind(file)


def _open_directory(path: Path, loss: bool, inputs: Arguments | None, check: bool) -> Program | None:
    """The program that a directory was written from, or one captured without weights too large for memory."""
    from mlgraph.interop import directory
    from mlgraph.interop.huggingface import read_skeleton

    written = read_skeleton(path) if inputs is None else None
    if written is not None or not directory.is_large(path):
        return written
    config = build.read_config(path / "config.json")
    if config.get("auto_map") or not config.get("architectures"):
        return None
    return directory.open_lazily(
        path,
        str(config["architectures"][0]),
        config,
        lambda built: _capture(built, loss, inputs, check=check),
    )


def _open_file(
    path: Path, trust: bool, loss: bool, inputs: Arguments | None, module: str | None, check: bool
) -> Program:
    """A saved program or, trusted, what runs code: a module on ``inputs``, or what else storage reads."""
    if _kind(path) is None or not trust or inputs is None:
        if module is not None:
            raise CaptureError(
                f"{path} is not run to be read, so {module} cannot be captured on its own: name a submodule "
                "of a model source, or of a pickled module with --trust and --input"
            )
        return load(path, trust=trust)
    return _capture(trusted_module(path), loss, inputs, module, check)


def _capture(
    built: build.Built,
    loss: bool,
    inputs: Arguments | None,
    module: str | None = None,
    check: bool = True,
) -> Program:
    model, notes = built.model, list(built.notes)
    name = built.name or type(model).__name__

    if inputs is not None:
        try_inputs(model, inputs)

    def attempt(with_loss: bool) -> Program:
        args, kwargs = inputs or example_inputs(model, loss=with_loss)
        return capture_module(model, args, kwargs, name=name, module=module, check=check)

    try:
        program = attempt(loss)
    except CaptureError as error:
        program = _again(lambda: attempt(False), error, loss and inputs is None)
        said = f"captured without its loss, with which it could not be: {first_line(error)}"
        notes.append(Note("call", said))
    if module is not None:
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


def _unknown(text: str) -> str:
    hint = "check the path, or write timm:NAME for a timm model or hf:CONFIG.json for random weights"
    return f"There is no file or directory {text}; {hint}."
