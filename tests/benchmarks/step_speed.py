"""Emitted training step against the native eager one, side by side in one process.

Run as ``python -m tests.benchmarks.step_speed [--device cuda --dtype bf16 --compile]``. Steps of the two are
interleaved, so that what else the machine does falls on both; each pair gives one ratio, and the median
of the ratios is the result. The target is at most 1.00. At ``--level 2`` the emitted model is coalesced to
half width and depth, and the native one is built at those sizes. ``--fsdp`` shards both, block by block, over
the one device.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from torch import nn

import mlgraph

HEAD = 64


def gpt2(width: int, layers: int, vocabulary: int) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_embd=width,
        n_layer=layers,
        n_head=width // HEAD,
        n_positions=1024,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def bert(width: int, layers: int, vocabulary: int) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD,
        intermediate_size=4 * width,
        max_position_embeddings=1024,
    )
    return transformers.BertForMaskedLM(config)


def llama(width: int, layers: int, vocabulary: int) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD,
        num_key_value_heads=width // HEAD,
        intermediate_size=43 * width // 16,
        max_position_embeddings=2048,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config)


MODELS: dict[str, Callable[[int, int, int], nn.Module]] = {"gpt2": gpt2, "bert": bert, "llama": llama}


def steps(model: nn.Module, batch: dict[str, torch.Tensor], options: argparse.Namespace) -> Iterator[float]:
    """Seconds of one training step after another."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=options.device == "cuda")
    low = options.dtype == "bf16"
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    while True:
        _synchronize(options.device)
        start = clock()
        context: Any = torch.autocast(options.device, torch.bfloat16) if low else contextlib.nullcontext()
        with context:
            loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        _synchronize(options.device)
        yield clock() - start


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def compare(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Medians, spreads and the ratio for one model."""
    torch.manual_seed(0)
    factor = options.level
    native = MODELS[name](options.width // factor, options.layers // factor, options.vocabulary).train()
    full = native if factor == 1 else MODELS[name](options.width, options.layers, options.vocabulary).train()
    ids = torch.randint(0, options.vocabulary, (options.batch, options.sequence))
    batch = {"input_ids": ids, "labels": ids.clone()}
    example = {key: value[:2, :16] for key, value in batch.items()}
    program = mlgraph.capture(copy.deepcopy(full), (), example)
    if factor > 1:
        program = mlgraph.coalesce(program, depth=factor, width=factor)
        del full
    parameters = program.num_parameters()
    assert parameters == sum(p.numel() for p in native.parameters())
    emitted: nn.Module = mlgraph.emit(program).train()
    del program
    batch = {key: value.to(options.device) for key, value in batch.items()}
    native, emitted = native.to(options.device), emitted.to(options.device)
    if options.fsdp:
        for model in (native, emitted):
            _shard(model, options.layers // factor)
    if options.compile:
        native, emitted = torch.compile(native), torch.compile(emitted, fullgraph=True)  # type: ignore[assignment]
    timed = [steps(native, batch, options), steps(emitted, batch, options)]
    for _ in range(options.warmup):
        for run in timed:
            next(run)
    seconds: tuple[list[float], list[float]] = ([], [])
    gc.collect()
    gc.disable()
    for index in range(options.steps):
        # who goes first alternates, so that neither always finds the cache warm
        for which in (0, 1) if index % 2 else (1, 0):
            seconds[which].append(next(timed[which]))
    gc.enable()
    ratios = [b / a for a, b in zip(*seconds, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    tokens = options.batch * options.sequence
    return {
        "model": name,
        "level": factor,
        "parameters": parameters,
        "tokens/s native": round(tokens / statistics.median(seconds[0])),
        "tokens/s emitted": round(tokens / statistics.median(seconds[1])),
        "peak MiB": _peak(timed, options.device),
        "native ms": 1000 * statistics.median(seconds[0]),
        "emitted ms": 1000 * statistics.median(seconds[1]),
        "ratio": statistics.median(ratios),
        "ratio quartiles": (low, high),
        "ratio of fastest": min(seconds[1]) / min(seconds[0]),
    }


def _peak(timed: list[Iterator[float]], device: str) -> list[int] | None:
    """Peak device memory of one step of the native and of the emitted model, both being there."""
    if device != "cuda":
        return None
    found = []
    for run in timed:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        next(run)
        found.append((torch.cuda.max_memory_allocated() - before) >> 20)
    return found


def _shard(model: nn.Module, blocks: int) -> None:
    """Shard a model over the one device there is, each of its blocks apart."""
    from torch.distributed.fsdp import fully_shard

    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == blocks]
    for block in lists[0]:
        fully_shard(block)
    fully_shard(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    for option, default in (
        ("width", 256),
        ("layers", 6),
        ("batch", 8),
        ("sequence", 128),
        ("vocabulary", 8192),
        ("level", 1),
    ):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=31)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"), help="cpu: on a busy machine")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fsdp", action="store_true", help="shard both by fully_shard")
    options = parser.parse_args()
    if options.fsdp:
        store = torch.distributed.HashStore()
        backend = "nccl" if options.device == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    for name in options.models:
        print(json.dumps(compare(name, options)), flush=True)


if __name__ == "__main__":
    main()
