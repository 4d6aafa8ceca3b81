"""A diagram with positions: where each box lies and which way each edge takes, in pixels, y downwards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from mlgraph.view.box_sizes import Face, face
from mlgraph.view.layering import Layered, bend, layered

if TYPE_CHECKING:
    from mlgraph.view.diagram import Box, Diagram, Edge

_APART = 22.0
_GAP = 32.0
_FIRST_TRACK = 15.0
_TRACK = 7.0
_LANE = 14.0
_MARGIN = 14.0
_PORTS = 18.0
_ROUNDS = 24
_NEARLY = 40.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Placed:
    """A box with what is written on it, its centre ``x, y`` and its size."""

    box: Box
    face: Face
    x: float
    y: float

    @property
    def width(self) -> float:
        return self.face.width

    @property
    def height(self) -> float:
        return self.face.height


@dataclass(frozen=True)
class Route:
    """An edge as a line of horizontal and vertical pieces from its source to its target."""

    edge: Edge
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Picture:
    """A placed diagram; everything lies within ``width`` and ``height``."""

    name: str
    repeat: int
    boxes: tuple[Placed, ...]
    routes: tuple[Route, ...]
    width: float
    height: float


def arrange(diagram: Diagram) -> Picture:
    """Place a diagram's boxes and lead its edges."""
    return _Arrangement(layered(diagram)).picture()


