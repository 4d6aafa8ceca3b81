"""The tree of modules as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from mlgraph.cli.modules import Leaf, Module
from mlgraph.cli.render.console import table
from mlgraph.cli.render.numbers import count

_MARK = "│ "


def tree_table(root: Module, depth: int | None = None, every_tensor: bool = False) -> Table:
    """One line for each module that holds parameters, with their dims in axis names.

    ``depth`` cuts the tree below that level. A module's first tensor stands for it, and the others are
    named after it unless ``every_tensor`` gives each a line.
    """
    total = max(root.parameters, 1)
    rows = [(Text(root.name, style="bold"), "", count(root.parameters), "100%")]
    for label, dims, numel in _lines(root, 1, depth, every_tensor):
        share = f"{100 * numel / total:.1f}%" if numel else ""
        rows.append((label, dims, count(numel) if numel else "", share))
    grid = table(("module", "dims", "values", "share"), [], right=(2, 3))
    grid.columns[0].overflow = "ellipsis"
    grid.columns[0].no_wrap = True
    grid.columns[1].no_wrap = False
    for row in rows:
        grid.add_row(*row)
    return grid


def _lines(
    module: Module, level: int, depth: int | None, every_tensor: bool
) -> Iterator[tuple[Text, str, int]]:
    for leaf in _direct(module, every_tensor):
        yield _label(level, leaf.name), _shape(leaf), 0 if leaf.tied else leaf.numel
    for original in module.children:
        child, name = _without_single_steps(original)
        title = f"{name} ×{child.repeat}" if child.repeat > 1 else name
        below = depth is None or level < depth
        if not child.children and child.leaves and below:
            yield from _leaf_module(child, title, level, every_tensor)
            continue
        yield _label(level, title, "bold" if child.repeat > 1 else ""), "", child.parameters
        if below:
            yield from _lines(child, level + 1, depth, every_tensor)


def _leaf_module(
    module: Module, title: str, level: int, every_tensor: bool
) -> Iterator[tuple[Text, str, int]]:
    leaves = _direct(module, every_tensor)
    if not leaves:
        return
    if every_tensor:
        for leaf in leaves:
            yield _label(level, f"{title}.{leaf.name}"), _shape(leaf), 0 if leaf.tied else leaf.numel
        return
    first, *others = leaves
    also = "".join(f" +{leaf.name}" for leaf in others)
    yield _label(level, f"{title}.{first.name}{also}"), _shape(first), module.parameters


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
        "tensors": [asdict(leaf) for leaf in module.leaves],
        "children": [tree_data(child) for child in module.children],
    }
