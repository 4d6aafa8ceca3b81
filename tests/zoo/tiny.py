"""One tiny model of every model type in the libraries' own registries, shrunk by the names of its fields."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch import nn

from mlgraph.capture.inputs.example import example_inputs

Call = tuple[tuple[Any, ...], dict[str, Any]]

LARGEST = 30_000_000
# Fragments of the names of configuration fields, the first that fits, and what a tiny model has there.
_TINY: tuple[tuple[str, int], ...] = (
    ("vocab", 99),
    ("key_value_heads", 2),
    ("kv_heads", 2),
    ("heads", 4),
    ("head_dim", 8),
    ("experts_per", 2),
    ("top_k", 2),
    ("experts", 4),
    ("layers_per", 2),
    ("num_hidden_layers", 2),
    ("layers", 2),
    ("n_layer", 2),
    ("depth", 2),
    ("intermediate", 64),
    ("ffn", 64),
    ("mlp_dim", 64),
    ("inner", 64),
    ("d_ff", 64),
    ("image_size", 32),
    ("patch_size", 8),
    ("max_position", 64),
    ("n_positions", 64),
    ("lora_rank", 16),
    ("hidden_size", 32),
    ("hidden_dim", 32),
    ("embedding_size", 32),
    ("embed_dim", 32),
    ("d_model", 32),
    ("n_embd", 32),
    ("d_kv", 8),
    ("dim", 32),
)
_WIDEST = ("hidden_size", "d_model", "n_embd", "embed_dim", "dim")
_SCALED = (*_WIDEST, "heads", "groups", "intermediate", "ffn", "inner", "embedding_size", "channels")
# One head per model type, the first that it has.
_HEADS = (
    "CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_CLASSIFICATION", "CTC", "AUDIO_CLASSIFICATION",
    "SPEECH_SEQ_2_SEQ", "OBJECT_DETECTION", "SEMANTIC_SEGMENTATION", "DEPTH_ESTIMATION", "BACKBONE",
)  # fmt: skip


def transformers_types() -> list[str]:
    """Every model type that transformers knows a model of."""
    from transformers.models.auto import modeling_auto

    return list(modeling_auto.MODEL_MAPPING_NAMES)


def timm_modules() -> list[str]:
    """Every module of models that timm has."""
    import timm

    return list(timm.list_modules())


def build(name: str) -> tuple[nn.Module, Call]:
    """The tiny model of ``hf:TYPE`` or ``timm:MODULE`` and inputs. Raises whatever the library raises."""
    library, _, kind = name.partition(":")
    torch.manual_seed(0)
    if library == "hf":
        return _transformers_model(kind)
    model = _timm_model(kind)
    return model, example_inputs(model)


def _transformers_model(kind: str) -> tuple[nn.Module, Call]:
    import transformers
    from transformers.models.auto import modeling_auto

    heads = [getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES", {}) for head in _HEADS]
    named = next((h[kind] for h in (*heads, modeling_auto.MODEL_MAPPING_NAMES) if kind in h), None)
    name = named if isinstance(named, str) else named[0]  # type: ignore[index]
    cls: Any = getattr(transformers, name)
    failure: Exception | None = None
    for shrink in (_made_anew, _changed, partial(_changed, lists=False), _in_proportion):
        try:
            config = shrink(transformers.CONFIG_MAPPING[kind]())
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in cls(config).parameters())
            if size > LARGEST:
                raise ValueError(f"{size:,} parameters, whose widths no known field makes smaller")
            model: nn.Module = cls(config).eval()
            return model, example_inputs(model, loss=False)
        except Exception as error:  # whatever a configuration makes of its fields
            failure = failure or error
    assert failure is not None
    raise failure


def _changed(config: Any, lists: bool = True) -> Any:
    """The configuration with its fields set to tiny ones, in place."""
    for field, value in _nested(config):
        setattr(config, field, _changed(value, lists))
    for field, value in _smaller_fields(config, lists).items():
        setattr(config, field, value)
    return config


def _made_anew(config: Any) -> Any:
    """A configuration made of tiny fields, which derives from them what it derives."""
    given = inspect.signature(type(config).__init__).parameters
    fields = {**{f: _made_anew(v) for f, v in _nested(config)}, **_smaller_fields(config, True)}
    return type(config)(**{field: value for field, value in fields.items() if field in given})


def _in_proportion(config: Any) -> Any:
    """The configuration with widths and numbers of heads divided by one number, so that products hold."""
    widths = [v for f, v in vars(config).items() if type(v) is int and any(word in f for word in _WIDEST)]
    factor = max(max(widths, default=64) // 64, 1)
    for field, value in vars(_changed(type(config)(), lists=False)).items():
        old = getattr(config, field, None)
        scales = type(old) is int and old >= 1 and any(word in field for word in _SCALED)
        if scales and "head_dim" not in field:
            setattr(config, field, max(old // factor, 1))
        elif "head" not in field:
            setattr(config, field, value)
    return config


def _nested(config: Any) -> list[tuple[str, Any]]:
    fields = vars(config).items()
    return [(f, v) for f, v in fields if hasattr(v, "to_dict") and hasattr(v, "model_type")]


def _smaller_fields(config: Any, lists: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, value in vars(config).items():
        if isinstance(value, bool) or field.startswith("_"):
            continue
        if isinstance(value, int) and (tiny := _tiny(field)) is not None:
            found[field] = min(value, tiny) if value > 0 else value
        elif lists and isinstance(value, list | tuple) and value and all(type(v) is int for v in value):
            found[field] = type(value)(_smaller(field, list(value)))
    for field in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
        value = getattr(config, field, None)
        if value is None and field in ("pad_token_id", "decoder_start_token_id"):
            found[field] = 0
        elif isinstance(value, int) and value > 90:
            found[field] = 1
    return found


def _tiny(field: str) -> int | None:
    return next((size for fragment, size in _TINY if fragment in field), None)


def _smaller(field: str, values: list[int]) -> list[int]:
    if "depths" in field or "layers" in field or "blocks" in field:
        return [min(value, 2) for value in values]
    if "heads" in field or "head" in field:
        return [min(value, 4) for value in values]
    if min(values) >= 16 and ("size" in field or "dim" in field or "channels" in field):
        factor = min(values) // 16
        return [max(16, value // factor) for value in values]
    return values


def _timm_model(module: str) -> nn.Module:
    import timm

    sizes = {}
    for name in timm.list_models(module=module)[:40]:
        with torch.device("meta"):
            sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
        if sizes[name] < LARGEST // 6:
            break
    smallest = min(sizes, key=sizes.__getitem__)
    if sizes[smallest] > LARGEST:
        raise ValueError(f"the smallest has {sizes[smallest]:,} parameters")
    model: nn.Module = timm.create_model(smallest)
    return model.eval()
