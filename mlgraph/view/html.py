"""A view, or two side by side, as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from mlgraph.view.colours import DASHES
from mlgraph.view.draw import Drawing
from mlgraph.view.markup import escaped, json_script, tag
from mlgraph.view.module_outline import outline
from mlgraph.view.picture import Picture, arrange
from mlgraph.view.sides import DrawnProgram, legend, palette, sides

if TYPE_CHECKING:
    from mlgraph.view.diagram import Box, Diagram, Edge, Tokens, View

_MOST_SOURCES = 4
_NIGHTS = (':root:not([data-theme="light"])', ':root[data-theme="dark"]')
_LEAST_SCALE = 0.72
Tip = list[tuple[str, str]]


class PagePaint:
    """Classes for the style sheet; families go by their place on the page."""

    def __init__(self, side: DrawnProgram) -> None:
        self.places = side.places
        self.fates = [family.fate for family in side.view.families]

    def __call__(self, role: str, family: int | None = None) -> dict[str, object]:
        if family is None:
            return {"class": role}
        dash = DASHES[self.fates[family]] if "strand" in role else None
        return {"class": f"{role} f{self.places[family]}", "stroke-dasharray": dash}


def page(views: Mapping[str, View]) -> str:
    """The text of an HTML page: a legend, the whole model, one block of each chain.

    ``views`` are those of one program or of several, under labels; likenesses stand side by side, and an axis
    that several have is one colour.
    """
    shown = sides(views)
    tips: dict[str, Tip] = {}
    cards = [_card(shown, None, tips)] + [_card(shown, name, tips) for name in _chains(shown)]
    # Names are the same on both sides of a pair, and sizes are what differs.
    mode = ' class="in-sizes"' if len(shown) > 1 else ""
    title = " · ".join(dict.fromkeys(view.name for view in views.values()))
    body = "".join(
        [
            _header(shown, title),
            tag("div", {"class": "desk"}, _legend(shown), tag("main", {}, *cards, _told(shown))),
            '<div class="tip" role="tooltip" hidden></div>',
            json_script("mlgraph-data", {"tips": tips}),
            f"<script>{_asset('page.js')}</script>",
        ]
    )
    head = "".join(
        [
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            tag("title", {}, escaped(f"{title} – mlgraph")),
            f"<style>{_asset('page.css')}{_colour_rules(shown)}</style>",
        ]
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body{mode}>{body}</body></html>\n'


def _asset(name: str) -> str:
    return files("mlgraph.view").joinpath(name).read_text(encoding="utf-8")


def _chains(programs: Sequence[DrawnProgram]) -> list[str]:
    return list(dict.fromkeys(name for side in programs for name in side.view.parts))


def _colour_rules(found: Sequence[DrawnProgram]) -> str:
    chosen = list(enumerate(palette(found)))
    light = "".join(f".f{place}{{--axis:{on_white}}}" for place, (on_white, _) in chosen)
    system, dark = (
        "".join(f"{root} .f{place}{{--axis:{c}}}" for place, (_, c) in chosen) for root in _NIGHTS
    )
    return f"{light}@media (prefers-color-scheme: dark){{{system}}}{dark}"


def _header(programs: Sequence[DrawnProgram], title: str) -> str:
    counts = " → ".join(f"{side.view.parameters:,}" for side in programs)
    pressed = str(len(programs) > 1).lower()
    buttons = (
        f'<button data-do="sizes" aria-pressed="{pressed}">sizes</button>'
        '<button data-do="fold">fold / unfold</button>'
        '<button data-do="theme">light / dark</button>'
    )
    return tag(
        "header",
        {},
        tag("h1", {}, escaped(title)),
        tag("p", {}, escaped(f"{counts} parameters")),
        tag("div", {"class": "tools"}, buttons),
    )


def _told(programs: Sequence[DrawnProgram]) -> str:
    """Notes of the programs, each once."""
    lines = dict.fromkeys(
        line
        for side in programs
        for line in (*side.view.notes, *(f"not in a chain: {why}" for why in side.view.rejected))
    )
    return tag("ul", {"class": "told"}, *(tag("li", {}, escaped(line)) for line in lines)) if lines else ""


# The legend


def _legend(programs: Sequence[DrawnProgram]) -> str:
    rows = []
    for entry in legend(programs):
        stroke = {"class": f"strand f{entry.place}", "stroke-dasharray": DASHES[entry.family.fate]}
        line = tag("path", {"d": "M0 4h34", **stroke})
        slots = (f"{tensor}[{dim}] {role}" for tensor, dim, role in entry.slots)
        rows.append(
            tag(
                "li",
                {"data-axis": entry.place, "class": entry.family.fate},
                tag(
                    "button",
                    {"aria-pressed": "false", "class": f"f{entry.place}"},
                    tag("svg", {"width": 34, "height": 8, "aria-hidden": "true"}, line),
                    tag("b", {}, escaped(entry.family.name)),
                    tag("span", {"class": "sizes-of"}, escaped(entry.size_text)),
                    tag("small", {}, escaped(entry.fate_text)),
                ),
                tag("ul", {"class": "slots"}, *(tag("li", {}, escaped(slot)) for slot in slots)),
            )
        )
    modules = tag("details", {"class": "modules"}, tag("summary", {}, "Modules"), outline(programs[0]))
    return tag("aside", {}, tag("h2", {}, "Axes"), tag("ul", {"class": "legend"}, *rows), modules)


# Diagrams


def _card(programs: Sequence[DrawnProgram], chain: str | None, tips: dict[str, Tip]) -> str:
    figures, repeats = [], []
    for number, side in enumerate(programs):
        diagram = side.view.overview if chain is None else side.view.parts.get(chain)
        if diagram is None:
            continue
        repeats.append(str(diagram.repeat))
        figures.append(_figure(side, diagram, f"{number}/{chain or ''}/", tips))
    if chain is None:
        heading = "the whole model"
    else:
        times = " → ".join(dict.fromkeys(repeats))
        heading = escaped(chain) + (f" <span>× {times}, one block</span>" if times != "1" else "")
    return tag(
        "details",
        {"class": "card", "open": "", "data-part": chain},
        tag("summary", {}, heading),
        tag("div", {"class": "pair"}, *figures),
    )


def _figure(side: DrawnProgram, diagram: Diagram, prefix: str, tips: dict[str, Tip]) -> str:
    picture = arrange(diagram)
    drawing = PageDrawing(side, prefix)
    for placed in picture.boxes:
        tips[drawing.key(placed.box.id)] = list(_box_tip(placed.box))
    for number, route in enumerate(picture.routes):
        edge = route.edge
        tips[drawing.key(f"{number}:{edge.source}>{edge.target}")] = list(_edge_tip(picture, edge))
    drawn = tag(
        "svg",
        {
            "class": "diagram",
            "width": round(picture.width),
            "height": round(picture.height),
            "viewBox": f"0 0 {picture.width:.1f} {picture.height:.1f}",
            "role": "img",
            "aria-label": diagram.name,
            "style": f"min-width:{picture.width * _LEAST_SCALE:.0f}px",
        },
        drawing.picture(picture),
    )
    caption = tag("figcaption", {}, escaped(side.label)) if side.label else ""
    return tag("figure", {}, caption, drawn)


class PageDrawing(Drawing):
    """A drawing whose axes go by their places on the page."""

    variants = ("names", "sizes")

    def __init__(self, side: DrawnProgram, prefix: str) -> None:
        super().__init__(side.view.families, PagePaint(side), prefix)
        self.places = side.places

    def place(self, family: int) -> int:
        return self.places[family]


def _box_tip(box: Box) -> Iterator[tuple[str, str]]:
    """What hovering over a box tells."""
    yield "title", box.title + (f" × {box.repeat}" if box.repeat > 1 else "")
    if box.path and box.path != box.title:
        yield "text", box.path
    if box.note:
        yield "text", box.note
    for tensor in box.tensors:
        sizes = ", ".join(map(str, tensor.shape))
        kind = tensor.dtype if tensor.is_parameter else f"{tensor.dtype} buffer"
        yield "text", f"{tensor.name} {_written(tensor.dims)} = [{sizes}] {kind}"
        if tensor.shared:
            yield "text", f"tied with {', '.join(tensor.shared)}"
    if box.result:
        yield "text", f"result {_written(box.result)} = [{', '.join(map(str, box.shape))}]"
    if box.ops:
        yield "text", "ops " + ", ".join(dict.fromkeys(box.ops))
    for line in box.sources[:_MOST_SOURCES]:
        yield "source", line


def _edge_tip(picture: Picture, edge: Edge) -> Iterator[tuple[str, str]]:
    titles = {placed.box.id: placed.box.title for placed in picture.boxes}
    times = f" ({edge.count} tensors)" if edge.count > 1 else ""
    yield "title", f"{titles[edge.source]} → {titles[edge.target]}{times}"
    yield "text", f"{_written(edge.dims)} = [{', '.join(map(str, edge.shape))}]"
    if edge.residual:
        yield "text", "residual"
    if edge.through:
        yield "text", "through " + ", ".join(edge.through)


def _written(dims: Sequence[Tokens]) -> str:
    return "[" + ", ".join("".join(piece.text for piece in dim) for dim in dims) + "]"