class _Arrangement:
    def __init__(self, layered: Layered) -> None:
        self.layered = layered
        self.diagram = layered.diagram
        self.faces = {box.id: face(box) for box in self.diagram.boxes}
        self.boxes = {box.id: box for box in self.diagram.boxes}
        self.x = _across(layered, {id: found.width for id, found in self.faces.items()})
        self.stops = {place: self._stops(place) for place in range(len(self.diagram.edges))}
        self.ports = self._ports()
        self.lanes = self._lanes()
        self.tracks, self.top = self._down()

    def _stops(self, place: int) -> list[str]:
        edge, rank = self.diagram.edges[place], self.layered.rank
        if place in self.layered.bypasses:
            return [edge.source, edge.target]
        between = (bend(place, layer) for layer in range(rank[edge.source] + 1, rank[edge.target]))
        return [edge.source, *between, edge.target]

    def _ports(self) -> dict[int, float]:
        """Per edge, the x at which it enters its target from above."""
        into: dict[str, list[int]] = defaultdict(list)
        for place, edge in enumerate(self.diagram.edges):
            if place not in self.layered.bypasses or not self._enters_at_side(place):
                into[edge.target].append(place)
        ports: dict[int, float] = {}
        for id, places in into.items():
            places.sort(key=lambda place: self._from(place))
            circle = self.boxes[id].is_circle
            room = self.faces[id].width * (0.5 if circle else 0.76)
            step = min(_PORTS, room / max(len(places) - 1, 1))
            low, high = self.x[id] - room / 2, self.x[id] + room / 2
            wanted = [min(max(self._from(place), low), high) for place in places]
            if circle or len(places) == 1:
                wanted = [self.x[id]] * len(places)
            found = spaced(wanted, [1.0] * len(places), [step] * (len(places) - 1))
            last = len(places) - 1
            within = (min(max(x, low + n * step), high - (last - n) * step) for n, x in enumerate(found))
            ports.update(zip(places, within, strict=True))
        return ports

    def _from(self, place: int) -> float:
        if place in self.layered.bypasses:
            return float("inf")
        return self.x[self.stops[place][-2]]

    def _enters_at_side(self, place: int) -> bool:
        """Whether nothing lies between a bypass's target and the right margin, or it comes from below."""
        if self._leads_up(place):
            return True
        target = self.diagram.edges[place].target
        return self.layered.layers[self.layered.rank[target]][-1] == target

    def _leads_up(self, place: int) -> bool:
        """Whether an edge closes a circle, so that its target lies no lower than its source."""
        edge, rank = self.diagram.edges[place], self.layered.rank
        return rank[edge.target] <= rank[edge.source]

    def _lanes(self) -> dict[int, float]:
        """Per bypass, the x of its lane right of all that it passes; shorter ones lie further in."""
        rank = self.layered.rank
        right = [
            max(
                (self.x[id] + (self.faces[id].width / 2 if id in self.faces else 4.0) for id in row),
                default=0.0,
            )
            for row in self.layered.layers
        ]
        lanes: dict[int, float] = {}

        def span(place: int) -> tuple[int, int]:
            edge = self.diagram.edges[place]
            if self._leads_up(place):
                return rank[edge.target], rank[edge.source] + 1
            return rank[edge.source] + 1, rank[edge.target] + (1 if self._enters_at_side(place) else 0)

        for place in sorted(self.layered.bypasses, key=lambda p: (span(p)[1] - span(p)[0], span(p))):
            first, last = span(place)
            lane = max(right[first:last], default=0.0) + _LANE
            source = self.x[self.diagram.edges[place].source]
            lane = max(lane, source + _LANE)
            lanes[place] = lane
            for layer in range(first, last):
                right[layer] = lane
        return lanes

    def _down(self) -> tuple[dict[tuple[int, str], int], list[float]]:
        """Per (gap, line) the track of its horizontal piece, and the top of every layer.

        Lines from one source share a track, so that they part like branches.
        """
        wanted: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for place in range(len(self.diagram.edges)):
            for gap, key, a, b in self._horizontals(place):
                wanted[gap][key] += [a, b]
        tracks: dict[tuple[int, str], int] = {}
        counts: dict[int, int] = {}
        for gap, lines in wanted.items():
            ends: list[list[tuple[float, float]]] = []
            spans = {key: (min(xs), max(xs)) for key, xs in lines.items() if max(xs) - min(xs) > 0.5}
            for key, (low, high) in sorted(spans.items(), key=lambda item: item[1][1] - item[1][0]):
                free = (
                    n for n, taken in enumerate(ends) if all(high + 6 < a or b + 6 < low for a, b in taken)
                )
                number = next(free, len(ends))
                if number == len(ends):
                    ends.append([])
                ends[number].append((low, high))
                tracks[gap, key] = number
            counts[gap] = len(ends)
        tops, y = [], _MARGIN
        for layer, row in enumerate(self.layered.layers):
            if layer:
                y += _GAP + _TRACK * max(counts.get(layer - 1, 1) - 1, 0)
            tops.append(y)
            y += self._height(row)
        return tracks, tops

    def _height(self, row: Sequence[str]) -> float:
        return max((self.faces[id].height for id in row if id in self.faces), default=0.0)

    def _horizontals(self, place: int) -> list[tuple[int, str, float, float]]:
        """The horizontal pieces of an edge in the gaps below layers: (gap, line, from x, to x)."""
        edge, rank = self.diagram.edges[place], self.layered.rank
        if self._leads_up(place):
            return []
        if place in self.lanes:
            found = [(rank[edge.source], edge.source, self.x[edge.source], self.lanes[place])]
            if place in self.ports:
                found.append((rank[edge.target] - 1, f"lane{place}", self.lanes[place], self.ports[place]))
            return found
        xs = [self.x[id] for id in self.stops[place][:-1]] + [self.ports[place]]
        return [
            (rank[edge.source] + step, edge.source if not step else f"edge{place}", xs[step], xs[step + 1])
            for step in range(len(xs) - 1)
        ]

    def picture(self) -> Picture:
        placed = {
            id: Placed(self.boxes[id], found, self.x[id], self._middle(id))
            for id, found in self.faces.items()
        }
        routes = [Route(edge, self._points(place, placed)) for place, edge in enumerate(self.diagram.edges)]
        ways = [x for route in routes for x, _ in route.points]
        left = min([p.x - p.width / 2 for p in placed.values()] + ways, default=0.0)
        right = max([p.x + p.width / 2 for p in placed.values()] + ways, default=0.0)
        shift = _MARGIN - left
        height = self.top[-1] + self._height(self.layered.layers[-1]) + _MARGIN if self.top else 2 * _MARGIN
        return Picture(
            self.diagram.name,
            self.diagram.repeat,
            tuple(replace(found, x=found.x + shift) for found in placed.values()),
            tuple(replace(route, points=tuple((x + shift, y) for x, y in route.points)) for route in routes),
            right - left + 2 * _MARGIN,
            height,
        )

    def _middle(self, id: str) -> float:
        layer = self.layered.rank[id]
        return self.top[layer] + self._height(self.layered.layers[layer]) / 2

    def _points(self, place: int, placed: Mapping[str, Placed]) -> tuple[Point, ...]:
        edge = self.diagram.edges[place]
        source, target = placed[edge.source], placed[edge.target]
        if self._leads_up(place):
            start, end = source.x + source.width / 2, target.x + target.width / 2
            lane = self.lanes[place]
            return ((start, source.y), (lane, source.y), (lane, target.y), (end, target.y))
        points: list[Point] = [(source.x, source.y + source.height / 2)]
        for gap, key, a, b in self._horizontals(place):
            y = self._track_y(gap, key)
            points += [(a, y), (b, y)]
        if place in self.lanes and place not in self.ports:
            points += [(self.lanes[place], target.y), (target.x + target.width / 2, target.y)]
        else:
            points.append((self.ports[place], _upper_edge(target, self.ports[place])))
        return _plain(points)

    def _track_y(self, gap: int, key: str) -> float:
        bottom = self.top[gap] + self._height(self.layered.layers[gap])
        room = self.top[gap + 1] - bottom
        number = self.tracks.get((gap, key), 0)
        return bottom + _FIRST_TRACK + number * _TRACK if room > 0 else bottom


