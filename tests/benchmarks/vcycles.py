"""V-cycles against training from scratch at equal validation loss, both sides tuned alike.

A ``Task`` says what is trained and for how long; ``realtext`` and ``fashion`` hold one each. The
procedure, the same for every task:

- From scratch: the learning rate with the lowest final loss, then further seeds at it.
- A V-cycle: the coarse rate is the one with the lowest loss at the end of the coarse level, of runs that
  stop there; then the fine rate is the one with the lowest final loss. Then alpha, and where a recipe lists
  them the ways to carry optimizer state, at these rates, each at the best found so far. Then further seeds
  at the best of all.
- A rate is searched on the grid, downhill from its second value; no side gets a finer grid.

Runs that are finished are not run again, so a command can be stopped and repeated, and several processes
may share the work by ``--only``; the table says what there is. Time is the number of steps times what a
step takes at each level, measured in turn, for runs that share a machine slow each other down.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader

import mlgraph
from mlgraph.program import Program
from mlgraph.train import Coarsen, Optimizer, Phase, Refine, Schedule, plain, run, vcycle
from mlgraph.train.data.batches import own_loss
from mlgraph.train.results.metrics import read_metrics
from mlgraph.train.results.savings import curve, saving, spread

RATES = (1e-3, 2e-3, 4e-3, 8e-3)
ALPHAS = (0.25, 0.5, 1.0)
STATES = ("carry", "reset", "asymmetric")
_COSTS = {"step", "phase", "level", "flops", "tokens", "images", "seconds", "eval_loss"}
Record = dict[str, Any]
Loaders = tuple[DataLoader[Any], DataLoader[Any]]


@dataclass(frozen=True)
class Task:
    """What is trained: ``model`` and ``data`` by seed and folder, and steps; a V-cycle takes ``fine_steps``
    at level 1 in all, ``init_steps`` of them before it coarsens. ``axes`` are coarsened where it narrows.
    ``evaluations`` are those of a run from scratch; a V-cycle has them equally many steps apart.
    """

    model: Callable[[int], Program]
    data: Callable[[Path], Loaders]
    steps: int
    fine_steps: int
    init_steps: int
    coarse_steps: int
    seeds: int
    axes: Mapping[str, int] | None = None
    loss: Callable[..., torch.Tensor] | None = None
    metric: Callable[..., Mapping[str, torch.Tensor]] | None = None
    weight_decay: float = 0.01
    compile: bool = True
    rates: tuple[float, ...] = RATES
    evaluations: int = 20


@dataclass(frozen=True)
class Recipe:
    """From scratch (factors of 1), or a V-cycle, and what is tried of it."""

    name: str
    depth: int = 1
    width: int = 1
    alphas: tuple[float, ...] = ALPHAS
    states: tuple[str, ...] = STATES[:1]

    @property
    def cycles(self) -> bool:
        """Whether this is a V-cycle."""
        return self.depth * self.width > 1


RECIPES = (
    Recipe("scratch", alphas=ALPHAS[:1]),
    Recipe("both", 2, 2, states=STATES),
    Recipe("depth", 2, 1),
    Recipe("width", 1, 2),
)


@dataclass(frozen=True)
class Choice:
    """What one run is told: rates of level 1 and 2, alpha, how state is carried, and the seed."""

    recipe: Recipe
    rate: float
    coarse_rate: float = 0.0
    alpha: float = ALPHAS[0]
    state: str = STATES[0]
    seed: int = 0

    @property
    def name(self) -> str:
        """The folder of the run."""
        cycle = (f"{self.coarse_rate:g}", f"a{self.alpha:g}", self.state) if self.recipe.cycles else ()
        return "-".join((self.recipe.name, f"{self.rate:g}", *cycle, f"seed{self.seed}"))

    def phases(self, task: Task) -> list[Phase]:
        """The phase program."""
        if not self.recipe.cycles:
            return plain(task.steps, lr=self.rate)
        return vcycle(
            task.fine_steps,
            task.init_steps,
            task.coarse_steps,
            depth=self.recipe.depth,
            width=1 if task.axes else self.recipe.width,
            axes=task.axes if self.recipe.width > 1 else None,
            alpha=self.alpha,
            lr=(self.rate, self.coarse_rate),
        )


@dataclass(frozen=True)
class Experiment:
    """A task and the folder of its runs."""

    task: Task
    out: Path

    def train(self, name: str, choice: Choice, phases: Sequence[Phase]) -> Path:
        """One run; where it was finished before, nothing is done."""
        task, folder = self.task, self.out / name
        if not (folder / "done").exists():
            training, held_out = task.data(self.out / "cache")
            run(
                task.model(choice.seed),
                phases,
                training,
                held_out,
                task.loss,
                folder,
                metric=task.metric,
                optimizer=Optimizer(lr=choice.rate, weight_decay=task.weight_decay),
                optimizer_state=choice.state,
                schedule=Schedule("cosine", warmup=task.steps // 40, final=0.0, rewarm=task.steps // 100),
                seed=choice.seed,
                compile=task.compile,
                eval_every=max(task.steps // task.evaluations, 1),
                log_every=max(task.steps // 40, 1),
                checkpoint_every=max(task.steps // 5, 1),
                keep=1,
            )
            (folder / "done").touch()
        return folder

    def final_loss(self, choice: Choice) -> float:
        """The last loss of a whole run."""
        return final_loss(self.train(choice.name, choice, choice.phases(self.task)), 1)

    def coarse_loss(self, choice: Choice) -> float:
        """The last loss of a run that stops at the end of the coarse level."""
        descent = list(takewhile(lambda phase: not isinstance(phase, Refine), choice.phases(self.task)))
        recipe = choice.recipe
        return final_loss(
            self.train(f"descent-{recipe.name}-{choice.coarse_rate:g}-seed0", choice, descent), 2
        )

    def best(self, recipe: Recipe) -> list[Choice]:
        """The choices at the best rates, alpha and state of a recipe, one per seed."""

        def at(rate: float) -> Choice:
            return Choice(recipe, rate, coarse)

        coarse = 0.0
        if recipe.cycles:
            coarse = lowest(self.task.rates, lambda rate: self.coarse_loss(Choice(recipe, rate, rate)))
        best = at(lowest(self.task.rates, lambda rate: self.final_loss(at(rate))))
        best = min((replace(best, alpha=alpha) for alpha in recipe.alphas), key=self.final_loss)
        best = min((replace(best, state=state) for state in recipe.states), key=self.final_loss)
        chosen = [replace(best, seed=seed) for seed in range(self.task.seeds)]
        for choice in chosen:
            self.final_loss(choice)
        return chosen


def lowest(grid: Sequence[float], loss: Callable[[float], float]) -> float:
    """The value of the grid with the lowest loss, downhill from the second: neighbours are tried as long as
    one is lower.
    """
    found: dict[int, float] = {}
    place, tried = min(1, len(grid) - 1), -1
    while place != tried:
        tried = place
        for near in (place, place + 1, place - 1):
            if 0 <= near < len(grid) and near not in found:
                found[near] = loss(grid[near])
            if near in found and found[near] < found[place]:
                place = near
                break
    return grid[place]


def final_loss(folder: Path, level: int) -> float:
    """The last evaluation at a level."""
    return curve(read_metrics(folder / "metrics.jsonl"), "flops", level=level)[-1][1]


def step_times(task: Task, repetitions: int = 15) -> dict[str, float]:
    """Median seconds of a training step at level 1 (``scratch``) and at level 2 of every V-cycle, one
    after the other in turn.
    """
    program = task.model(0)
    with tempfile.TemporaryDirectory() as cache:
        batch = next(iter(task.data(Path(cache))[0]))
    steps = {}
    for recipe in RECIPES:
        coarsen = next((p for p in Choice(recipe, 0.0).phases(task) if isinstance(p, Coarsen)), None)
        level = program
        if coarsen is not None:
            level = mlgraph.coalesce(
                program, depth=coarsen.depth, width=coarsen.width, axes=dict(coarsen.axes or {}) or None
            )
        steps[recipe.name] = _training_step(level, task, batch)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repetition in range(repetitions + 3):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repetition >= 3:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(times) for name, times in seconds.items()}


def _training_step(program: Program, task: Task, batch: Any) -> Callable[[], None]:
    module = mlgraph.emit(program).train()
    called = torch.compile(module) if task.compile else module
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    criterion = task.loss or own_loss

    def step() -> None:
        outputs = called(**batch) if isinstance(batch, dict) else called(batch[0])
        criterion(outputs, batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(history: Sequence[Record], recipe: str, times: Mapping[str, float]) -> list[Record]:
    """A run's records with ``seconds`` as its steps take alone: those of the run are of a shared machine."""
    records, seconds, before = [], 0.0, 0
    for record in history:
        step = record.get("step", before)
        seconds += (step - before) * times["scratch" if record.get("level", 1) == 1 else recipe]
        before = step
        records.append({**record, "seconds": seconds})
    return records


