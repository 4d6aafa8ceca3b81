"""What a model returns, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


def by_name(result: Any) -> Mapping[str, Any]:
    """The entries of a model's result: a mapping's, a dataclass's, or those of a tuple by position.

    A bare tensor is the one entry ``output``.
    """
    if isinstance(result, Mapping):
        return result
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if isinstance(result, tuple | list):
        names = getattr(result, "_fields", map(str, range(len(result))))
        return dict(zip(names, result, strict=True))
    return {"output": result}
