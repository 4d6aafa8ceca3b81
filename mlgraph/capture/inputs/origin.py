"""Which library a live model belongs to, and what is needed to build it again."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlgraph.program import HuggingFaceOrigin, ModuleOrigin, Origin, TimmOrigin

if TYPE_CHECKING:
    from torch import nn


def is_huggingface(model: nn.Module) -> bool:
    """Whether ``model`` is a transformers model; imports nothing."""
    library = sys.modules.get("transformers.modeling_utils")
    return library is not None and isinstance(model, library.PreTrainedModel)


def is_timm(model: nn.Module) -> bool:
    """Whether ``model`` was made by ``timm.create_model``."""
    return isinstance(getattr(model, "pretrained_cfg", None), Mapping) and "timm" in sys.modules


def origin_of(model: nn.Module, path: str | os.PathLike[str] | None = None) -> Origin:
    """The origin of a live model; ``path`` is the file or directory that it was read from."""
    place = None if path is None else str(Path(path).resolve())
    if is_huggingface(model):
        config: Any = model.config
        return HuggingFaceOrigin(type(model).__name__, config.to_dict(), place)
    if is_timm(model):
        described: Any = model.pretrained_cfg
        return TimmOrigin(described.get("architecture", ""))
    return ModuleOrigin(f"{type(model).__module__}.{type(model).__qualname__}", place)
