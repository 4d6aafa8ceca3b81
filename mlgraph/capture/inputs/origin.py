"""Which library a live model belongs to, and what is needed to build it again."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import nn


def is_huggingface(model: nn.Module) -> bool:
    """Whether ``model`` is a transformers model; imports nothing."""
    library = sys.modules.get("transformers.modeling_utils")
    return library is not None and isinstance(model, library.PreTrainedModel)


def is_timm(model: nn.Module) -> bool:
    """Whether ``model`` was made by ``timm.create_model``."""
    return isinstance(getattr(model, "pretrained_cfg", None), Mapping) and "timm" in sys.modules


def describe_origin(model: nn.Module, /, **facts: Any) -> dict[str, Any]:
    """What ``Program.origin`` says of a live model: plain values that can be saved.

    ``kind`` is ``"huggingface"`` (with ``class``, ``config``), ``"timm"`` (with ``model``) or
    ``"module"`` (with ``class``); ``facts``, such as a path or keyword arguments, are added as they are.
    """
    if is_huggingface(model):
        known = {"kind": "huggingface", "class": type(model).__name__, "config": model.config.to_dict()}  # type: ignore[operator, union-attr]
    elif is_timm(model):
        known = {"kind": "timm", "model": getattr(model, "pretrained_cfg", {}).get("architecture", "")}
    else:
        known = {"kind": "module", "class": f"{type(model).__module__}.{type(model).__qualname__}"}
    return {**known, **facts}
