"""Settings found by trying: a class built at half its sizes must be reached from its full settings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlgraph.interop.fitting.config_tree import Layers, leaves, resize
from mlgraph.interop.fitting.gap import measure
from mlgraph.interop.fitting.probe import ProbeError, Prober
from mlgraph.interop.hollow import configuration, on_meta

DECODER = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 51,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
HALF_DECODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
}
ENCODER = {key: value for key, value in DECODER.items() if key != "num_key_value_heads"}
HALF_ENCODER = {key: value for key, value in HALF_DECODER.items() if key != "num_key_value_heads"}
SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 4,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 56,
    "vocab_size": 51,
    "max_position_embeddings": 40,
}
HALF_SEQ2SEQ = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 28,
}
IMAGE = {"image_size": 16, "patch_size": 4}
SPEECH = {
    "conv_dim": (12, 12),
    "conv_stride": (2, 2),
    "conv_kernel": (3, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}

CLASSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "LlamaForCausalLM": (DECODER, HALF_DECODER | {"head_dim": 8}),
    "MistralForCausalLM": (DECODER, HALF_DECODER | {"head_dim": 8}),
    "Qwen2ForCausalLM": (DECODER, HALF_DECODER),
    "Qwen3ForCausalLM": (DECODER | {"head_dim": 12}, HALF_DECODER),
    "GemmaForCausalLM": (DECODER | {"head_dim": 8}, HALF_DECODER),
    "Gemma2ForCausalLM": (DECODER | {"head_dim": 8}, HALF_DECODER),
    "MixtralForCausalLM": (DECODER | {"num_local_experts": 4}, HALF_DECODER),
    "PhiForCausalLM": (DECODER, HALF_DECODER),
    "Phi3ForCausalLM": (DECODER, HALF_DECODER),
    "GPT2LMHeadModel": (
        {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 51, "n_positions": 40},
        {"n_embd": 16, "n_layer": 2, "n_head": 2},
    ),
    "GPTNeoForCausalLM": (
        {
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "vocab_size": 51,
            "max_position_embeddings": 40,
        },
        {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
    ),
    "GPTNeoXForCausalLM": (ENCODER, HALF_ENCODER),
    "OPTForCausalLM": (
        {key: value for key, value in ENCODER.items() if key != "intermediate_size"}
        | {"ffn_dim": 48, "word_embed_proj_dim": 32},
        {key: value for key, value in HALF_ENCODER.items() if key != "intermediate_size"}
        | {"ffn_dim": 24, "word_embed_proj_dim": 16},
    ),
    "BloomForCausalLM": (
        {"hidden_size": 32, "n_layer": 4, "n_head": 4, "vocab_size": 51},
        {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    ),
    "BertForMaskedLM": (ENCODER, HALF_ENCODER),
    "RobertaForMaskedLM": (ENCODER, HALF_ENCODER),
    "ElectraForMaskedLM": (ENCODER | {"embedding_size": 32}, HALF_ENCODER | {"embedding_size": 16}),
    "DebertaV2ForMaskedLM": (ENCODER, HALF_ENCODER),
    "AlbertForMaskedLM": (
        {key: value for key, value in ENCODER.items() if key != "num_hidden_layers"} | {"embedding_size": 20},
        {key: value for key, value in HALF_ENCODER.items() if key != "num_hidden_layers"}
        | {"embedding_size": 10},
    ),
    "ModernBertForMaskedLM": (
        ENCODER | {"num_hidden_layers": 6},
        HALF_ENCODER | {"num_hidden_layers": 3},
    ),
    "DistilBertForMaskedLM": (
        {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 48, "vocab_size": 51},
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    ),
    "T5ForConditionalGeneration": (
        {
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 4,
            "num_decoder_layers": 2,
            "num_heads": 4,
            "vocab_size": 51,
        },
        {"d_model": 16, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2},
    ),
    "BartForConditionalGeneration": (SEQ2SEQ, HALF_SEQ2SEQ),
    "PegasusForConditionalGeneration": (SEQ2SEQ, HALF_SEQ2SEQ),
    "M2M100ForConditionalGeneration": (SEQ2SEQ, HALF_SEQ2SEQ),
    "WhisperForConditionalGeneration": (
        SEQ2SEQ
        | {"num_mel_bins": 9, "max_source_positions": 20, "max_target_positions": 18, "pad_token_id": 0},
        HALF_SEQ2SEQ,
    ),
    "ViTForImageClassification": (ENCODER | IMAGE, HALF_ENCODER),
    "DeiTForImageClassification": (ENCODER | IMAGE, HALF_ENCODER),
    "BeitForImageClassification": (ENCODER | IMAGE, HALF_ENCODER),
    "Dinov2Model": (
        {key: value for key, value in (ENCODER | IMAGE).items() if key != "intermediate_size"},
        {key: value for key, value in HALF_ENCODER.items() if key != "intermediate_size"},
    ),
    "SwinForImageClassification": (
        {"image_size": 32, "patch_size": 2, "window_size": 2}
        | {"embed_dim": 16, "depths": [2, 4], "num_heads": [2, 4]},
        {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]},
    ),
    "ConvNextForImageClassification": (
        {"depths": [2, 4], "hidden_sizes": [16, 32], "num_stages": 2},
        {"depths": [1, 2], "hidden_sizes": [8, 16]},
    ),
    "Wav2Vec2Model": (ENCODER | SPEECH, HALF_ENCODER),
    "HubertModel": (ENCODER | SPEECH, HALF_ENCODER),
    "ASTForAudioClassification": (ENCODER | {"max_length": 32, "num_mel_bins": 16}, HALF_ENCODER),
}  # fmt: skip


def shapes_of(name: str) -> Callable[[dict[str, Any]], dict[str, tuple[int, ...]]]:
    def build(settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        state = on_meta(name, configuration(settings, name)).state_dict()
        return {key: tuple(tensor.shape) for key, tensor in state.items()}

    return build


def settings_of(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    import transformers

    settings: dict[str, Any] = getattr(transformers, name).config_class(**copy.deepcopy(fields)).to_dict()
    return settings


@pytest.mark.parametrize("name", CLASSES)
def test_half_sizes_of_a_transformers_class_are_found(name: str) -> None:
    fine, half = CLASSES[name]
    build = shapes_of(name)
    target = build(settings_of(name, fine | half))
    known = frozenset(value for _, value in leaves(half) if isinstance(value, int))
    prober = Prober(build, settings_of(name, fine), target, known)
    match = next(prober.matches())
    assert build(match.settings) == target
    wrong = {str(c) for c in match.changes if isinstance(c.path[0], str) and c.path[0] not in half} - _lists(
        match
    )
    assert not wrong
    assert prober.builds < 200


def _lists(match: Any) -> set[str]:
    # lists with one entry per layer or stage follow the depth and are in no table of sizes
    return {
        str(c) for c in match.changes if isinstance(c.old, list | tuple) or c.path[0] == "ffn_hidden_size"
    }


def test_unchanged_shapes_change_nothing() -> None:
    build = shapes_of("BertForMaskedLM")
    base = settings_of("BertForMaskedLM", ENCODER)
    match = next(Prober(build, base, build(base)).matches())
    assert match.changes == ()
    assert match.settings == base


def test_shapes_that_no_setting_gives_are_refused_by_name() -> None:
    build = shapes_of("BertForMaskedLM")
    base = settings_of("BertForMaskedLM", ENCODER)
    target = dict(build(base))
    target["bert.encoder.layer.1.intermediate.dense.weight"] = (24, 32)
    with pytest.raises(
        ProbeError, match=r"layer\.1\.intermediate\.dense\.weight is \[48, 32\], wanted \[24, 32\]"
    ):
        next(Prober(build, base, target, budget=150).matches())


@given(hidden=st.integers(1, 6), heads=st.integers(1, 4), inner=st.integers(1, 20), layers=st.integers(1, 5))
def test_settings_of_an_invented_class_are_recovered(
    hidden: int, heads: int, inner: int, layers: int
) -> None:
    """A class whose dims are products, sums and offsets of its settings, some of which must divide others."""

    def build(settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        size, count = settings["size"], settings["nested"]["heads"]
        if size % count:
            raise ValueError("the size must be a multiple of the heads")
        shapes = {"table": (settings["positions"] + 2, size)}
        for layer in range(settings["layers"]):
            shapes[f"layers.{layer}.qkv"] = (3 * count * settings["each"], size)
            shapes[f"layers.{layer}.inner"] = (settings["inner"][0] + 1, size)
        return shapes

    base = {"size": 24, "nested": {"heads": 4}, "each": 5, "positions": 11, "inner": [31], "layers": 3}
    wanted = {
        "size": 4 * hidden * heads,
        "nested": {"heads": heads},
        "each": 5,
        "positions": 11,
        "inner": [inner],
        "layers": layers,
    }
    target = build(wanted)
    match = next(Prober(build, base, target).matches())
    assert build(match.settings) == target


def test_lists_with_an_entry_per_layer_follow_the_picked_layers() -> None:
    kinds = ["local", "local", "global", "local", "local", "global"]
    assert resize(kinds, 3) == ["local", "local", "global"]
    assert resize(kinds, 2, [Layers(6, (2, 5))]) == ["global", "global"]
    assert resize(kinds[:3], 6) == kinds


def test_measure_counts_names_dims_and_containers() -> None:
    gap = measure(
        {"layers.0.w": (4, 8), "layers.1.w": (4, 8), "head": (3,)},
        {"layers.0.w": (2, 4), "head": (3,)},
    )
    assert gap.score == (1, 2)
    assert gap.counts == {"layers": (2, 1)}
    assert gap.dims == {(4, 2): 1, (8, 4): 1}


def test_models_on_meta_hold_no_memory() -> None:
    model = on_meta(
        "BertForMaskedLM", configuration(settings_of("BertForMaskedLM", ENCODER), "BertForMaskedLM")
    )
    assert {tensor.device for tensor in model.state_dict().values()} == {torch.device("meta")}
