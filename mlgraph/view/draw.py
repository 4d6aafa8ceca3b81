"""Placed diagrams as SVG elements; how things look is left to a :class:`Paint`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from mlgraph.view.box_sizes import SIZES, BoxLine, text_width
from mlgraph.view.diagram import Box, Token
from mlgraph.view.markup import escaped, tag

if TYPE_CHECKING:
    from mlgraph.program.families import Family
    from mlgraph.view.picture import Picture, Placed, Point, Route

_CORNER = 7.0
_STRAND = 3.0
_ARROW = 5.0


class Paint(Protocol):
    """Turns roles into attributes: classes for a page with a style sheet, literal colours for a file."""

    def __call__(self, role: str, family: int | None = None) -> dict[str, object]: ...


class Drawing:
    """Draws pictures of one view; ``families`` are those that tokens and edges point to.

    ``variants`` are the ways in which dims are written: in ``"names"``, in ``"sizes"``, or in both, for a
    style sheet to choose.
    """

    variants: tuple[str, ...] = ("names",)

    def __init__(self, families: Sequence[Family], paint: Paint, prefix: str = "") -> None:
        self.families = families
        self.paint = paint
        self.prefix = prefix

    def picture(self, picture: Picture) -> str:
        """The elements of a picture, edges below boxes."""
        edges = [self._edge(number, route) for number, route in enumerate(picture.routes)]
        boxes = [self._box(placed) for placed in picture.boxes]
        return "".join([*edges, *self._labels(picture), *boxes])

    def place(self, family: int) -> int:
        """The number by which a page knows a family."""
        return family

    def key(self, id: object) -> str:
        """The id under which a page knows a box or edge."""
        return f"{self.prefix}{id}"

    # Boxes

    def _box(self, placed: Placed) -> str:
        box = placed.box
        axes = dict.fromkeys(
            piece.family
            for dim in [dim for tensor in box.tensors for dim in tensor.dims]
            for piece in dim
            if piece.family is not None
        )
        body = self._circle(placed) if box.is_circle else self._rectangle(placed) + self._texts(placed)
        return tag(
            "g",
            {
                **self.paint(f"box {box.kind}"),
                "data-key": self.key(box.id),
                "data-path": (box.path or None) if self.prefix else None,
                "data-axes": " ".join(str(self.place(family)) for family in axes) or None,
                "data-part": box.title if box.kind in ("chain", "folded") else None,
            },
            self.hover(box) + body,
        )

    def hover(self, _box: Box) -> str:
        """What is put into a box's element beside its drawing."""
        return ""

    def _circle(self, placed: Placed) -> str:
        radius, x, y, arm = placed.width / 2, placed.x, placed.y, 4.5
        if placed.box.kind == "add":
            sign = f"M{x - arm:.1f} {y:.1f}h{2 * arm}M{x:.1f} {y - arm:.1f}v{2 * arm}"
        else:
            arm *= 0.75
            sign = (
                f"M{x - arm:.1f} {y - arm:.1f}l{2 * arm:.1f} {2 * arm:.1f}"
                f"M{x + arm:.1f} {y - arm:.1f}l{-2 * arm:.1f} {2 * arm:.1f}"
            )
        return tag("circle", {"cx": x, "cy": y, "r": radius, **self.paint("shape circle")}) + tag(
            "path", {"d": sign, **self.paint("sign")}
        )

    def _rectangle(self, placed: Placed) -> str:
        left, top = placed.x - placed.width / 2, placed.y - placed.height / 2
        box = placed.box
        round_ = placed.height / 2 if box.kind in ("input", "output", "side") else 5.0
        size = {"width": placed.width, "height": placed.height, "rx": min(round_, 14.0)}
        sheets = [
            tag("rect", {"x": left + shift, "y": top + shift, **size, **self.paint(f"shape {box.kind}")})
            for shift in ((6.0, 3.0) if box.kind == "chain" else ())
        ]
        return "".join(sheets) + tag("rect", {"x": left, "y": top, **size, **self.paint(f"shape {box.kind}")})

    def _texts(self, placed: Placed) -> str:
        lines = placed.face.lines
        step = 14.0
        first = placed.y - (len(lines) - 1) * step / 2 + 4.0
        return "".join(self._line(line, placed.x, first + number * step) for number, line in enumerate(lines))

    def _line(self, line: BoxLine, x: float, y: float) -> str:
        """A centred line, with axes in every variant."""
        if not any(piece.family is not None for piece in line.pieces):
            return self._text(line.pieces, line.style, x, y, "", line.width)
        sized = tuple(
            Token(str(self.families[piece.family].size), piece.family) if piece.family is not None else piece
            for piece in line.pieces
        )
        known = {"names": (line.pieces, line.width), "sizes": (sized, None)}
        return "".join(
            self._text(known[variant][0], line.style, x, y, variant, known[variant][1])
            for variant in self.variants
        )

    def _text(
        self,
        pieces: Iterable[Token],
        style: str,
        x: float,
        y: float,
        variant: str,
        width: float | None,
        anchor: str = "middle",
    ) -> str:
        shown = self.paint(f"{style} {variant}".strip())
        parts = [
            escaped(piece.text)
            if piece.family is None
            else tag(
                "tspan",
                {**self.paint("axis", piece.family), "data-axis": self.place(piece.family)},
                escaped(piece.text),
            )
            for piece in pieces
        ]
        attributes: dict[str, object] = {
            "x": x,
            "y": y,
            "text-anchor": anchor,
            "font-size": SIZES[style],
            **shown,
        }
        if width is not None:
            # The box was made for these widths, whatever face the reader has.
            attributes |= {"textLength": round(width, 1), "lengthAdjust": "spacingAndGlyphs"}
        return tag("text", attributes, *parts)

    # Edges

    def _edge(self, number: int, route: Route) -> str:
        edge = route.edge
        strands = edge.families or (None,)
        lines = []
        for place, family in enumerate(strands):
            shift = (place - (len(strands) - 1) / 2) * _STRAND
            path = rounded(shifted(shortened(route.points, _ARROW - 1), shift))
            role = "residual strand" if edge.residual else "strand"
            lines.append(
                tag(
                    "path",
                    {
                        "d": path,
                        "data-axis": None if family is None else self.place(family),
                        **self.paint(role if edge.families else "wire", family),
                    },
                )
            )
        lead = edge.families[0] if edge.families else None
        arrow = tag("polygon", {"points": arrowhead(route.points), **self.paint("arrow", lead)})
        reach = tag("path", {"d": rounded(route.points), **self.paint("reach")})
        return tag(
            "g",
            {
                **self.paint("edge"),
                "data-key": self.key(f"{number}:{edge.source}>{edge.target}"),
                "data-axes": " ".join(str(self.place(family)) for family in edge.families) or None,
            },
            reach,
            *lines,
            arrow,
        )

    def _labels(self, picture: Picture) -> list[str]:
        """Beside the start of edges, the axes that neither came in nor stand on the box."""
        known: dict[str, set[int | None]] = {
            placed.box.id: {piece.family for line in placed.face.lines for piece in line.pieces}
            for placed in picture.boxes
        }
        for route in picture.routes:
            known[route.edge.target].update(route.edge.families)
        labels = []
        for route in picture.routes:
            source = route.edge.source
            new = [family for family in route.edge.families if family not in known[source]]
            if not new:
                continue
            known[source].update(new)
            pieces = [Token(self.families[family].name, family) for family in new]
            pieces[1:] = [piece for token in pieces[1:] for piece in (Token(" · "), token)]
            x, y = route.points[0]
            aside = _STRAND * len(route.edge.families) / 2 + 4
            width = text_width("".join(piece.text for piece in pieces), SIZES["label"])
            right = x + aside + width < picture.width
            x, anchor = (x + aside, "start") if right else (x - aside, "end")
            labels.append(self._text(pieces, "label", x, y + 9.0, "", width, anchor))
        return labels


