"""Mutated files: no crash, no hang, no code, no memory, nothing wrong accepted (see ``fuzz``)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlgraph.storage import save
from tests.storage.fuzz import MAX_SECONDS
from tests.storage.programs import descended


@pytest.mark.parametrize(
    ("count", "seed"),
    [(100, 0), *(pytest.param(2500, seed, marks=pytest.mark.thorough) for seed in (1, 2, 3, 4))],
)
def test_mutants_of_a_program(tmp_path: Path, count: int, seed: int) -> None:
    save(descended(), tmp_path / "model.pt")
    command = [sys.executable, "-W", "ignore", "-m", "tests.storage.fuzz", str(tmp_path / "model.pt")]
    result = subprocess.run([*command, str(count), str(seed)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["refused"] > 0.8 * count
    assert found["accepted"] > 0
    assert found["longest"] < MAX_SECONDS
    assert found["growth"] < 100e6
