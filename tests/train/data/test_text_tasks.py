"""Tasks of texts: spans taken out, pairs, classes of texts and of words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from mlgraph.interop.open import open_source
from mlgraph.train import TrainError
from mlgraph.train.config import Data
from mlgraph.train.data.corruption import SpanBlocks, sentinels
from mlgraph.train.data.labelled import IGNORED, classes
from mlgraph.train.data.tasks import accuracy, load_data, written_token_loss
from mlgraph.train.data.tokenizer import train_bpe
from mlgraph.train.engine.run import run
from mlgraph.train.phases import Train

TOKENS = np.arange(1000, 60000, dtype=np.int64)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLGRAPH_CACHE", str(tmp_path / "cache"))


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("length", [16, 37, 128])
def test_spans_can_be_put_back(length: int) -> None:
    """Between the sentinels, inputs and labels together are the text, and their lengths never change."""
    marks = list(range(100))
    blocks = SpanBlocks(TOKENS, length, marks=marks, end=200)
    shapes = set()
    for index in range(20):
        sample = blocks[index]
        ids, labels = sample["input_ids"].tolist(), sample["labels"].tolist()
        assert ids.pop() == labels.pop() == 200
        spans: dict[int, list[int]] = {}
        for token in labels:
            spans.setdefault(token, []) if token < 100 else spans[max(spans)].append(token)
        assert list(spans) == list(range(blocks.spans))
        assert sum(map(len, spans.values())) == blocks.taken
        assert min(map(len, spans.values())) > 0
        whole = [t for token in ids for t in (spans[token] if token < 100 else [token])]
        assert whole == blocks.ids(index).tolist()
        shapes.add((len(ids), len(labels)))
    assert len(shapes) == 1
    assert next(iter(shapes))[0] + 1 == length
    assert blocks.taken / blocks.length == pytest.approx(0.15, abs=0.04)


def test_spans_follow_seed_epoch_and_sample() -> None:
    def drawn(seed: int, epoch: int) -> list[int]:
        blocks = SpanBlocks(TOKENS, 64, marks=list(range(100)), seed=seed)
        blocks.set_epoch(epoch)
        return blocks[5]["input_ids"].tolist()

    assert drawn(1, 0) == drawn(1, 0)
    assert drawn(1, 0) != drawn(1, 1)
    assert drawn(1, 0) != drawn(2, 0)


def test_infilling_writes_the_whole_text() -> None:
    blocks = SpanBlocks(TOKENS, 64, mask=5, end=200, start=7, span=3.0)
    sample = blocks[3]
    assert sample["labels"].tolist() == [*blocks.ids(3).tolist(), 200]
    assert (sample["input_ids"] == 5).sum() == blocks.spans
    assert sample["decoder_input_ids"].tolist() == [7, *sample["labels"][:-1].tolist()]


def test_blocks_that_lose_more_spans_than_there_are_sentinels_are_refused() -> None:
    with pytest.raises(TrainError, match="lose 19 spans and the tokenizer has 4 sentinels"):
        SpanBlocks(TOKENS, 128, marks=[1, 2, 3, 4], span=1.0)


def t5(folder: Path, vocabulary: int) -> str:
    config = transformers.T5Config(
        vocab_size=vocabulary,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=1,
        pad_token_id=1,
        eos_token_id=0,
    )
    (folder / "t5.json").write_text(
        json.dumps({**config.to_dict(), "architectures": ["T5ForConditionalGeneration"], "use_cache": False})
    )
    return f"hf:{folder / 't5.json'}"


@pytest.mark.slow
def test_a_t5_learns_from_spans_and_from_pairs(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{n} bottles on wall {n * n % 97}\n" for n in range(900)))
    rows = [{"text": f"count {n}", "target": f"{n} and {n + 1}"} for n in range(40)]
    pairs = jsonl(tmp_path / "pairs.jsonl", rows)
    source = t5(tmp_path, 512)
    torch.manual_seed(0)
    program = open_source(source)
    common: dict[str, Any] = {"tokenizer": "bpe:500", "sequence": 24, "batch": 4}
    spans = load_data(Data("seq2seq", (str(tmp_path / "text.txt"),), **common), program, source)
    assert spans.tokenizer is not None
    assert len(sentinels(spans.tokenizer.model)) == 100
    batch = next(iter(spans.train))
    assert batch["decoder_input_ids"][:, 0].tolist() == [1] * 4 if "decoder_input_ids" in batch else True
    written = load_data(Data("seq2seq", (pairs,), target="target", **common), program, source)
    batch = next(iter(written.train))
    assert ((batch["labels"] == IGNORED).sum(1) > 0).all()
    for data in (spans, written):
        result = run(program, [Train(12, lr=1e-2)], data.train, data.eval, data.loss, log_every=1)
        losses = [record["loss"] for record in result.history if "loss" in record]
        assert losses[-1] < losses[0]


def bert(folder: Path, head: str, labels: int) -> str:
    config = transformers.BertConfig(
        vocab_size=400,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        num_labels=labels,
    )
    (folder / f"{head}.json").write_text(json.dumps({**config.to_dict(), "architectures": [head]}))
    return f"hf:{folder / f'{head}.json'}"


def test_texts_are_classified(tmp_path: Path) -> None:
    rows = [{"text": ("good " if n % 2 else "bad ") * 3 + str(n), "label": "yn"[n % 2]} for n in range(60)]
    source = bert(tmp_path, "BertForSequenceClassification", 2)
    torch.manual_seed(0)
    program = open_source(source)
    data = Data(
        "text-classification",
        (jsonl(tmp_path / "rows.jsonl", rows),),
        tokenizer="bpe:350",
        sequence=16,
        batch=8,
        eval_share=0.2,
    )
    loaded = load_data(data, program, source)
    result = run(program, [Train(40, lr=1e-2)], loaded.train, loaded.eval, loaded.loss, metric=loaded.metric)
    found = [record["eval_accuracy"] for record in result.history if "eval_accuracy" in record]
    assert found[-1] > 0.9


def test_a_folder_per_class_is_data_and_too_many_classes_are_refused(tmp_path: Path) -> None:
    for name in ("ham", "spam", "eggs"):
        (tmp_path / "mails" / name).mkdir(parents=True)
        for n in range(9):
            (tmp_path / "mails" / name / f"{n}.txt").write_text(f"{name} number {n}")
    source = bert(tmp_path, "BertForSequenceClassification", 2)
    program = open_source(source)
    data = Data("text-classification", (str(tmp_path / "mails"),), tokenizer="bpe:350", sequence=16, batch=4)
    with pytest.raises(TrainError, match="The texts have classes up to 2 and the model has 2 logits"):
        load_data(data, program, source)


def test_words_are_labelled_at_their_first_token(tmp_path: Path) -> None:
    rows = [{"words": ["Paris", "is", "unbelievably", "big"], "tags": ["LOC", "O", "O", "O"]}] * 30
    source = bert(tmp_path, "BertForTokenClassification", 2)
    program = open_source(source)
    data = Data(
        "token-classification",
        (jsonl(tmp_path / "rows.jsonl", rows),),
        field="words",
        label="tags",
        tokenizer="bpe:320",
        sequence=24,
        batch=4,
    )
    loaded = load_data(data, program, source)
    sample = next(iter(loaded.train))
    labels = sample["labels"][0]
    assert labels[labels != IGNORED].tolist() == [0, 1, 1, 1]
    assert classes(rows, "tags") == ("LOC", "O")
    assert loaded.tokenizer is not None
    starts = (labels != IGNORED).nonzero().flatten().tolist()
    pieces = [loaded.tokenizer.model.id_to_token(int(sample["input_ids"][0][at])) for at in starts]
    assert [piece.strip("\u0120")[0] for piece in pieces] == ["P", "i", "u", "b"]


def test_rows_without_a_label_are_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"text": "a", "label": 0}, {"text": "b"}])
    data = Data("text-classification", (path,), tokenizer="bpe:320")
    program = open_source(bert(tmp_path, "BertForSequenceClassification", 2))
    with pytest.raises(TrainError, match="line 2 has no field 'label'"):
        load_data(data, program, "hf:none")


def test_masked_and_written_tokens_are_judged_where_they_stand() -> None:
    """No shift: the label of a position is that of its own logits."""
    logits = torch.randn(2, 5, 7)
    labels = logits.argmax(-1)
    assert accuracy(logits, {"labels": labels})["accuracy"] == 1
    labels[0, 0] = IGNORED
    expected = nn.functional.cross_entropy(logits.reshape(-1, 7), labels.reshape(-1))
    assert torch.equal(written_token_loss(logits, {"labels": labels}), expected)


def test_sentinels_are_tokens_of_their_own() -> None:
    tokenizer = train_bpe(["a text of words\n"] * 9, 450, [f"<extra_id_{n}>" for n in range(100)])
    assert len(set(sentinels(tokenizer))) == 100
    assert not set(sentinels(tokenizer)) & set(tokenizer.encode("a text of words").ids)