def finished(out: Path) -> dict[str, dict[int, list[Record]]]:
    """The records of all finished whole runs: by what was chosen, then by seed."""
    found: dict[str, dict[int, list[Record]]] = {}
    for mark in sorted(out.glob("*/done")):
        name, seed = mark.parent.name.rsplit("-seed", 1)
        if not name.startswith("descent"):
            found.setdefault(name, {})[int(seed)] = read_metrics(mark.parent / "metrics.jsonl")
    return found


def table(runs: Mapping[str, Mapping[int, Sequence[Record]]]) -> str:
    """Every run with its final loss, and what it saved over the best from scratch of its seed."""
    scratch = {name: seeds for name, seeds in runs.items() if name.startswith("scratch") and 0 in seeds}
    base = min(scratch.values(), key=lambda seeds: _last(seeds[0])["eval_loss"], default={})
    metrics = sorted(
        {key for seeds in runs.values() for run in seeds.values() for key in _last(run)} - _COSTS
    )
    titles = [key.removeprefix("eval_") for key in metrics]
    lines = [
        "| run | seed | loss | "
        + "".join(f"{title} | " for title in titles)
        + "FLOPs | saved FLOPs | saved time |",
        "|---|---:|---:|" + "---:|" * len(titles) + "---:|---:|---:|",
    ]
    for name, seeds in runs.items():
        shares = []
        for seed, history in sorted(seeds.items()):
            last = _last(history)
            cells = [name, str(seed), f"{last['eval_loss']:.4f}"]
            cells += [f"{last[key]:.4f}" if key in last else "" for key in metrics]
            cells += [f"{last['flops']:.3g}"]
            for cost in ("flops", "seconds"):
                if seeds is base:
                    cells.append("baseline")
                    continue
                saved = saving(base[seed], history, cost) if seed in base else None
                share = None if saved is None else saved.share
                cells.append("" if saved is None else "never" if share is None else f"{share:+.1%}")
                shares += [saved] if saved is not None and cost == "flops" else []
            lines.append("| " + " | ".join(cells) + " |")
        over = spread(shares)
        if len(shares) > 1 and seeds is not base:
            known = over.mean is not None and over.deviation is not None
            text = f"{over.mean:+.1%} ± {over.deviation:.1%}" if known else ""
            text += f" {over.missing} never" if over.missing else ""
            lines.append(f"| {name} | all | " + "| " * (len(metrics) + 2) + f"{text.strip()} | |")
    return "\n".join(lines)


