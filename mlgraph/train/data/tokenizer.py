"""Tokenizers of text corpora: read, trained and saved for those who use the trained model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlgraph.files import atomic_directory
from mlgraph.train.errors import TrainError

_SPECIAL_TOKENS = {
    "eos_token": ("<|end|>", "<|endoftext|>", "</s>", "<eos>"),
    "pad_token": ("<|pad|>", "[PAD]", "<pad>"),
    "mask_token": ("<|mask|>", "[MASK]", "<mask>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]",),
    "sep_token": ("[SEP]",),
}


@dataclass(frozen=True)
class Tokenizer:
    """A ``tokenizers.Tokenizer`` and the file that it came from."""

    model: Any
    file: Path

    def save(self, folder: Path) -> None:
        """Write files that ``AutoTokenizer`` loads.

        A tokenizer.json beside a tokenizer_config.json is copied with it, so that its chat template stays.
        """
        from transformers import PreTrainedTokenizerFast

        from mlgraph.interop.huggingface import copy_tokenizer

        with atomic_directory(folder) as temporary:
            configured = self.file.with_name("tokenizer_config.json").exists()
            if configured and self.file.name == "tokenizer.json":
                copy_tokenizer(self.file.parent, temporary)
                return
            ids = {role: special_token(self.model, role) for role in _SPECIAL_TOKENS}
            roles = {role: self.model.id_to_token(found) for role, found in ids.items() if found is not None}
            PreTrainedTokenizerFast(tokenizer_object=self.model, **roles).save_pretrained(temporary)


def load_tokenizer(name: str, documents: Iterable[str], cache: Path, extra: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer of a name.

    ``name``: a ``tokenizer.json``, a folder with one, or ``bpe:SIZE``, which trains a byte-level BPE of
    SIZE tokens on ``documents``, the special tokens ``extra`` among them, and keeps it under ``cache``.
    """
    import tokenizers

    if not name.startswith("bpe:"):
        path = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
        if not path.exists():
            raise TrainError(f"There is no tokenizer {path}: name a tokenizer.json, its folder, or bpe:SIZE.")
        return Tokenizer(tokenizers.Tokenizer.from_file(str(path)), path)
    size = name.removeprefix("bpe:")
    least = 300 + len(extra)
    if not size.isdecimal() or int(size) < least:
        raise TrainError(f"tokenizer = {name!r} is no size: write bpe:SIZE with at least {least} tokens.")
    path = cache / "tokenizer.json"
    if not path.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        trained = train_bpe(documents, int(size), extra)
        with atomic_directory(cache) as folder:
            trained.save(str(folder / "tokenizer.json"))
    return Tokenizer(tokenizers.Tokenizer.from_file(str(path)), path)


def train_bpe(documents: Iterable[str], size: int, extra: Sequence[str] = ()) -> Any:
    """A byte-level BPE ``tokenizers.Tokenizer`` of ``size`` tokens, three for end, padding and mask."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>", "<|pad|>", "<|mask|>", *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def special_token(tokenizer: Any, *roles: str) -> int | None:
    """The id of the first token known for ``roles``, which are ``eos_token``, ``mask_token`` and the like."""
    names = (name for role in roles for name in _SPECIAL_TOKENS[role])
    return next((i for name in names if (i := tokenizer.token_to_id(name)) is not None), None)
