"""The tree of modules as HTML that folds and unfolds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlgraph.view.markup import escaped, tag

if TYPE_CHECKING:
    from mlgraph.view.diagram import Branch, Tensor
    from mlgraph.view.sides import DrawnProgram

_OPEN = 2


def outline(side: DrawnProgram) -> str:
    """The modules of one program, its upper levels unfolded; dims are in axis names that can be chosen."""
    return tag("div", {"class": "tree"}, *_inside(side.view.modules, side, 0))


def _inside(branch: Branch, side: DrawnProgram, depth: int) -> list[str]:
    tensors = [_tensor(tensor, side) for tensor in branch.tensors]
    listed = [tag("ul", {}, *tensors)] if tensors else []
    return [*listed, *(_branch(inner, side, depth) for inner in branch.inner)]


def _branch(branch: Branch, side: DrawnProgram, depth: int) -> str:
    times = tag("i", {}, f" × {branch.repeat}") if branch.repeat > 1 else ""
    summary = tag("summary", {"data-path": branch.path}, escaped(branch.name), times)
    is_open = "" if depth < _OPEN and branch.inner else None
    return tag("details", {"open": is_open}, summary, *_inside(branch, side, depth + 1))


def _tensor(tensor: Tensor, side: DrawnProgram) -> str:
    """``weight [heads·head_dim, hidden]``."""
    dims = []
    for dim in tensor.dims:
        pieces = [
            escaped(piece.text)
            if piece.family is None
            else tag(
                "span",
                {"class": f"axis f{side.places[piece.family]}", "data-axis": side.places[piece.family]},
                escaped(piece.text),
            )
            for piece in dim
        ]
        dims.append("".join(pieces))
    sizes = f"[{', '.join(map(str, tensor.shape))}] {tensor.dtype}"
    name = escaped(tensor.name.rpartition(".")[2])
    return tag("li", {"title": sizes}, f"{name} [{', '.join(dims)}]")
