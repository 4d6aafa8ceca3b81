"""Text corpora as packed token blocks: read as streams, tokenized once, kept in a memory-mapped file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mlgraph.files import atomic_directory
from mlgraph.train.data.order import drawn_for
from mlgraph.train.data.tokenizer import special_token
from mlgraph.train.errors import TrainError

_CHUNK = 1 << 20
_BATCH = 256


def read_documents(paths: Sequence[Path], field: str) -> Iterator[str]:
    """The texts of files and folders, one at a time.

    ``.jsonl`` and ``.parquet`` files give the column ``field``, a folder written by ``datasets``'
    ``save_to_disk`` likewise, any other folder what is in it, in the order of names, and any other file its
    own text.
    """
    for path in paths:
        _exists(path)
        if _has_rows(path):
            yield from (str(row[field]) for row in read_rows(path, (field,)) if row[field] is not None)
        elif path.is_dir():
            yield from read_documents(_inside(path), field)
        else:
            yield from _plain(path)


def read_rows(path: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The columns ``fields`` of a table, row by row.

    A table is a ``.jsonl`` or ``.parquet`` file, or a folder written by ``datasets``' ``save_to_disk``.
    Raises ``TrainError`` naming the file, the line and the columns that there are.
    """
    _exists(path)
    if not _has_rows(path):
        raise TrainError(
            f"{path} has no columns {', '.join(fields)}: name a .jsonl or .parquet file, or a folder that "
            "save_to_disk wrote."
        )
    read = _saved if path.is_dir() else _json_lines if path.suffix == ".jsonl" else _parquet
    yield from read(path, fields)


def _exists(path: Path) -> None:
    if not path.exists():
        raise TrainError(f"There is no file {path}: check the path in the data section.")


