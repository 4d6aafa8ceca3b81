"""Several programs in one drawing: which of their axes are the same, and the colour of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlgraph.view.box_sizes import face
from mlgraph.view.colours import DASHES, colours

if TYPE_CHECKING:
    from mlgraph.program.families import Family
    from mlgraph.view.diagram import View


@dataclass(frozen=True)
class DrawnProgram:
    """One of the programs drawn: its view, what it is called there, and the places of its families.

    Families that share an axis, in whichever programs, have the same place.
    """

    view: View
    label: str
    places: tuple[int, ...]


def sides(views: Mapping[str, View]) -> list[DrawnProgram]:
    """The programs of views by label: a family of a later one has the place of its likeness."""
    by_axis: dict[str, int] = {}
    found: list[DrawnProgram] = []
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
        found.append(DrawnProgram(view, label, tuple(places)))
    return found


def palette(found: Sequence[DrawnProgram]) -> list[tuple[str, str]]:
    """Per place its colour on white and on black."""
    first: dict[int, Family] = {}
    for side in found:
        for place, family in zip(side.places, side.view.families, strict=True):
            first.setdefault(place, family)
    return colours(first[place] for place in sorted(first))


@dataclass(frozen=True)
class LegendEntry:
    """What a legend says of the axes at one place.

    ``sizes`` are those of the programs in turn, ``count`` says how many axes of the first program are alike,
    ``slots`` where they occur in it, as (tensor, dim, role).
    """

    place: int
    family: Family
    sizes: tuple[int, ...]
    count: int
    slots: tuple[tuple[str, int, str], ...]

    @property
    def size_text(self) -> str:
        """``"768 → 384 ×12"``."""
        many = f" ×{self.count}" if self.count > 1 else ""
        return " → ".join(f"{size:,}" for size in self.sizes) + many

    @property
    def fate_text(self) -> str:
        """``"frozen: it indexes a lookup table"``."""
        return f"{self.family.fate}: {self.family.reason}" if self.family.reason else self.family.fate


def legend(found: Sequence[DrawnProgram]) -> list[LegendEntry]:
    """An entry for each place that something drawn shows; what may be coarsened comes first."""
    shown = dict.fromkeys(side.places[family] for side in found for family in _drawn(side.view))
    entries = []
    for place in shown:
        members = [
            (side.view.families[number], side.view.slots[number])
            for side in found
            for number, own in enumerate(side.places)
            if own == place
        ]
        family, slots = members[0]
        sizes = tuple(dict.fromkeys(family.size for family, _ in members))
        entries.append(LegendEntry(place, family, sizes, len(family.ids), slots))
    return sorted(entries, key=lambda entry: list(DASHES).index(entry.family.fate))


def _drawn(view: View) -> list[int]:
    """The families written on boxes that compute or carried by edges, in the order of the table."""
    places: set[int | None] = set()
    for diagram in (view.overview, *view.parts.values()):
        for edge in diagram.edges:
            places.update(edge.families)
        for box in diagram.boxes:
            if box.kind not in ("input", "output", "side"):
                places.update(piece.family for line in face(box).lines for piece in line.pieces)
    return sorted(place for place in places if place is not None)
