"""V-cycles against training from scratch at equal validation loss, both sides tuned alike.

A ``Task`` says what is trained and for how long; ``realtext`` and ``fashion`` hold one each. The
procedure, the same for every task:

- From scratch: the learning rate with the lowest final loss, then further seeds at it.
- A V-cycle: the coarse rate is the one with the lowest loss at the end of the coarse level, of runs that
  stop there; then the fine rate is the one with the lowest final loss. Where a recipe lists further
  alphas and ways to carry optimizer state, they are tried in this order at these rates, each at the best
  found so far. Then further seeds at the best of all.
- A rate is searched on the grid, downhill from its second value; no side gets a finer grid.

Runs that are finished are not run again, so a command can be stopped and repeated, and several processes
may share the work by ``--only``; the table says what there is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from mlgraph.program import Program
from mlgraph.train import Optimizer, Phase, Refine, Schedule, plain, run, vcycle
from mlgraph.train.compare import curve, saving, spread
from mlgraph.train.metering import read_metrics

RATES = (1e-3, 2e-3, 4e-3, 8e-3)
ALPHAS = (0.25, 0.5, 1.0)
STATES = ("carry", "reset", "asymmetric")
Loaders = tuple[DataLoader[Any], DataLoader[Any]]


@dataclass(frozen=True)
class Task:
    """What is trained: ``model`` and ``data`` by seed and folder, and steps; a V-cycle takes ``fine_steps``
    at level 1 in all, ``init_steps`` of them before it coarsens. ``axes`` are coarsened where it narrows.
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


@dataclass(frozen=True)
class Recipe:
    """From scratch (factors of 1), or a V-cycle, and what is tried of it."""

    name: str
    depth: int = 1
    width: int = 1
    alphas: tuple[float, ...] = ALPHAS[:1]
    states: tuple[str, ...] = STATES[:1]

    @property
    def cycles(self) -> bool:
        """Whether this is a V-cycle."""
        return self.depth * self.width > 1


RECIPES = (
    Recipe("scratch"),
    Recipe("both", 2, 2, ALPHAS, STATES),
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
                eval_every=max(task.steps // 20, 1),
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
        for field, values in (("alpha", recipe.alphas), ("state", recipe.states)):
            options = [replace(best, **{field: value}) for value in values]
            best = min(options, key=self.final_loss)
        chosen = [replace(best, seed=seed) for seed in range(self.task.seeds)]
        for choice in chosen:
            self.final_loss(choice)
        return chosen

    def finished(self, recipe: Recipe) -> Iterator[Path]:
        """The folders of a recipe's finished whole runs."""
        for mark in sorted(self.out.glob(f"{recipe.name}-*/done")):
            yield mark.parent


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


def table(experiment: Experiment, best: Mapping[str, Sequence[Choice]]) -> str:
    """Every finished run with its final loss, and the savings of the best over scratch at its final loss,
    seed by seed.
    """
    lines = [f"{'run':40} {'loss':>8} {'metric':>8} {'FLOPs':>10} {'saved FLOPs':>12} {'saved time':>11}"]
    base = [
        read_metrics(experiment.out / choice.name / "metrics.jsonl") for choice in best.get("scratch", ())
    ]
    for recipe in RECIPES:
        chosen = {choice.name: choice.seed for choice in best.get(recipe.name, ())}
        shares = []
        for folder in experiment.finished(recipe):
            history = read_metrics(folder / "metrics.jsonl")
            flops, loss = curve(history, "flops")[-1]
            metrics = [
                value
                for key, value in history[-1].items()
                if key.startswith("eval_") and key not in {"eval_loss", "eval_batches"}
            ]
            words = ["", ""]
            if base and folder.name in chosen:
                baseline = base[min(chosen[folder.name], len(base) - 1)]
                found = [saving(baseline, history, cost) for cost in ("flops", "seconds")]
                words = ["never" if s is None or s.share is None else f"{s.share:+.1%}" for s in found]
                shares += [found[0]] if found[0] is not None else []
            metric = f"{metrics[0]:8.4f}" if metrics else " " * 8
            lines.append(f"{folder.name:40} {loss:8.4f} {metric} {flops:10.3g} {words[0]:>12} {words[1]:>11}")
        over = spread(shares)
        if over.mean is not None and over.deviation is not None:
            never = f", {over.missing} never" if over.missing else ""
            lines.append(
                f"{recipe.name + ' over seeds':40} {'':28} {over.mean:+12.1%} ± {over.deviation:.1%}{never}"
            )
    return "\n".join(lines)


def main(tasks: Mapping[str, Task], description: str | None) -> None:
    """Train what is asked for and print the table."""
    names = [recipe.name for recipe in RECIPES]
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=sorted(tasks), default="small")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=names, help="names of recipes")
    options = parser.parse_args()
    experiment = Experiment(tasks[options.scale], options.out)
    best = {}
    for recipe in RECIPES:
        if not options.only or recipe.name in options.only:
            best[recipe.name] = experiment.best(recipe)
            print("\n" + table(experiment, best), flush=True)
