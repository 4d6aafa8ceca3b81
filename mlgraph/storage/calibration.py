"""Files of calibrations: safetensors, whose metadata names what the tensors are."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import safetensors
import torch
from safetensors.torch import save

from mlgraph.errors import FileError
from mlgraph.files import file_errors, write_bytes
from mlgraph.program.calibration import AxisActivity, Calibration, ChainActivity, Moments

_FORM = "mlgraph-calibration"
_KINDS = {"axes": AxisActivity, "chains": ChainActivity, "moments": Moments}


def save_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Write a calibration to one file, atomically. Raises ``FileError``."""
    tensors: dict[str, torch.Tensor] = {}
    listed: dict[str, Any] = {"inputs": [], **{kind: [] for kind in _KINDS}}
    for number, leaves in enumerate(calibration.inputs):
        row: list[Any] = []
        for place, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor):
                tensors[f"inputs.{number}.{place}"] = leaf
            row.append(None if isinstance(leaf, torch.Tensor) else [leaf])
        listed["inputs"].append(row)
    for kind in _KINDS:
        for number, (key, entry) in enumerate(getattr(calibration, kind).items()):
            listed[kind].append(key)
            fields = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
            tensors |= {
                f"{kind}.{number}.{name}": value for name, value in fields.items() if value is not None
            }
    dense = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        data = save(dense, {"form": _FORM, "listed": json.dumps(listed)})
    except TypeError as error:
        raise FileError(f"{path} was not written: an input is no tensor and no number ({error}).") from error
    write_bytes(path, data)


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """The calibration in a file that ``save_calibration`` wrote. Raises ``FileError``."""
    try:
        with file_errors(path, "be read"), safetensors.safe_open(os.fspath(path), "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("form") != _FORM:
                raise FileError(f"{path} is no calibration: write one with mlgraph calibrate.")
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        return _read(json.loads(metadata["listed"]), tensors)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is no calibration ({error}): write one with mlgraph calibrate.") from error


def _read(listed: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Calibration:
    inputs = tuple(
        tuple(
            tensors[f"inputs.{number}.{place}"] if leaf is None else leaf[0] for place, leaf in enumerate(row)
        )
        for number, row in enumerate(listed["inputs"])
    )
    found: dict[str, dict[str, Any]] = {}
    for kind, made in _KINDS.items():
        found[kind] = {}
        for number, name in enumerate(listed[kind]):
            fields = [(f.name, tensors.get(f"{kind}.{number}.{f.name}")) for f in dataclasses.fields(made)]
            found[kind][name] = made(**{key: value for key, value in fields if value is not None})
    return Calibration(inputs, **found)
