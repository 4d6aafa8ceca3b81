"""Streams a Llama-shaped checkpoint through a halving of its widths, against a plain copy of its bytes.

Run as ``python -m tests.benchmarks.storage_streaming GIGABYTES [DIRECTORY]``; 16 GB is 8B parameters in
bf16.
Prints the times of making, copying and coarsening, and the coarsening process's peak memory beyond that of
a process that has imported torch and mlgraph.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from mlgraph.storage import LazyTensors, open_safetensors, write_safetensors

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]
ROWS = 1 << 25


def llama_shapes(gigabytes: float, hidden: int = 4096, vocabulary: int = 128256) -> Shapes:
    """Shapes of a Llama with as many layers as ``gigabytes`` of bf16 hold."""
    layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden // 4, hidden),
        "self_attn.v_proj": (hidden // 4, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (7 * hidden // 2, hidden),
        "mlp.up_proj": (7 * hidden // 2, hidden),
        "mlp.down_proj": (hidden, 7 * hidden // 2),
    }
    tables = {"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden)}
    per_layer = sum(rows * columns * 2 for rows, columns in layer.values())
    layers = max(1, round((gigabytes * 1e9 - 4 * vocabulary * hidden) / per_layer))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": tables["model.embed_tokens.weight"]}
    for index in range(layers):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
        shapes |= {f"model.layers.{index}.input_layernorm.weight": (hidden,)}
    shapes["lm_head.weight"] = tables["lm_head.weight"]
    return {name: (shape, torch.bfloat16) for name, shape in shapes.items()}


def make(directory: Path, shapes: Shapes) -> None:
    noise = torch.randn(1 << 24).to(torch.bfloat16)

    def rows(name: str) -> Iterator[torch.Tensor]:
        shape = shapes[name][0]
        columns = shape[1] if len(shape) > 1 else 1
        step = max(1, len(noise) // columns)
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            yield noise[: count * columns].reshape(count, *shape[1:])

    write_safetensors(directory, shapes, rows)


def halved(source: LazyTensors, name: str, out: tuple[int, ...]) -> Iterator[torch.Tensor]:
    """Rows averaged in pairs (tables keep theirs), columns summed in pairs."""
    shape = source.shapes[name][0]
    group = shape[0] // out[0]
    step = max(group, ROWS // (2 * (shape[1] if len(shape) > 1 else 1)) // group * group)
    for start in range(0, shape[0], step):
        part = source.rows(name, start, start + step)
        if group > 1:
            part = part.unflatten(0, (-1, group)).mean(1)
        if part.dim() > 1:
            part = (
                part.unflatten(1, (-1, 2)).sum(2)
                if "embed" not in name
                else part.unflatten(1, (-1, 2)).mean(2)
            )
        yield part


def coarsen(source_directory: Path, directory: Path) -> None:
    source = open_safetensors(source_directory)
    shapes: Shapes = {}
    for name, (shape, dtype) in source.shapes.items():
        rows = shape[0] if shape[0] == 128256 else shape[0] // 2
        shapes[name] = ((rows, *(n // 2 for n in shape[1:])), dtype)
    write_safetensors(directory, shapes, lambda name: halved(source, name, shapes[name][0]))


def main() -> None:
    if sys.argv[1] == "coarsen":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        coarsen(Path(sys.argv[2]), Path(sys.argv[3]))
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{seconds:.1f} {(after - before) / 1024:.0f}")
        return
    gigabytes = float(sys.argv[1])
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        root = Path(folder)
        for name in ("fine", "coarse"):
            (root / name).mkdir()
        start = time.perf_counter()
        make(root / "fine", llama_shapes(gigabytes))
        size = sum(path.stat().st_size for path in (root / "fine").iterdir())
        print(f"made {size / 1e9:.2f} GB in {time.perf_counter() - start:.1f} s", flush=True)
        start = time.perf_counter()
        shutil.copytree(root / "fine", root / "copy")
        for path in (root / "copy").iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        copied = time.perf_counter() - start
        shutil.rmtree(root / "copy")
        print(f"copied and synced in {copied:.1f} s", flush=True)
        command = [sys.executable, "-m", __spec__.name, "coarsen", str(root / "fine"), str(root / "coarse")]
        seconds, memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        ratio = float(seconds) / copied
        print(f"coarsened in {seconds} s, {ratio:.2f} of the copy; {memory} MB over the start")


if __name__ == "__main__":
    main()
