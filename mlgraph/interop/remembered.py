"""Sources opened with what earlier captures of the same model left in the cache.

What is kept is the captured program without the values of its state dict, in the format of saved programs.
Weights are read anew each time, from the source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mlgraph import storage
from mlgraph.cache.sources import run_sources
from mlgraph.cache.store import CacheEntry, Damaged, recall
from mlgraph.capture.inputs.notation import parse_inputs
from mlgraph.errors import FileError
from mlgraph.interop.directory import is_large, stored_name
from mlgraph.interop.identity import OWN, OpenRequest, is_saved
from mlgraph.interop.open import open_source
from mlgraph.interop.weights import DirectoryTensors
from mlgraph.program import HuggingFaceOrigin, ModuleOrigin, Program
from mlgraph.program.tensors import InMemory, is_fake

if TYPE_CHECKING:
    from mlgraph.program import Tensors

PROGRAM = "program.pt"

Say = Callable[[str], None]
"""Told, in a sentence, what of the cache could not be used."""


def open_remembered(
    request: OpenRequest, place: CacheEntry | None, say: Say, *, weights: bool = True
) -> Program:
    """The program of a source, whose graph is taken from its cache entry where it is there, and else put
    there.

    With a graph from the cache nothing is run or checked again; without ``weights`` the state dict is then on
    the meta device and no model is built. A damaged entry is captured again, which ``say`` is told. Without a
    ``place``, and for what is saved and not captured, the cache is left alone. Raises FileError and
    CaptureError as :func:`mlgraph.interop.open.open_source` does.
    """
    if place is None or is_saved(request.source):
        return _opened(request)
    header = recall(place, say)
    known = None if header is None else _known(place, say)
    if known is not None and header is not None:
        named = _here(known, request.source)
        if not weights:
            return named
        filled = _from_files(named, Path(request.source)) if header.get("plain") else None
        return filled or _opened(request, named)
    program = _opened(request)
    _remember(place, request, program, say)
    return program


def _remember(place: CacheEntry, request: OpenRequest, program: Program, say: Say) -> None:
    """Keep what was captured. What cannot be written is told to ``say`` and is no error."""
    sources = run_sources(_code(program), OWN)
    if sources is None or program.lineage is not None:
        return
    try:
        place.remove()
        place.make()
        storage.save(_without_weights(program), place.path / PROGRAM)
        place.finish(
            {
                "source": request.source,
                "name": program.name,
                "sources": sources,
                "plain": _plain(program, Path(request.source)),
            }
        )
    except FileError as error:
        say(f"The capture was not kept: {error}")


def _opened(request: OpenRequest, known: Program | None = None) -> Program:
    return open_source(
        request.source,
        trust=request.trust,
        loss=request.loss,
        inputs=parse_inputs(request.inputs) if request.inputs else None,
        module=request.module,
        model=request.model,
        model_class=request.model_class,
        known=known,
    )


def _known(place: CacheEntry, say: Say) -> Program | None:
    try:
        file = place.file(PROGRAM)
        return None if file is None else _held(storage.load(file))
    except (Damaged, FileError) as error:
        say(f"What was kept of an earlier capture is damaged, so the model is captured again: {error}")
        place.remove()
        return None


def _held(program: Program) -> Program:
    """The program with its constants in memory."""
    tensors = program.tensors
    return program.with_values(tensors.replace({name: tensors.source[name] for name in tensors}))


def _without_weights(program: Program) -> Program:
    """The program with the state dict on the meta device, and the digests by which blocks are told apart."""
    bare = program.without_weights().tensors
    return program.with_values(dataclasses.replace(bare, digests=program.tensors.skeleton().digests))


def _here(program: Program, source: str) -> Program:
    """The program with the place that its source has now."""
    origin, path = program.origin, Path(source)
    place = str(path.resolve()) if path.exists() else None
    if isinstance(origin, HuggingFaceOrigin):
        config = dict(origin.config)
        if origin.path is not None and "_name_or_path" in config:
            config["_name_or_path"] = str(path)
        from_config = None if origin.config_path is None else _config_path(source)
        kept = None if origin.path is None else place
        origin = dataclasses.replace(origin, config=config, path=kept, config_path=from_config)
    elif isinstance(origin, ModuleOrigin) and origin.path is not None:
        origin = dataclasses.replace(origin, path=place or origin.path)
    return program.replace(origin=origin)


def _config_path(source: str) -> str:
    given = Path(source.removeprefix("hf:"))
    return str((given / "config.json" if given.is_dir() else given).resolve())


def _code(program: Program) -> set[str]:
    """The source files of the model's operations."""
    lines = {str(node.meta.get("source") or "").partition(":")[0] for node in program.graph.nodes}
    return {line for line in lines if line.endswith(".py")}


def _weights(tensors: Tensors) -> list[str]:
    return [name for name in tensors if name in tensors.persistent]


def _plain(program: Program, path: Path) -> bool:
    """Whether a directory's safetensors hold the program's state dict, value by value."""
    if program.submodule is not None or not path.is_dir():
        return False
    try:
        files = storage.open_safetensors(path)
    except FileError:
        return False
    tensors = program.tensors
    named = {name: stored_name(name, tensors, files) for name in _weights(tensors)}
    if not tensors.in_memory:
        return isinstance(tensors.source, DirectoryTensors) and all(named.values())
    return all(
        found is not None and not is_fake(tensors[name]) and _same(tensors[name], files[found])
        for name, found in named.items()
    )


def _same(own: torch.Tensor, stored: torch.Tensor) -> bool:
    return own.shape == stored.shape and torch.equal(own.detach().cpu(), stored.to(own.dtype))


def _from_files(program: Program, path: Path) -> Program | None:
    """The program with the weights of a directory: read lazily where they are large."""
    try:
        files = storage.open_safetensors(path, keep=not is_large(path))
    except FileError:
        return None
    tensors = program.tensors
    named = {name: stored_name(name, tensors, files) for name in _weights(tensors)}
    found = {name: key for name, key in named.items() if key is not None}
    if len(found) < len(named):
        return None
    if is_large(path):
        return program.with_values(tensors.replace(DirectoryTensors(tensors.source, files, named=found)))
    read: dict[str, Any] = {name: files[key].to(tensors[name].dtype) for name, key in found.items()}
    values = {name: read.get(name, tensors.source[name]) for name in tensors}
    return program.with_values(tensors.replace(InMemory(values)))
