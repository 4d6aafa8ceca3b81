"""Ids and lengths in a written directory are those that its tokenizer and model have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from mlgraph.interop.vocabulary import settle_vocabulary
from mlgraph.train.data.tokenizer import train_bpe


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_ids_outside_the_vocabulary_and_endless_lengths_are_set_right(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "vocab_size": 320, "n_positions": 32}
    ids = {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(config | ids))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 50256]}))
    bpe = train_bpe(["green bottles hanging on the wall"] * 9, 320)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>").save_pretrained(tmp_path)
    assert read(tmp_path / "tokenizer_config.json")["model_max_length"] > 10**29
    assert settle_vocabulary(tmp_path) == [
        "bos_token_id 50256 in config.json lies outside the vocabulary of 320: it is taken out",
        "eos_token_id 50256 in config.json lies outside the vocabulary of 320: it is 0 now, the tokenizer's",
        "eos_token_id [0, 50256] in generation_config.json lies outside the vocabulary of 320: it is 0 now, "
        "the tokenizer's",
        "the tokenizer had no model_max_length: it is 32 now, the model's",
    ]
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (None, 0, 1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.eos_token_id, tokenizer.model_max_length) == (0, 32)
    assert settle_vocabulary(tmp_path) == []


def test_what_fits_stays(tmp_path: Path) -> None:
    text = json.dumps({"vocab_size": 9, "eos_token_id": 8, "pad_token_id": -1, "n_positions": 4})
    (tmp_path / "config.json").write_text(text)
    assert settle_vocabulary(tmp_path) == []
    assert (tmp_path / "config.json").read_text() == text
