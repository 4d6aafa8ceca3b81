"""What a phase leaves untrained, by name."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlgraph.errors import AxisError, suggestion
from mlgraph.train.errors import TrainError

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import Axis


def frozen_names(program: Program, asked: Iterable[str]) -> frozenset[str]:
    """The parameters that names of axes, chains and modules, and globs of parameter names, stand for.

    Raises:
        TrainError: a name stands for none, or nothing is left to train.
    """
    found = {parameter for name in asked for parameter in _named(program, name)}
    if not program.tensors.parameters - program.tensors.frozen - found:
        raise TrainError("freeze leaves no parameter to train: name fewer.")
    return frozenset(found)


def _named(program: Program, name: str) -> set[str]:
    parameters = program.tensors.parameters
    if set("*?[") & set(name):
        found = set(fnmatch.filter(parameters, name))
    else:
        found = {p for p in parameters if p == name or p.startswith(f"{name}.")}
        found |= {t for c in program.blocks if c.name == name for b in c for t in b.tensors} & parameters
        found |= {slot.tensor for axis in _axes(program, name) for slot in axis.slots} & parameters
    if not found:
        modules = sorted({p.rpartition(".")[0] for p in parameters})
        known = [*modules, *dict.fromkeys(axis.name for axis in program.axes)]
        raise TrainError(f"freeze names {name!r}, which is no parameter: {suggestion(name, known)}")
    return found


def _axes(program: Program, name: str) -> Iterable[Axis]:
    try:
        return program.axes.select(name)
    except AxisError:
        return ()


def with_frozen(program: Program, names: frozenset[str]) -> Program:
    """The program with further parameters that take no gradient."""
    tensors = dataclasses.replace(program.tensors, frozen=program.tensors.frozen | names)
    return program.with_values(tensors)
