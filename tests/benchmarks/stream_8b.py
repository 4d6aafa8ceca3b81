"""Coarsen a Llama-shaped checkpoint that is larger than the memory it is given.

``python -m tests.benchmarks.stream_8b [LAYERS] [FOLDER]`` makes a bf16 checkpoint of the shapes of an 8B
Llama (32 layers by default, 16 GB) with random weights, shard by shard; copies its bytes and syncs them, for
comparison; and coarsens it by 2 in width and depth in a process limited to 2 GB of data, which reports its
time and its memory over that of an interpreter that has imported torch.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

LIMIT = 2 << 30
SIZES = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}


def make(directory: Path, layers: int) -> int:
    """Write the checkpoint and return its bytes."""
    import transformers

    from mlgraph.interop.hollow import on_meta
    from mlgraph.storage import write_safetensors

    config = transformers.LlamaConfig(
        **SIZES, num_hidden_layers=layers, dtype="bfloat16", architectures=["LlamaForCausalLM"]
    )
    state = on_meta("LlamaForCausalLM", config).state_dict()
    shapes = {name: (tuple(tensor.shape), torch.bfloat16) for name, tensor in state.items()}
    noise = torch.randn(1 << 22).mul_(0.02).bfloat16()

    def rows(name: str) -> Iterator[torch.Tensor]:
        shape = shapes[name][0]
        columns = shape[1] if len(shape) > 1 else 1
        step = max(len(noise) // columns, 1)
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            yield noise[: count * columns].reshape(count, *shape[1:])

    directory.mkdir()
    (directory / "config.json").write_text(config.to_json_string(use_diff=False))
    write_safetensors(directory, shapes, rows)
    return sum(file.stat().st_size for file in directory.iterdir())


def copy_and_sync(source: Path, target: Path) -> float:
    start = time.perf_counter()
    shutil.copytree(source, target)
    for file in target.iterdir():
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
    return time.perf_counter() - start


class Watch:
    """The largest resident memory seen while the block runs, in bytes."""

    def __enter__(self) -> Watch:
        self.start, self.peak = _resident(), 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.01):
            self.peak = max(self.peak, _resident())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def coarsen(source: Path, target: Path) -> dict[str, float]:
    """Coarsen under a limit on memory; seconds of every step and the peak in MB over the start."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    seconds: dict[str, float] = {}
    with Watch() as watch:
        begin = time.perf_counter()
        import mlgraph
        from mlgraph.interop.huggingface import save_huggingface
        from mlgraph.interop.open import open_source

        program = open_source(source)
        seconds["capture"] = time.perf_counter() - begin
        small = mlgraph.coalesce(program, depth=2, width=2)
        seconds["coalesce"] = time.perf_counter() - begin - seconds["capture"]
        saved = save_huggingface(small, target)
        seconds["all"] = time.perf_counter() - begin
    print(*saved.changes, sep="\n", file=sys.stderr)
    return {**seconds, "megabytes": (watch.peak - watch.start) / 1e6}


def main() -> None:
    if sys.argv[1:2] == ["coarsen"]:
        print(json.dumps(coarsen(Path(sys.argv[2]), Path(sys.argv[3]))))
        return
    layers = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        root = Path(folder)
        size = make(root / "fine", layers)
        print(f"made {size / 1e9:.2f} GB", flush=True)
        copied = copy_and_sync(root / "fine", root / "copy")
        shutil.rmtree(root / "copy")
        print(f"copied and synced in {copied:.1f} s", flush=True)
        assert __spec__ is not None
        command = [sys.executable, "-m", __spec__.name, "coarsen", str(root / "fine"), str(root / "coarse")]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        report = json.loads(result.stdout.splitlines()[-1])
        print(", ".join(f"{key} {value:.1f}" for key, value in report.items()))
        print(f"{report['all'] / copied:.2f} of the copy; {report['megabytes']:.0f} MB over the start")
        coarse = sum(file.stat().st_size for file in (root / "coarse").iterdir())
        print(f"coarse checkpoint: {coarse / 1e9:.2f} GB in {len(list((root / 'coarse').iterdir()))} files")


if __name__ == "__main__":
    main()
