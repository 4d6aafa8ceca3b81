"""The cache folder: an entry for each key, which holds files that are checked by digest and size.

The cache is ``$MLGRAPH_CACHE``, else ``mlgraph`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. An entry is a
folder of its own in ``models`` there, named by its key; every file in it is written atomically. Nothing here
runs or unpickles what it reads: records are JSON behind a SHA-256 of their bytes, and other files have their
own digests.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlgraph.cache.sources import unchanged
from mlgraph.errors import FileError
from mlgraph.files import write_bytes

LARGEST_RECORD = 64 << 20
"""Bytes of a record; a longer one is neither written nor read."""

LARGEST_FILE = 512 << 20
"""Bytes of any other file in an entry."""

LARGEST_FOLDER = 4 << 30
"""Bytes of all entries together; those unused for longest go first."""

_MAGIC = b"mlgraph record 1 "
_HEADER = "entry.json"


class Damaged(FileError):
    """A file in the cache is not what was written."""


def home() -> Path:
    """The cache of this package."""
    chosen = os.environ.get("MLGRAPH_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mlgraph"


def folder() -> Path:
    """Where entries are kept."""
    return home() / "models"


@dataclass(frozen=True)
class CacheEntry:
    """A folder in the cache. It need not exist."""

    path: Path

    def read(self, name: str) -> Any:
        """The JSON of a record, or None where there is none. Raises Damaged."""
        data = self._bytes(self.path / name)
        if data is None:
            return None
        head, line, body = data.partition(b"\n")
        if not line or head != _MAGIC + hashlib.sha256(body).hexdigest().encode():
            raise Damaged(f"{self.path / name} does not match its digest.")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"{self.path / name} is not JSON.") from error

    def write(self, name: str, value: Any) -> None:
        """Write a record, where its size allows. Raises FileError."""
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        if len(body) < LARGEST_RECORD:
            self.make()
            write_bytes(self.path / name, _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    def file(self, name: str) -> Path | None:
        """A file with a digest of its own, where it is there and may be read. Raises Damaged."""
        path = self.path / name
        return path if _readable(path, LARGEST_FILE) else None

    def make(self) -> None:
        """Make the folder, for its owner alone. Raises FileError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.path} could not be made: {error.strerror}.") from error

    def remove(self) -> None:
        """Delete the entry."""
        shutil.rmtree(self.path, ignore_errors=True)

    def touch(self) -> None:
        """Count the entry as used now."""
        with contextlib.suppress(OSError):
            os.utime(self.path / _HEADER)

    @property
    def header(self) -> Any:
        """What the entry is of, or None where there is no whole entry. Raises Damaged."""
        return self.read(_HEADER)

    def finish(self, header: Any) -> None:
        """Write what the entry is of, by which it becomes whole; entries unused for longest make room."""
        self.write(_HEADER, header)
        _make_room(self)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.stat().st_size for file in self.path.glob("*") if file.is_file())

    @property
    def used(self) -> float:
        """When it was last used, in seconds since 1970."""
        with contextlib.suppress(OSError):
            return (self.path / _HEADER).stat().st_mtime
        return 0.0

    def _bytes(self, path: Path) -> bytes | None:
        if not _readable(path, LARGEST_RECORD):
            return None
        try:
            return path.read_bytes()
        except OSError as error:
            raise Damaged(f"{path} could not be read: {error.strerror}.") from error


def entry(key: str) -> CacheEntry:
    """The entry of a key."""
    return CacheEntry(folder() / key)


def entries() -> Iterator[CacheEntry]:
    """Every entry, the one used last first."""
    root = folder()
    found = [CacheEntry(path) for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    yield from sorted(found, key=lambda one: -one.used)


def clear() -> tuple[int, int]:
    """Delete every entry; how many there were, and their bytes."""
    found = [(one, one.size) for one in entries()]
    for one, _ in found:
        one.remove()
    return len(found), sum(size for _, size in found)


def recall(one: CacheEntry, say: Callable[[str], None]) -> Any:
    """What a whole entry is of, where the sources it depends on are unchanged; else None.

    A damaged one is deleted, which ``say`` is told in a sentence.
    """
    try:
        header = one.header
    except Damaged as error:
        say(f"What was kept of an earlier capture is damaged, so the model is captured again: {error}")
        one.remove()
        return None
    if header is None or not unchanged(header["sources"]):
        return None
    one.touch()
    return header


def age(one: CacheEntry) -> float:
    """Seconds since an entry was used."""
    return max(time.time() - one.used, 0.0)


def _readable(path: Path, most: int) -> bool:
    """Whether a file is there; raises Damaged where it is too large or not the user's own."""
    try:
        found = path.lstat()
    except OSError:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise Damaged(f"{path} is no file.")
    if found.st_size > most:
        raise Damaged(f"{path} is larger than what is kept.")
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        raise Damaged(f"{path} belongs to another user.")
    return True


def _make_room(newest: CacheEntry) -> None:
    total = 0
    for one in entries():
        total += one.size
        if total > LARGEST_FOLDER and one != newest:
            one.remove()
