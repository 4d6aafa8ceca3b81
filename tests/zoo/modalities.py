"""Vision, audio, time-series and multimodal models of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn

from tests.zoo.huggingface import make
from tests.zoo.registry import VOCABULARY, Scale, attention_mask, entry, image, token_ids
from tests.zoo.spine import vision_fields

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
Fields = Callable[[Scale], dict[str, Any]]


def none(s: Scale) -> dict[str, Any]:
    return {}


def patches(
    name: str, model: str, config: str, fields: Fields = none, *, drop: str = "", **options: Any
) -> None:
    """A vision transformer whose configuration uses ViT's words."""

    @entry(name, model, suite="hf", **options)
    def _(s: Scale) -> Call:
        merged = vision_fields(s) | {"num_labels": 13} | fields(s)
        for field in drop.split():
            del merged[field]
        return make(model, config, merged), (), {"pixel_values": image(28)}


patches("hf-deit", "DeiTForImageClassification", "DeiTConfig")
patches("vit-msn", "ViTMSNForImageClassification", "ViTMSNConfig")
patches("beit", "BeitForImageClassification", "BeitConfig", lambda s: {"use_relative_position_bias": True})
patches("data2vec-vision", "Data2VecVisionForImageClassification", "Data2VecVisionConfig")
patches(
    "dinov2-registers",
    "Dinov2WithRegistersForImageClassification",
    "Dinov2WithRegistersConfig",
    lambda s: {"mlp_ratio": 2, "num_register_tokens": 2},
    drop="intermediate_size",
)
patches(
    "dinov2-swiglu",
    "Dinov2ForImageClassification",
    "Dinov2Config",
    lambda s: {"mlp_ratio": 2, "use_swiglu_ffn": True, "hidden_size": s.width(48)},
    drop="intermediate_size",
)
patches(
    "dinov3-vit",
    "DINOv3ViTModel",
    "DINOv3ViTConfig",
    lambda s: {"num_register_tokens": 2, "hidden_size": s.width(32)},
)
patches("ijepa", "IJepaForImageClassification", "IJepaConfig")
patches("siglip-vision", "SiglipVisionModel", "SiglipVisionConfig")
patches("clip-vision", "CLIPVisionModelWithProjection", "CLIPVisionConfig", lambda s: {"projection_dim": 10})
patches("yolos", "YolosModel", "YolosConfig", lambda s: {"image_size": [28, 28], "num_detection_tokens": 3})
patches(
    "dpt",
    "DPTForDepthEstimation",
    "DPTConfig",
    lambda s: {
        "is_hybrid": False,
        "num_hidden_layers": 4,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": list(s.widths(8, 12, 16, 20)),
        "fusion_hidden_size": s.width(16),
        "reassemble_factors": [4, 2, 1, 0.5],
        "readout_type": "project",
    },
    chain=False,
    fixed=["head.head."],
)


def pyramid(name: str, model: str, config: str, fields: Fields, size: int = 64, **options: Any) -> None:
    """A vision model of several stages, with its own words."""

    @entry(name, model, suite="hf", **options)
    def _(s: Scale) -> Call:
        return make(model, config, {"num_labels": 13} | fields(s)), (), {"pixel_values": image(size)}


def swin_fields(s: Scale) -> dict[str, Any]:
    return {
        "image_size": 56,
        "patch_size": 4,
        "embed_dim": s.width(24),
        "depths": [*s.depths(4, 4)],
        "num_heads": [*s.widths(4, 8)],
        "window_size": 7,
    }


