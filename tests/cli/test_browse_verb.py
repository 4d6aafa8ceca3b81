"""The verb: where it runs, what it needs; once in a real terminal."""

import builtins
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import time

import pytest

import mlgraph
from tests.cli.test_views import stack

pytest.importorskip("textual", reason="textual is not installed")


@pytest.fixture
def saved(tmp_path):
    mlgraph.save(stack(), tmp_path / "stack.pt")
    return tmp_path / "stack.pt"


def test_without_a_terminal_it_says_what_to_use(cli, saved):
    result = cli("browse", saved)
    assert result.code == 1
    assert result.err == (
        "mlgraph: mlgraph browse needs a terminal: use mlgraph inspect where output is piped.\n"
    )


def test_without_textual_it_says_what_to_install(cli, saved, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "textual" else find(name))
    result = cli("browse", saved)
    assert result.code == 1
    assert "pip install 'mlgraph[browse]'" in result.err


def test_textual_is_imported_by_browse_alone(cli, saved, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "textual"]:
        monkeypatch.delitem(sys.modules, name)
    load = builtins.__import__

    def refuse(name, *args, **kwargs):
        assert name.partition(".")[0] != "textual"
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert cli("inspect", saved).code == 0


class Terminal:
    """A real terminal: tmux on a server of its own."""

    def __init__(self, folder, columns: int, rows: int) -> None:
        self.command = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self.size = ["-x", str(columns), "-y", str(rows)]

    def start(self, *arguments: str) -> None:
        line = shlex.join([sys.executable, "-m", "mlgraph", *arguments])
        environment = os.environ | {"TERM": "xterm-256color"}
        environment.pop("NO_COLOR", None)
        subprocess.run(
            [*self.command, "new-session", "-d", *self.size, f"{line}; sleep 60"], check=True, env=environment
        )

    def send(self, *keys: str) -> None:
        subprocess.run([*self.command, "send-keys", *keys], check=True)

    def screen(self) -> str:
        done = subprocess.run(
            [*self.command, "capture-pane", "-p"], check=True, capture_output=True, text=True
        )
        return done.stdout

    def wait_for(self, text: str, seconds: float = 120) -> str:
        end = time.monotonic() + seconds
        while text not in (shown := self.screen()):
            assert time.monotonic() < end, f"{text!r} did not come up on\n{shown}"
            time.sleep(0.2)
        return shown

    def stop(self) -> None:
        subprocess.run([*self.command, "kill-server"], check=False, capture_output=True)


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (140, 40)])
def test_in_a_real_terminal(tmp_path, columns, rows):
    mlgraph.save(stack(), tmp_path / "stack.pt")
    terminal = Terminal(tmp_path, columns, rows)
    terminal.start("browse", str(tmp_path / "stack.pt"))
    try:
        first = terminal.wait_for("q quit")
        assert "blocks ×4" in first
        assert len(first.splitlines()) <= rows
        terminal.send("/")
        terminal.send("-l", "down.weight")
        terminal.send("Enter")
        terminal.wait_for("blocks.0.mlp.down.weight")
        terminal.send("w")
        terminal.wait_for("[24, 20] → [12, 10]")
        terminal.send("Tab")
        terminal.send("Down")
        terminal.send("Enter")
        terminal.wait_for("axis hidden")
        terminal.send("w")
        terminal.send("w")
        terminal.send("w")
        terminal.wait_for("not divide")
        terminal.send("q")
        for _ in range(50):
            if "q quit" not in terminal.screen():
                break
            time.sleep(0.2)
        assert "q quit" not in terminal.screen()
    finally:
        terminal.stop()
