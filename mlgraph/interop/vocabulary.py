"""Token ids and lengths in a written directory that no tokenizer or model of it can have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlgraph.files import write_text

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
# what transformers writes for a tokenizer that was given no length is 10**30
_NO_LENGTH = 10**9


def settle_vocabulary(folder: Path) -> list[str]:
    """Mend the ids of special tokens and the tokenizer's length in the files of ``folder``; what was mended.

    An id outside the vocabulary becomes that of the tokenizer's token of this role, where it has one, and is
    taken out elsewhere. A length that stands for none becomes the model's.
    """
    config = _read(folder / "config.json")
    vocabulary = _first(config, ("vocab_size",))
    known = _special_ids(folder)
    notes: list[str] = []
    for name in ("config.json", "generation_config.json"):
        settings = _read(folder / name)
        wrong = {key: ids for key, ids in settings.items() if _outside(key, ids, vocabulary)}
        if not wrong:
            continue
        mended = {key: known.get(key.removesuffix("_id")) for key in wrong}
        mended = {key: None if _outside(key, new, vocabulary) else new for key, new in mended.items()}
        _write(folder / name, {**settings, **mended})
        for key, new in mended.items():
            to = "it is taken out" if new is None else f"it is {new} now, the tokenizer's"
            notes.append(f"{key} {wrong[key]} in {name} lies outside the vocabulary of {vocabulary}: {to}")
    return notes + _settle_length(folder, _first(config, _LENGTHS))


def _settle_length(folder: Path, length: int | None) -> list[str]:
    settings = _read(folder / "tokenizer_config.json")
    given = settings.get("model_max_length")
    if length is None or not isinstance(given, int | float) or given < _NO_LENGTH:
        return []
    _write(folder / "tokenizer_config.json", {**settings, "model_max_length": length})
    return [f"the tokenizer had no model_max_length: it is {length} now, the model's"]


def _outside(key: str, value: Any, vocabulary: int | None) -> bool:
    if vocabulary is None or not key.endswith("_token_id"):
        return False
    ids = value if isinstance(value, list) else [value]
    return any(isinstance(one, int) and one >= vocabulary for one in ids)


def _special_ids(folder: Path) -> dict[str, int]:
    """Ids by role, as ``eos_token``, of the tokens that the tokenizer's files name."""
    content = _read(folder / "tokenizer.json")
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    plain = content.get("model", {}).get("vocab")
    ids = {**(plain if isinstance(plain, dict) else {}), **added}
    roles = _read(folder / "tokenizer_config.json").items()
    named = {role: token.get("content") if isinstance(token, dict) else token for role, token in roles}
    return {role: ids[token] for role, token in named.items() if isinstance(token, str) and token in ids}


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The first whole number of one of these names, in a config or the config of its text part."""
    text = config.get("text_config")
    for settings in (config, text if isinstance(text, dict) else {}):
        for name in names:
            number = settings.get(name)
            if isinstance(number, int):
                return number
    return None


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _write(path: Path, settings: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
