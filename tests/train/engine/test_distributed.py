from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlgraph.train import Settings, TrainError
from mlgraph.train.engine.launched import as_launched
from mlgraph.train.engine.processes import make_accelerator

thorough = pytest.mark.thorough


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _started(launcher: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)


def _losses(
    out: Path, launcher: list[str], sharding: str, mode: str, accumulate: int, *directory: str
) -> dict[str, Any]:
    arguments = (str(out), sharding, mode, str(accumulate), *directory)
    done = _started(launcher, "-m", "tests.train.distributed", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def _torchrun() -> list[str]:
    return ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={_free_port()}"]


def _accelerate(kind: str) -> list[str]:
    # With --cpu accelerate starts several processes by MPI only.
    kinds = {"ddp": ["--multi_gpu"], "fsdp": ["--use_fsdp", "--fsdp_version=2"]}
    processes = [*kinds[kind], "--num_processes=2", "--num_machines=1"]
    plain = ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port", str(_free_port())]
    return ["-m", "accelerate.commands.launch", *processes, *plain]


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=thorough) for mode in ("carry", "reset", "asymmetric")]
)
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_train_as_one(tmp_path: Path, sharding: str, mode: str) -> None:
    one = _losses(tmp_path / "one.json", [], "ddp", mode, 2)
    two = _losses(tmp_path / "two.json", _torchrun(), sharding, mode, 1)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)
    assert two["sharded"] == (sharding == "fsdp")
    assert len(one["losses"]) == 6 + 3 + 3


@pytest.mark.parametrize("kind", [pytest.param("ddp", marks=thorough), "fsdp"])
@pytest.mark.slow
def test_accelerate_launch_does_too(tmp_path: Path, kind: str) -> None:
    one = _losses(tmp_path / "one.json", [], "ddp", "carry", 2)
    two = _losses(tmp_path / "two.json", _accelerate(kind), "ddp", "carry", 1)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["sharded"] == (kind == "fsdp")
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FSDP_VERSION", "1", "FSDP version 1.*--fsdp_version 2"),
        ("FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD", "true", "--fsdp_activation_checkpointing_offload true"),
        ("FSDP_RESHARD_AFTER_FORWARD", "false", "--fsdp_reshard_after_forward false is not supported"),
        ("FSDP_IGNORED_MODULES", "head", "--fsdp_ignored_modules"),
        ("PARALLELISM_CONFIG_TP_SIZE", "2", "tp_size 2 asks for tensor parallelism"),
        ("PARALLELISM_CONFIG_DP_SHARD_SIZE", "3", "1 replicas of 3 shards are not the 8 processes"),
    ],
)
def test_what_sharding_does_not_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv(variable, value)
    with pytest.raises(TrainError, match=message):
        make_accelerator(Settings(), None)


@thorough
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_killed_processes_go_on_as_if_nothing_had_happened(tmp_path: Path, sharding: str) -> None:
    whole = _losses(tmp_path / "whole.json", _torchrun(), sharding, "carry", 1, str(tmp_path / "whole"))
    cut = (str(tmp_path / "cut.json"), sharding, "carry", "1", str(tmp_path / "cut"))
    for life in ("2", "5"):
        assert _started(_torchrun(), "-m", "tests.train.distributed", *cut, life).returncode != 0
    resumed = _losses(tmp_path / "cut.json", _torchrun(), sharding, "carry", 1, cut[-1])
    assert resumed == whole


def test_what_the_launcher_asks_for_becomes_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_OFFLOAD_PARAMS": "true",
        "FSDP_ACTIVATION_CHECKPOINTING": "true",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
        "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2",
        "PARALLELISM_CONFIG_DP_SHARD_SIZE": "4",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "3",
        "WORLD_SIZE": "8",
    }.items():
        monkeypatch.setenv(name, value)
    expected = Settings(fsdp=True, fsdp_offload=True, recompute=True, fsdp_replicas=2, accumulate=3)
    assert as_launched(Settings()) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fsdp_offload": True}, "fsdp_offload says how to shard"),
        ({"fsdp": True, "mixed_precision": "fp16"}, "'fp16' do not go together: take bf16"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        as_launched(Settings(**options))
