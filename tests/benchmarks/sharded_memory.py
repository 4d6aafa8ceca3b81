"""Peak memory of every process of a V-cycle on GPT-2 shapes under FSDP2, phase by phase.

``python -m tests.benchmarks.sharded_memory --processes 1 2 4`` prints a JSON line for each number of
processes. A figure is the anonymous memory of the process that has most, over that of a process that has run
a tiny V-cycle by the same code. ``share`` is weights, gradients and two moments in fp32, divided by the
processes; ``block`` the largest part that FSDP2 gathers. Target at four processes: at most 1.3 shares, a
block and 400 MB.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mlgraph
from mlgraph.program import Program
from mlgraph.train import Coarsen, Interpolate, Optimizer, Phase, Refine, Train, run
from mlgraph.train.engine.engine import Engine
from mlgraph.train.engine.saving import Saver
from mlgraph.train.engine.worker import Worker
from tests.processes import Processes

PHASES: list[Phase] = [
    Train(2),
    Coarsen(depth=2, width=2, check=False),
    Train(2),
    Refine(),
    Interpolate(0.25),
    Train(2),
]
MIB = 1 << 20


def save_gpt(path: str, layers: int, width: int, vocabulary: int) -> None:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=64,
        n_embd=width,
        n_layer=layers,
        n_head=width // 64,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.randint(vocabulary, (2, 16))
    mlgraph.save(mlgraph.capture(model, kwargs={"input_ids": ids, "labels": ids}, check=False), path)


class Watch(threading.Thread):
    """Samples the anonymous memory of this process, by what it is doing."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.doing, self.peaks = "start", dict[str, int]()

    def run(self) -> None:
        while True:
            self.peaks[self.doing] = max(self.peaks.get(self.doing, 0), anonymous())
            time.sleep(0.005)

    def during(self, owner: type, name: str, doing: str) -> None:
        whole: Callable[..., Any] = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            before, self.doing = self.doing, doing
            try:
                return whole(*arguments, **options)
            finally:
                self.doing = before

        setattr(owner, name, watched)


def anonymous() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))


def measured(small: str, large: str, out: str) -> dict[str, int]:
    """Peaks over the baseline in MiB."""
    sharded = int(os.environ.get("WORLD_SIZE", 1)) > 1
    _train(small, out + "-small", sharded)
    ctypes.CDLL(None).malloc_trim(0)
    baseline = anonymous()
    watch = Watch()
    for owner, name, doing in (
        (Worker, "__init__", "start"),
        (Worker, "step", "training"),
        (Engine, "_change", "change of level"),
        (Saver, "write", "checkpoint"),
    ):
        watch.during(owner, name, doing)
    watch.start()
    _train(large, out, sharded)
    return {doing: (peak - baseline) // MIB for doing, peak in watch.peaks.items()}


def _train(path: str, out: str, sharded: bool) -> None:
    program = mlgraph.load(path, keep=not sharded)
    ids = torch.randint(64, (2, 32))
    data = [{"input_ids": ids, "labels": ids}] * 4
    run(program, PHASES, data, out_dir=out, optimizer=Optimizer(lr=1e-4), fsdp=sharded, trackers=())


def largest_part(program: Program) -> int:
    """Bytes of the largest of the blocks and what is left of the model."""
    meta = program.tensors.meta()
    blocks = [block.tensors for chain in program.blocks for block in chain.blocks]
    inside = {name for block in blocks for name in block}
    parts = [*blocks, [name for name in program.tensors.parameters if name not in inside]]
    return max(sum(meta[name].nbytes for name in part) for part in parts)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    options.add_argument("--layers", type=int, default=12)
    options.add_argument("--width", type=int, default=768)
    options.add_argument("--vocabulary", type=int, default=8192)
    given = options.parse_args()
    # freed memory goes back at once, so that a peak is one of tensors
    os.environ.update(MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="65536", OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as folder:
        small, large = f"{folder}/small.pt", f"{folder}/large.pt"
        Processes(1, save_gpt, small, 4, 64, 128).results(900)
        Processes(1, save_gpt, large, given.layers, given.width, given.vocabulary).results(900)
        program = mlgraph.load(large)
        parameters, block = program.num_parameters(), largest_part(program)
        for count in given.processes:
            found = Processes(count, measured, small, large, str(Path(folder) / f"run{count}")).results(3000)
            peaks = {doing: max(each.get(doing, 0) for each in found) for doing in found[0]}
            share = 16 * parameters // count
            sizes = {"share_mib": share // MIB, "block_mib": block // MIB}
            print(json.dumps({"processes": count, "parameters": parameters, **sizes, "peaks_mib": peaks}))


if __name__ == "__main__":
    main()
