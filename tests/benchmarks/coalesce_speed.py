"""Coalescing, de-coalescing and interpolating GPT-2 large, against touching the bytes once.

Run as ``python -m tests.benchmarks.coalesce_speed [--size large] [--repeats 3]``. The yardstick is one
clone of every tensor of the larger side: each byte read once, and written once. The target is at most
3 times that; the peak memory of each operator at most source + result + one tensor.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import mlgraph
from mlgraph.program import Program

# embedding width, layers, heads
SIZES = {"tiny": (128, 4, 4), "small": (768, 12, 12), "medium": (1024, 24, 16), "large": (1280, 36, 20)}


def gpt2(size: str) -> Program:
    width, layers, heads = SIZES[size]
    config = transformers.GPT2Config(
        n_embd=width, n_layer=layers, n_head=heads, use_cache=False, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    program = mlgraph.capture(model, (), {"input_ids": torch.randint(2, 997, (2, 11))})
    # Analyses are made once per program and timed elsewhere.
    assert len(program.axes)
    assert len(program.blocks)
    return program


def size_of(program: Program) -> int:
    """Bytes of all tensors."""
    return sum(tensor.nbytes for tensor in program.tensors.values())


def realised(program: Program) -> Program:
    """The program with every tensor read once, so that lazy values count."""
    for tensor in program.tensors.values():
        tensor.data_ptr()
    return program


def clone(program: Program) -> None:
    copies = [tensor.clone() for tensor in program.tensors.values()]
    assert copies


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measure(run: Callable[[], Any], repeats: int) -> tuple[float, int]:
    """The best of several times in seconds, and the peak resident bytes added during a run."""
    best, peak = float("inf"), 0
    for _ in range(repeats):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        start = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - start)
        peak = max(peak, _status("VmHWM") - before)
        del result
    return best, peak


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.coalesce_speed")
    parser.add_argument("--size", choices=[*SIZES], default="large")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    program = gpt2(options.size)
    largest = max(tensor.nbytes for tensor in program.tensors.values())
    copy, _ = measure(lambda: clone(program), options.repeats)
    small = realised(mlgraph.coalesce(program, depth=2, width=2))
    big = realised(mlgraph.decoalesce(small))
    cases: dict[str, tuple[Callable[[], Program], int]] = {
        "coalesce width 2": (lambda: mlgraph.coalesce(program, width=2), size_of(program) // 4),
        "coalesce depth 2": (lambda: mlgraph.coalesce(program, depth=2), size_of(program) // 2),
        "coalesce both": (lambda: mlgraph.coalesce(program, depth=2, width=2), size_of(small)),
        "decoalesce both": (lambda: mlgraph.decoalesce(small), size_of(program)),
        "interpolate": (lambda: mlgraph.interpolate(program, big, alpha=0.5), size_of(program)),
    }
    print(f"GPT-2 {options.size}, {size_of(program) / 2**30:.2f} GiB, {torch.get_num_threads()} threads")
    print(f"one clone of every tensor: {copy:.2f} s; largest tensor {largest / 2**20:.0f} MiB\n")
    print("| operator | seconds | / clone | peak added, MiB | result + one tensor, MiB |")
    print("|---|---:|---:|---:|---:|")
    rows = []
    for name, (run, result) in cases.items():
        seconds, peak = measure(lambda run=run: realised(run()), options.repeats)
        bound = result + largest
        rows.append({"name": name, "seconds": seconds, "ratio": seconds / copy, "peak": peak, "bound": bound})
        print(f"| {name} | {seconds:.2f} | {seconds / copy:.2f} | {peak >> 20} | {bound >> 20} |", flush=True)
    if options.json:
        Path(options.json).write_text(
            json.dumps({"size": options.size, "clone": copy, "rows": rows}, indent=1)
        )
    for row in rows:
        print(json.dumps({"size": options.size, "name": row["name"], "ratio": row["ratio"]}))


if __name__ == "__main__":
    main()