def shifted(points: Sequence[Point], distance: float) -> list[Point]:
    """A line parallel to one of horizontal and vertical pieces, ``distance`` to its right."""
    if not distance or len(points) < 2:
        return list(points)
    normals = [_normal(a, b) for a, b in pairwise(points)]
    found = []
    for place, (x, y) in enumerate(points):
        around = {normals[max(place - 1, 0)], normals[min(place, len(normals) - 1)]}
        found.append((x + distance * sum(n[0] for n in around), y + distance * sum(n[1] for n in around)))
    return found


def _normal(a: Point, b: Point) -> tuple[int, int]:
    across, down = b[0] - a[0], b[1] - a[1]
    return (-_sign(down), 0) if abs(down) > abs(across) else (0, _sign(across))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def shortened(points: Sequence[Point], length: float) -> list[Point]:
    """A line without its last ``length``, as far as its last piece is that long."""
    (ax, ay), (bx, by) = points[-2], points[-1]
    whole = abs(bx - ax) + abs(by - ay)
    cut = min(length, whole * 0.9) / whole if whole else 0.0
    return [*points[:-1], (bx - (bx - ax) * cut, by - (by - ay) * cut)]


def rounded(points: Sequence[Point]) -> str:
    """Path data of a line whose corners are rounded."""
    path = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(_CORNER, _length(before, corner) / 2, _length(corner, after) / 2)
        start, end = _toward(corner, before, radius), _toward(corner, after, radius)
        path.append(
            f"L{start[0]:.1f} {start[1]:.1f}Q{corner[0]:.1f} {corner[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
        )
    path.append(f"L{points[-1][0]:.1f} {points[-1][1]:.1f}")
    return "".join(path)


def _length(a: Point, b: Point) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _toward(a: Point, b: Point, distance: float) -> Point:
    length = _length(a, b) or 1.0
    return a[0] + (b[0] - a[0]) * distance / length, a[1] + (b[1] - a[1]) * distance / length


def arrowhead(points: Sequence[Point]) -> str:
    """The corners of an arrow's head at the end of a line."""
    (ax, ay), (x, y) = points[-2], points[-1]
    dx, dy = (0, _sign(y - ay)) if abs(y - ay) > abs(x - ax) else (_sign(x - ax), 0)
    half = _ARROW * 0.62
    back = (x - dx * _ARROW, y - dy * _ARROW)
    return (
        f"{x:.1f},{y:.1f} {back[0] - dy * half:.1f},{back[1] + dx * half:.1f} "
        f"{back[0] + dy * half:.1f},{back[1] - dx * half:.1f}"
    )
