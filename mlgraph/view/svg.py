"""A view as one SVG file for print: the whole model, one block of each chain, and the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import TYPE_CHECKING

from mlgraph.view.colours import DASHES
from mlgraph.view.draw import Drawing
from mlgraph.view.markup import escaped, tag
from mlgraph.view.picture import Picture, arrange
from mlgraph.view.sides import DrawnProgram, LegendEntry, legend, palette, sides

if TYPE_CHECKING:
    from mlgraph.view.diagram import Box, View

_APART = 40.0
_MARGIN = 16.0
_HEAD = 34.0
_INK, _PALE, _FAINT = "#1a1c1e", "#5b6166", "#c9ced3"
_FILLS = {
    "linear": "#eef3f9",
    "experts": "#eef3f9",
    "embedding": "#eef3f9",
    "convolution": "#eef3f9",
    "attention": "#fdf1e7",
    "norm": "#f3f4f5",
    "activation": "#eef7f1",
    "router": "#f7eef6",
    "rotary": "#f7f3e6",
    "chain": "#ffffff",
}
_PLAIN: dict[str, dict[str, object]] = {
    "wire": {"fill": "none", "stroke": "#8a9096", "stroke-width": 1.1},
    "reach": {"fill": "none", "stroke": "none"},
    "sign": {"fill": "none", "stroke": _INK, "stroke-width": 1.4},
    "title": {"fill": _INK, "font-weight": "600"},
    "note": {"fill": _PALE},
    "dims": {"fill": _PALE},
    "label": {"fill": _PALE},
}
_LEGEND, _LEGEND_LETTERS, _GAP = 260.0, 54, 24.0
_FONT = "Helvetica, Arial, sans-serif"


class PrintPaint:
    """Literal colours on white, so that no style sheet is needed; dashes tell what is not coarsened."""

    def __init__(self, side: DrawnProgram, chosen: Sequence[tuple[str, str]]) -> None:
        self.places = side.places
        self.fates = [family.fate for family in side.view.families]
        self.colours = [chosen[place][0] for place in side.places]

    def __call__(self, role: str, family: int | None = None) -> dict[str, object]:
        first, *rest = role.split()
        colour = self.colours[family] if family is not None else _PALE
        match first:
            case "strand" | "residual":
                dash = DASHES[self.fates[family]] if family is not None else None
                return {"fill": "none", "stroke": colour, "stroke-width": 1.8, "stroke-dasharray": dash}
            case "shape":
                return self._shape(rest[0])
            case "arrow" | "axis":
                return {"fill": colour}
            case _:
                return _PLAIN.get(first, {})

    def _shape(self, kind: str) -> dict[str, object]:
        dash = "3 2" if kind == "side" else None
        fill = _FILLS.get(kind, "#ffffff")
        return {"fill": fill, "stroke": _INK, "stroke-width": 1.0, "stroke-dasharray": dash}


class PrintDrawing(Drawing):
    """A drawing that tells what boxes are when hovered over, where that is shown."""

    def hover(self, box: Box) -> str:
        lines = [f"{tensor.name} {list(tensor.shape)}" for tensor in box.tensors]
        return tag("title", {}, escaped("\n".join([" ".join((box.path or box.title, box.note)), *lines])))


def svg(views: Mapping[str, View]) -> str:
    """The text of an SVG file.

    ``views`` are those of one program or of several, under labels, which stand one below the other; with
    several, dims are written in sizes, which is what differs.
    """
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{fragment(views)}\n'


def fragment(views: Mapping[str, View]) -> str:
    """The svg element alone, to be set into a page."""
    shown = sides(views)
    chosen, entries = palette(shown), legend(shown)
    own = [entry for entry in entries if entry.place in shown[0].places]
    rest = [entry for entry in entries if entry not in own]
    rows = [_row(side, chosen, rest if n else own, len(shown) > 1) for n, side in enumerate(shown)]
    width, height = max(row[1] for row in rows), sum(row[2] for row in rows)
    parts, y = [], 0.0
    for drawn, _, tall in rows:
        parts.append(tag("g", {"transform": f"translate(0 {y:.1f})"}, drawn))
        y += tall
    names = ", ".join(dict.fromkeys(view.name for view in views.values()))
    return tag(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": width,
            "height": height,
            "viewBox": f"0 0 {width:.1f} {height:.1f}",
            "font-family": _FONT,
            "role": "img",
        },
        tag("title", {}, escaped(f"{names}: block diagram")),
        tag("rect", {"width": width, "height": height, "fill": "#ffffff"}),
        *parts,
    )


def _row(
    side: DrawnProgram, chosen: Sequence[tuple[str, str]], entries: Sequence[LegendEntry], in_sizes: bool
) -> tuple[str, float, float]:
    """The elements of one program's view, their width and height; the legend stands below the whole."""
    view, paint = side.view, PrintPaint(side, chosen)
    drawing = PrintDrawing(view.families, paint)
    drawing.variants = ("sizes",) if in_sizes else ("names",)
    whole, *rest = [arrange(view.overview), *(arrange(diagram) for diagram in view.parts.values())]
    if side.label:
        whole = replace(whole, name=f"{whole.name} ({side.label})")
    first, below = whole.width, _MARGIN + _HEAD + whole.height + _GAP
    height = below
    axes = ""
    if entries:
        drawn, legend_height = _legend(entries, paint)
        first, height = max(first, _LEGEND), below + legend_height
        left = _MARGIN + (first - _LEGEND) / 2
        axes = tag("g", {"transform": f"translate({left:.1f} {below:.1f})"}, drawn)
    parts = [_figure(drawing, whole, _MARGIN + (first - whole.width) / 2), axes]
    x = _MARGIN + first + _APART
    for picture in rest:
        parts.append(_figure(drawing, picture, x, framed=True))
        x += picture.width + _APART
        height = max(height, picture.height + _HEAD + _MARGIN)
    return "".join(parts), x - _APART + _MARGIN, height + _MARGIN


