"""What stands around the model in a sentence-transformers directory, carried to a model of another width.

``modules.json`` lists modules that run one after the other: the transformer, then pooling, dense layers,
normalisation, each in a folder of its own with ``config.json`` and weights. Those that read the transformer's
features follow its width; what comes after the first dense layer does not see it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from mlgraph.files import file_errors, write_text
from mlgraph.program.dims import Dim, Leaf
from mlgraph.rewrite.grouping import Grouping, groupings_of
from mlgraph.rewrite.transfer import Roles, TensorTransfer

if TYPE_CHECKING:
    from mlgraph.program import Program
    from mlgraph.program.axis_table import Role

MODULES = "modules.json"
_FEATURES = "features"
# Config fields that hold the width of the features that a module reads, by the last part of its type.
_WIDTHS: dict[str, tuple[str, ...]] = {
    "Pooling": ("word_embedding_dimension", "embedding_dimension"),
    "WeightedLayerPooling": ("word_embedding_dimension", "embedding_dimension"),
    "LayerNorm": ("dimension",),
    "Dense": ("in_features",),
    "Normalize": (),
    "Dropout": (),
}
# Roles of the feature dims of their weights.
_WEIGHTS: dict[str, dict[str, tuple[Role | None, ...]]] = {
    "Dense": {"linear.weight": (None, "contracts"), "linear.bias": (None,)},
    "LayerNorm": {"norm.weight": ("emits",), "norm.bias": ("emits",)},
}
_ENDS_FEATURES = {"Dense"}


@dataclass(frozen=True)
class _Features:
    """The width of the features in the source and in the program, and how one became the other."""

    before: int
    after: int
    grouping: Grouping | None


def carry_modules(source: Path, folder: Path, program: Program) -> list[str]:
    """Copy the modules that ``source/modules.json`` lists into ``folder``, at the program's width.

    Returns notes on what was left out. Without ``modules.json`` nothing is done.
    """
    listed = source / MODULES
    if not listed.is_file():
        return []
    with file_errors(listed, "be read"):
        modules: list[dict[str, Any]] = json.loads(listed.read_text(encoding="utf-8"))
    paths = [module for module in modules if module.get("path")]
    features = _features(program, _source_width(paths, source))
    unfit = _unfit(paths, source, features)
    if unfit:
        return [f"{MODULES} and its modules were left out: {unfit}"]
    moved = features is not None and features.before != features.after
    for module in paths:
        kind = _kind(module)
        _carry(source / module["path"], folder / module["path"], kind, features if moved else None)
        moved = moved and kind not in _ENDS_FEATURES
    shutil.copyfile(listed, folder / MODULES)
    for name in ("config_sentence_transformers.json", "sentence_bert_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    return []


def _kind(module: Mapping[str, Any]) -> str:
    return str(module.get("type", "")).rpartition(".")[2]


def _unfit(modules: list[dict[str, Any]], source: Path, features: _Features | None) -> str | None:
    """Why the modules cannot follow the model, if they cannot."""
    for module in modules:
        if not (source / module["path"]).is_dir() and _WIDTHS.get(_kind(module)) != ():
            return f"there is no folder {module['path']} for its module {_kind(module)}"
    if features is None:
        return "the model returns no features that they could read"
    if features.before == features.after:
        return None
    for module in modules:
        kind = _kind(module)
        if kind not in _WIDTHS:
            return f"{kind} in {module['path']} may depend on the width, which is {features.after} now"
        if kind in _WEIGHTS and features.grouping is None:
            return f"{kind} in {module['path']} reads features that no lineage ties to the new ones"
        if kind in _ENDS_FEATURES:
            return None
    return None


def _carry(source: Path, folder: Path, kind: str, features: _Features | None) -> None:
    if not source.is_dir():
        return
    with file_errors(source, "be copied"):
        shutil.copytree(source, folder, dirs_exist_ok=True)
    if features is None:
        return
    config = folder / "config.json"
    if config.is_file():
        fields = json.loads(config.read_text(encoding="utf-8"))
        known = {name: features.after for name in _WIDTHS[kind] if fields.get(name) == features.before}
        write_text(config, json.dumps({**fields, **known}, indent=2))
    if kind in _WEIGHTS:
        for path in [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
            _resize(path, _WEIGHTS[kind], features)


def _resize(path: Path, roles: Mapping[str, tuple[Role | None, ...]], features: _Features) -> None:
    from safetensors.torch import load_file, save_file

    assert features.grouping is not None
    is_pickled = path.suffix == ".bin"
    tensors: dict[str, torch.Tensor] = (
        torch.load(path, map_location="cpu", weights_only=True) if is_pickled else load_file(path)
    )
    for name, tensor in tensors.items():
        if name in roles:
            tensors[name] = _transfer(tensor, roles[name], features.grouping)
    if is_pickled:
        path.unlink()
    save_file(tensors, path.with_name("model.safetensors") if is_pickled else path)


def _transfer(tensor: torch.Tensor, roles: tuple[Role | None, ...], grouping: Grouping) -> torch.Tensor:
    dims = tuple(
        Dim((Leaf(_FEATURES if role else f"other {place}", size),))
        for place, (role, size) in enumerate(zip(roles, tensor.shape, strict=True))
    )
    kinds: tuple[Roles, ...] = tuple([role or "emits"] for role in roles)
    return TensorTransfer(dims, kinds, {_FEATURES: grouping}).down(tensor)


def _features(program: Program, source_width: int | None) -> _Features | None:
    """The features that the program returns first, and those of the source that its modules read."""
    after = _returned_width(program)
    if after is None:
        return None
    before = after if source_width is None else source_width
    if before == after:
        return _Features(before, after, None)
    grouping: Grouping | None = None
    for parent, groupings in _coarsenings(program):
        axis = _returned_axis(parent)
        step = groupings.get(axis) if axis is not None else None
        if step is not None:
            grouping = step if grouping is None else step.then(grouping)
        if _returned_width(parent) == before:
            break
    known = grouping is not None and grouping.fine == before
    return _Features(before, after, grouping if known else None)


def _source_width(modules: list[dict[str, Any]], source: Path) -> int | None:
    """The width of the features as the modules that read them have it in their configurations."""
    for module in modules:
        kind, config = _kind(module), source / module["path"] / "config.json"
        fields = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        for name in _WIDTHS.get(kind, ()):
            if isinstance(fields.get(name), int):
                return int(fields[name])
        if kind in _ENDS_FEATURES:
            return None
    return None


def _coarsenings(program: Program) -> Iterator[tuple[Program, Mapping[str, Grouping]]]:
    """The programs from which this one was coarsened, step by step upward, with the groupings of axes."""
    lineage = program.lineage
    while lineage is not None:
        yield lineage.parent, groupings_of(lineage)
        lineage = lineage.parent.lineage


def _returned(program: Program) -> fx.Node | None:
    output = next(iter(reversed(program.graph.nodes)))
    first = output.args[0][0] if output.args[0] else None  # type: ignore[index]
    return first if isinstance(first, fx.Node) else None


def _returned_width(program: Program) -> int | None:
    node = _returned(program)
    value = node.meta.get("val") if node is not None else None
    return int(value.shape[-1]) if isinstance(value, torch.Tensor) and value.dim() else None


def _returned_axis(program: Program) -> str | None:
    node = _returned(program)
    dims = program.axes.result_dims(node.name) if node is not None else None
    return dims[-1].only.axis if dims and dims[-1].only else None
