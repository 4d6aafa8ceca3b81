"""What the training driver costs over a bare loop, and what a V-cycle does to peak memory.

``python -m tests.benchmarks.driver_overhead`` interleaves steps of the two, so that a busy machine slows
both, and reports the median ratio (target: at most 1.02). With ``--memory`` it runs plain training and a
V-cycle of one model in processes of their own and reports the ratio of their peak resident memory (target:
at most 1.15).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from typing import Any

import torch
import transformers
from torch import nn

import mlgraph
from mlgraph.program import Program
from mlgraph.train import Optimizer, Schedule, plain, run, vcycle
from mlgraph.train.engine.engine import Engine
from mlgraph.train.engine.processes import make_accelerator
from mlgraph.train.schedule import Rate
from mlgraph.train.settings import Settings


def gpt(width: int, layers: int, sequence: int) -> tuple[Program, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=2048,
        n_positions=sequence,
        n_embd=width,
        n_layer=layers,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    ids = torch.randint(2048, (16, sequence))
    batch = {"input_ids": ids, "labels": ids}
    return mlgraph.capture(transformers.GPT2LMHeadModel(config), kwargs=batch), batch


class _Bare:
    """A loop of one's own: forward, backward, clip, step."""

    def __init__(self, program: Program) -> None:
        self.module = mlgraph.emit(program)
        decays = [p for p in self.module.parameters() if p.ndim > 1]
        others = [p for p in self.module.parameters() if p.ndim == 1]
        groups = [{"params": decays, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
        self.parameters = list(self.module.parameters())

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        loss = self.module(**batch)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss)


class _Driven:
    """One step of the driver's own loop at a time: data, metering, rate, step, check of the loss."""

    def __init__(self, program: Program, batch: dict[str, torch.Tensor]) -> None:
        settings = Settings(optimizer=Optimizer(), schedule=Schedule("constant"))
        self.engine = Engine(
            program, plain(10**6), [batch] * 64, None, None, None, settings, make_accelerator(settings, None)
        )
        self.worker = self.engine._ready()

    def step(self) -> None:
        engine = self.engine
        batches = [engine.stream.next()]
        engine._meter(self.worker, batches)
        rate: Rate = engine.rates.at(0, 0)
        engine._check_finite([self.worker.step(batches, rate)])


def overhead(steps: int, width: int, layers: int, sequence: int) -> dict[str, float]:
    """Median seconds per step of both loops, and the median ratio of neighbouring steps."""
    (first, batch), (second, _) = gpt(width, layers, sequence), gpt(width, layers, sequence)
    bare, driven = _Bare(first), _Driven(second, batch)
    seconds: dict[str, list[float]] = {"bare": [], "driven": []}
    for number in range(steps + 5):
        order = ("bare", "driven") if number % 2 else ("driven", "bare")
        for which in order:
            began = time.process_time()
            if which == "bare":
                bare.step(batch)
            else:
                driven.step()
            if number >= 5:
                seconds[which].append(time.process_time() - began)
    ratios = [d / b for b, d in zip(seconds["bare"], seconds["driven"], strict=True)]
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return {**medians, "ratio": statistics.median(ratios)}


def _peak(cycle: bool, width: int, layers: int, queue: Any) -> None:
    torch.set_num_threads(1)
    program, batch = gpt(width, layers, 64)
    phases = vcycle(6, init_steps=3, coarse_steps=3) if cycle else plain(6)
    run(program, phases, [batch], optimizer=Optimizer(lr=1e-3))
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def memory(width: int, layers: int) -> dict[str, float]:
    """Peak resident bytes of plain training and of a V-cycle, and their ratio."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for name, cycle in (("plain", False), ("cycle", True)):
        queue = context.Queue()
        process = context.Process(target=_peak, args=(cycle, width, layers, queue))
        process.start()
        found[name] = 1024 * queue.get()
        process.join()
    return {**found, "ratio": found["cycle"] / found["plain"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--sequence", type=int, default=64)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(options.width, options.layers)))
    else:
        print(json.dumps(overhead(options.steps, options.width, options.layers, options.sequence)))


if __name__ == "__main__":
    main()
