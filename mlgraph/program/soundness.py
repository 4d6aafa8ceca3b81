"""What a trial of a program's axes showed, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlgraph.program.axis_table import Reason


@dataclass(frozen=True)
class Soundness:
    """Why axes must not change, by id; ``unchecked`` says why nothing was tried, if so."""

    faults: Mapping[str, Reason] = field(default_factory=dict)
    unchecked: str = ""
