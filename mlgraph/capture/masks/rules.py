"""What each op does to tensors that are known as functions of their indices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlgraph.capture.masks import logic, values, views

if TYPE_CHECKING:
    from mlgraph.capture.masks.reader import Rule

RULES: Mapping[Any, Rule] = {**views.RULES, **values.RULES, **logic.RULES}
