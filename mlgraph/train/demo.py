"""A demonstration on text that every machine with Python has: a V-cycle beside training from scratch."""

from __future__ import annotations

import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from mlgraph.program import Program
from mlgraph.train.data.text import TokenBlocks
from mlgraph.train.data.tokenizer import special_token, train_bpe
from mlgraph.train.engine.engine import Result
from mlgraph.train.engine.run import run
from mlgraph.train.optimizer import Optimizer
from mlgraph.train.phases import Phase
from mlgraph.train.recipes import plain, vcycle
from mlgraph.train.schedule import Schedule

CORPUS_BYTES = 1_500_000
VOCABULARY, SEQUENCE, BATCH = 1024, 64, 16
WIDTH, LAYERS, HEADS = 64, 4, 4
RATE = 4e-3


@dataclass(frozen=True)
class Demo:
    """Both runs of a demonstration, and what they ran on."""

    files: int
    characters: int
    tokens: int
    parameters: int
    coarse_parameters: int
    phases: tuple[Phase, ...]
    scratch: Result
    cycle: Result
    seconds: float


def demonstrate(steps: int, say: Callable[[str], None], seed: int = 0, progress: bool = False) -> Demo:
    """Train a small GPT on the standard library's source, from scratch for ``steps`` steps and by a V-cycle.

    Both runs use the same initial weights, data order, learning rate and evaluation. ``say`` is told what
    is going on; with ``progress`` the runs have a bar.
    """
    import transformers

    from mlgraph.interop.open import capture

    began = time.perf_counter()
    say("reading the Python standard library")
    documents = list(standard_library())
    say(f"training a tokenizer of {VOCABULARY} tokens")
    train, held_out, tokens = _blocks(documents)
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=SEQUENCE,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    example = torch.arange(3 * 17).reshape(3, 17)
    say("capturing the model as a graph")
    model = transformers.GPT2LMHeadModel(config)
    program = capture(model, kwargs={"input_ids": example, "labels": example})
    initial = {name: tensor.detach().clone() for name, tensor in program.tensors.items()}
    phases = vcycle(round(steps * 0.8), init_steps=steps // 20, coarse_steps=steps // 2, alpha=0.5, lr=RATE)

    def trained(name: str, phases: Sequence[Phase]) -> Result:
        say(name)
        with torch.no_grad():
            for key, tensor in program.tensors.items():
                tensor.copy_(initial[key])
        return _run(program, phases, train, held_out, steps, seed, progress)

    scratch = trained(f"training from scratch: {steps} steps", plain(steps, lr=RATE))
    scratch = Result(_frozen(scratch.program), scratch.history)
    cycle = trained("training by a V-cycle: " + _spelled(phases), phases)
    return Demo(
        len(documents),
        sum(map(len, documents)),
        tokens,
        program.num_parameters(),
        min(record["parameters"] for record in cycle.history if "parameters" in record),
        tuple(phases),
        scratch,
        cycle,
        time.perf_counter() - began,
    )


def standard_library() -> Iterator[str]:
    """The source of the standard library's modules, in the order of their names, up to ``CORPUS_BYTES``."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    total = 0
    for path in sorted(folder.glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        total += len(text)
        yield text
        if total >= CORPUS_BYTES:
            return


def _blocks(documents: Sequence[str]) -> tuple[TokenBlocks, TokenBlocks, int]:
    tokenizer = train_bpe(documents, VOCABULARY)
    end = special_token(tokenizer, "eos_token")
    encoded = tokenizer.encode_batch(list(documents), add_special_tokens=False)
    ids = [np.array([*encoding.ids, end], dtype=np.uint16) for encoding in encoded]
    # Whole modules are held out, so that evaluation is on text never seen.
    held_out, train = np.concatenate(ids[::12]), np.concatenate([x for n, x in enumerate(ids) if n % 12])
    return TokenBlocks(train, SEQUENCE), TokenBlocks(held_out, SEQUENCE), len(train) + len(held_out)


def _collate(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    ids = torch.stack([sample["input_ids"] for sample in samples])
    return {"input_ids": ids, "labels": ids}


def _run(
    program: Program,
    phases: Sequence[Phase],
    train: Any,
    held_out: Any,
    steps: int,
    seed: int,
    progress: bool,
) -> Result:
    return run(
        program,
        phases,
        DataLoader(train, BATCH, shuffle=True, drop_last=True, collate_fn=_collate),
        DataLoader(held_out, 32, collate_fn=_collate),
        optimizer=Optimizer(lr=RATE),
        schedule=Schedule("cosine", warmup=max(steps // 30, 1), final=0.05, rewarm=max(steps // 60, 1)),
        seed=seed,
        eval_every=max(steps // 20, 1),
        eval_batches=3,
        log_every=max(steps // 20, 1),
        progress=progress,
    )


def _frozen(program: Program) -> Program:
    """The program with tensors of its own, which a second run on the same model does not move."""
    copies = {name: tensor.detach().clone() for name, tensor in program.tensors.items()}
    return program.replace(tensors=program.tensors.replace(copies))


def _spelled(phases: Sequence[Phase]) -> str:
    from mlgraph.train.phases import Interpolate, Train, kind_of

    def one(phase: Phase) -> str:
        if isinstance(phase, Train):
            return f"{phase.steps} steps"
        return f"interpolate {phase.operator.alpha}" if isinstance(phase, Interpolate) else kind_of(phase)

    return ", ".join(map(one, phases))