def _last(history: Sequence[Record]) -> Record:
    return next(record for record in reversed(history) if "eval_loss" in record)


def main(tasks: Mapping[str, Task], description: str | None) -> None:
    """Train what is asked for and print the table."""
    names = [recipe.name for recipe in RECIPES]
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=sorted(tasks), default="small")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--only", nargs="*", choices=names, default=names, help="names of recipes; none: train nothing"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="write the evaluations of all runs as JSON")
    options = parser.parse_args()
    task = tasks[options.scale]
    for recipe in RECIPES:
        if recipe.name in options.only:
            Experiment(task, options.out).best(recipe)
    times = step_times(task)
    print("step times, s: " + ", ".join(f"{name} {seconds:.3f}" for name, seconds in times.items()))
    runs = {
        name: {seed: timed(run, name.split("-")[0], times) for seed, run in seeds.items()}
        for name, seeds in finished(options.out).items()
    }
    print(table(runs))
    if options.log:
        options.log.write_text(json.dumps(log(runs), indent=0))


def log(runs: Mapping[str, Mapping[int, Sequence[Record]]]) -> dict[str, list[Record]]:
    """The evaluations of every run."""
    return {
        f"{name}-seed{seed}": [record for record in history if "eval_loss" in record]
        for name, seeds in runs.items()
        for seed, history in seeds.items()
    }
