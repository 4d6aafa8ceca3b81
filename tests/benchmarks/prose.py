"""English prose of pinned packages as plain text: to train on, to select by, and to report on.

``python -m tests.benchmarks.prose OUT`` writes ``train.txt``, ``selection.txt`` and ``report.txt``. Every
twentieth piece of about 32 KB is held out, in turn for selection and for the report.
"""

from __future__ import annotations

import argparse
import html
import re
import struct
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from tests.tools.fetch import fetch

_PIECE = 32_000
_EVERY = 20


def handbook() -> Iterator[str]:
    """The pages of a long handbook in HTML, in the order of their names, without markup."""
    for page in sorted(path for path in fetch("anarchism").rglob("*.html") if path.is_file()):
        text = page.read_text(encoding="utf-8", errors="replace")
        yield _plain(re.sub(r"(?s)<(script|style|head).*?</\1>", " ", text))


def sword(name: str) -> Iterator[str]:
    """The blocks of a module in SWORD's compressed format, without markup.

    A ``.?zs`` index holds 12 bytes a block: where it begins in the ``.?zz`` file, its length there, and its
    length unpacked, little-endian (the format of the CrossWire project's zCom and zText drivers).
    """
    for index in sorted(fetch(name).rglob("?t.?zs")):
        packed = index.with_suffix(index.suffix[:-1] + "z").read_bytes()
        for start, size, _ in struct.iter_unpack("<III", index.read_bytes()):
            if size:
                yield _plain(zlib.decompress(packed[start : start + size]).decode("utf-8", "replace"))


def _plain(text: str) -> str:
    words = html.unescape(re.sub(r"<[^>]+>", " ", text)).replace("\x00", " ")
    return re.sub(r"[ \t]+", " ", re.sub(r"\s*\n\s*", "\n", words)).strip() + "\n"


def pieces() -> Iterator[str]:
    """The whole text in pieces of at most 32 KB."""
    for text in chain(handbook(), sword("treasury-of-david"), sword("web-bible"), sword("matthew-henry")):
        for start in range(0, len(text), _PIECE):
            yield text[start : start + _PIECE]


def write(out: Path) -> dict[str, int]:
    """Write the three parts; the number of characters of each."""
    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[str]] = {"train": [], "selection": [], "report": []}
    for number, piece in enumerate(pieces()):
        held_out = "selection" if number // _EVERY % 2 else "report"
        parts["train" if number % _EVERY else held_out].append(piece)
    for name, texts in parts.items():
        (out / f"{name}.txt").write_text("".join(texts), encoding="utf-8")
    return {name: sum(map(len, texts)) for name, texts in parts.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    print(write(parser.parse_args().out))
