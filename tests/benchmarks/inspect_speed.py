"""How long ``mlgraph inspect`` takes after a 48-layer model is loaded, and how many lines it prints.

Run as ``python -m tests.benchmarks.inspect_speed``. The model is a Llama of 48 layers at tiny widths: the
graph is as large as a real one's, and nothing that is measured reads weights. Bounds are 1.5 s and 60 lines.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
import transformers

import mlgraph
from mlgraph.inspect.portrait import portrait
from mlgraph.inspect.text.program import inspection

SECONDS, LINES = 1.5, 60


def model(layers: int) -> torch.nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=176,
        vocab_size=997,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config).eval()


def measure(path: Path) -> dict[str, float]:
    """Seconds of loading, of each part of inspecting, and of all of it."""
    start = time.perf_counter()
    program = mlgraph.load(path)
    loaded = time.perf_counter()
    lines = str(program).splitlines()
    whole = time.perf_counter()
    again = mlgraph.load(path)
    marks = [time.perf_counter()]
    for part in (lambda: again.axes, lambda: again.blocks, lambda: inspection(portrait(again))):
        part()
        marks.append(time.perf_counter())
    axes, blocks, view = (after - before for before, after in pairwise(marks))
    return {
        "load": loaded - start,
        "inspect": whole - loaded,
        "axes": axes,
        "blocks": blocks,
        "view": view,
        "lines": len(lines),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ids = torch.randint(2, 997, (2, 11))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        mlgraph.save(mlgraph.capture(model(options.layers), (), {"input_ids": ids}), path)
        measure(path)
        runs = [measure(path) for _ in range(options.repeats)]
    best = min(runs, key=lambda run: run["inspect"])
    print(json.dumps({name: round(value, 3) for name, value in best.items()}))
    assert best["inspect"] <= SECONDS, f"inspect took {best['inspect']:.2f} s"
    assert best["lines"] < LINES, f"inspect printed {best['lines']:.0f} lines"


if __name__ == "__main__":
    main()
