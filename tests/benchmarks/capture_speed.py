"""Capture and analysis: time per layer, linear growth, analysis against capture.

Run as ``python -m tests.benchmarks.capture_speed``. BERT-large is captured at 6, 12 and 24 layers; the
growth exponent (slope of log time over log layers) should be about 1. Then a narrow 48-layer
model: inferring axes and blocks should take at most 2 times its capture.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
from pathlib import Path

import torch
import transformers
from torch import nn

import mlgraph


def bert(layers: int, width: int) -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )
    with torch.device("cpu"):
        return transformers.BertForMaskedLM(config).eval()


def measure(layers: int, width: int) -> tuple[float, float, float]:
    """Seconds of capture, of axis inference and of finding blocks."""
    model = bert(layers, width)
    inputs = {
        "input_ids": torch.randint(2, 997, (2, 11)),
        "attention_mask": torch.ones(2, 11, dtype=torch.long),
    }
    gc.collect()
    start = time.perf_counter()
    program = mlgraph.capture(model, (), inputs)
    captured = time.perf_counter()
    axes = program.axes
    inferred = time.perf_counter()
    blocks = program.blocks
    done = time.perf_counter()
    assert len(axes)
    assert max(len(chain) for chain in blocks) == layers
    return captured - start, inferred - captured, done - inferred


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.capture_speed")
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 12, 24])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--deep", type=int, default=48)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    # The first capture of a process pays for imports and caches.
    measure(2, 64)
    rows = []
    print("| layers | width | capture, s | per layer, ms | axes, s | blocks, s | analysis / capture |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for layers, width in [*((n, options.width) for n in options.layers), (options.deep, 64)]:
        capture, axes, blocks = measure(layers, width)
        ratio = (axes + blocks) / capture
        rows.append(
            {
                "layers": layers,
                "width": width,
                "capture": capture,
                "axes": axes,
                "blocks": blocks,
                "ratio": ratio,
            }
        )
        print(
            f"| {layers} | {width} | {capture:.2f} | {1e3 * capture / layers:.0f} "
            f"| {axes:.2f} | {blocks:.2f} | {ratio:.2f} |",
            flush=True,
        )
    same = rows[: len(options.layers)]
    if len(same) > 1:
        first, last = same[0], same[-1]
        exponent = math.log(last["capture"] / first["capture"]) / math.log(last["layers"] / first["layers"])
        print(f"\ncapture grows as layers^{exponent:.2f} from {first['layers']} to {last['layers']} layers")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))
    for row in rows:
        print(json.dumps({name: round(value, 3) for name, value in row.items()}))


if __name__ == "__main__":
    main()
