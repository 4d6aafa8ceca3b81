"""Files that hold no saved program, told apart by their bytes."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import warnings
import zipfile
from typing import BinaryIO

PROGRAM = b'{"__metadata__":{"mlgraph":"'
"""How the header of a saved program begins."""


PICKLE = "a pickled file"


EXPORT = "a torch.export archive"


SCRIPT = "a TorchScript archive"


GGUF = "a GGUF file"


EMPTY = "an empty file"


def foreign_kind(file: BinaryIO) -> str | None:
    """What a file is that other tools wrote, or None. Looks at first bytes and at a zip's list of names."""
    start = file.read(16)
    file.seek(0)
    if not start:
        return EMPTY
    if start.startswith(b"GGUF"):
        return GGUF
    # A container's header follows the eight bytes of its length, which may look like anything.
    if start[8:9] == b"{":
        return None
    if start.startswith(b"PK"):
        return _zip_kind(file)
    # Protocol 2 and later begin with the PROTO opcode; protocol 0 and 1 with a mark, an empty container
    # or a global.
    protocol = start[1] if start[:1] == b"\x80" and len(start) > 1 else None
    if protocol is not None and 2 <= protocol <= pickle.HIGHEST_PROTOCOL:
        return PICKLE
    return PICKLE if start[:1] in (b"(", b"c", b"}", b"]") and _unpickles(file) else None


def is_program(file: BinaryIO) -> bool:
    """Whether a file begins as a saved program does."""
    return _start(file).startswith(PROGRAM)


def is_safetensors(file: BinaryIO) -> bool:
    """Whether a file begins as one of safetensors does that is no saved program."""
    start = _start(file)
    return start.startswith(b"{") and not start.startswith(PROGRAM)


def _start(file: BinaryIO) -> bytes:
    """The beginning of a container's header, which follows its length."""
    start = file.read(8 + len(PROGRAM))
    file.seek(0)
    return start[8:]


def _zip_kind(file: BinaryIO) -> str:
    try:
        names = [name.partition("/")[2] or name for name in zipfile.ZipFile(file).namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return PICKLE
    finally:
        file.seek(0)
    if any(name.startswith(("models/", "archive_format", "serialized_exported_program")) for name in names):
        return EXPORT
    return SCRIPT if any(name.startswith("code/") for name in names) else PICKLE


def _unpickles(file: BinaryIO, size: int = 1 << 16) -> bool:
    """Whether the beginning of a file reads as the opcodes of an old pickle; nothing is run."""
    head = file.read(size)
    file.seek(0)
    last = 0
    with contextlib.suppress(ValueError), warnings.catch_warnings(action="ignore"):
        for operation, _, position in pickletools.genops(head):
            last = position or 0
            if operation.name == "STOP":
                return True
    return len(head) == size and last > size // 2
