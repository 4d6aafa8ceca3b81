"""The tree of modules as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from mlgraph.cli.modules import Leaf, Module
from mlgraph.cli.render.console import table
from mlgraph.cli.render.numbers import count

_MARK = "│ "
_LEAST_DIMS = 16
_WIDE = 100


def tree_table(root: Module, depth: int | None = None, every_tensor: bool = False, width: int = 80) -> Table:
    """One line for each module that holds parameters, with their dims in axis names.

    ``depth`` cuts the tree below that level. A module's first tensor stands for it, and the others are
    named after it unless ``every_tensor`` gives each a line. Below folded modules the figures are those of
    one. The shares of parameters and FLOPs are of the whole; the former need a terminal of 100 columns.
    """
    lines = _lines(root, 1, depth, every_tensor)
    numel, operations = max(root.parameters, 1), max(root.operations, 1)
    headers = ("module", "dims", "values", "FLOPs", "share")
    rows = [
        (
            line.label,
            line.dims,
            count(line.numel) if line.numel else "",
            _percent(line.operations / operations),
            _percent(line.numel / numel),
        )
        for line in (_Line(Text(root.name, style="bold"), "", root.parameters, root.operations), *lines)
    ]
    shown = len(headers) if width >= _WIDE else len(headers) - 1
    grid = table(headers[:shown], (row[:shown] for row in rows), right=(2, 3, 4))
    for index, column in enumerate(grid.columns):
        column.no_wrap, column.overflow = index != 1, "ellipsis"
    grid.columns[1].overflow = "fold"
    grid.columns[1].min_width = _LEAST_DIMS
    return grid


def _percent(part: float) -> str:
    return f"{100 * part:.1f}%" if part else ""


@dataclass(frozen=True)
class _Line:
    label: Text
    dims: str
    numel: int
    operations: int = 0


def _lines(module: Module, level: int, depth: int | None, every_tensor: bool) -> Iterator[_Line]:
    for leaf in _direct(module, every_tensor):
        yield _tensor(leaf, leaf.name, level)
    for original in module.children:
        child, name = _without_single_steps(original)
        title = f"{name} ×{child.repeat}" if child.repeat > 1 else name
        below = depth is None or level < depth
        if not child.children and child.leaves and below:
            yield from _leaf_module(child, title, level, every_tensor)
            continue
        label = _label(level, title, "bold" if child.repeat > 1 else "")
        yield _Line(label, "", child.parameters, child.repeat * child.operations)
        if below:
            yield from _lines(child, level + 1, depth, every_tensor)


def _leaf_module(module: Module, title: str, level: int, every_tensor: bool) -> Iterator[_Line]:
    leaves = _direct(module, every_tensor)
    if not leaves:
        return
    matrices = [leaf for leaf in leaves if len(leaf.shape) > 1]
    if every_tensor or len(matrices) > 1:
        for leaf in leaves:
            yield _tensor(leaf, f"{title}.{leaf.name}", level)
        return
    first, *others = leaves
    also = "".join(f" +{leaf.name}" for leaf in others)
    label = _label(level, f"{title}.{first.name}{also}")
    yield _Line(label, _shape(first), module.parameters, module.repeat * module.operations)


def _tensor(leaf: Leaf, name: str, level: int) -> _Line:
    return _Line(_label(level, name), _shape(leaf), 0 if leaf.tied else leaf.numel)


def _direct(module: Module, buffers: bool) -> list[Leaf]:
    return [leaf for leaf in module.leaves if leaf.is_parameter or buffers]


def _without_single_steps(module: Module) -> tuple[Module, str]:
    """Join a module that holds nothing but one other to it: ``encoder.layer``."""
    name = module.name
    while not module.leaves and len(module.children) == 1 and module.repeat == 1:
        module = module.children[0]
        name = name if module.repeat > 1 else f"{name}.{module.name}"
    return module, name


def _label(level: int, text: str, style: str = "") -> Text:
    return Text(_MARK * (level - 1), style="dim").append(Text(text, style=style or "default"))


def _shape(leaf: Leaf) -> str:
    tied = f" = {leaf.tied}" if leaf.tied else ""
    kind = "" if leaf.is_parameter else " buffer"
    return f"[{', '.join(leaf.dims)}]{kind}{tied}"


def tree_data(module: Module) -> dict[str, Any]:
    """The tree for JSON."""
    return {
        "name": module.name,
        "path": module.path,
        "repeat": module.repeat,
        "parameters": module.parameters,
        "bytes": module.bytes,
        "forward_flops": module.operations,
        "tensors": [asdict(leaf) for leaf in module.leaves],
        "children": [tree_data(child) for child in module.children],
    }
