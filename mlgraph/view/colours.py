"""The colours of axes, on white and on black, and the strokes that tell fates apart without colour."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlgraph.program.families import Family

_LIGHT = ("#1f5fa8", "#c2491d", "#1b7f5c", "#8a4fa3", "#a06a00", "#0b7d8c", "#b0306a", "#5d6b1f")
_DARK = ("#74b3ff", "#ff9568", "#5ad2a4", "#d2a0ea", "#ebb850", "#58d0e2", "#ff8ab8", "#bccb70")
FROZEN = ("#6d7278", "#9aa1a8")
DASHES = {"coarsenable": None, "kept": "6 2.5", "frozen": "1.5 2.5"}
"""Dash patterns per fate: an axis that is kept is dashed, a frozen one dotted."""


def colours(families: Iterable[Family]) -> list[tuple[str, str]]:
    """Per family its colour on white and on black; frozen ones are grey."""
    found: list[tuple[str, str]] = []
    free = 0
    for family in families:
        if family.fate == "frozen":
            found.append(FROZEN)
            continue
        found.append((_LIGHT[free], _DARK[free]) if free < len(_LIGHT) else _further(free))
        free += 1
    return found


def _further(number: int) -> tuple[str, str]:
    """Hues a golden angle apart."""
    hue = (number * 0.381966) % 1.0
    return _hex(hue, 0.36, 0.6), _hex(hue, 0.72, 0.75)


def _hex(hue: float, lightness: float, saturation: float) -> str:
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
