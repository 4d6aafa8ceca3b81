"""How large boxes and their texts are, in pixels, for a sans-serif face of Helvetica's widths."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlgraph.view.diagram import Box, Tensor, Token, Tokens

SIZES = {"title": 12.5, "dims": 10.5, "note": 10.0, "label": 9.5}
"""Sizes of the kinds of text."""

_PAD = 10.0
_LINE = 14.0
_RADIUS = 10.0
_MOST_LINES = 3
_LONGEST = 46
_NARROW, _WIDE = frozenset("iljtfrI.,:;|'!()[]·-/ "), frozenset("mwMW@%→←…")


def text_width(text: str, size: float, bold: bool = False) -> float:
    """About how wide a text is."""
    units = sum(0.32 if c in _NARROW else 0.9 if c in _WIDE else 0.69 if c.isupper() else 0.555 for c in text)
    return units * size * (1.07 if bold else 1.0)


@dataclass(frozen=True)
class BoxLine:
    """A line of text in a box, in pieces; ``style`` is ``"title"``, ``"dims"`` or ``"note"``."""

    pieces: tuple[Token, ...]
    style: str

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def width(self) -> float:
        return text_width(self.text, SIZES[self.style], self.style == "title")


@dataclass(frozen=True)
class Face:
    """What is written on a box, and how large that makes it."""

    lines: tuple[BoxLine, ...]
    width: float
    height: float


def face(box: Box) -> Face:
    """The lines of a box and its size; a circle has none."""
    if box.is_circle:
        return Face((), 2 * _RADIUS, 2 * _RADIUS)
    lines = tuple(_lines(box))
    width = max(line.width for line in lines) + 2 * _PAD
    height = len(lines) * _LINE + (8.0 if len(lines) > 1 else 10.0)
    return Face(lines, max(width, 44.0), height)


def _lines(box: Box) -> list[BoxLine]:
    title = BoxLine((Token(_shortened(box.title)),), "title")
    if box.kind in ("input", "output", "side"):
        inner = _listed(box.result) if box.kind != "side" and box.result else ()
        return [title, *([BoxLine(inner, "dims")] if inner else [])]
    if box.kind in ("chain", "folded"):
        times = f" × {box.repeat}" if box.kind == "chain" else ""
        title = BoxLine((Token(_shortened(box.title) + times),), "title")
        each = sum(math.prod(tensor.shape) for tensor in box.tensors if tensor.is_parameter)
        each_of = " each" if times else ""
        return [title, BoxLine((Token(f"{each:,} parameters{each_of}"),), "note")]
    lines = [title]
    if box.note and box.kind not in ("norm", "activation", "op"):
        lines.append(BoxLine((Token(_shortened(box.note)),), "note"))
    elif box.kind == "norm" and box.note.lower() not in box.title.lower():
        lines.append(BoxLine((Token(box.note),), "note"))
    tensors = [tensor for tensor in box.tensors if len(tensor.dims) > 1 and tensor.is_parameter]
    if len(tensors) == 1 and _is_map(box, tensors[0]):
        if box.kind == "linear":
            lines.pop()
        lines.append(BoxLine(_map(tensors[0]), "dims"))
    else:
        for tensor in tensors[:_MOST_LINES]:
            lines.append(BoxLine(_listed(tensor.dims), "dims"))
    return lines


def _is_map(box: Box, tensor: Tensor) -> bool:
    return box.kind == "linear" and len(tensor.dims) == 2


def _map(tensor: Tensor) -> tuple[Token, ...]:
    """``out ← in``."""
    emits, contracts = (1, 0) if tensor.contracts == (True, False) else (0, 1)
    return (*tensor.dims[emits], Token(" ← "), *tensor.dims[contracts])


def _listed(dims: tuple[Tokens, ...]) -> tuple[Token, ...]:
    pieces: list[Token] = [Token("[")]
    for place, dim in enumerate(dims):
        pieces += [Token(", "), *dim] if place else dim
    return (*pieces, Token("]"))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST // 2 - 1] + "…" + text[-_LONGEST // 2 :]
