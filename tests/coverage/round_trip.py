"""A coarse program written in its library's own format, read back by the library alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import mlgraph
from mlgraph.program import Program
from mlgraph.sources import describe_origin
from tests import oracles
from tests.zoo import Entry


class RoundTripError(AssertionError):
    """What the library loads is not what was written."""


def check(entry: Entry, program: Program, model: nn.Module, folder: Path, call: tuple[Any, Any]) -> None:
    """Coarsen by 2 in every way the entry allows, save, load with the library, compare on ``call``.

    Raises:
        RoundTripError: the library misses a key, has one left over, or computes something else.
        MlgraphError: mlgraph refuses, by name.
    """
    if entry.suite != "hf":
        raise NotImplementedError(entry.suite)
    origin = describe_origin(model)
    coarse = mlgraph.coalesce(program.replace(origin=origin), width=2, depth=2 if entry.chain else 1)
    loaded = through_huggingface(coarse, type(model), folder / "coarse")
    args, kwargs = call
    with torch.no_grad():
        expected = mlgraph.emit(coarse).eval()(*args, **kwargs)
        found = loaded(*args, **kwargs)
    error = oracles.outputs_error(found, expected)
    if not error <= 1e-4:
        raise RoundTripError(f"the loaded {type(model).__name__}'s outputs differ by {error:.1e}")


def through_huggingface(program: Program, cls: Any, folder: Path) -> nn.Module:
    from mlgraph.emit.huggingface import save_huggingface

    save_huggingface(program, folder)
    loaded, report = cls.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise RoundTripError(f"{kind.replace('_', ' ')}: {sorted(map(str, report[kind]))[:3]}")
    return loaded.eval()
