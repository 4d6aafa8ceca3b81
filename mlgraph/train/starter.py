"""A first run to change: a configuration with every field explained, a small model, and some data."""

from __future__ import annotations

import gzip
import json
import struct
import sysconfig
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlgraph.errors import suggestion
from mlgraph.files import write_bytes, write_text
from mlgraph.passes.options import FieldHelp, reference
from mlgraph.train.config import Config
from mlgraph.train.errors import TrainError

_TEXT_BYTES = 400_000
_VOCABULARY, _SEQUENCE, _SIZE = 1024, 64, 16
_IMAGES, _CLASSES = 512, 3

_TEXT_DATA = {
    "data.train": ["text.txt"],
    "data.tokenizer": f"bpe:{_VOCABULARY}",
    "data.sequence": _SEQUENCE,
}
_IMAGE_DATA = {
    "data.train": ["train-images-idx3-ubyte.gz"],
    "data.image_size": _SIZE,
    "data.channels": 1,
}
_SMALL = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}

# Per task, the model's configuration, and the fields that its data needs.
TASKS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "causal-lm": (
        {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": _VOCABULARY,
            "n_positions": _SEQUENCE,
            "n_layer": 4,
            "n_embd": 64,
            "n_head": 4,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        _TEXT_DATA,
    ),
    "masked-lm": (
        {
            "model_type": "bert",
            "architectures": ["BertForMaskedLM"],
            "vocab_size": _VOCABULARY,
            "max_position_embeddings": _SEQUENCE,
            "pad_token_id": 1,
            **_SMALL,
        },
        _TEXT_DATA,
    ),
    "image-classification": (
        {
            "model_type": "vit",
            "architectures": ["ViTForImageClassification"],
            "image_size": _SIZE,
            "patch_size": 4,
            "num_channels": 1,
            "id2label": {str(n): f"stripes {n}" for n in range(_CLASSES)},
            "label2id": {f"stripes {n}": n for n in range(_CLASSES)},
            **_SMALL,
        },
        _IMAGE_DATA,
    ),
}
"""Tasks for which there is a first run."""

_CHOSEN = {
    "model": "hf:config.json",
    "out": "runs/first",
    "recipe.kind": "vcycle",
    "recipe.steps": 200,
    "recipe.init_steps": 10,
    "recipe.coarse_steps": 100,
    "recipe.depth": 2,
    "recipe.width": 2,
    "recipe.alpha": 0.5,
    "run.optimizer.lr": 2e-3,
    "run.schedule.warmup": 20,
    "run.schedule.rewarm": 10,
}
_WIDE = 78


def write_starter(task: str, config: Path) -> list[Path]:
    """Write a first run for a task: ``config``, and beside it ``config.json`` and data; the files written.

    As it stands it takes a minute or two on two cores. Text is the source of Python's standard library,
    images are stripes. Raises ``TrainError`` for a task that has none, and where a file is there already.
    """
    if task not in TASKS:
        hint = suggestion(task, TASKS, "there is one for {}.")
        raise TrainError(f"There is no first run for the task {task!r}: {hint}")
    model, data = TASKS[task]
    files: dict[Path, bytes] = {
        config: _toml({**_CHOSEN, "data.task": task, **data}).encode(),
        config.with_name("config.json"): (json.dumps(model, indent=2) + "\n").encode(),
    }
    made = _stripes() if data is _IMAGE_DATA else {"text.txt": _library().encode()}
    files |= {config.with_name(name): content for name, content in made.items()}
    for path in files:
        if path.exists():
            raise TrainError(f"{path} is there already: move it, or name another file in another folder.")
    for path, content in files.items():
        write_bytes(path, content) if path.suffix == ".gz" else write_text(path, content.decode())
    return list(files)


def write_configuration(chosen: Mapping[str, Any], path: Path) -> None:
    """Write a configuration in which these fields are chosen and all others explained.

    Raises:
        TrainError: there is a file already.
    """
    if path.exists():
        raise TrainError(f"{path} is there already: move it, or name another file.")
    write_text(path, _toml(chosen))


def _toml(chosen: Mapping[str, Any]) -> str:
    """Every field with its help above it: those that are chosen with their values, others commented out."""
    lines = ["# A run of mlgraph train. Fields that are commented out stand at their defaults."]
    section = ""
    # keys behind a section's head would belong to it
    for field in sorted(reference(Config), key=lambda field: "." in field.name):
        head, _, name = field.name.rpartition(".")
        if head != section:
            section = head
            lines += ["", f"[{section}]"]
        lines += ["", *textwrap.wrap(field.help, _WIDE, initial_indent="# ", subsequent_indent="# ")]
        lines += [_line(name, field, chosen)]
    return "\n".join(lines) + "\n"


def _line(name: str, field: FieldHelp, chosen: Mapping[str, Any]) -> str:
    if field.name in chosen:
        return f"{name} = {json.dumps(chosen[field.name])}"
    default = field.default if field.default not in (None, "nothing") else f"({field.type})"
    return f"# {name} = {default}"


def _library() -> str:
    folder, found, size = Path(sysconfig.get_path("stdlib")), [], 0
    for path in sorted(folder.glob("*.py")):
        found.append(path.read_text(encoding="utf-8", errors="replace"))
        size += len(found[-1])
        if size > _TEXT_BYTES:
            break
    return "\n\n".join(found)


def _stripes() -> dict[str, bytes]:
    """Grey images of stripes that lie, stand or slant, with some noise, and their classes, as idx files."""
    import numpy as np

    draw = np.random.default_rng(0)
    labels = draw.integers(_CLASSES, size=_IMAGES).astype(np.uint8)
    rows, columns = np.mgrid[:_SIZE, :_SIZE]
    slopes = np.array([[1, 0], [0, 1], [1, 1]])[labels]
    waves = (
        slopes[:, :1, None] * rows + slopes[:, 1:, None] * columns + draw.integers(4, size=(_IMAGES, 1, 1))
    )
    images = np.where(waves // 2 % 2 == 0, 200, 50) + draw.integers(-40, 40, size=waves.shape)
    return dict(_idx("images-idx3", images.astype(np.uint8))) | dict(_idx("labels-idx1", labels))


def _idx(kind: str, values: Any) -> Iterator[tuple[str, bytes]]:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    yield f"train-{kind}-ubyte.gz", gzip.compress(header + values.tobytes(), mtime=0)
