"""What can be chosen about how indices are grouped, and about what becomes of a group."""

from __future__ import annotations

from typing import Literal

Placement = Literal["adjacent", "halves"]
Pairing = Literal["adjacent", "halves", "similarity"]
Tied = Literal["exact", "paper"]
DepthMode = Literal["copy", "scaled", "identity"]