def _has_rows(path: Path) -> bool:
    if path.is_dir():
        return (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()
    return path.suffix in (".jsonl", ".parquet")


def _inside(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not found:
        raise TrainError(f"The folder {folder} is empty: name one with files in it.")
    return found


def _plain(path: Path) -> Iterator[str]:
    """A text file in pieces that end at line ends, so that a large one is never held whole."""
    with _reading(path), open(path, encoding="utf-8") as file:
        while lines := file.readlines(_CHUNK):
            yield "".join(lines)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong in reading a file of documents as a sentence."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise TrainError(f"{path} is no UTF-8 text ({error.reason}): convert it or leave it out.") from error
    except (OSError, ValueError) as error:
        raise TrainError(f"{path} cannot be read ({error}): mend it or leave it out.") from error


def _json_lines(path: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    with _reading(path), open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise TrainError(
                    f"{path}, line {number}, is no JSON ({error}): mend or remove it."
                ) from error
            yield _cells(row, fields, f"{path}, line {number}")


def _parquet(path: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise TrainError(f"{path} needs pyarrow: pip install 'mlgraph[train]'.") from error
    with _reading(path):
        file = parquet.ParquetFile(path)
        for field in fields:
            if field not in file.schema_arrow.names:
                named = ", ".join(file.schema_arrow.names)
                raise TrainError(f"{path} has no column {field!r}: set field to one of {named}.")
        for batch in file.iter_batches(_BATCH, columns=list(fields)):
            yield from batch.to_pylist()


def _saved(path: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise TrainError(f"{path} needs the datasets library: pip install 'mlgraph[train]'.") from error
    with _reading(path):
        found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        raise TrainError(f"{path} holds the splits {', '.join(found)}: name the folder of one of them.")
    for row in found:
        yield _cells(row, fields, str(path))


def _cells(row: Any, fields: Sequence[str], where: str) -> dict[str, Any]:
    for field in fields:
        if not isinstance(row, dict) or field not in row:
            names = ", ".join(row) if isinstance(row, dict) else "none"
            raise TrainError(f"{where} has no field {field!r}: set field to one of those it has ({names}).")
    return {field: row[field] for field in fields}


def tokenize(documents: Iterable[str], tokenizer: Any, folder: Path) -> np.memmap[Any, Any]:
    """The tokens of all documents, one after the other, from ``folder`` if it has them, else put there first.

    Documents end in the tokenizer's end-of-text token where it has one.
    """
    path = folder / "tokens.bin"
    wide = tokenizer.get_vocab_size() > 2**16
    kind = np.uint32 if wide else np.uint16
    if not path.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        end = special_token(tokenizer, "eos_token", "sep_token")
        with atomic_directory(folder) as temporary, open(temporary / "tokens.bin", "wb") as file:
            for encoding in _encoded(documents, tokenizer):
                ids = encoding.ids if end is None else [*encoding.ids, end]
                np.asarray(ids, dtype=kind).tofile(file)
    if path.stat().st_size == 0:
        raise TrainError("The training text is empty: name files with text in them.")
    return np.memmap(path, dtype=kind, mode="r")


def _encoded(documents: Iterable[str], tokenizer: Any) -> Iterator[Any]:
    stream = iter(documents)
    while batch := list(islice(stream, _BATCH)):
        yield from tokenizer.encode_batch(batch, add_special_tokens=False)


def fingerprint(paths: Sequence[Path], *facts: object) -> str:
    """A key for what is made of files: their names, sizes and times, and further facts."""
    files = chain.from_iterable(_inside(path) if path.is_dir() else [path] for path in paths)
    stats = [
        (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.exists()
    ]
    return hashlib.sha256(repr((stats, facts)).encode()).hexdigest()[:20]


class TokenBlocks(Dataset[dict[str, torch.Tensor]]):
    """Blocks of ``length`` tokens for causal language models: ``input_ids``, ``attention_mask``, ``labels``.

    ``labels`` are the inputs; the shift by one is the model's own, as it is in transformers.
    """

    def __init__(self, tokens: np.ndarray[Any, Any], length: int) -> None:
        self.tokens, self.length = tokens, length
        if len(tokens) < length:
            raise TrainError(
                f"The text has {len(tokens)} tokens, fewer than one block of {length}: give more text."
            )

    def __len__(self) -> int:
        return len(self.tokens) // self.length

    def ids(self, index: int) -> torch.Tensor:
        """The tokens of one block."""
        start = index * self.length
        return torch.from_numpy(self.tokens[start : start + self.length].astype(np.int64))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.ids(index)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


class RedrawnBlocks(TokenBlocks):
    """Blocks that differ from epoch to epoch by what is drawn for them: the same in whatever process."""

    def __init__(self, tokens: np.ndarray[Any, Any], length: int, seed: int) -> None:
        super().__init__(tokens, length)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Draw as in an epoch."""
        self.epoch = epoch

    def drawn(self, index: int) -> torch.Generator:
        """What is drawn for one block."""
        return drawn_for(self.seed, self.epoch, index)


class MaskedBlocks(RedrawnBlocks):
    """Blocks for masked language models, masked anew in every epoch, by sample and whatever process draws it.

    Of the tokens a share of ``rate`` is to be predicted; of these 80% become the mask token, 10% a random
    one and 10% stay (Devlin et al., "BERT", NAACL 2019). Labels elsewhere are -100.
    """

    def __init__(
        self,
        tokens: np.ndarray[Any, Any],
        length: int,
        mask: int,
        size: int,
        rate: float = 0.15,
        seed: int = 0,
    ) -> None:
        super().__init__(tokens, length, seed)
        self.mask, self.size, self.rate = mask, size, rate

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids, drawn = self.ids(index), self.drawn(index)
        labels, draw = ids.clone(), torch.rand(ids.shape, generator=drawn)
        labels[draw >= self.rate] = -100
        inputs = torch.where(draw < 0.8 * self.rate, torch.tensor(self.mask), ids)
        swapped = (draw >= 0.8 * self.rate) & (draw < 0.9 * self.rate)
        inputs = torch.where(swapped, torch.randint(self.size, ids.shape, generator=drawn), inputs)
        ones = torch.ones_like(ids)
        return {"input_ids": inputs, "attention_mask": ones, "token_type_ids": ones - 1, "labels": labels}
