"""What can be chosen about how indices are grouped, and how a group goes down and comes back."""

from __future__ import annotations

from typing import Literal

Placement = Literal["adjacent", "halves"]
Pairing = Literal["adjacent", "halves", "similarity"]
Tied = Literal["exact", "paper"]
DepthMode = Literal["copy", "scaled", "identity", "random"]
Reduce = Literal["mean", "select"]
Extend = Literal["copy", "pad"]
Score = Literal["position", "norm", "activation", "taylor", "influence"]
