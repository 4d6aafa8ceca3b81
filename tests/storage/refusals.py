"""How files are refused: one sentence, whatever they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlgraph import load
from mlgraph.errors import FileError


def read_all(path: Path) -> None:
    program = load(path)
    for name in program.tensors:
        program.tensors[name]


def refusal(path: Path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(FileError) as caught:
        read_all(path)
    message = str(caught.value)
    assert path.name in message
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 600
    return message