def _upper_edge(box: Placed, x: float) -> float:
    if not box.box.is_circle:
        return box.y - box.height / 2
    radius = box.width / 2
    across = min(abs(x - box.x), radius)
    return box.y - float((radius**2 - across**2) ** 0.5)


def _plain(points: Sequence[Point]) -> tuple[Point, ...]:
    """Points without those that lie on a straight line between their neighbours."""
    kept: list[Point] = []
    for point in points:
        if kept and abs(kept[-1][0] - point[0]) < 0.01 and abs(kept[-1][1] - point[1]) < 0.01:
            continue
        while len(kept) > 1 and _straight(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    return tuple(kept)


def _straight(a: Point, b: Point, c: Point) -> bool:
    return (abs(a[0] - b[0]) < 0.01 and abs(b[0] - c[0]) < 0.01) or (
        abs(a[1] - b[1]) < 0.01 and abs(b[1] - c[1]) < 0.01
    )


def _across(layered: Layered, widths: Mapping[str, float]) -> dict[str, float]:
    """The x of everything: near the mean of its neighbours, in order, without overlap."""
    near: dict[str, list[str]] = defaultdict(list)
    for place, edge in enumerate(layered.diagram.edges):
        if place in layered.bypasses:
            continue
        rank = layered.rank
        stops = [
            edge.source,
            *(bend(place, layer) for layer in range(rank[edge.source] + 1, rank[edge.target])),
            edge.target,
        ]
        for a, b in pairwise(stops):
            near[a].append(b)
            near[b].append(a)
    x: dict[str, float] = {}
    for row in layered.layers:
        at = 0.0
        for id in row:
            at += widths.get(id, 8.0) / 2
            x[id] = at
            at += widths.get(id, 8.0) / 2 + _APART
        for id in row:
            x[id] -= (at - _APART) / 2
    for turn in range(_ROUNDS):
        rows = layered.layers if turn % 2 == 0 else layered.layers[::-1]
        for row in rows:
            wanted = [sum(x[n] for n in near[id]) / len(near[id]) if near[id] else x[id] for id in row]
            weights = [float(len(near[id]) or 1) * (3.0 if id not in widths else 1.0) for id in row]
            apart = [(widths.get(a, 8.0) + widths.get(b, 8.0)) / 2 + _APART for a, b in pairwise(row)]
            x.update(zip(row, spaced(wanted, weights, apart), strict=True))
    _straighten(layered, x, near, widths)
    return x


def _straighten(
    layered: Layered, x: dict[str, float], near: Mapping[str, Sequence[str]], widths: Mapping[str, float]
) -> None:
    """Put what has one neighbour above (or, having none there, one below) under it if it nearly is."""
    layer = {id: number for number, row in enumerate(layered.layers) for id in row}
    for downwards in (True, False):
        rows = layered.layers if downwards else layered.layers[::-1]
        for row in rows:
            wanted, weights = [], []
            for id in row:
                above = [other for other in near[id] if layer[other] < layer[id]]
                below = [other for other in near[id] if layer[other] > layer[id]]
                guides = above if downwards else below if not above else []
                reach = float("inf") if downwards and not below else _NEARLY
                close = len(guides) == 1 and abs(x[guides[0]] - x[id]) < reach
                wanted.append(x[guides[0]] if close else x[id])
                weights.append(1000.0 if close else 1.0)
            apart = [(widths.get(a, 8.0) + widths.get(b, 8.0)) / 2 + _APART / 2 for a, b in pairwise(row)]
            x.update(zip(row, spaced(wanted, weights, apart), strict=True))


def spaced(wanted: Sequence[float], weights: Sequence[float], apart: Sequence[float]) -> list[float]:
    """The positions nearest to those ``wanted`` (in weighted squares) that stay ``apart``, in order.

    Neighbours that would come too close are pooled and placed together.
    """
    if not wanted:
        return []
    offsets = [0.0]
    for distance in apart:
        offsets.append(offsets[-1] + distance)
    pools: list[tuple[float, float, int]] = []
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, total, count = want - offset, weight, 1
        while pools and pools[-1][0] > mean:
            other, more, members = pools.pop()
            mean = (mean * total + other * more) / (total + more)
            total, count = total + more, count + members
        pools.append((mean, total, count))
    means = [mean for mean, _, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]
