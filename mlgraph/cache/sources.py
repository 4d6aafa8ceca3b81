"""Digests of what a result depends on: versions, files, and the Python sources that were run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_WHOLE = 64 << 20
_MOST_SOURCES = 1 << 14
_LARGEST_SOURCE = 16 << 20


def key_of(value: Any) -> str:
    """The name of an entry: the SHA-256 of a JSON value in one spelling."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:40]


def versions(*distributions: str) -> dict[str, str]:
    """The versions of Python and of installed distributions, none of which is imported."""
    found = {"python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def file_digest(path: Path) -> str | None:
    """The SHA-256 of a file of up to 64 MiB; of a larger one, size, time and first MiB stand for it.

    None where it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            if about.st_size <= _WHOLE:
                return hashlib.sha256(file.read()).hexdigest()
            start = hashlib.sha256(file.read(1 << 20)).hexdigest()
            return f"{start} {about.st_size} {about.st_mtime_ns}"
    except OSError:
        return None


def tree_digest(folder: Path) -> str:
    """The SHA-256 of all Python files in a folder and below it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def run_sources(named: Iterable[str], beside: Path) -> dict[str, str] | None:
    """The digests, by path, of named source files and of all loaded ones that no installed package holds.

    Packages are told by their versions, files of one's own are not. Those in the folder ``beside`` are left
    out. None where there are too many, or one is not to be read.
    """
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    # some modules of torch claim a file that there is not
    own = {
        os.path.realpath(f) for f in loaded if isinstance(f, str) and f.endswith(".py") and os.path.exists(f)
    }
    found = {path for path in own if not _installed(path) and not path.startswith(f"{beside}{os.sep}")}
    digests = {path: file_digest(Path(path)) for path in sorted(found | set(named))}
    if len(digests) > _MOST_SOURCES or None in digests.values():
        return None
    return {path: digest for path, digest in digests.items() if digest is not None}


def unchanged(sources: Mapping[str, str]) -> bool:
    """Whether files still have the digests that ``run_sources`` gave."""
    return len(sources) <= _MOST_SOURCES and all(
        _small(path) and file_digest(Path(path)) == digest for path, digest in sources.items()
    )


def _small(path: str) -> bool:
    try:
        return os.stat(path).st_size <= _LARGEST_SOURCE
    except OSError:
        return False


def _installed(path: str) -> bool:
    """Whether a file is of the standard library or of an installed package."""
    return path.startswith(_STANDARD) or not _PACKAGES.isdisjoint(Path(path).parts)


_STANDARD = tuple({os.path.realpath(sysconfig.get_path(kind)) + os.sep for kind in ("stdlib", "platstdlib")})
_PACKAGES = {"site-packages", "dist-packages"}
