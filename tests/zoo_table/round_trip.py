"""A coarse program written in its library's own format, read back by the library alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import mlgraph
from mlgraph.capture.inputs.origin import origin_of
from mlgraph.interop.fitting.retry import expressible
from mlgraph.program import Program, TimmOrigin
from tests import oracles
from tests.zoo import Entry


class RoundTripError(AssertionError):
    """What the library loads is not what was written."""


class NotApplicable(Exception):
    """The entry's class has no format of a library."""


def check(entry: Entry, program: Program, model: nn.Module, folder: Path, call: tuple[Any, Any]) -> str:
    """Coarsen by 2 in every way that is possible, save, load with the library, compare on ``call``.

    What was not possible comes back as text: depth, where the blocks cannot be paired, what the class has no
    other sizes for, and constants that are the class's own.

    Raises:
        RoundTripError: the library misses a key, has one left over, or computes something else.
        MlgraphError: mlgraph refuses, by name.
    """
    origin = TimmOrigin(*create_model_call(entry)) if entry.suite == "timm" else origin_of(model)
    program = program.replace(origin=origin)
    depth, by_width = _depth(program, 2 if entry.chain else 1)

    def coarsen(stays: tuple[str, ...]) -> Program:
        return mlgraph.coalesce(program, width=2, depth=depth, freeze=stays)

    def write(coarse: Program) -> tuple[nn.Module, tuple[str, ...]]:
        if entry.suite == "timm":
            return through_timm(coarse, folder / "coarse.safetensors")
        return through_huggingface(coarse, type(model), folder / "coarse")

    found = expressible(program, coarsen, write)
    coarse, (loaded, notes), kept = found.program, found.written, found.notes
    by_width += kept
    own = [note for note in notes if note.startswith(("as the class has it", "with these constants"))]
    if own:
        return "; ".join([*by_width, *own])
    args, kwargs = call
    with torch.no_grad():
        expected = mlgraph.emit(coarse).eval()(*args, **kwargs)
        found = loaded(*args, **kwargs)
    error = oracles.outputs_error(found, expected)
    if not error <= 1e-4:
        raise RoundTripError(f"the loaded {type(model).__name__}'s outputs differ by {error:.1e}")
    return "; ".join(by_width)


def _depth(program: Program, depth: int) -> tuple[int, list[str]]:
    """The depth by which the program can be coarsened together with width, and what is to be told if not."""
    if depth > 1:
        try:
            mlgraph.coalesce(program, width=2, depth=depth)
        except mlgraph.MlgraphError as error:
            return 1, [f"by width alone, for {error}"]
    return depth, []


def create_model_call(entry: Entry) -> tuple[str, dict[str, Any]]:
    """The name and arguments of the call of timm that makes the entry's model.

    Raises:
        NotApplicable: the entry is made from a class, by no such call.
    """
    import timm

    calls: list[tuple[str, dict[str, Any]]] = []
    create = timm.create_model

    def record(name: str, **arguments: Any) -> nn.Module:
        calls.append((name, arguments))
        return create(name, **arguments)

    with mock.patch.object(timm, "create_model", record):
        entry.build()
    if not calls:
        raise NotApplicable
    return calls[0]


def through_timm(program: Program, path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    import timm

    from mlgraph.interop.timm import save_timm

    saved = save_timm(program, path, as_class=True)
    model = timm.create_model(saved.model, **saved.kwargs, checkpoint_path=str(saved.path))
    return model.eval(), saved.notes


def through_huggingface(program: Program, cls: Any, folder: Path) -> tuple[nn.Module, tuple[str, ...]]:
    from mlgraph.interop.huggingface import save_huggingface

    saved = save_huggingface(program, folder, as_class=True)
    loaded, report = cls.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise RoundTripError(f"{kind.replace('_', ' ')}: {sorted(map(str, report[kind]))[:3]}")
    return loaded.eval(), saved.notes
