"""A view as one SVG file for print: the whole model, one block of each chain, and the axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlgraph.view.colours import DASHES, colours, used
from mlgraph.view.diagram import Token, View
from mlgraph.view.draw import Drawing
from mlgraph.view.markup import escaped, tag
from mlgraph.view.picture import Picture, arrange

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
_FONT = "Helvetica, Arial, sans-serif"


class PrintPaint:
    """Literal colours on white, so that no style sheet is needed; dashes tell what is not coarsened."""

    def __init__(self, view: View) -> None:
        self.fates = [family.fate for family in view.families]
        self.colours = [light for light, _ in colours(view.families)]

    def __call__(self, role: str, family: int | None = None) -> dict[str, object]:
        first, *rest = role.split()
        colour = self.colours[family] if family is not None else _PALE
        match first:
            case "strand" | "residual":
                dash = DASHES[self.fates[family]] if family is not None else None
                return {"fill": "none", "stroke": colour, "stroke-width": 1.8, "stroke-dasharray": dash}
            case "wire":
                return {"fill": "none", "stroke": "#8a9096", "stroke-width": 1.1}
            case "arrow":
                return {"fill": colour}
            case "reach":
                return {"fill": "none", "stroke": "none"}
            case "axis":
                return {"fill": colour}
            case "shape":
                return self._shape(rest[0])
            case "sign":
                return {"fill": "none", "stroke": _INK, "stroke-width": 1.4}
            case "title":
                return {"fill": _INK, "font-weight": "600"}
            case "note":
                return {"fill": _PALE}
            case "dims" | "label":
                return {"fill": _PALE}
            case _:
                return {}

    def _shape(self, kind: str) -> dict[str, object]:
        dash = "3 2" if kind == "side" else None
        fill = _FILLS.get(kind, "#ffffff")
        return {"fill": fill, "stroke": _INK, "stroke-width": 1.0, "stroke-dasharray": dash}


def svg(views: Mapping[str, View]) -> str:
    """The text of an SVG file; the views of several programs, by label, one below the other."""
    rows = [_row(label, view) for label, view in views.items()]
    width, height = max(row[1] for row in rows), sum(row[2] for row in rows)
    parts, y = [], 0.0
    for drawn, _, tall in rows:
        parts.append(tag("g", {"transform": f"translate(0 {y:.1f})"}, drawn))
        y += tall
    names = ", ".join(dict.fromkeys(view.name for view in views.values()))
    background = tag("rect", {"width": width, "height": height, "fill": "#ffffff"})
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tag(
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
        background,
        *parts,
    )


def _row(label: str, view: View) -> tuple[str, float, float]:
    """The elements of one program's view, their width and height."""
    paint = PrintPaint(view)
    drawing = Drawing(view.families, paint)
    pictures = [arrange(view.overview), *(arrange(diagram) for diagram in view.blocks.values())]
    if label:
        pictures[0] = replace(pictures[0], name=f"{pictures[0].name} ({label})")
    parts: list[str] = []
    x, height = _MARGIN, 0.0
    for picture in pictures:
        parts.append(_figure(drawing, picture, x))
        x += picture.width + _APART
        height = max(height, picture.height)
    legend, legend_width, legend_height = _legend(view, paint)
    parts.append(tag("g", {"transform": f"translate({x:.1f} {_MARGIN + _HEAD:.1f})"}, legend))
    return "".join(parts), x + legend_width + _MARGIN, max(height, legend_height) + _HEAD + 2 * _MARGIN


def _figure(drawing: Drawing, picture: Picture, x: float) -> str:
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
        if picture.repeat > 1
        else ""
    )
    inner = tag("g", {"transform": f"translate(0 {_HEAD})"}, drawing.picture(picture))
    return tag("g", {"transform": f"translate({x:.1f} {_MARGIN})"}, heading, frame, inner)


def _legend(view: View, paint: PrintPaint) -> tuple[str, float, float]:
    """Each axis with its stroke, name, size and fate."""
    rows = []
    for number, place in enumerate(used(view)):
        family, y = view.families[place], 14.0 + number * 30.0
        rows.append(tag("path", {"d": f"M0 {y - 4:.1f}h34", **paint("strand", place)}))
        name = Token(family.name, place)
        rows.append(
            tag(
                "text",
                {"x": 42.0, "y": y, "font-size": 11.5, "fill": _INK},
                tag("tspan", {**paint("axis", name.family), "font-weight": "600"}, escaped(name.text)),
                escaped(f"  {family.size:,}" + (f" (×{len(family.ids)})" if len(family.ids) > 1 else "")),
            )
        )
        words = family.fate if family.fate == "coarsenable" else f"{family.fate}: {family.reason}"
        rows.append(
            tag("text", {"x": 42.0, "y": y + 12, "font-size": 9.0, "fill": _PALE}, escaped(_short(words)))
        )
    return "".join(rows), 300.0, 14.0 + len(used(view)) * 30.0


def _short(text: str, longest: int = 62) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
