"""Operators on programs, as frozen dataclasses whose fields are their command-line options.

The classes are imported when first used: ``from mlgraph.passes import Coalesce``.
"""

from __future__ import annotations

from typing import Any

from mlgraph.passes.registry import PASSES, load_pass

_CLASSES = {location.rpartition(":")[2]: name for name, location in PASSES.items()}


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_pass(_CLASSES[name])


def __dir__() -> list[str]:
    return sorted(_CLASSES)
