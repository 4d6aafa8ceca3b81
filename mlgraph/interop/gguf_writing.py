"""Programs of transformers decoders as GGUF files, which llama.cpp runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlgraph.errors import FileError
from mlgraph.files import atomic_write, file_errors
from mlgraph.interop.fitting.fit import NotExpressible
from mlgraph.interop.gguf import gguf_model, require_gguf
from mlgraph.interop.huggingface import to_huggingface
from mlgraph.interop.same_outputs import check_outputs, main_dtype

if TYPE_CHECKING:
    from mlgraph.program import Program

# Architectures whose tensors llama.cpp keeps as transformers does, but for rows of q and k of the first.
_KNOWN = ("llama", "qwen2", "qwen3")
_PAIRED_ROWS = {"llama": ("attn_q", "attn_k")}
_HEADS = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
_TYPES = {torch.float16: "F16", torch.bfloat16: "BF16"}
_INSTEAD = "write a Hugging Face directory, with -o DIR, and convert that with llama.cpp's own script"


def save_gguf(program: Program, path: str | os.PathLike[str]) -> None:
    """Write a program as a GGUF file: its configuration and its weights, matrices in the program's dtype.

    The file holds no tokenizer. It is read back by transformers, each tensor and the outputs are compared,
    and it appears at ``path`` only where they agree.

    Raises:
        NotExpressible: the class is none that can be written, or what is read back is another model.
        FileError: the package ``gguf`` is not installed, or the file cannot be written.
    """
    target = Path(path)
    require_gguf(target)
    model: Any = to_huggingface(program)
    config = model.config
    if config.model_type not in _KNOWN:
        raise NotExpressible(
            f"{type(model).__name__} is no class that mlgraph writes as GGUF ({', '.join(_KNOWN)}): "
            f"{_INSTEAD}."
        )
    with (
        file_errors(target, "be written"),
        tempfile.TemporaryDirectory(dir=target.resolve().parent) as folder,
    ):
        made = Path(folder) / "model.gguf"
        _write(made, config, dict(_named(model)), main_dtype(program))
        _check(program, model, made)
        with atomic_write(target) as file, open(made, "rb") as written:
            shutil.copyfileobj(written, file)


def _named(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a model by their names in GGUF, tied ones once."""
    import gguf

    config: Any = model.config
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[config.model_type], config.num_hidden_layers)
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise NotExpressible(f"GGUF has no name for {name} of {type(model).__name__}: {_INSTEAD}.")
        part = found.split(".")[-2]
        value = tensor.detach()
        if part in _PAIRED_ROWS.get(config.model_type, ()):
            value = _interleaved(value, getattr(config, _HEADS[part]))
        yield found, value


def _interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a rotary projection with the halves of each head interleaved, as llama.cpp pairs them."""
    halves: torch.Tensor = rows.unflatten(0, (heads, 2, -1))  # type: ignore[no-untyped-call]
    return halves.transpose(1, 2).reshape(rows.shape)


def _write(path: Path, config: Any, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, config.model_type)
    _describe(writer, config)
    wide = gguf.GGMLQuantizationType[_TYPES.get(dtype, "F32")]
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[wide.name]])
    for name, tensor in tensors.items():
        # llama.cpp wants gains and biases in float32
        kind = wide if tensor.dim() > 1 else gguf.GGMLQuantizationType.F32
        data = gguf.quantize(tensor.float().contiguous().numpy(), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16"}


def _describe(writer: Any, config: Any) -> None:
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise NotExpressible(
            f"rotary scaling of type {rope['rope_type']} is not written as GGUF: {_INSTEAD}."
        )
    if config.hidden_act not in ("silu", "swish"):
        raise NotExpressible(f"GGUF takes {config.hidden_act} for silu in {config.model_type}: {_INSTEAD}.")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")


def _check(program: Program, model: nn.Module, path: Path) -> None:
    """Read the file back and compare tensors and outputs."""
    try:
        read = gguf_model(path).model
    except FileError as error:
        raise NotExpressible(f"transformers does not read it back as GGUF ({error}): {_INSTEAD}.") from error
    expected, found = model.state_dict(), read.state_dict()
    for name in sorted(expected.keys() | found.keys()):
        same = name in expected and name in found and torch.equal(found[name], expected[name].float())
        if not same:
            raise NotExpressible(f"{name} is not the same when read back from GGUF: {_INSTEAD}.")
    check_outputs(program, read.to(main_dtype(program)).eval())
