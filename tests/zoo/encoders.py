"""Encoders and encoder-decoders of transformers, from their configuration classes."""

from __future__ import annotations

from typing import Any

from tests.zoo.huggingface import SPECIAL, Call, Fields, classic, gpt, make, resolve
from tests.zoo.registry import SEQUENCE, VOCABULARY, Scale, attention_mask, entry, token_ids


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
    "squeezebert",
    "SqueezeBertForMaskedLM",
    "SqueezeBertConfig",
    # Numbers of convolution groups are kept, so they must leave a factor of the width to halve.
    lambda s: (
        {"embedding_size": s.width(24)}
        | {f"{part}_groups": 2 for part in ("q", "k", "v", "post_attention", "intermediate", "output")}
    ),
)
# The Fourier transform keeps the hidden width; the class has no other for its embeddings.
encoder(
    "fnet", "FNetForMaskedLM", "FNetConfig", {"tpu_short_seq_length": SEQUENCE}, fixed=["fnet.embeddings."]
)
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
