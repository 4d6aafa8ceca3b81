"""A view, or two side by side, as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from mlgraph.view.colours import DASHES, colours, used
from mlgraph.view.diagram import Box, Diagram, Dim, Edge, View
from mlgraph.view.draw import Drawing
from mlgraph.view.markup import escaped, json_script, tag
from mlgraph.view.picture import Picture, arrange

_MOST_SOURCES = 4
Tip = list[tuple[str, str]]


@dataclass(frozen=True)
class Side:
    """One of the programs on a page: its view, what it is called there, and its families' places."""

    view: View
    label: str
    places: tuple[int, ...]


class PagePaint:
    """Classes for the style sheet; families go by their place on the page."""

    def __init__(self, side: Side) -> None:
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
    sides = _sides(views)
    tips: dict[str, Tip] = {}
    cards = [_card(sides, None, tips)] + [_card(sides, name, tips) for name in _chains(sides)]
    title = " · ".join(dict.fromkeys(view.name for view in views.values()))
    body = "".join(
        [
            _header(sides, title),
            tag("div", {"class": "desk"}, _legend(sides), tag("main", {}, *cards, _told(sides))),
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
            f"<style>{_asset('page.css')}{_colour_rules(sides)}</style>",
        ]
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _asset(name: str) -> str:
    return files("mlgraph.view").joinpath(name).read_text(encoding="utf-8")


def _sides(views: Mapping[str, View]) -> list[Side]:
    """The programs with places for their families: a family of a later one has that of its likeness."""
    by_axis: dict[str, int] = {}
    sides: list[Side] = []
    free = 0
    for label, view in views.items():
        places: list[int] = []
        for family in view.families:
            known = next((by_axis[id] for id in family.ids if id in by_axis), free)
            free += known == free
            places.append(known)
        for family, place in zip(view.families, places, strict=True):
            for id in family.ids:
                by_axis.setdefault(id, place)
        sides.append(Side(view, label, tuple(places)))
    return sides


def _chains(sides: Sequence[Side]) -> list[str]:
    return list(dict.fromkeys(name for side in sides for name in side.view.blocks))


def _colour_rules(sides: Sequence[Side]) -> str:
    light, dark = [], []
    seen: set[int] = set()
    for side in sides:
        for place, (on_white, on_black) in zip(side.places, colours(side.view.families), strict=True):
            if place not in seen:
                seen.add(place)
                light.append(f".f{place}{{--axis:{on_white}}}")
                dark.append(f"{{root}} .f{place}{{--axis:{on_black}}}")
    night = "".join(dark)
    system = night.replace("{root}", ':root:not([data-theme="light"])')
    chosen = night.replace("{root}", ':root[data-theme="dark"]')
    return "".join(light) + f"@media (prefers-color-scheme: dark){{{system}}}{chosen}"


def _header(sides: Sequence[Side], title: str) -> str:
    counts = " → ".join(f"{side.view.parameters:,}" for side in sides)
    buttons = (
        '<button data-do="sizes" aria-pressed="false">sizes</button>'
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


def _told(sides: Sequence[Side]) -> str:
    """Notes of the programs, each once."""
    lines = dict.fromkeys(
        line
        for side in sides
        for line in (*side.view.notes, *(f"not in a chain: {why}" for why in side.view.rejected))
    )
    return tag("ul", {"class": "told"}, *(tag("li", {}, escaped(line)) for line in lines)) if lines else ""


# The legend


def _legend(sides: Sequence[Side]) -> str:
    rows = []
    shown = list(dict.fromkeys(side.places[family] for side in sides for family in used(side.view)))
    for place in shown:
        members = [
            (side, side.view.families[number], side.view.slots[number])
            for side in sides
            for number, own in enumerate(side.places)
            if own == place
        ]
        _, family, slots = members[0]
        sizes = " → ".join(dict.fromkeys(f"{found.size:,}" for _, found, _ in members))
        many = f" ×{len(family.ids)}" if len(family.ids) > 1 else ""
        fate = family.fate if not family.reason else f"{family.fate}: {family.reason}"
        swatch = (
            '<svg width="34" height="8" aria-hidden="true">'
            + tag(
                "path",
                {"d": "M0 4h34", "class": f"strand f{place}", "stroke-dasharray": DASHES[family.fate]},
            )
            + "</svg>"
        )
        listed = [tag("li", {}, escaped(f"{tensor}[{dim}] {role}")) for tensor, dim, role in slots]
        rows.append(
            tag(
                "li",
                {"data-axis": place, "class": family.fate},
                tag(
                    "button",
                    {"aria-pressed": "false", "class": f"f{place}"},
                    swatch,
                    tag("b", {}, escaped(family.name)),
                    tag("span", {"class": "sizes-of"}, escaped(sizes + many)),
                    tag("small", {}, escaped(fate)),
                ),
                tag("ul", {"class": "slots"}, *listed),
            )
        )
    return tag("aside", {}, tag("h2", {}, "Axes"), tag("ul", {"class": "legend"}, *rows))


# Diagrams


def _card(sides: Sequence[Side], chain: str | None, tips: dict[str, Tip]) -> str:
    figures, repeats = [], []
    for number, side in enumerate(sides):
        diagram = side.view.overview if chain is None else side.view.blocks.get(chain)
        if diagram is None:
            continue
        repeats.append(str(diagram.repeat))
        figures.append(_figure(side, diagram, f"{number}/{chain or ''}/", tips))
    if chain is None:
        heading = "the whole model"
    else:
        heading = escaped(chain) + f" <span>× {' → '.join(dict.fromkeys(repeats))}, one block</span>"
    return tag(
        "details",
        {"class": "card", "open": "", "data-chain": chain},
        tag("summary", {}, heading),
        tag("div", {"class": "pair"}, *figures),
    )


def _figure(side: Side, diagram: Diagram, prefix: str, tips: dict[str, Tip]) -> str:
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
        },
        drawing.picture(picture),
    )
    caption = tag("figcaption", {}, escaped(side.label)) if side.label else ""
    return tag("figure", {}, caption, drawn)


class PageDrawing(Drawing):
    """A drawing whose axes go by their places on the page."""

    in_sizes = True

    def __init__(self, side: Side, prefix: str) -> None:
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


def _written(dims: Sequence[Dim]) -> str:
    return "[" + ", ".join("".join(piece.text for piece in dim) for dim in dims) + "]"
