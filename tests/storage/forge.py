"""Program files taken apart and put together again, with whatever lies about them one likes."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Parts:
    """A file's header and program as JSON values, and the bytes of its tensors."""

    metadata: dict[str, Any]
    entries: dict[str, Any]
    program: Any
    data: bytes

    def copy(self) -> Parts:
        return copy.deepcopy(self)

    @property
    def saved(self) -> dict[str, Any]:
        """The saved program's own row."""
        return self.program["programs"][-1]

    @property
    def nodes(self) -> list[Any]:
        return self.program["graphs"][-1]["nodes"]

    def node(self, name: str) -> list[Any]:
        return next(row for row in self.nodes if row[1] == name)


def take_apart(path: Path) -> Parts:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    entries = json.loads(raw[8 : 8 + length])
    metadata = entries.pop("__metadata__")
    return Parts(metadata, entries, json.loads(metadata.pop("program")), raw[8 + length :])


def put_together(parts: Parts, path: Path, *, program: str | None = None) -> Path:
    """Write ``parts`` with right checksums, as an attacker would; ``program`` is JSON text to use."""
    text = json.dumps(parts.program) if program is None else program
    metadata = {**parts.metadata, "program": text}
    if len(parts.metadata.get("crc32", "")) == 8 * len(parts.entries):
        metadata["crc32"] = checksums(parts)
    return write_header(
        json.dumps({"__metadata__": metadata, **parts.entries}, separators=(",", ":")), parts.data, path
    )


def checksums(parts: Parts) -> str:
    try:
        extents = sorted(entry["data_offsets"] for entry in parts.entries.values())
        return "".join(f"{zlib.crc32(parts.data[start:stop]):08x}" for start, stop in extents)
    except (TypeError, ValueError, KeyError):
        return parts.metadata["crc32"]


def write_header(header: str, data: bytes, path: Path) -> Path:
    """Write a file with a given header text, its length and digest put right."""
    body = header.encode("utf-8", "surrogatepass")
    raw = bytearray(struct.pack("<Q", len(body)) + body)
    place = raw.find(b'"sha256":"') + len(b'"sha256":"')
    if place > 10:
        raw[place : place + 64] = b"0" * 64
        raw[place : place + 64] = hashlib.sha256(raw).hexdigest().encode()
    path.write_bytes(bytes(raw) + data)
    return path
