"""Language models of transformers, from their configuration classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as hf
from torch import nn

from tests.zoo.registry import SEQUENCE, VOCABULARY, Scale, attention_mask, entry, token_ids
from tests.zoo.spine import decoder_fields

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
Fields = dict[str, Any] | Callable[[Scale], dict[str, Any]]

SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def resolve(fields: Fields, s: Scale) -> dict[str, Any]:
    return fields(s) if callable(fields) else fields


def make(model: str, config: str, fields: dict[str, Any]) -> nn.Module:
    return getattr(hf, model)(getattr(hf, config)(**fields))


def causal(name: str, model: str, config: str, fields: Fields, *, drop: str = "", **options: Any) -> None:
    """A decoder whose configuration uses Llama's words, with ``fields`` added and ``drop`` left out."""

    @entry(name, model, suite="hf", **options)
    def _(s: Scale) -> Call:
        merged = decoder_fields(s) | resolve(fields, s)
        for field in drop.split():
            del merged[field]
        return make(model, config, merged), (), {"input_ids": token_ids(), "attention_mask": attention_mask()}


def sparse(s: Scale) -> dict[str, Any]:
    return {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": s.width(32)}


NO_GROUPS = "num_key_value_heads"
NO_HEAD_DIM = "head_dim"


def equal_heads(s: Scale) -> dict[str, Any]:
    """Hidden = heads x head_dim, for classes that know no other."""
    return {"hidden_size": s.width(48)}


def half_rotary(s: Scale) -> dict[str, Any]:
    """Head dim 8, of which four are rotated."""
    return {"hidden_size": s.width(64)}


causal("mistral", "MistralForCausalLM", "MistralConfig", {"sliding_window": 5})
causal("qwen2", "Qwen2ForCausalLM", "Qwen2Config", equal_heads, drop=NO_HEAD_DIM)
causal("gemma", "GemmaForCausalLM", "GemmaConfig", {})
causal("phi", "PhiForCausalLM", "PhiConfig", half_rotary, drop=NO_HEAD_DIM)
causal("phi3", "Phi3ForCausalLM", "Phi3Config", equal_heads, drop=NO_HEAD_DIM)
causal("stablelm", "StableLmForCausalLM", "StableLmConfig", equal_heads, drop=NO_HEAD_DIM)
causal("starcoder2", "Starcoder2ForCausalLM", "Starcoder2Config", equal_heads, drop=NO_HEAD_DIM)
causal("olmo", "OlmoForCausalLM", "OlmoConfig", equal_heads, drop=NO_HEAD_DIM)
causal("olmo2", "Olmo2ForCausalLM", "Olmo2Config", equal_heads, drop=NO_HEAD_DIM)
causal("cohere", "CohereForCausalLM", "CohereConfig", equal_heads, drop=NO_HEAD_DIM)
causal("granite", "GraniteForCausalLM", "GraniteConfig", equal_heads, drop=NO_HEAD_DIM)
causal("helium", "HeliumForCausalLM", "HeliumConfig", equal_heads)
causal("glm", "GlmForCausalLM", "GlmConfig", {})
causal("glm4", "Glm4ForCausalLM", "Glm4Config", {})
causal("nemotron", "NemotronForCausalLM", "NemotronConfig", {})
causal("persimmon", "PersimmonForCausalLM", "PersimmonConfig", half_rotary, drop=f"{NO_GROUPS} {NO_HEAD_DIM}")
causal("smollm3", "SmolLM3ForCausalLM", "SmolLM3Config", equal_heads, drop=NO_HEAD_DIM)
causal("arcee", "ArceeForCausalLM", "ArceeConfig", {})
causal("ernie4.5", "Ernie4_5ForCausalLM", "Ernie4_5Config", {})
causal("seed-oss", "SeedOssForCausalLM", "SeedOssConfig", {})
causal("apertus", "ApertusForCausalLM", "ApertusConfig", equal_heads, drop=NO_HEAD_DIM)
causal("exaone4", "Exaone4ForCausalLM", "Exaone4Config", equal_heads, drop=NO_HEAD_DIM)
causal(
    "qwen2-moe",
    "Qwen2MoeForCausalLM",
    "Qwen2MoeConfig",
    lambda s: equal_heads(s) | sparse(s) | {"shared_expert_intermediate_size": s.width(40)},
    drop=NO_HEAD_DIM,
)
causal("qwen3-moe", "Qwen3MoeForCausalLM", "Qwen3MoeConfig", sparse)
causal(
    "olmoe",
    "OlmoeForCausalLM",
    "OlmoeConfig",
    lambda s: equal_heads(s) | {"num_experts": 3, "num_experts_per_tok": 2},
    drop=NO_HEAD_DIM,
)
causal(
    "granite-moe",
    "GraniteMoeForCausalLM",
    "GraniteMoeConfig",
    lambda s: equal_heads(s) | {"num_local_experts": 3, "num_experts_per_tok": 2},
    drop=NO_HEAD_DIM,
)
causal(
    "deepseek-v3",
    "DeepseekV3ForCausalLM",
    "DeepseekV3Config",
    lambda s: {
        "q_lora_rank": s.width(20),
        "kv_lora_rank": s.width(14),
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 6,
        "v_head_dim": 6,
        "num_key_value_heads": s.width(8),
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": s.width(32),
        "first_k_dense_replace": 0,
    },
    drop=NO_HEAD_DIM,
)
causal(
    "lfm2",
    "Lfm2ForCausalLM",
    "Lfm2Config",
    lambda s: (
        equal_heads(s)
        | {"layer_types": ["conv", "full_attention"] * s.depth(2), "block_auto_adjust_ff_dim": False}
    ),
    drop=NO_HEAD_DIM,
)


def gpt(
    name: str, model: str, config: str, fields: Callable[[Scale], dict[str, Any]], **options: Any
) -> None:
    """A decoder with its own words for its sizes."""

    @entry(name, model, suite="hf", **options)
    def _(s: Scale) -> Call:
        merged = {"vocab_size": VOCABULARY, "use_cache": False} | SPECIAL | fields(s)
        return make(model, config, merged), (), {"input_ids": token_ids(), "attention_mask": attention_mask()}


def classic(s: Scale) -> dict[str, Any]:
    return {
        "hidden_size": s.width(24),
        "num_hidden_layers": s.depth(4),
        "num_attention_heads": s.width(4),
        "intermediate_size": s.width(40),
        "max_position_embeddings": 31,
    }


def openai(s: Scale) -> dict[str, Any]:
    return {"n_embd": s.width(24), "n_layer": s.depth(4), "n_head": s.width(4), "n_positions": 31}


gpt("gpt-neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", classic)
gpt("gpt-j", "GPTJForCausalLM", "GPTJConfig", lambda s: openai(s) | {"rotary_dim": 4})
gpt(
    "codegen",
    "CodeGenForCausalLM",
    "CodeGenConfig",
    lambda s: openai(s) | {"n_embd": s.width(48), "n_head": s.width(8), "rotary_dim": 4},
)
gpt("openai-gpt", "OpenAIGPTLMHeadModel", "OpenAIGPTConfig", openai)
gpt("gpt-bigcode", "GPTBigCodeForCausalLM", "GPTBigCodeConfig", openai)
gpt(
    "gpt-neo",
    "GPTNeoForCausalLM",
    "GPTNeoConfig",
    lambda s: {
        "hidden_size": s.width(24),
        "num_layers": s.depth(4),
        "num_heads": s.width(4),
        "intermediate_size": s.width(40),
        "max_position_embeddings": 31,
        "window_size": 5,
        "attention_types": [[["global", "local"], s.depth(4) // 2]],
    },
)
gpt(
    "opt",
    "OPTForCausalLM",
    "OPTConfig",
    lambda s: {
        "hidden_size": s.width(24),
        "word_embed_proj_dim": s.width(24),
        "num_hidden_layers": s.depth(4),
        "num_attention_heads": s.width(4),
        "ffn_dim": s.width(40),
        "max_position_embeddings": 31,
    },
)
gpt(
    "bloom",
    "BloomForCausalLM",
    "BloomConfig",
    lambda s: (
        {k: v for k, v in openai(s).items() if k == "n_layer"}
        | {"hidden_size": s.width(24), "n_head": s.width(4)}
    ),
)
gpt(
    "mpt",
    "MptForCausalLM",
    "MptConfig",
    lambda s: {
        "d_model": s.width(24),
        "n_layers": s.depth(4),
        "n_heads": s.width(4),
        "expansion_ratio": 2,
        "max_seq_len": 31,
    },
)
gpt(
    "falcon",
    "FalconForCausalLM",
    "FalconConfig",
    lambda s: {
        "hidden_size": s.width(48),
        "num_hidden_layers": s.depth(4),
        "num_attention_heads": s.width(8),
        "num_kv_heads": s.width(4),
        "ffn_hidden_size": s.width(40),
        "new_decoder_architecture": True,
        "max_position_embeddings": 31,
    },
)
gpt(
    "xglm",
    "XGLMForCausalLM",
    "XGLMConfig",
    lambda s: {
        "d_model": s.width(24),
        "num_layers": s.depth(4),
        "attention_heads": s.width(4),
        "ffn_dim": s.width(40),
        "max_position_embeddings": 31,
    },
)
gpt("biogpt", "BioGptForCausalLM", "BioGptConfig", classic)
gpt("ctrl", "CTRLLMHeadModel", "CTRLConfig", lambda s: openai(s) | {"dff": s.width(40)})
gpt(
    "mamba",
    "MambaForCausalLM",
    "MambaConfig",
    lambda s: {
        "hidden_size": s.width(24),
        "num_hidden_layers": s.depth(4),
        "state_size": 3,
        "time_step_rank": s.width(6),
    },
)
gpt(
    "xlnet",
    "XLNetLMHeadModel",
    "XLNetConfig",
    lambda s: {"d_model": s.width(24), "n_layer": s.depth(4), "n_head": s.width(4), "d_inner": s.width(40)},
)


def encoder(name: str, model: str, config: str, fields: Fields | None = None, **options: Any) -> None:
    """An encoder whose configuration uses BERT's words."""

    @entry(name, model, suite="hf", **options)
    def _(s: Scale) -> Call:
        merged = classic(s) | {"vocab_size": VOCABULARY, "pad_token_id": 0} | resolve(fields or {}, s)
        return make(model, config, merged), (), {"input_ids": token_ids(), "attention_mask": attention_mask()}


encoder("bert-classifier", "BertForSequenceClassification", "BertConfig", {"num_labels": 13})
encoder("bert-tagger", "BertForTokenClassification", "BertConfig", {"num_labels": 13})
encoder("roberta", "RobertaForMaskedLM", "RobertaConfig")
encoder("camembert", "CamembertModel", "CamembertConfig")
encoder("xlm-roberta-xl", "XLMRobertaXLForMaskedLM", "XLMRobertaXLConfig")
encoder("albert", "AlbertForMaskedLM", "AlbertConfig", lambda s: {"embedding_size": s.width(14)})
encoder(
    "distilbert",
    "DistilBertForMaskedLM",
    "DistilBertConfig",
    lambda s: {"dim": s.width(24), "n_layers": s.depth(4), "n_heads": s.width(4), "hidden_dim": s.width(40)},
)
encoder("electra", "ElectraForPreTraining", "ElectraConfig", lambda s: {"embedding_size": s.width(14)})
encoder("mpnet", "MPNetForMaskedLM", "MPNetConfig", {"max_position_embeddings": 37, "pad_token_id": 1})
encoder(
    "mobilebert",
    "MobileBertForMaskedLM",
    "MobileBertConfig",
    lambda s: {
        "embedding_size": s.width(24),
        "intra_bottleneck_size": s.width(24),
        "true_hidden_size": s.width(24),
        "num_feedforward_networks": 2,
    },
)
encoder(
    "squeezebert", "SqueezeBertForMaskedLM", "SqueezeBertConfig", lambda s: {"embedding_size": s.width(24)}
)
encoder("fnet", "FNetForMaskedLM", "FNetConfig", {"tpu_short_seq_length": SEQUENCE})
encoder("roformer", "RoFormerForMaskedLM", "RoFormerConfig", lambda s: {"embedding_size": s.width(24)})
encoder(
    "convbert",
    "ConvBertForMaskedLM",
    "ConvBertConfig",
    lambda s: {"embedding_size": s.width(24), "conv_kernel_size": 3},
)
encoder("esm", "EsmForMaskedLM", "EsmConfig", {"position_embedding_type": "rotary", "mask_token_id": 1})
encoder("ernie", "ErnieForMaskedLM", "ErnieConfig")
encoder("megatron-bert", "MegatronBertForMaskedLM", "MegatronBertConfig")
encoder(
    "rembert",
    "RemBertForMaskedLM",
    "RemBertConfig",
    lambda s: {"input_embedding_size": s.width(14), "output_embedding_size": s.width(20)},
)
encoder(
    "deberta",
    "DebertaForMaskedLM",
    "DebertaConfig",
    {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
)
encoder(
    "deberta-v2",
    "DebertaV2ForMaskedLM",
    "DebertaV2Config",
    {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
        "share_att_key": True,
    },
)
encoder(
    "modernbert",
    "ModernBertForMaskedLM",
    "ModernBertConfig",
    lambda s: {
        "local_attention": 6,
        "layer_types": ["full_attention", "sliding_attention"] * s.depth(2),
        "cls_token_id": 0,
        "sep_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
)
encoder(
    "nystromformer",
    "NystromformerForMaskedLM",
    "NystromformerConfig",
    {"num_landmarks": SEQUENCE, "segment_means_seq_len": SEQUENCE},
)
encoder("layoutlm", "LayoutLMForMaskedLM", "LayoutLMConfig", {"max_2d_position_embeddings": 37})
encoder("data2vec-text", "Data2VecTextForMaskedLM", "Data2VecTextConfig")
encoder(
    "xlm",
    "XLMWithLMHeadModel",
    "XLMConfig",
    lambda s: {"emb_dim": s.width(24), "n_layers": s.depth(4), "n_heads": s.width(4), "n_langs": 1},
)
gpt(
    "funnel",
    "FunnelModel",
    "FunnelConfig",
    lambda s: {
        "d_model": s.width(24),
        "n_head": s.width(4),
        "d_head": 6,
        "d_inner": s.width(40),
        "block_sizes": [s.depth(2), s.depth(2)],
        "num_decoder_layers": s.depth(2),
    },
)


def translator(name: str, model: str, config: str, fields: Fields | None = None, **options: Any) -> None:
    """An encoder-decoder whose configuration uses BART's words."""

    @entry(name, model, suite="hf", **options)
    def _(s: Scale) -> Call:
        merged = {
            "vocab_size": VOCABULARY,
            "d_model": s.width(24),
            "encoder_layers": s.depth(4),
            "decoder_layers": s.depth(4),
            "encoder_attention_heads": s.width(4),
            "decoder_attention_heads": s.width(4),
            "encoder_ffn_dim": s.width(40),
            "decoder_ffn_dim": s.width(56),
            "max_position_embeddings": 31,
            "use_cache": False,
            "decoder_start_token_id": 0,
            "forced_eos_token_id": None,
        }
        merged |= SPECIAL | resolve(fields or {}, s)
        kwargs = {
            "input_ids": token_ids(),
            "attention_mask": attention_mask(),
            "decoder_input_ids": token_ids(sequence=7),
        }
        return make(model, config, merged), (), kwargs


def t5_fields(s: Scale) -> dict[str, Any]:
    return {
        "d_kv": 6,
        "d_ff": s.width(56),
        "d_model": s.width(40),
        "num_layers": s.depth(4),
        "num_decoder_layers": s.depth(4),
        "num_heads": s.width(4),
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
    }


translator("mt5", "MT5ForConditionalGeneration", "MT5Config", t5_fields)
translator("umt5", "UMT5ForConditionalGeneration", "UMT5Config", t5_fields)
translator(
    "switch",
    "SwitchTransformersForConditionalGeneration",
    "SwitchTransformersConfig",
    lambda s: (
        t5_fields(s)
        | {"num_sparse_encoder_layers": s.depth(2), "num_sparse_decoder_layers": s.depth(2), "num_experts": 3}
    ),
)
translator("mbart", "MBartForConditionalGeneration", "MBartConfig")
translator("pegasus", "PegasusForConditionalGeneration", "PegasusConfig")
translator("marian", "MarianMTModel", "MarianConfig")
translator("blenderbot", "BlenderbotForConditionalGeneration", "BlenderbotConfig")
translator("m2m100", "M2M100ForConditionalGeneration", "M2M100Config")
translator("plbart", "PLBartForConditionalGeneration", "PLBartConfig")
translator(
    "uneven-bart", "BartForConditionalGeneration", "BartConfig", lambda s: {"decoder_layers": s.depth(2)}
)
