"""The families on which axes and blocks must be exactly right."""

from __future__ import annotations

from typing import Any

import timm
import torch
import transformers as hf
from torch import nn

from tests.zoo.handwritten import FusedGPT
from tests.zoo.registry import SEQUENCE, VOCABULARY, Scale, attention_mask, entry, image, token_ids

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]

TAGS = ("spine",)


def text(model: nn.Module, *, mask: bool = True) -> Call:
    kwargs = {"input_ids": token_ids()}
    if mask:
        kwargs["attention_mask"] = attention_mask()
    return model, (), kwargs


def bert_config(s: Scale) -> hf.BertConfig:
    return hf.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=s.width(24),
        num_hidden_layers=s.depth(4),
        num_attention_heads=s.width(4),
        intermediate_size=s.width(40),
        max_position_embeddings=31,
        use_cache=False,
    )


@entry("bert", "BERT", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    return text(hf.BertModel(bert_config(s)))


@entry("bert-mlm", "BERT", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    return text(hf.BertForMaskedLM(bert_config(s)))


@entry("gpt2", "GPT-2", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    config = hf.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=s.width(24),
        n_layer=s.depth(4),
        n_head=s.width(4),
        n_positions=31,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return text(hf.GPT2LMHeadModel(config))


def decoder_fields(s: Scale) -> dict[str, Any]:
    """Fields that Llama-like configurations share: kv heads 4, two query heads each, head_dim 6."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": s.width(40),
        "intermediate_size": s.width(56),
        "num_hidden_layers": s.depth(4),
        "num_attention_heads": s.width(8),
        "num_key_value_heads": s.width(4),
        "head_dim": 6,
        "max_position_embeddings": 31,
        "use_cache": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


@entry("llama", "Llama", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    return text(hf.LlamaForCausalLM(hf.LlamaConfig(**decoder_fields(s))))


@entry("qwen3", "Qwen3", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    return text(hf.Qwen3ForCausalLM(hf.Qwen3Config(**decoder_fields(s), tie_word_embeddings=True)))


@entry("gemma2", "Gemma-2", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    config = hf.Gemma2Config(**decoder_fields(s), sliding_window=5, query_pre_attn_scalar=6)
    return text(hf.Gemma2ForCausalLM(config))


@entry("gemma3", "Gemma-3", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    layer_types = ["sliding_attention", "full_attention"] * s.depth(4)
    fields = decoder_fields(s) | {"num_hidden_layers": len(layer_types), "layer_types": layer_types}
    config = hf.Gemma3TextConfig(**fields, sliding_window=5, query_pre_attn_scalar=6)
    return text(hf.Gemma3ForCausalLM(config))


@entry("mixtral", "Mixtral", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    config = hf.MixtralConfig(**decoder_fields(s), num_local_experts=3, num_experts_per_tok=2)
    return text(hf.MixtralForCausalLM(config))


def encoder_decoder(model: nn.Module) -> Call:
    kwargs = {
        "input_ids": token_ids(),
        "attention_mask": attention_mask(),
        "decoder_input_ids": token_ids(sequence=7),
    }
    return model, (), kwargs


@entry("t5", "T5", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    config = hf.T5Config(
        vocab_size=VOCABULARY,
        d_model=s.width(40),
        d_kv=6,
        d_ff=s.width(56),
        num_layers=s.depth(4),
        num_decoder_layers=s.depth(4),
        num_heads=s.width(4),
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        use_cache=False,
    )
    return encoder_decoder(hf.T5ForConditionalGeneration(config))


@entry("bart", "BART", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    config = hf.BartConfig(
        vocab_size=VOCABULARY,
        d_model=s.width(24),
        encoder_layers=s.depth(4),
        decoder_layers=s.depth(4),
        encoder_attention_heads=s.width(4),
        decoder_attention_heads=s.width(4),
        encoder_ffn_dim=s.width(40),
        decoder_ffn_dim=s.width(56),
        max_position_embeddings=31,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        forced_eos_token_id=None,
        decoder_start_token_id=0,
    )
    return encoder_decoder(hf.BartForConditionalGeneration(config))


@entry("whisper", "Whisper", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    frames = 13
    config = hf.WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=s.width(24),
        encoder_layers=s.depth(4),
        decoder_layers=s.depth(4),
        encoder_attention_heads=s.width(4),
        decoder_attention_heads=s.width(4),
        encoder_ffn_dim=s.width(40),
        decoder_ffn_dim=s.width(56),
        num_mel_bins=9,
        max_source_positions=frames,
        max_target_positions=31,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    kwargs = {"input_features": torch.randn(5, 9, 2 * frames), "decoder_input_ids": token_ids(sequence=7)}
    return hf.WhisperForConditionalGeneration(config), (), kwargs


def vision_fields(s: Scale) -> dict[str, Any]:
    """Fields that HF vision transformers share: 28-pixel images cut in 7 x 7 patches."""
    return {
        "hidden_size": s.width(24),
        "num_hidden_layers": s.depth(4),
        "num_attention_heads": s.width(4),
        "intermediate_size": s.width(40),
        "image_size": 28,
        "patch_size": 4,
    }


@entry("vit", "ViT", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    config = hf.ViTConfig(**vision_fields(s), num_labels=13)
    return hf.ViTForImageClassification(config), (), {"pixel_values": image(28)}


def dinov2(s: Scale) -> nn.Module:
    fields = vision_fields(s)
    del fields["intermediate_size"]
    return hf.Dinov2Model(hf.Dinov2Config(**fields, mlp_ratio=2))


@entry("dinov2", "DINOv2", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    masked = torch.rand(5, 49) < 0.3
    return dinov2(s), (), {"pixel_values": image(28), "bool_masked_pos": masked}


@entry("dinov2-unmasked", "DINOv2 whose mask token is not read", suite="hf")
def _(s: Scale) -> Call:
    return dinov2(s), (), {"pixel_values": image(28)}


@entry("clip", "CLIP", suite="hf", tags=TAGS)
def _(s: Scale) -> Call:
    # The image-text contraction over projection_dim has no parameter on either side, so it stays.
    text_config = {
        "vocab_size": VOCABULARY,
        "hidden_size": s.width(32),
        "num_hidden_layers": s.depth(4),
        "num_attention_heads": s.width(4),
        "intermediate_size": s.width(56),
        "max_position_embeddings": SEQUENCE + 8,
        "bos_token_id": 0,
        "eos_token_id": VOCABULARY - 1,
    }
    config = hf.CLIPConfig(text_config=text_config, vision_config=vision_fields(s), projection_dim=10)
    kwargs = {"input_ids": token_ids(), "attention_mask": attention_mask(), "pixel_values": image(28)}
    return hf.CLIPModel(config), (), kwargs


@entry("deit", "DeiT", suite="timm", tags=TAGS)
def _(s: Scale) -> Call:
    model = timm.create_model(
        "deit_tiny_patch16_224",
        img_size=28,
        patch_size=4,
        embed_dim=s.width(24),
        depth=s.depth(4),
        num_heads=s.width(4),
        num_classes=13,
    )
    return model, (image(28),), {}


@entry("swin", "Swin", suite="timm", tags=TAGS)
def _(s: Scale) -> Call:
    model = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=56,
        window_size=7,
        embed_dim=s.width(24),
        depths=s.depths(4, 4),
        num_heads=s.widths(4, 8),
        num_classes=13,
    )
    return model, (image(56),), {}


@entry("convnext", "ConvNeXt", suite="timm", tags=TAGS)
def _(s: Scale) -> Call:
    model = timm.create_model(
        "convnext_tiny",
        dims=s.widths(24, 40, 56, 64),
        depths=s.depths(2, 4, 2, 2),
        num_classes=13,
    )
    return model, (image(64),), {}


class EncoderClassifier(nn.Module):
    """Embedding, learned positions, ``nn.TransformerEncoder`` and a head over the mean token."""

    def __init__(self, hidden: int, heads: int, mlp: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, hidden)
        self.position = nn.Parameter(torch.randn(SEQUENCE, hidden))
        layer = nn.TransformerEncoderLayer(hidden, heads, mlp, batch_first=True)
        self.encoder = nn.TransformerEncoder(
            layer, depth, norm=nn.LayerNorm(hidden), enable_nested_tensor=False
        )
        self.head = nn.Linear(hidden, 13)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(ids) + self.position).mean(1))


@entry("torch-encoder", "nn.TransformerEncoder", suite="torch", tags=TAGS)
def _(s: Scale) -> Call:
    return EncoderClassifier(s.width(24), s.width(4), s.width(40), s.depth(4)), (token_ids(),), {}


@entry("fused-gpt", "hand-written GPT", tags=TAGS)
def _(s: Scale) -> Call:
    return FusedGPT(s.width(24), s.width(4), s.width(40), s.depth(4)), (token_ids(),), {}
