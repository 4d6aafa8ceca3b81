"""Which transformers class a task needs of a model whose own class is the trunk alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlgraph.errors import FileError
from mlgraph.interop.load import read_config
from mlgraph.program import HuggingFaceOrigin

if TYPE_CHECKING:
    from mlgraph.program import Program

_MAPPINGS = {
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "text-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
}


def class_with_head(source: str | os.PathLike[str], task: str) -> str | None:
    """The class with the head that ``task`` needs, for a transformers directory or ``hf:`` configuration that
    names a class without one.

    None for other sources, for a class that has a head, and where a directory holds a program that mlgraph
    wrote for another class. Raises ``FileError`` where transformers has no class with such a head.
    """
    config = _config_of(os.fspath(source))
    if config is None or "auto_map" in config or "model_type" not in config:
        return None
    import transformers

    known: Any = transformers.CONFIG_MAPPING
    if config["model_type"] not in known:
        return None
    kind = known[config["model_type"]]
    own = (config.get("architectures") or [None])[0]
    if own not in {None, *_names(transformers.MODEL_MAPPING, kind)}:
        return None
    fitting = _names(getattr(transformers, _MAPPINGS[task]), kind)
    if not fitting:
        raise FileError(
            f"transformers has no class for {task} of model type {config['model_type']}, which {source} is: "
            "choose another task or model."
        )
    return fitting[0]


def task_of(program: Program) -> str | None:
    """The task of a transformers program: that of its head, or of the head that its trunk is made for.

    None for other programs, and where no task of ``mlgraph train`` is meant.
    """
    origin = program.origin
    if not isinstance(origin, HuggingFaceOrigin):
        return None
    from transformers.models.auto import modeling_auto

    named = {task: getattr(modeling_auto, f"{mapping}_NAMES") for task, mapping in _MAPPINGS.items()}
    own = next((task for task, names in named.items() if origin.model_class in names.values()), None)
    kind = origin.config.get("model_type")
    # a model that writes from what it reads is for that; an encoder has a head for masks, a decoder has none
    order = ("seq2seq", "masked-lm", "causal-lm", "image-classification")
    return own or next((task for task in order if kind in named[task]), None)


def _config_of(source: str) -> dict[str, Any] | None:
    path = Path(source.removeprefix("hf:"))
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file() or (file == path and not source.startswith("hf:")):
        return None
    return read_config(file)


def _names(mapping: Any, kind: type) -> list[str]:
    """Names of the classes that an automatic class takes for a configuration class."""
    if kind not in mapping:
        return []
    found = mapping[kind]
    return [cls.__name__ for cls in (found if isinstance(found, tuple | list) else (found,))]
