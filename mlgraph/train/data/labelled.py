"""Texts with labels: rows of files, or a folder per class, as samples of fixed length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from mlgraph.train.data.corruption import shifted
from mlgraph.train.data.text import read_rows
from mlgraph.train.data.tokenizer import special_token
from mlgraph.train.errors import TrainError

IGNORED = -100
"""The label of what is not to be predicted."""
DataRow = Mapping[str, Any]


def read_labelled(paths: Sequence[Path], text: str, label: str) -> list[DataRow]:
    """Rows with the columns ``text`` and ``label``.

    They come from jsonl, parquet and ``save_to_disk`` data, or from a folder with one folder of text files
    per class. Raises ``TrainError`` naming the file and the column where one is missing.
    """
    rows = [row for path in paths for row in _rows_of(path, text, label)]
    if not rows:
        raise TrainError(f"{', '.join(map(str, paths))} holds no rows: name files with texts in them.")
    return rows


def _rows_of(path: Path, text: str, label: str) -> Iterator[DataRow]:
    folders = sorted(one for one in path.iterdir() if one.is_dir()) if path.is_dir() else []
    if folders and not (path / "dataset_info.json").exists():
        for folder in folders:
            for file in sorted(one for one in folder.rglob("*") if one.is_file()):
                yield {text: file.read_text(encoding="utf-8", errors="replace"), label: folder.name}
        return
    yield from read_rows(path, (text, label))


def classes(rows: Sequence[DataRow], label: str) -> tuple[Any, ...]:
    """The classes of rows, or of the words in them, in order."""
    found: set[Any] = set()
    for row in rows:
        value = row[label]
        found.update(value if isinstance(value, list | tuple) else [value])
    numbers = all(isinstance(value, int) for value in found)
    return tuple(range(max(found) + 1)) if numbers else tuple(sorted(found, key=str))


@dataclass(frozen=True)
class Encoder:
    """Texts as ids of one length.

    ``tokenizer`` is a ``tokenizers.Tokenizer``; its special tokens are added, texts are cut and padded to
    ``length``.
    """

    tokenizer: Any
    length: int

    @property
    def padding(self) -> int:
        """The id that fills up what is too short."""
        return special_token(self.tokenizer, "pad_token", "eos_token") or 0

    def __call__(self, text: str | Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, list[int | None]]:
        """Ids and mask [length], and the word that each token belongs to; a list is taken as words."""
        words = not isinstance(text, str)
        found = self.tokenizer.encode(list(text) if words else text, is_pretokenized=words)
        ids, word_of = found.ids[: self.length], list(found.word_ids[: self.length])
        if len(found.ids) > self.length and found.special_tokens_mask[-1]:
            ids[-1], word_of[-1] = found.ids[-1], None
        missing = self.length - len(ids)
        padding = self.padding
        mask = [1] * len(ids) + [0] * missing
        return (
            torch.tensor(ids + [padding] * missing),
            torch.tensor(mask),
            word_of + [None] * missing,
        )


class LabelledTexts(Dataset[dict[str, torch.Tensor]]):
    """Samples of ``text-classification``: ``input_ids``, ``attention_mask`` [sequence], ``labels`` []."""

    def __init__(
        self, rows: Sequence[DataRow], text: str, label: str, encoder: Encoder, known: Sequence[Any]
    ):
        self.rows, self.text, self.label, self.encoder = rows, text, label, encoder
        self.number = {value: number for number, value in enumerate(known)}
        self.highest = len(known) - 1

    def __len__(self) -> int:
        return len(self.rows)

    def class_of(self, value: Any) -> int:
        """The number of a class; ``TrainError`` where training had none of that name."""
        if value not in self.number:
            raise TrainError(
                f"The evaluation data has the label {value!r}, which the training data has not: correct it."
            )
        return self.number[value]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[index]
        ids, mask, _ = self.encoder(row[self.text])
        label = torch.tensor(self.class_of(row[self.label]))
        types = torch.zeros_like(ids)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "labels": label}


class LabelledTokens(LabelledTexts):
    """Samples of ``token-classification``: ``labels`` [sequence], each word's at its first token.

    The text is a list of words, the label a list of as many.
    """

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[index]
        words, tags = row[self.text], row[self.label]
        if isinstance(words, str) or isinstance(tags, str) or len(words) != len(tags):
            raise TrainError(
                f"Row {index} has no label for each word: token-classification takes lists of equal length "
                f"in {self.text!r} and {self.label!r}."
            )
        ids, mask, word_of = self.encoder(words)
        labels, last = [], None
        for word in word_of:
            first = word is not None and word != last
            labels.append(self.class_of(tags[word]) if first and word is not None else IGNORED)
            last = word
        types = torch.zeros_like(ids)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": types,
            "labels": torch.tensor(labels),
        }


class PairedTexts(Dataset[dict[str, torch.Tensor]]):
    """Samples of ``seq2seq`` from pairs: a text, and the text that is to be written for it."""

    def __init__(self, rows: Sequence[DataRow], text: str, target: str, encoder: Encoder, start: int) -> None:
        self.rows, self.text, self.target, self.encoder, self.start = rows, text, target, encoder, start

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[index]
        ids, mask, _ = self.encoder(row[self.text])
        written, present, _ = self.encoder(row[self.target])
        labels = written.masked_fill(present == 0, IGNORED)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            "decoder_input_ids": shifted(labels, self.start, self.encoder.padding),
        }
