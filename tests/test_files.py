"""Files are absent, old or complete, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlgraph import files
from mlgraph.errors import FileError
from mlgraph.files import atomic_directory, atomic_write, write_text


def entries(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_file_takes_its_place_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert entries(tmp_path) == {"a.txt"}


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert entries(tmp_path) == {"a.txt"}


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a.txt")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "text"


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "a.txt", "")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS])
def test_system_errors_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match=r"a\.txt could not be written: " + os.strerror(number).lower()):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert entries(tmp_path) == {"a.txt"}


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file or directory; check the path"):
        write_text(tmp_path / "absent" / "a.txt", "")


def test_a_file_size_limit_leaves_the_old_file(tmp_path: Path) -> None:
    """The kernel itself refuses the bytes, as a full disk would."""
    path = tmp_path / "a.txt"
    write_text(path, "old")
    script = (
        "import resource, signal, sys\n"
        "from mlgraph.errors import FileError\n"
        "from mlgraph.files import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    write_bytes(sys.argv[1], bytes(100_000))\n"
        "except FileError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert "could not be written: file too large; make room" in result.stdout
    assert path.read_text() == "old"
    assert entries(tmp_path) == {"a.txt"}


def test_lack_of_space_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="needs 1000000.00 GB"):
        files.require_space(tmp_path / "a.txt", 10**15)


@pytest.fixture
def abandoned(tmp_path: Path) -> Path:
    """A directory where a process was killed while it wrote a file and a directory."""
    script = (
        "import sys, time\n"
        "from mlgraph.files import atomic_directory, atomic_write\n"
        "with atomic_write(sys.argv[1]), atomic_directory(sys.argv[2]) as folder:\n"
        "    (folder / 'part').write_text('half')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out"), str(tmp_path / "folder")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert len(entries(tmp_path)) == 2
        write_text(tmp_path / "out", "other")
        assert len(entries(tmp_path)) == 3, "a temporary file in use was removed"
        process.kill()
    return tmp_path


def test_the_next_write_removes_what_a_killed_process_left(abandoned: Path) -> None:
    write_text(abandoned / "out", "text")
    with atomic_directory(abandoned / "folder") as folder:
        (folder / "whole").touch()
    assert entries(abandoned) == {"out", "folder"}
    assert entries(abandoned / "folder") == {"whole"}


@pytest.mark.parametrize("exchange", [True, False])
def test_a_directory_takes_its_place_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    for name in ("first", "second"):
        with atomic_directory(tmp_path / "out") as folder:
            (folder / name).write_text(name)
            (folder / "sub").mkdir()
            (folder / "sub" / "file").touch()
        assert entries(tmp_path / "out") == {name, "sub"}

    def fail() -> None:
        with atomic_directory(tmp_path / "out") as folder:
            (folder / "third").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert entries(tmp_path / "out") == {"second", "sub"}
    assert entries(tmp_path) == {"out"}


def test_a_directory_does_not_replace_a_file(tmp_path: Path) -> None:
    write_text(tmp_path / "out", "text")
    with (
        pytest.raises(FileError, match="a file of that name is in the way"),
        atomic_directory(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out").read_text() == "text"


@pytest.mark.thorough
def test_kills_at_random_moments_leave_a_whole_directory_or_none(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from mlgraph.files import atomic_directory\n"
        "print('ready', flush=True)\n"
        "for number in range(10**9):\n"
        "    with atomic_directory(sys.argv[1]) as folder:\n"
        "        for name in 'abc':\n"
        "            (folder / name).write_text(str(number))\n"
    )
    generator = random.Random(0)
    for _ in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "out")], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(generator.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        if (tmp_path / "out").exists():
            assert entries(tmp_path / "out") == {"a", "b", "c"}
            assert len({path.read_text() for path in (tmp_path / "out").iterdir()}) == 1
    assert (tmp_path / "out").exists()