pyramid("hf-swin", "SwinForImageClassification", "SwinConfig", swin_fields, 56)
pyramid(
    "swinv2",
    "Swinv2ForImageClassification",
    "Swinv2Config",
    swin_fields,
    56,
    fixed=["continuous_position_bias_mlp"],
)
pyramid(
    "hf-convnext",
    "ConvNextForImageClassification",
    "ConvNextConfig",
    lambda s: {"hidden_sizes": [*s.widths(24, 40, 56, 64)], "depths": [*s.depths(2, 4, 2, 2)]},
)
pyramid(
    "convnextv2",
    "ConvNextV2ForImageClassification",
    "ConvNextV2Config",
    lambda s: {"hidden_sizes": [*s.widths(24, 40, 56, 64)], "depths": [*s.depths(2, 4, 2, 2)]},
)
pyramid(
    "resnet",
    "ResNetForImageClassification",
    "ResNetConfig",
    lambda s: {
        "embedding_size": s.width(20),
        "hidden_sizes": [*s.widths(24, 40, 56, 64)],
        "depths": [2, 2, 2, 2],
        "layer_type": "basic",
    },
    chain=False,
)
pyramid(
    "poolformer",
    "PoolFormerForImageClassification",
    "PoolFormerConfig",
    lambda s: {
        "hidden_sizes": [*s.widths(16, 24, 40, 48)],
        "depths": [*s.depths(2, 2, 4, 2)],
        "mlp_ratio": 2.0,
    },
)
pyramid(
    "segformer",
    "SegformerForImageClassification",
    "SegformerConfig",
    lambda s: {
        "hidden_sizes": [*s.widths(16, 24, 40, 48)],
        "depths": [*s.depths(2, 2, 4, 2)],
        "num_attention_heads": [*s.widths(2, 4, 4, 8)],
        "mlp_ratios": [2, 2, 2, 2],
        "sr_ratios": [4, 2, 2, 1],
    },
)
pyramid(
    "pvt",
    "PvtForImageClassification",
    "PvtConfig",
    lambda s: {
        "image_size": 64,
        "hidden_sizes": [*s.widths(16, 24, 40, 48)],
        "depths": [*s.depths(2, 2, 4, 2)],
        "num_attention_heads": [*s.widths(2, 4, 4, 8)],
        "mlp_ratios": [2, 2, 2, 2],
    },
)
pyramid(
    "swiftformer",
    "SwiftFormerForImageClassification",
    "SwiftFormerConfig",
    lambda s: {"embed_dims": [*s.widths(16, 24, 40, 48)], "depths": [*s.depths(2, 2, 4, 2)], "mlp_ratio": 2},
)


def clip_text(s: Scale) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": s.width(32),
        "num_hidden_layers": s.depth(4),
        "num_attention_heads": s.width(4),
        "intermediate_size": s.width(56),
        "max_position_embeddings": 19,
        "bos_token_id": 0,
        "eos_token_id": VOCABULARY - 1,
        "pad_token_id": 1,
    }


@entry("siglip", "SiglipModel", suite="hf", fixed=["text_model.", "vision_model."])
def _(s: Scale) -> Call:
    # Both towers end in the width in which image meets text, which stays; it is the towers' own too.
    text = clip_text(s) | {"hidden_size": 32, "projection_size": 32}
    vision = vision_fields(s) | {"hidden_size": 32}
    config = hf.SiglipConfig(text_config=text, vision_config=vision)
    kwargs = {"input_ids": token_ids(), "attention_mask": attention_mask(), "pixel_values": image(28)}
    return hf.SiglipModel(config), (), kwargs


@entry("clip-text", "CLIPTextModelWithProjection", suite="hf")
def _(s: Scale) -> Call:
    model = make("CLIPTextModelWithProjection", "CLIPTextConfig", clip_text(s) | {"projection_dim": 10})
    return model, (), {"input_ids": token_ids(), "attention_mask": attention_mask()}


@entry("vilt", "ViltModel", suite="hf")
def _(s: Scale) -> Call:
    config = vision_fields(s) | {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 31,
        "max_image_length": -1,
    }
    kwargs = {"input_ids": token_ids(), "attention_mask": attention_mask(), "pixel_values": image(28)}
    return make("ViltModel", "ViltConfig", config), (), kwargs


@entry("vision-text-encoder-decoder", "VisionEncoderDecoderModel", suite="hf")
def _(s: Scale) -> Call:
    from tests.zoo.spine import bert_config

    decoder = bert_config(s)
    decoder.is_decoder = decoder.add_cross_attention = True
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        hf.ViTConfig(**vision_fields(s)), decoder
    )
    kwargs = {"pixel_values": image(28), "decoder_input_ids": token_ids(sequence=7)}
    return hf.VisionEncoderDecoderModel(config=config), (), kwargs


def speech_fields(s: Scale) -> dict[str, Any]:
    return {
        "vocab_size": 19,
        "hidden_size": s.width(24),
        "num_hidden_layers": s.depth(4),
        "num_attention_heads": s.width(4),
        "intermediate_size": s.width(40),
        "conv_dim": [*s.widths(16, 20)],
        "conv_kernel": [5, 3],
        "conv_stride": [4, 2],
        "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 6,
        "num_conv_pos_embedding_groups": 2,
        "layerdrop": 0.0,
        "apply_spec_augment": False,
        "pad_token_id": 0,
    }


