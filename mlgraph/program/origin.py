"""Origins: the library that a program's model belongs to, and what is needed to make the model again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class HuggingFaceOrigin:
    """A transformers model: its class and config, plain values.

    ``path`` is the directory that holds its weights, tokenizer and the rest; ``config_path`` the config from
    which it was made with random weights. ``rescales`` says of a program whose weights lie in such a
    directory which of them are not the program's own: a stored tensor w is ``factor * (v + shift) - shift``
    of the program's v, for ``(factor, shift)`` by name.
    """

    model_class: str
    config: Mapping[str, Any]
    path: str | None = None
    config_path: str | None = None
    rescales: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class TimmOrigin:
    """What ``timm.create_model(model, **kwargs)`` made."""

    model: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModuleOrigin:
    """A module of a class of the user's own, by its qualified name; ``path`` is the file that held it."""

    model_class: str
    path: str | None = None


Origin = HuggingFaceOrigin | TimmOrigin | ModuleOrigin
