"""The data of text tasks: what is read, tokenized and cut into samples for each of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset, Subset

from mlgraph.cache.store import home
from mlgraph.train.data.corruption import MOST_SPANS, SpanBlocks, sentinel, sentinels
from mlgraph.train.data.labelled import (
    Encoder,
    LabelledTexts,
    LabelledTokens,
    PairedTexts,
    classes,
    read_labelled,
)
from mlgraph.train.data.text import (
    MaskedBlocks,
    TokenBlocks,
    fingerprint,
    read_documents,
    read_rows,
    tokenize,
)
from mlgraph.train.data.tokenizer import Tokenizer, load_tokenizer, special_token
from mlgraph.train.errors import TrainError

if TYPE_CHECKING:
    import numpy as np

    from mlgraph.program import Program
    from mlgraph.train.config import Data


@dataclass(frozen=True)
class TextSets:
    """Samples for training and evaluation; ``highest`` is the largest class number, if there are classes."""

    train: Dataset[Any]
    eval: Dataset[Any]
    tokenizer: Tokenizer
    highest: int | None = None


def text_sets(data: Data, program: Program, source: str, seed: int) -> TextSets:
    """The samples of a text task for ``program``, which was opened from ``source``.

    Raises ``TrainError`` where files are missing, too short, or do not fit the program.
    """
    train, evaluation = ([Path(name) for name in names] for names in (data.train, data.eval))
    tokenizer, key = _tokenizer(data, train, source)
    _check_vocabulary(program, tokenizer.model.get_vocab_size())
    if data.task in ("text-classification", "token-classification"):
        return _labelled(data, tokenizer, train, evaluation, seed)
    start = _decoder_start(source, tokenizer.model)
    if data.task == "seq2seq" and data.target is not None:
        return _pairs(data, tokenizer, train, evaluation, start, seed)
    blocks = _blocks(data, tokenizer.model, train, key, start, seed)
    if evaluation:
        held_out = _blocks(data, tokenizer.model, evaluation, key, start, seed)
        return TextSets(blocks, held_out, tokenizer)
    # The end of a text is kept, so that what is evaluated on was not read in part.
    cut = _cut(data, len(blocks))
    return TextSets(Subset(blocks, range(cut)), Subset(blocks, range(cut, len(blocks))), tokenizer)


def _cut(data: Data, count: int) -> int:
    """How many of ``count`` samples are for training where none are given for evaluation."""
    cut = count - max(round(count * data.eval_share), 1)
    if cut < 1:
        raise TrainError(
            "The text is too short to keep a part for evaluation: give more, or name files in data.eval."
        )
    return cut


def _tokenizer(data: Data, train: list[Path], source: str) -> tuple[Tokenizer, str]:
    name = data.tokenizer
    if name is None:
        beside = Path(source.removeprefix("hf:"))
        folder = beside if beside.is_dir() else beside.parent
        if not (folder / "tokenizer.json").exists():
            raise TrainError(
                f"There is no tokenizer beside {source}: set data.tokenizer, for example to bpe:8192."
            )
        name = str(folder)
    # A tokenizer made from a corpus depends on it; one from a file on that file.
    trained = name.startswith("bpe:")
    takes_spans = data.task == "seq2seq" and data.target is None
    extra = [sentinel(number) for number in range(MOST_SPANS)] if takes_spans else []
    facts = (name, *extra) if trained else ("",)
    key = fingerprint(train if trained else [Path(name)], *facts, data.field if trained else "")
    documents = _documents(data, train) if trained else iter(())
    return load_tokenizer(name, documents, home() / f"tokenizer-{key}", extra), key


def _documents(data: Data, paths: list[Path]) -> Any:
    """The texts that a tokenizer is trained on."""
    if data.task not in ("text-classification", "token-classification"):
        return read_documents(paths, data.field)
    rows = read_labelled(paths, data.field, data.label)
    return (
        row[data.field] if isinstance(row[data.field], str) else " ".join(row[data.field]) for row in rows
    )


def _blocks(data: Data, tokenizer: Any, paths: list[Path], key: str, start: int, seed: int) -> TokenBlocks:
    folder = home() / f"tokens-{fingerprint(paths, key, data.field)}"
    tokens: np.ndarray[Any, Any] = tokenize(read_documents(paths, data.field), tokenizer, folder)
    if data.task == "causal-lm":
        return TokenBlocks(tokens, data.sequence)
    mask = special_token(tokenizer, "mask_token")
    if data.task == "seq2seq":
        marks = sentinels(tokenizer)
        if not marks and mask is None:
            raise TrainError(
                "The tokenizer has neither sentinels (<extra_id_0>, …) nor a mask token, which seq2seq puts "
                "in the place of spans: choose another in data.tokenizer, or give pairs and name data.target."
            )
        return SpanBlocks(
            tokens,
            data.sequence,
            marks=marks,
            mask=mask,
            end=special_token(tokenizer, "eos_token", "sep_token"),
            start=start,
            padding=special_token(tokenizer, "pad_token") or 0,
            rate=data.mask_rate,
            span=data.span,
            seed=seed,
        )
    if mask is None:
        raise TrainError(
            "The tokenizer has no mask token, which masked-lm needs: choose another in data.tokenizer."
        )
    return MaskedBlocks(tokens, data.sequence, mask, tokenizer.get_vocab_size(), data.mask_rate, seed)


def _labelled(
    data: Data, tokenizer: Tokenizer, train: list[Path], evaluation: list[Path], seed: int
) -> TextSets:
    rows = read_labelled(train, data.field, data.label)
    known = classes(rows, data.label)
    encoder = Encoder(tokenizer.model, data.sequence)
    kind = LabelledTokens if data.task == "token-classification" else LabelledTexts
    samples = kind(rows, data.field, data.label, encoder, known)
    if not evaluation:
        return TextSets(*_apart(data, samples, seed), tokenizer, samples.highest)
    held_out = read_labelled(evaluation, data.field, data.label)
    return TextSets(
        samples, kind(held_out, data.field, data.label, encoder, known), tokenizer, samples.highest
    )


def _pairs(
    data: Data, tokenizer: Tokenizer, train: list[Path], evaluation: list[Path], start: int, seed: int
) -> TextSets:
    assert data.target is not None
    encoder = Encoder(tokenizer.model, data.sequence)

    def samples(paths: list[Path]) -> PairedTexts:
        assert data.target is not None
        rows = [row for path in paths for row in read_rows(path, (data.field, data.target))]
        return PairedTexts(rows, data.field, data.target, encoder, start)

    pairs = samples(train)
    if evaluation:
        return TextSets(pairs, samples(evaluation), tokenizer)
    return TextSets(*_apart(data, pairs, seed), tokenizer)


def _apart(data: Data, samples: Any, seed: int) -> tuple[Subset[Any], Subset[Any]]:
    """Samples for training and for evaluation, drawn, since rows may lie in order of their classes."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = _cut(data, len(order))
    return Subset(samples, order[:cut]), Subset(samples, order[cut:])


def _decoder_start(source: str, tokenizer: Any) -> int:
    """The token that a decoder begins with: as the model's configuration says, else the padding."""
    path = Path(source.removeprefix("hf:"))
    path = path / "config.json" if path.is_dir() else path
    if path.suffix == ".json" and path.exists():
        start = json.loads(path.read_text(encoding="utf-8")).get("decoder_start_token_id")
        if isinstance(start, int):
            return start
    return special_token(tokenizer, "pad_token") or 0


def _check_vocabulary(program: Program, size: int) -> None:
    """Refuse tokens that a table looked up by a model input has no row for."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.embedding.default and node.args[1].op == "placeholder":
            rows = program.tensors[node.args[0].target].shape[0]
            if node.args[1].name.startswith("input_ids") and rows < size:
                raise TrainError(
                    f"The tokenizer has {size} tokens and {node.args[0].target} {rows} rows: "
                    "choose a smaller tokenizer or a model with a larger vocabulary."
                )
