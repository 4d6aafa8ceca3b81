"""What kind of file a path holds, told from its first bytes and its table of contents; no code is run."""

from __future__ import annotations

import enum
import zipfile
from pathlib import Path

from mlgraph.errors import FileError


class Kind(enum.Enum):
    """How a file has to be read."""

    PROGRAM = "a saved program"
    EXPORTED = "a torch.export archive"
    PICKLE = "a pickle"


def kind_of(path: Path) -> Kind:
    """The kind of the file at ``path``; what is neither of the other two is left to the safe reader."""
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError as error:
        raise FileError(f"{path} could not be read: {(error.strerror or str(error)).lower()}.") from None
    if head[:1] == b"\x80":
        return Kind.PICKLE
    if head == b"PK" and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError):
            return Kind.PROGRAM
        if any(name.endswith("archive_format") or "/models/" in name for name in names):
            return Kind.EXPORTED
        if any(name.rpartition("/")[2] == "data.pkl" for name in names):
            return Kind.PICKLE
    return Kind.PROGRAM


def require_trust(path: Path, kind: Kind, trust: bool) -> None:
    """Raise FileError, with the reason, where a file that runs code on loading is not trusted."""
    if not trust:
        raise FileError(
            f"{path} is {kind.value}, and loading one runs code that the file chooses; "
            "pass --trust if you know who wrote it."
        )