def _figure(drawing: Drawing, picture: Picture, x: float, framed: bool = False) -> str:
    times = f" × {picture.repeat}" if picture.repeat > 1 else ""
    heading = tag(
        "text",
        {
            "x": picture.width / 2,
            "y": 18.0,
            "text-anchor": "middle",
            "font-size": 14.0,
            "font-weight": "600",
            "fill": _INK,
        },
        escaped(picture.name + times),
    )
    frame = (
        tag(
            "rect",
            {
                "x": 0.5,
                "y": _HEAD - 6,
                "width": picture.width - 1,
                "height": picture.height + 6,
                "rx": 8.0,
                "fill": "none",
                "stroke": _FAINT,
            },
        )
        if framed
        else ""
    )
    inner = tag("g", {"transform": f"translate(0 {_HEAD})"}, drawing.picture(picture))
    return tag("g", {"transform": f"translate({x:.1f} {_MARGIN})"}, heading, frame, inner)


def _legend(entries: Sequence[LegendEntry], paint: PrintPaint) -> tuple[str, float]:
    """Each axis with its stroke, name, size and fate; the height of them all."""
    rows, y = [], 12.0
    for entry in entries:
        family = paint.places.index(entry.place)
        rows += [
            tag("path", {"d": f"M0 {y - 4:.1f}h34", **paint("strand", family)}),
            tag(
                "text",
                {"x": 42.0, "y": y, "font-size": 11.5, "fill": _INK},
                tag("tspan", {**paint("axis", family), "font-weight": "600"}, escaped(entry.family.name)),
                escaped(f"  {entry.size_text}"),
            ),
        ]
        for line in wrap(entry.fate_text, _LEGEND_LETTERS):
            y += 12.0
            rows.append(tag("text", {"x": 42.0, "y": y, "font-size": 9.0, "fill": _PALE}, escaped(line)))
        y += 19.0
    return "".join(rows), y
