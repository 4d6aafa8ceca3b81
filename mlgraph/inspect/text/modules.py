"""The tree of modules as text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mlgraph.inspect.likeness import like_sibling
from mlgraph.inspect.text.console import shortened
from mlgraph.inspect.text.layout import Row, lay_out, wrapped
from mlgraph.inspect.text.numbers import count, size

if TYPE_CHECKING:
    from mlgraph.inspect.modules import Module, TensorLeaf

MARK = "│ "
_WIDE = 120
_LONGEST_NAME = 28


@dataclass(frozen=True)
class TreeView:
    """What of a tree is shown: ``depth`` levels (None: all), and whether ``every_tensor`` has a line.

    ``per`` is the number of tokens or examples in the example batch, by which FLOPs are divided.
    """

    depth: int | None = None
    every_tensor: bool = False
    per: int = 1


_ALL = TreeView()


def tree_lines(root: Module, view: TreeView = _ALL, width: int = 80) -> list[Text]:
    """One line for each module that holds parameters, with their dims in axis names.

    A module's first tensor stands for it, and the others are named after it unless the view gives every
    tensor a line; a numbered module that is like one before it but for sizes is told by that. Below folded
    modules the figures are those of one. Shares are of the whole model; bytes and FLOPs stand where there are
    120 columns.
    """
    wide = width >= _WIDE
    headers = ("params", "share", "FLOPs") if not wide else ("params", "share", "bytes", "FLOPs", "share")
    top = _ModuleLine("", root.name, root.parameters, root.bytes, root.operations, style="bold")
    listed = [top, *_lines(root, 1, view)]
    total = (max(root.parameters, 1), max(root.operations, 1))
    rows = [
        Row(line.marks, line.label, line.dims, _figures(line, total, view.per, wide), line.style, line.tone)
        for line in listed
    ]
    lines = lay_out(Row("", "module", ("dims",), headers, "bold"), rows, width)
    if any(line.folds for line in listed):
        told = wrapped(("Inside ×N,", "figures are those", "of one of the N."), width)
        lines += [Text(line, style="dim") for line in told]
    return lines


def module_view(root: Module, width: int) -> list[Text]:
    """A module in notebooks and interpreters: all that it holds."""
    return tree_lines(root, _ALL, width)


@dataclass(frozen=True)
class _ModuleLine:
    marks: str
    label: str
    parameters: int
    bytes: int = 0
    operations: int = 0
    dims: tuple[str, ...] = ()
    style: str = ""
    tone: str = ""
    folds: bool = False


def _figures(line: _ModuleLine, total: tuple[int, int], per: int, wide: bool) -> tuple[str, ...]:
    held = count(line.parameters) if line.parameters else ""
    shares = [
        _percent(part / whole) for part, whole in zip((line.parameters, line.operations), total, strict=True)
    ]
    if not wide:
        return held, *shares
    work = count(line.operations / max(per, 1)) if line.operations else ""
    return held, shares[0], size(line.bytes) if line.bytes else "", work, shares[1]


def _percent(part: float) -> str:
    return f"{100 * part:.1f}%" if part else ""


def _lines(module: Module, level: int, view: TreeView) -> Iterator[_ModuleLine]:
    for leaf in _direct(module, view.every_tensor):
        yield _tensor(leaf, leaf.name, level)
    for place, original in enumerate(module.children):
        child, name = joined(original)
        title = f"{name} ×{child.repeat}" if child.repeat > 1 else name
        below = view.depth is None or level < view.depth
        like = None if view.every_tensor else like_sibling(original, module.children[:place])
        if not child.children and child.leaves and below:
            yield from _leaf_module(child, title, level, view.every_tensor)
            continue
        told = () if like is None else like.words()
        yield _ModuleLine(
            MARK * (level - 1),
            title,
            child.parameters,
            child.bytes,
            child.repeat * child.operations,
            told,
            "bold" if child.repeat > 1 else "",
            "italic" if told else "",
            child.repeat > 1 and below and like is None,
        )
        if below and like is None:
            yield from _lines(child, level + 1, view)


def _leaf_module(module: Module, title: str, level: int, every_tensor: bool) -> Iterator[_ModuleLine]:
    leaves = _direct(module, every_tensor)
    if not leaves:
        return
    matrices = [leaf for leaf in leaves if len(leaf.shape) > 1]
    work = module.repeat * module.operations
    if len(matrices) > 1:
        yield _ModuleLine(MARK * (level - 1), title, module.parameters, module.bytes, work)
        for leaf in leaves:
            yield _tensor(leaf, leaf.name, level + 1)
        return
    if every_tensor:
        for leaf in leaves:
            own = leaf in matrices or len(leaves) == 1
            yield _tensor(leaf, f"{title}.{leaf.name}", level, work if own else 0)
        return
    first, *others = leaves
    also = "".join(f" +{leaf.name}" for leaf in others)
    yield _ModuleLine(
        MARK * (level - 1),
        f"{title}.{first.name}{also}",
        module.parameters,
        module.bytes,
        work,
        dims_of(first),
    )


def _tensor(leaf: TensorLeaf, name: str, level: int, operations: int = 0) -> _ModuleLine:
    held = (0, 0) if leaf.tied else (leaf.numel if leaf.is_parameter else 0, leaf.bytes)
    return _ModuleLine(MARK * (level - 1), name, *held, operations, dims_of(leaf))


def _direct(module: Module, buffers: bool) -> list[TensorLeaf]:
    return [leaf for leaf in module.leaves if leaf.is_parameter or buffers]


def joined(module: Module) -> tuple[Module, str]:
    """A module joined to the only one that it holds, as often as it holds one, with the joint name."""
    name = module.name
    while not module.leaves and len(module.children) == 1 and module.repeat == 1:
        module = module.children[0]
        name = name if module.repeat > 1 else f"{name}.{module.name}"
    return module, name


def dims_of(leaf: TensorLeaf) -> tuple[str, ...]:
    """The dims of a tensor as parts between which a line may break."""
    parts = [f"{dim}," for dim in leaf.dims]
    if parts:
        parts[0] = f"[{parts[0]}"
        parts[-1] = f"{parts[-1].rstrip(',')}]"
    else:
        parts = ["[]"]
    kind = () if leaf.is_parameter else ("buffer",)
    tied = (f"= {shortened(leaf.tied, _LONGEST_NAME)}",) if leaf.tied else ()
    return *parts, *kind, *tied


def axis_sizes(root: Module) -> str:
    """``hidden 64 · heads 4, 8``: the axes of the parameters by name, with every size that they have."""
    found: dict[str, dict[int, None]] = defaultdict(dict)

    def visit(module: Module) -> None:
        for leaf in module.leaves:
            for name, extent in leaf.axes if leaf.is_parameter else ():
                found[name][extent] = None
        for child in module.children:
            visit(child)

    visit(root)
    return " · ".join(f"{name} {', '.join(f'{s:,}' for s in sorted(sizes))}" for name, sizes in found.items())


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
