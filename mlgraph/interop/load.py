"""Live models from directories, configurations and names, with their origins."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlgraph.capture.inputs.origin import origin_of
from mlgraph.errors import CaptureError, FileError, MlgraphError, first_line, suggestion
from mlgraph.interop.hollow import bring
from mlgraph.program import HuggingFaceOrigin, Note, Origin, TimmOrigin

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Built:
    """A live model, its origin, what is to be told about it, and its name where that is not its class's."""

    model: Any
    origin: Origin
    name: str = ""
    notes: tuple[Note, ...] = ()


def huggingface_directory(path: Path, *, trust: bool = False, model_class: str | None = None) -> Built:
    """The transformers model saved in a directory, in the class ``model_class`` or that its config names.

    Weights that the files lack are named in its notes. Raises FileError where some do not fit.
    """
    config = read_config(path / "config.json")
    if config.get("auto_map") and not trust:
        raise FileError(
            f"{path} brings its own model code, which loading would run; "
            "pass --trust if you know who wrote it."
        )
    loader: Any = _architecture(_of_class(config, model_class), path / "config.json")
    with quiet_transformers():
        try:
            model, report = loader.from_pretrained(
                path,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # which are named below
                local_files_only=True,
                trust_remote_code=trust,
            )
        except MlgraphError:
            raise
        except Exception as error:  # whatever transformers raises on a damaged directory
            raise FileError(
                f"{path} could not be loaded by {loader.__name__}: {first_line(error)}."
            ) from error
    if differ := sorted(report["mismatched_keys"]):
        (name, has, wanted), more = differ[0], len(differ) - 1
        others = f", and {more} more weights that do not fit" if more else ""
        raise FileError(
            f"{path} has {list(has)} for {name}, where {loader.__name__} of its config.json has "
            f"{list(wanted)}{others}; give the weights and the config.json of one model."
        )
    if config.get("auto_map"):
        bring(type(model))
    notes = (
        *_named("weights missing in the files, so left at random", report["missing_keys"]),
        *_named("weights in the files that the model does not have", report["unexpected_keys"]),
    )
    return Built(model, origin_of(model, path), path.resolve().name, notes)


def bring_own_class(path: Path) -> None:
    """Load the class that a directory's own code defines, if it has such, so that it is found by its name.

    Raises FileError where the code does not run.
    """
    config = read_config(path / "config.json")
    names = config.get("architectures") or []
    for key, reference in (config.get("auto_map") or {}).items():
        if not key.startswith("AutoModel") or str(reference).rpartition(".")[2] not in names:
            continue
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        try:
            bring(get_class_from_dynamic_module(reference, str(path), local_files_only=True))
        except Exception as error:  # a directory's own code raises anything
            raise FileError(f"the code of {path} does not give {reference}: {first_line(error)}.") from error
        return


def huggingface_random(path: Path, *, model_class: str | None = None) -> Built:
    """The transformers model of a config.json, or of a directory with one, with random weights.

    Its class is ``model_class`` or the one that the config names.
    """
    if path.is_dir():
        path = path / "config.json"
    config = read_config(path)
    loader: Any = _architecture(_of_class(config, model_class), path)
    import transformers

    with quiet_transformers():
        try:
            if hasattr(loader, "config_class") and loader.config_class is not None:
                model = loader(loader.config_class.from_dict(config))
            else:
                model = loader.from_config(transformers.AutoConfig.from_pretrained(path.parent))
        except Exception as error:  # whatever a configuration class makes of wrong values
            raise FileError(f"{path} does not make a model: {first_line(error)}.") from error
    return Built(
        model,
        HuggingFaceOrigin(type(model).__name__, model.config.to_dict(), config_path=str(path.resolve())),
    )


def timm_model(text: str) -> Built:
    """The timm model ``NAME,key=value,…`` with random weights, unless ``pretrained=true`` or a
    ``checkpoint_path`` is among its keys."""
    name, *pairs = _split(text)
    kwargs = dict(_pair(pair, text) for pair in pairs)
    try:
        import timm
    except ImportError:
        raise CaptureError('timm is not installed; run pip install "mlgraph[timm]".') from None
    known = timm.list_models()
    if name.split(".")[0] not in known:
        hint = suggestion(name, known, "timm.list_models() lists them.")
        raise CaptureError(f"timm has no model {name!r}; {hint}")
    try:
        model: nn.Module = timm.create_model(name, **kwargs)
    except Exception as error:  # whatever a model's constructor makes of wrong arguments
        raise CaptureError(f"timm could not make {text!r}: {first_line(error)}.") from error
    return Built(model, TimmOrigin(name, kwargs), name)


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a model's config file. Raises FileError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        where = f"{path.parent} has no config.json" if path.name == "config.json" else f"There is no {path}"
        raise FileError(f"{where}; give a Hugging Face model directory or its config file.") from None
    except OSError as error:
        raise FileError(f"{path} could not be read: {(error.strerror or str(error)).lower()}.") from None
    except ValueError as error:
        raise FileError(f"{path} is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise FileError(f"{path} is not a model configuration: it holds no JSON object.")
    return config


def _of_class(config: dict[str, Any], model_class: str | None) -> dict[str, Any]:
    return config if model_class is None else {**config, "architectures": [model_class]}


def _architecture(config: dict[str, Any], path: Path) -> type:
    """The class in ``architectures``, or the automatic one where there is none."""
    import transformers

    names = config.get("architectures") or []
    if config.get("auto_map") or not names:
        if "model_type" not in config:
            raise FileError(f"{path} names neither architectures nor model_type; add one.")
        brought = [key for key in config.get("auto_map") or {} if key.startswith("AutoModel")]
        # a bare AutoModel is made from any configuration; another is asked for where only it is known
        automatic = "AutoModel" if not brought or "AutoModel" in brought else brought[0]
        return getattr(transformers, automatic)  # type: ignore[no-any-return]
    found = getattr(transformers, str(names[0]), None)
    if found is None:
        raise FileError(
            f"transformers {transformers.__version__} has no class {names[0]!r}, which {path} asks for; "
            "install a version that has it."
        )
    return found  # type: ignore[no-any-return]


class quiet_transformers:
    """transformers' own progress bars and loading reports off: what matters is returned as notes."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._verbosity = logging.get_verbosity()
        self._bars = logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()

    def __exit__(self, *exception: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._verbosity)
        if self._bars:
            logging.enable_progress_bar()


def _named(what: str, keys: Iterable[Any], most: int = 4) -> list[Note]:
    names = sorted(key if isinstance(key, str) else str(key[0]) for key in keys)
    if not names:
        return []
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return [Note("weights", f"{what}: {', '.join(names[:most])}{rest}")]


def _split(text: str) -> list[str]:
    """Comma-separated parts; commas inside brackets do not separate."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _pair(text: str, whole: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise CaptureError(f"{text!r} in {whole!r} is not key=value; write for example timm:NAME,depth=4.")
    try:
        return key, json.loads(value.replace("(", "[").replace(")", "]"))
    except ValueError:
        plain = {"True": True, "False": False, "None": None}
        return key, plain.get(value, value)
