"""GGUF files, which llama.cpp reads: opened as the transformers model that they hold."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any

import torch

from mlgraph.capture.inputs.origin import origin_of
from mlgraph.errors import FileError, MlgraphError, first_line
from mlgraph.interop.load import Built, quiet_transformers
from mlgraph.program import Note

SUFFIX = ".gguf"


def gguf_model(path: Path) -> Built:
    """The transformers model in a GGUF file, its weights dequantized to float32.

    Which class it is follows from the file's own metadata, by transformers' tables. Raises ``FileError``
    where transformers has no class for it and where the file is damaged.
    """
    require_gguf(path)
    import transformers

    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    with quiet_transformers():
        try:
            config: Any = transformers.AutoConfig.from_pretrained(path.parent, **where)
            loader = _loader(config)
            # a bar that transformers draws wherever it goes
            with contextlib.redirect_stderr(io.StringIO()):
                model: Any = loader.from_pretrained(path.parent, dtype=torch.float32, **where)
        except MlgraphError:
            raise
        except Exception as error:  # whatever gguf and transformers make of a damaged or unknown file
            raise FileError(f"{path} could not be loaded by transformers: {first_line(error)}.") from error
    # what is written from here on is not quantized
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    return Built(model, origin_of(model, path), path.stem, _dequantized(path))


def carry_tokenizer(path: Path, folder: Path) -> list[str]:
    """Write the tokenizer that a GGUF file holds into ``folder``; a note where it could not be read."""
    import transformers

    with quiet_transformers():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            tokenizer.save_pretrained(folder)
        except Exception as error:  # a file without a tokenizer, or with one that transformers cannot convert
            return [f"the tokenizer in {path.name} could not be converted: {first_line(error)}"]
    return []


def require_gguf(path: Path) -> None:
    """Raise FileError where llama.cpp's package ``gguf`` is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise FileError(f"{path} is a GGUF file, which needs the package gguf: pip install 'mlgraph[gguf]'.")


def _loader(config: Any) -> Any:
    """The automatic class with a language-model head for a configuration, or without where there is none."""
    import transformers

    heads = {
        transformers.AutoModelForCausalLM: transformers.MODEL_FOR_CAUSAL_LM_MAPPING,
        transformers.AutoModelForSeq2SeqLM: transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    }
    fitting = (loader for loader, known in heads.items() if type(config) in known)
    return next(fitting, transformers.AutoModel)


def _dequantized(path: Path) -> tuple[Note, ...]:
    from gguf import GGUFReader

    wide = {"F32", "F16", "BF16", "F64"}
    kinds = sorted({tensor.tensor_type.name for tensor in GGUFReader(path).tensors} - wide)
    return (Note("weights", f"dequantized from {', '.join(kinds)} to float32"),) if kinds else ()
