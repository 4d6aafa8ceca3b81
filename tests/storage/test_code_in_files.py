"""Files that would run code on loading are refused without running it, unless they are trusted."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mlgraph import load
from mlgraph.errors import FileError
from tests.storage.refusals import refusal


class Payload:
    """Pickled, it makes a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_refused_unread(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=protocol))
    assert "runs whatever code it holds" in refusal(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_saves_are_refused_unread(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.pt"
    torch.save({"model": Payload(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert "a pickled file" in message
    assert "--trust" in message
    assert not (tmp_path / "ran").exists()


def test_exported_programs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), path)
    assert "a torch.export archive" in refusal(path)


def test_other_zips_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")
    assert "pickled" in refusal(path)


def test_trusted_files_are_captured(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 3)
    torch.export.save(torch.export.export(module, (torch.ones(4, 2),)), tmp_path / "model.pt2")
    program = load(tmp_path / "model.pt2", trust=True)
    assert torch.equal(program.tensors["weight"], module.weight)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    with pytest.raises(FileError, match="holds a dict of values and no module"):
        load(tmp_path / "state.pt", trust=True)
    torch.save("text", tmp_path / "text.pt")
    with pytest.raises(FileError, match="holds a str and no module"):
        load(tmp_path / "text.pt", trust=True)


def test_a_trusted_pickle_that_fails_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"\x80\x04garbage")
    with pytest.raises(FileError, match="could not be unpickled"):
        load(tmp_path / "model.pt", trust=True)