def speech(name: str, model: str, config: str, fields: Fields = none, **options: Any) -> None:
    @entry(name, model, suite="hf", **options)
    def _(s: Scale) -> Call:
        return make(model, config, speech_fields(s) | fields(s)), (), {"input_values": torch.randn(5, 193)}


speech("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config")
speech(
    "wav2vec2-layer-norm",
    "Wav2Vec2ForCTC",
    "Wav2Vec2Config",
    lambda s: {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
)
speech("hubert", "HubertModel", "HubertConfig")
speech("wavlm", "WavLMModel", "WavLMConfig", lambda s: {"num_buckets": 8, "max_bucket_distance": 16})


@entry("audio-spectrogram", "ASTForAudioClassification", suite="hf")
def _(s: Scale) -> Call:
    fields = vision_fields(s) | {
        "num_mel_bins": 13,
        "max_length": 29,
        "frequency_stride": 3,
        "time_stride": 5,
    }
    del fields["image_size"]
    return (
        make("ASTForAudioClassification", "ASTConfig", fields),
        (),
        {"input_values": torch.randn(5, 29, 13)},
    )


@entry("speech-to-text", "Speech2TextForConditionalGeneration", suite="hf")
def _(s: Scale) -> Call:
    fields = {
        "vocab_size": VOCABULARY,
        "d_model": s.width(24),
        "encoder_layers": s.depth(4),
        "decoder_layers": s.depth(4),
        "encoder_attention_heads": s.width(4),
        "decoder_attention_heads": s.width(4),
        "encoder_ffn_dim": s.width(40),
        "decoder_ffn_dim": s.width(56),
        "conv_channels": s.width(20),
        "input_feat_per_channel": 9,
        "max_source_positions": 37,
        "max_target_positions": 31,
        "use_cache": False,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }
    kwargs = {"input_features": torch.randn(5, 26, 9), "decoder_input_ids": token_ids(sequence=7)}
    return make("Speech2TextForConditionalGeneration", "Speech2TextConfig", fields), (), kwargs


@entry("decision-transformer", "DecisionTransformerModel", suite="hf")
def _(s: Scale) -> Call:
    fields = {
        "state_dim": 9,
        "act_dim": 3,
        "hidden_size": s.width(24),
        "n_layer": s.depth(4),
        "n_head": s.width(4),
        "n_positions": 47,
        "max_ep_len": 29,
        "use_cache": False,
    }
    length = 11
    kwargs = {
        "states": torch.randn(5, length, 9),
        "actions": torch.randn(5, length, 3),
        "returns_to_go": torch.randn(5, length, 1),
        "timesteps": torch.randint(0, 29, (5, length)),
        "attention_mask": torch.ones(5, length),
    }
    return make("DecisionTransformerModel", "DecisionTransformerConfig", fields), (), kwargs


@entry("patch-time-series", "PatchTSTForPrediction", suite="hf")
def _(s: Scale) -> Call:
    fields = {
        "num_input_channels": 3,
        "context_length": 34,
        "patch_length": 4,
        "patch_stride": 4,
        "d_model": s.width(24),
        "num_hidden_layers": s.depth(4),
        "num_attention_heads": s.width(4),
        "ffn_dim": s.width(40),
        "prediction_length": 7,
        "loss": "mse",
    }
    return make("PatchTSTForPrediction", "PatchTSTConfig", fields), (), {"past_values": torch.randn(5, 34, 3)}


@entry("video-mae", "VideoMAEForVideoClassification", suite="hf")
def _(s: Scale) -> Call:
    fields = vision_fields(s) | {"image_size": 20, "num_frames": 6, "tubelet_size": 2, "num_labels": 13}
    model = make("VideoMAEForVideoClassification", "VideoMAEConfig", fields)
    return model, (), {"pixel_values": torch.randn(5, 6, 3, 20, 20)}


@entry("timesformer", "TimesformerForVideoClassification", suite="hf")
def _(s: Scale) -> Call:
    fields = vision_fields(s) | {"image_size": 20, "num_frames": 7, "num_labels": 13}
    model = make("TimesformerForVideoClassification", "TimesformerConfig", fields)
    return model, (), {"pixel_values": torch.randn(5, 7, 3, 20, 20)}
