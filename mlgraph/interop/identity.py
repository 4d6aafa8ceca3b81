"""What a SOURCE is, told from its bytes and without loading it: the key under which a capture is kept."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlgraph.cache.sources import file_digest, key_of, tree_digest, versions
from mlgraph.errors import FileError

_LIBRARIES = ("torch", "transformers", "timm", "safetensors", "gguf")
_LONGEST_HEADER = 100 << 20
_SAVED = b'{"__metadata__":{"mlgraph":"'
OWN = Path(__file__).resolve().parents[1]
"""The folder of this package."""


@dataclass(frozen=True)
class OpenRequest:
    """A SOURCE and how it is to be opened, in the words of ``open_source``; ``inputs`` are still text."""

    source: str
    loss: bool = True
    inputs: tuple[str, ...] = ()
    module: str | None = None
    model: str | None = None
    trust: bool = False
    model_class: str | None = None


def source_key(request: OpenRequest, *code: Path) -> str | None:
    """The key of what opening a source gives, its weights' values left out.

    It is made of the configuration, names, shapes and dtypes of the weights, code that a directory brings,
    how it is opened, and the versions of Python, of the libraries and of this package's own source and that
    in the folders ``code``. None where a source is not there, or is of a kind that is not remembered.
    """
    found = _identity(request)
    if found is None:
        return None
    asked = {key: value for key, value in asdict(request).items() if key != "source"}
    own = [tree_digest(folder) for folder in (OWN, *code)]
    return key_of([found, asked, versions(*_LIBRARIES), own])


def require_source(source: str) -> None:
    """Raise FileError, with what may have been meant, where a source names a path that is not there."""
    scheme, colon, _ = source.partition(":")
    if (colon and scheme in _SCHEMES) or Path(source).exists():
        return
    hint = "check the path, or write timm:NAME for a timm model or hf:CONFIG.json for random weights"
    if _HUB_NAME.fullmatch(source) and Path(source).suffix not in _FILES:
        hint = f"{hint}; a model of the Hugging Face Hub is downloaded first, with hf download {source}"
    raise FileError(f"There is no file or directory {source}; {hint}.")


def is_saved(source: str) -> bool:
    """Whether a source is a file that mlgraph saved or a directory with one, which is read, not captured."""
    path = Path(source)
    try:
        if path.is_dir():
            return (path / "mlgraph.pt").is_file()
        with open(path, "rb") as file:
            return file.read(8 + len(_SAVED))[8:] == _SAVED
    except OSError:
        return False


def _identity(request: OpenRequest) -> dict[str, Any] | None:
    scheme, colon, rest = request.source.partition(":")
    found: dict[str, Any] | None
    if colon and scheme == "timm":
        found = {"timm": rest}
    elif colon and scheme == "hf":
        path = Path(rest)
        found = _digested(path / "config.json" if path.is_dir() else path)
    else:
        path = Path(request.source)
        found = _directory(path) if path.is_dir() else _digested(path)
        if found is not None:
            found["name"] = path.resolve().name if path.is_dir() else path.stem
    if found is None or request.model is None:
        return found
    file = Path(request.model.partition(".py:")[0] + ".py" if ".py:" in request.model else request.model)
    return {**found, "model": file_digest(file) if file.is_file() else None}


def _digested(path: Path) -> dict[str, Any] | None:
    digest = file_digest(path)
    return None if digest is None else {"file": digest}


def _directory(path: Path) -> dict[str, Any] | None:
    """A directory with a config.json; one with an adapter, whose base lies elsewhere, is not remembered."""
    config = file_digest(path / "config.json")
    if config is None or (path / "adapter_config.json").exists():
        return None
    code = {file.name: file_digest(file) for file in sorted(path.glob("*.py"))}
    weights = {file.name: _weights(file) for file in sorted(path.iterdir()) if file.suffix in _WEIGHTS}
    return {"config": config, "code": code, "weights": weights}


def _weights(path: Path) -> str | None:
    """The digest of the header of a safetensors file; of another kind, what stands for its bytes."""
    if path.suffix != ".safetensors":
        return file_digest(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return hashlib.sha256(file.read(min(length, _LONGEST_HEADER))).hexdigest()
    except OSError:
        return None


_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".gguf"})
_SCHEMES = ("timm", "hf")
_FILES = frozenset(
    {".pt", ".pt2", ".pth", ".bin", ".ckpt", ".pkl", ".safetensors", ".gguf", ".onnx", ".json"}
)
# as the Hub spells repositories: NAME or OWNER/NAME
_HUB_NAME = re.compile(r"[\w.-]*\w-[\w.-]*|[\w.-]+/[\w.-]+")
