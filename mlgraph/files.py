"""Writing files so that they are absent, old or complete, never partial.

A file is written to a temporary neighbour, flushed to the disk and renamed over its target; a directory
is filled beside its target and exchanged with it. What a killed process leaves behind is removed by
the next write to the same target.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.util
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mlgraph.errors import FileError

# Windows has no flock: temporary files of killed processes stay until removed by hand.
fcntl: Any = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None

OnProgress = Callable[[int, int], None]
"""Called as ``progress(done, total)``, in bytes."""

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def reason(error: OSError) -> str:
    """What the operating system says went wrong, in lower case and without the path."""
    return (error.strerror or str(error)).lower()


@contextlib.contextmanager
def file_errors(path: str | os.PathLike[str], doing: str) -> Iterator[None]:
    """Turn an ``OSError`` into a ``FileError`` that names ``path``; ``doing`` reads like "be written"."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{os.fspath(path)} could not {doing}: {reason(error)}{_advice(error)}.") from error


def _advice(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return "; make room or choose another place"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "; check its permissions or choose another place"
        case errno.ENOENT | errno.ENOTDIR:
            return "; check the path"
        case _:
            return ""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A seekable binary file that takes the place of ``path`` when the block ends without an error.

    On an error, a full disk or a kill, what was at ``path`` before is still there. A link is followed, so
    that its target is replaced. Raises ``FileError``.
    """
    target = _target(path)
    with file_errors(path, "be written"):
        _remove_abandoned(target)
        descriptor, temporary = _open_temporary(target)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_directory(target.parent)


def require_space(path: str | os.PathLike[str], nbytes: int) -> None:
    """Raise ``FileError`` before any work is done if ``nbytes`` more do not fit where ``path`` lies."""
    directory = _target(path).parent
    with file_errors(path, "be written"):
        free = shutil.disk_usage(directory).free
    if free < nbytes:
        raise FileError(
            f"{os.fspath(path)} needs {nbytes / 1e9:.2f} GB and {directory} has {free / 1e9:.2f} GB free; "
            "make room or choose another place."
        )


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole file atomically. Raises ``FileError``."""
    with atomic_write(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole UTF-8 file atomically. Raises ``FileError``."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new empty directory that takes the place of ``path`` when the block ends without an error.

    A directory that was at ``path`` is replaced as a whole, in one step where the file system can exchange
    two directories. Raises ``FileError``.
    """
    target = _target(path)
    with file_errors(path, "be written"):
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file of that name is in the way", str(path))
        _remove_abandoned(target)
        temporary, lock = _make_temporary(target)
        try:
            yield temporary
            sync_tree(temporary)
            put_directory(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            if lock is not None:
                os.close(lock)
        _sync_directory(target.parent)


def _target(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(path))


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def _open_temporary(target: Path) -> tuple[int, Path]:
    while True:
        temporary = _temporary(target)
        descriptor = os.open(
            temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666
        )
        # A cleaner may have taken the file for abandoned between its creation and its lock.
        if _lock(descriptor) and temporary.exists():
            return descriptor, temporary
        os.close(descriptor)


def _make_temporary(target: Path) -> tuple[Path, int | None]:
    while True:
        temporary = _temporary(target)
        temporary.mkdir()
        if fcntl is None:
            return temporary, None
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(temporary, os.O_RDONLY)
            if _lock(descriptor) and temporary.exists():
                return temporary, descriptor
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether this process holds the lock that tells a temporary in use from an abandoned one."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _remove_abandoned(target: Path) -> None:
    if fcntl is None:
        return
    prefix = f".{target.name}."
    for name in os.listdir(target.parent):
        token = name.removeprefix(prefix).removesuffix(".tmp")
        if name != f"{prefix}{token}.tmp" or len(token) != 8:
            continue
        with contextlib.suppress(OSError):
            _remove_unlocked(target.parent / name)


def _remove_unlocked(leftover: Path) -> None:
    """Remove a file or directory; raises OSError where a process holds it."""
    descriptor = os.open(leftover, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    finally:
        os.close(descriptor)


def put_directory(temporary: Path, target: Path) -> None:
    """Let a directory take the place of ``target``, in one step where the system can."""
    if not target.exists():
        os.rename(temporary, target)
        return
    if not _exchange(temporary, target):
        # Between these two renames a kill leaves the target absent and the old directory under its
        # temporary name.
        old = _temporary(target)
        os.rename(target, old)
        os.rename(temporary, target)
        temporary = old
    shutil.rmtree(temporary)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step, where the system can."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(done == 0)


def sync_tree(directory: Path) -> None:
    """Flush a directory and all files in it to the disk."""
    for folder, _, names in os.walk(directory):
        for name in names:
            _sync(Path(folder) / name)
        _sync_directory(Path(folder))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    # Some file systems refuse to sync a directory; the rename is atomic all the same.
    with contextlib.suppress(OSError):
        _sync(path)
