"""Decoders of transformers, from their configuration classes."""

from __future__ import annotations

from typing import Any

from tests.zoo.huggingface import Call, Fields, classic, gpt, make, openai, resolve
from tests.zoo.registry import Scale, attention_mask, entry, token_ids
from tests.zoo.spine import decoder_fields


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


def by_fours(s: Scale) -> dict[str, Any]:
    """Twice four layers, for classes whose layers repeat by fours."""
    return equal_heads(s) | {"num_hidden_layers": s.depth(8)}


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
# Every fourth layer is without rotary positions, or attends to all.
causal("smollm3", "SmolLM3ForCausalLM", "SmolLM3Config", by_fours, drop=NO_HEAD_DIM)
causal("arcee", "ArceeForCausalLM", "ArceeConfig", {})
causal("ernie4.5", "Ernie4_5ForCausalLM", "Ernie4_5Config", {})
causal("seed-oss", "SeedOssForCausalLM", "SeedOssConfig", {})
causal("apertus", "ApertusForCausalLM", "ApertusConfig", equal_heads, drop=NO_HEAD_DIM)
causal("exaone4", "Exaone4ForCausalLM", "Exaone4Config", by_fours, drop=NO_HEAD_DIM)
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
