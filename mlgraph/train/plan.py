"""What recipes could save at most on a model, from its graph alone, and what of that was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING

from mlgraph.errors import MlgraphError
from mlgraph.graph.flops import flops_at
from mlgraph.graph.input_sizes import shapes_at
from mlgraph.interop.heads import task_of
from mlgraph.passes.coalesce import Coalesce
from mlgraph.train.engine.rehearsal import rehearse
from mlgraph.train.errors import TrainError
from mlgraph.train.phases import Phase, Train, levels_of
from mlgraph.train.recipes import Recipe, RecipeKind

if TYPE_CHECKING:
    from mlgraph.program import Program

_UNIT = 10_000
_INIT = 0.05
KINDS: tuple[RecipeKind, ...] = ("vcycle", "wcycle", "fmg", "cascade")
WAYS: Mapping[str, Coalesce] = {
    "depth": Coalesce(depth=2, width=1),
    "width": Coalesce(depth=1, width=2),
    "depth and width": Coalesce(depth=2, width=2),
}


@dataclass(frozen=True)
class Measured:
    """What a study found: ``saved`` are the shares of FLOPs by seed, ``at`` its length in steps."""

    kind: RecipeKind
    way: str
    takes_ids: bool
    saved: tuple[float, ...]
    at: int
    where: str = "docs/experiments.md"


# Against a baseline that was tuned with as many runs, at equal held-out loss; 0 where nothing was shown.
MEASURED = (
    Measured("vcycle", "depth", True, (0.20,), 500),
    Measured("vcycle", "depth", True, (0.06,), 1000),
    Measured("vcycle", "depth", True, (0.0, 0.0), 2000),
)


@dataclass(frozen=True)
class LevelCost:
    """A level of one way down: its parameters, and training FLOPs of a batch, also as a share of level 1."""

    way: str
    level: int
    parameters: int
    flops: int
    share: float


@dataclass(frozen=True)
class Ceiling:
    """The share of FLOPs that a recipe would save if a step of every level were worth one of the first.

    ``steps`` are those of its training phases, by level in the order they are taken.
    """

    kind: RecipeKind
    way: str
    saving: float
    steps: tuple[tuple[int, int], ...]
    measured: tuple[Measured, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A budget in steps and tokens of the model itself; levels, ceilings, and ways that cannot be gone."""

    budget: float
    batch: tuple[tuple[str, tuple[int, ...]], ...]
    steps: int
    tokens: int
    levels: tuple[LevelCost, ...]
    ceilings: tuple[Ceiling, ...]
    notes: tuple[str, ...]


def plan(program: Program, budget: float, batch: int | None = None, sequence: int | None = None) -> Plan:
    """What ``budget`` training FLOPs pay for, on batches of that size; nothing is run.

    Raises:
        MlgraphError: the budget does not pay a hundred steps, or the model does not take the sizes.
    """
    shapes = shapes_at(program, batch, sequence)
    leaves = [(shape, leaf.dtype) for shape, leaf in zip(shapes, program.signature.inputs, strict=True)]
    own = flops_at(program, leaves)
    steps = int(budget / own.training) if own.training else 0
    if steps < 100:
        raise TrainError(
            f"{budget:.3g} FLOPs pay {steps} steps of {own.training:.3g} on this batch: give a larger budget "
            "or a smaller batch."
        )
    takes_ids = own.tokens != own.samples
    costs: dict[tuple[str, int], LevelCost] = {}
    ceilings, notes = list[Ceiling](), list[str]()
    for (way, down), kind in product(WAYS.items(), KINDS):
        phases = _recipe(kind, down).phases()
        try:
            stages = rehearse(program, phases)
        except MlgraphError as error:
            notes.append(f"{kind} in {way}: {error}")
            continue
        for level, stage in zip(levels_of(phases), stages, strict=True):
            if (way, level) not in costs:
                flops = flops_at(stage.program, leaves).training
                parameters = stage.program.num_parameters()
                costs[way, level] = LevelCost(way, level, parameters, flops, flops / own.training)
        taken = _steps(phases, steps)
        spent = sum(count * costs[way, level].flops for level, count in taken)
        found = tuple(m for m in MEASURED if (m.kind, m.way, m.takes_ids) == (kind, way, takes_ids))
        ceilings.append(Ceiling(kind, way, 1 - spent / (steps * own.training), taken, found))
    if not ceilings:
        raise TrainError(f"{program.name} has no coarser level to train on: {notes[0]}")
    named = tuple((leaf.name, s) for leaf, s in zip(program.signature.inputs, shapes, strict=True) if s)
    ordered = tuple(sorted(ceilings, key=lambda c: -c.saving))
    levels = tuple(cost for cost in costs.values() if cost.level > 1)
    return Plan(budget, named, steps, steps * own.tokens, levels, ordered, tuple(dict.fromkeys(notes)))


def configuration(found: Plan, program: Program, source: str) -> dict[str, object]:
    """Fields of a run to start from: the V-cycle that saves most, its coarse steps and rates to be tuned."""
    best = next(ceiling for ceiling in found.ceilings if ceiling.kind == "vcycle")
    (_, init), (_, coarse), (_, rest) = best.steps
    down = WAYS[best.way]
    (_, shape), *_ = found.batch
    takes_ids = found.tokens != found.steps * shape[0]
    task = task_of(program) or ("causal-lm" if takes_ids else "image-classification")
    data = {"data.sequence": shape[1]} if takes_ids and len(shape) > 1 else {}
    return {
        "model": source,
        "out": "runs/first",
        "data.task": task,
        "data.train": ["text.txt" if takes_ids else "images"],
        "data.batch": shape[0],
        **data,
        "recipe.kind": "vcycle",
        "recipe.steps": init + rest,
        "recipe.init_steps": init,
        "recipe.coarse_steps": coarse,
        "recipe.depth": down.depth,
        "recipe.width": down.width,
        "recipe.alpha": 0.5,
        "run.optimizer.lr": 1e-3,
        "run.schedule.warmup": max((init + rest) // 20, 1),
        "run.schedule.rewarm": max((init + rest) // 40, 1),
    }


def to_json(found: Plan) -> dict[str, object]:
    """The plan as plain values."""
    return json.loads(json.dumps(asdict(found)))  # type: ignore[no-any-return]


def _recipe(kind: RecipeKind, down: Coalesce) -> Recipe:
    init = 0 if kind == "cascade" else int(_INIT * _UNIT)
    return Recipe(kind, steps=_UNIT, init_steps=init, coarsen=down)


def _steps(phases: Sequence[Phase], total: int) -> tuple[tuple[int, int], ...]:
    """Level and steps of every training phase, scaled so that all are ``total``."""
    listed = [
        (level, phase.steps)
        for level, phase in zip(levels_of(phases), phases, strict=True)
        if isinstance(phase, Train)
    ]
    whole = sum(count for _, count in listed)
    scaled = [(level, count * total // whole) for level, count in listed]
    level, count = scaled[-1]
    scaled[-1] = (level, count + total - sum(count for _, count in scaled))
    return tuple(scaled)
