"""What each op does to tensors that are known as functions of their indices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlgraph.capture.masks import arithmetic, logic, rearranging

if TYPE_CHECKING:
    from mlgraph.capture.masks.reader import MaskRule

RULES: Mapping[Any, MaskRule] = {**rearranging.RULES, **arithmetic.RULES, **logic.RULES}
