"""Blocks for encoder-decoder models: text with spans taken out, and what is to be written in their place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from mlgraph.train.data.text import RedrawnBlocks
from mlgraph.train.errors import TrainError

MOST_SPANS = 100
"""How many sentinels a tokenizer trained for span corruption has, as T5's own."""


def sentinel(number: int) -> str:
    """The token that stands for a span, as T5's tokenizer spells it."""
    return f"<extra_id_{number}>"


def sentinels(tokenizer: Any) -> list[int]:
    """The ids of a tokenizer's sentinels in their order; none where it has none."""
    found = (tokenizer.token_to_id(sentinel(number)) for number in range(MOST_SPANS))
    return [int(token) for token in found if token is not None]


class SpanBlocks(RedrawnBlocks):
    """Blocks for sequence-to-sequence models, corrupted anew in every epoch.

    A share of ``rate`` of the tokens is taken out in spans of ``span`` tokens on average, and one token per
    span is put in their place. With ``marks``, the sentinels, the target is each of them followed by its
    span (Raffel et al., "Exploring the Limits of Transfer Learning", JMLR 2020, 3.1.4); with ``mask``, one
    token for every span, the target is the whole text (Lewis et al., "BART", ACL 2020, text infilling).
    Entries are ``input_ids`` of at most ``length`` tokens, the same in every block, ``attention_mask``,
    ``labels``, and ``decoder_input_ids``, which are the labels one to the right, after ``start``.
    """

    def __init__(
        self,
        tokens: np.ndarray[Any, Any],
        length: int,
        *,
        marks: Sequence[int] = (),
        mask: int | None = None,
        end: int | None = None,
        start: int = 0,
        padding: int = 0,
        rate: float = 0.15,
        span: float = 3.0,
        seed: int = 0,
    ) -> None:
        self.marks, self.mask, self.end = marks, mask, end
        self.start, self.padding, self.rate, self.span = start, padding, rate, span
        raw = length
        while self._input_length(raw + 1) <= length:
            raw += 1
        while raw > 1 and self._input_length(raw) > length:
            raw -= 1
        super().__init__(tokens, raw, seed)
        self.taken, self.spans = self._noise(raw)
        if raw - self.taken < self.spans:
            raise TrainError(f"Blocks of {length} tokens are too short to lose spans: raise data.sequence.")
        if marks and self.spans > len(marks):
            raise TrainError(
                f"Blocks of {length} tokens lose {self.spans} spans and the tokenizer has {len(marks)} "
                "sentinels: lower data.sequence or data.mask_rate, or raise data.span."
            )

    def _noise(self, raw: int) -> tuple[int, int]:
        """How many of ``raw`` tokens are taken out, and in how many spans."""
        taken = min(max(round(raw * self.rate), 1), raw - 1)
        return taken, max(round(taken / self.span), 1)

    def _input_length(self, raw: int) -> int:
        taken, spans = self._noise(raw)
        return raw - taken + spans + (self.end is not None)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids, drawn = self.ids(index), self.drawn(index)
        kept = _parts(len(ids) - self.taken, self.spans, drawn)
        lost = _parts(self.taken, self.spans, drawn)
        inputs, target, at = [], [], 0
        for number, (keep, lose) in enumerate(zip(kept, lost, strict=True)):
            mark = torch.tensor([self.marks[number] if self.marks else self.mask])
            inputs += [ids[at : at + keep], mark]
            target += [mark, ids[at + keep : at + keep + lose]]
            at += keep + lose
        end = torch.tensor([] if self.end is None else [self.end], dtype=torch.int64)
        labels = torch.cat([*target, end] if self.marks else [ids, end])
        sample = torch.cat([*inputs, end])
        return {
            "input_ids": sample,
            "attention_mask": torch.ones_like(sample),
            "labels": labels,
            "decoder_input_ids": shifted(labels, self.start, self.padding),
        }


def shifted(labels: torch.Tensor, start: int, padding: int) -> torch.Tensor:
    """What a decoder reads to write ``labels`` [sequence]: ``start`` and all but the last of them.

    Labels of -100, which nothing is to be written for, are read as ``padding``.
    """
    before = torch.cat([labels.new_tensor([start]), labels[:-1]])
    return before.masked_fill(before == -100, padding)


def _parts(total: int, count: int, drawn: torch.Generator) -> list[int]:
    """``total`` in ``count`` parts of at least one, each way of cutting it as likely as another."""
    cuts = torch.randperm(total - 1, generator=drawn)[: count - 1].sort().values + 1
    edges = [0, *cuts.tolist(), total]
    return [b - a for a, b in pairwise(edges)]
