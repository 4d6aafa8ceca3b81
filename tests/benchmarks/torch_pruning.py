"""Torch-Pruning at ratio 0.5 beside coalescing by 2, on the same models.

Run as ``pip install torch-pruning; python -m tests.benchmarks.torch_pruning [NAME...]``. Each model of the
zoo is given to both. Counted: analysed, the pruned (coarse) model runs, and its shapes are those of
the class built at half width. Torch-Pruning is used as its documentation shows, the same way on
every model: magnitude importance, classification and vocabulary layers ignored, heads pruned as wholes
where a module tells its number of heads. Its analysis builds the dependency graph, tracing included, and
lists the groups of coupled layers; ours infers axes and blocks from a captured graph, and the capture is
timed apart. A tool has 30 seconds per model; what it does once in a process is done before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

import mlgraph
from tests import oracles
from tests.zoo import Built, Entry, entries, get
from tests.zoo.registry import VOCABULARY

CLASSES = {13, VOCABULARY}
LIMIT = 30


@dataclass
class Outcome:
    """What one tool did with one model; ``seconds`` is its analysis, ``capture`` what that needs before,
    ``reason`` the first failure.
    """

    runs: bool = False
    right: bool = False
    seconds: float | None = None
    capture: float = 0.0
    reason: str = ""


def shapes_wrong(state: dict[str, torch.Tensor], entry: Entry) -> str | None:
    expected = oracles.state_shapes(entry.build("half_width").model.state_dict())
    return oracles.difference(oracles.state_shapes(state), expected)


def run_ours(entry: Entry, outcome: Outcome) -> None:
    built = entry.build()
    start = time.perf_counter()
    program = mlgraph.capture(built.model, built.args, built.kwargs)
    outcome.capture = time.perf_counter() - start
    start = time.perf_counter()
    _ = program.axes, program.blocks
    outcome.seconds = time.perf_counter() - start
    small = mlgraph.coalesce(program, width=2)
    with torch.no_grad():
        mlgraph.emit(small).eval()(*built.args, **built.kwargs)
    outcome.runs = True
    outcome.reason = shapes_wrong(small.state_dict(), entry) or ""
    outcome.right = not outcome.reason


def run_theirs(entry: Entry, outcome: Outcome) -> None:
    import torch_pruning as tp

    built = entry.build()
    model = built.model
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    start = time.perf_counter()
    pruner = tp.pruner.MagnitudePruner(
        model,
        _example(built),
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=_outputs(model),
        num_heads=_heads(model),
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=0.5,
        forward_fn=_forward(built),
        output_transform=lambda out: sum(
            x.float().sum() for x in oracles.tensors_of(out) if x.is_floating_point()
        ),
    )
    for _ in pruner.DG.get_all_groups(ignored_layers=pruner.ignored_layers):
        pass
    outcome.seconds = time.perf_counter() - start
    pruner.step()
    _tell_heads(model)
    with torch.no_grad():
        model(*built.args, **built.kwargs)
    outcome.runs = True
    outcome.reason = shapes_wrong(model.state_dict(), entry) or ""
    outcome.right = not outcome.reason


def _example(built: Built) -> tuple[object, ...] | dict[str, object]:
    return built.kwargs or built.args


def _forward(built: Built) -> Callable[[nn.Module, object], object]:
    return lambda model, _: model(*built.args, **built.kwargs)


def _outputs(model: nn.Module) -> list[nn.Module]:
    """Layers whose outputs are classes or words."""
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features in CLASSES]


COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead")


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    """The layers under a module that tells its number of heads and whose names are those of q, k, v."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        count = next(
            (getattr(module, name) for name in COUNTS if isinstance(getattr(module, name, None), int)), None
        )
        for name, child in module.named_children():
            if (
                count
                and isinstance(child, nn.Linear)
                and name.split("_")[0] in {"q", "k", "v", "qkv", "query", "key", "value"}
            ):
                found[child] = count
    return found


def _tell_heads(model: nn.Module) -> None:
    """Halve the counts that modules keep, as the documentation of the tool does after pruning heads."""
    for module in model.modules():
        for name in COUNTS:
            count = getattr(module, name, None)
            if isinstance(count, int) and count > 1:
                setattr(module, name, count // 2)
        if isinstance(size := getattr(module, "all_head_size", None), int):
            module.all_head_size = size // 2


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise ``TimeoutError`` in what takes longer than the limit."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"it did not end within {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(run: Callable[[Entry, Outcome], None], entry: Entry) -> Outcome:
    outcome = Outcome()
    try:
        with warnings.catch_warnings(), _limited():
            warnings.simplefilter("ignore")
            run(entry, outcome)
    except Exception as error:
        outcome.reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return outcome


def attempt_both(name: str) -> tuple[str, tuple[Outcome, Outcome]]:
    entry = get(name)
    return name, (attempt(run_ours, entry), attempt(run_theirs, entry))


def warm_up() -> None:
    """Let both tools do what they do once in a process: imports, tables of operations."""
    import torch_pruning as tp

    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    example = torch.randn(3, 8)
    program = mlgraph.capture(model, (example,))
    _ = program.axes, program.blocks
    tp.DependencyGraph().build_dependency(model, example_inputs=example)


def report(rows: dict[str, tuple[Outcome, Outcome]]) -> str:
    lines = [
        "| model | mlgraph runs | right | capture, s | analysis, s | Torch-Pruning runs | right | its, s |",
        "|---|---|---|---:|---:|---|---|---:|",
    ]
    for name, pair in rows.items():
        cells = []
        for side, outcome in enumerate(pair):
            seconds = "" if outcome.seconds is None else f"{outcome.seconds:.2f}"
            cells += ["yes" if outcome.runs else "no", "yes" if outcome.right else "no"]
            cells += [] if side else [f"{outcome.capture:.2f}"]
            cells += [seconds]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for side, title in enumerate(("mlgraph", "Torch-Pruning")):
        mine = [pair[side] for pair in rows.values()]
        runs, right = sum(o.runs for o in mine), sum(o.right for o in mine)
        # Analysis times are compared on the models that both could analyse.
        both = [pair for pair in rows.values() if all(o.seconds is not None for o in pair)]
        seconds = sum(pair[side].seconds or 0.0 for pair in both)
        before = sum(pair[side].capture for pair in both)
        lines.append(
            f"\n{title}: {runs} of {len(mine)} run, {right} have the shapes of the class at half width; "
            f"{seconds:.1f} s of analysis on {len(both)} models that both analyse"
            + (f", after {before:.1f} s of capture" if before else "")
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.torch_pruning")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--tag")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    names = options.names or [entry.name for entry in entries(tag=options.tag)]
    rows = {}
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(options.workers, warm_up, maxtasksperchild=25) as pool:
        for name, pair in pool.imap(attempt_both, names):
            rows[name] = pair
            print(name, *(f"{o.runs} {o.right} {o.reason}" for o in pair), sep=" | ", flush=True)
            if options.json:
                data = {name: [asdict(outcome) for outcome in pair] for name, pair in rows.items()}
                Path(options.json).write_text(json.dumps(data, indent=1))
    print("\n" + report(rows))


if __name__ == "__main__":
    main()
