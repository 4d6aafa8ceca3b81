"""Recipes: V-cycles and their kin, as phase programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from mlgraph.passes.coalesce import Coalesce
from mlgraph.passes.decoalesce import Decoalesce
from mlgraph.passes.options import inline, option, signed
from mlgraph.train.errors import TrainError
from mlgraph.train.phases import Coarsen, Interpolate, Phase, Refine, Train, whole_steps
from mlgraph.train.tables import build

_T = TypeVar("_T")
RecipeKind = Literal["vcycle", "wcycle", "fmg", "cascade", "stacking", "plain"]
Numbers = int | tuple[int, ...]
Reals = float | tuple[float, ...]


@dataclass(frozen=True)
class Recipe:
    """A phase program by its kind and numbers.

    ``steps`` are the steps at level 1 in all: ``init_steps`` of them (the paper's E_a) before coarsening, the
    rest after interpolation. ``coarse_steps`` (E_small) are the steps per visit of a coarser level; below
    level 1 the first ``init_steps`` of them likewise come before going further down. Lists give one value per
    level: ``coarse_steps`` for levels 2 to ``levels``, ``init_steps``, ``alpha`` and ``detail`` for levels 1
    to ``levels - 1``, ``lr`` for every level. The paper takes ``alpha`` 0.5 for BERT, 0.25 for GPT and DeiT.
    """

    kind: RecipeKind = option("vcycle", "which program is made; not used where phases are listed")
    steps: int = option(1000, "optimizer steps of the model itself", least=0)
    init_steps: Numbers = option(0, "of these, steps before coarsening (E_a); or a list, one per level")
    coarse_steps: Numbers | None = option(
        None, "steps per visit of coarser levels, half by default; or a list, one per level"
    )
    stage_steps: tuple[int, ...] = option((), "stacking: steps per stage, the shallowest first")
    coarsen: Coalesce = inline(Coalesce(depth=2, width=2))
    refine: Decoalesce = inline(Decoalesce(), "depth_mode", "noise")
    levels: int | None = option(None, "levels of a cycle; by default 2, and 3 for a W-cycle")
    alpha: Reals = option(
        0.5, "weight of the refined program in interpolation; or a list, one per level", least=0, most=1
    )
    detail: Reals | None = option(
        None,
        "weight of what coarsening averaged away; 1 - alpha by default; or a list, one per level",
        least=0,
        most=1,
    )
    lr: Reals | None = option(None, "peak learning rate; or a list, one per level", least=0)

    def phases(self) -> list[Phase]:
        """The phase program."""
        if self.kind == "plain":
            return [Train(self.steps, lr=self.lr if isinstance(self.lr, float) else None)]
        if self.kind == "stacking":
            return self._stacking()
        numbers = self._by_level()
        if self.kind == "cascade":
            return numbers.cascade()
        return numbers.full() if self.kind == "fmg" else _joined(numbers.cycle(1))

    def _by_level(self) -> _Levels:
        levels = (3 if self.kind == "wcycle" else 2) if self.levels is None else self.levels
        if levels < 1:
            raise TrainError(f"levels={levels}: a cycle has at least one level.")
        coarse = self.steps // 2 if self.coarse_steps is None else self.coarse_steps
        return _Levels(
            visits=2 if self.kind == "wcycle" else 1,
            steps=[self.steps, *_per_level(coarse, levels - 1, "coarse_steps")],
            init=[*_per_level(self.init_steps, levels - 1, "init_steps"), 0],
            alpha=_per_level(self.alpha, levels - 1, "alpha"),
            detail=_per_level(self.detail, levels - 1, "detail"),
            lr=_per_level(self.lr, levels, "lr"),
            down=Coarsen(self.coarsen),
            up=Refine(self.refine),
        )

    def _stacking(self) -> list[Phase]:
        levels = len(self.stage_steps)
        if not levels:
            raise TrainError("stage_steps is empty: give the steps of each stage, the shallowest first.")
        stacks = dataclasses.replace(self.coarsen, width=1, pairing="halves")
        return _Levels(
            steps=list(self.stage_steps[::-1]),
            lr=_per_level(self.lr, levels, "lr"),
            down=Coarsen(stacks),
            up=Refine(self.refine),
        ).cascade()


@dataclass(frozen=True)
class _Levels:
    """The numbers of a recipe level by level, the first the user's model."""

    steps: list[int]
    lr: list[float | None]
    down: Coarsen
    up: Refine
    init: list[int] = dataclasses.field(default_factory=list)
    alpha: list[float] = dataclasses.field(default_factory=list)
    detail: list[float | None] = dataclasses.field(default_factory=list)
    visits: int = 1

    def __post_init__(self) -> None:
        for level, (init, all_) in enumerate(zip(self.init, self.steps, strict=False), 1):
            if whole_steps(init) > whole_steps(all_):
                raise TrainError(f"init_steps={init} exceeds the {all_} steps of level {level}: give fewer.")

    def cycle(self, level: int) -> list[Phase]:
        """A cycle from a level down and back."""
        steps, init, lr = self.steps[level - 1], self.init[level - 1], self.lr[level - 1]
        if level == len(self.steps):
            return [Train(steps, lr=lr)]
        # At the coarsest level a second visit would only repeat the first.
        visits = self.visits if level + 1 < len(self.steps) else 1
        below = self.cycle(level + 1) * visits
        mix = Interpolate(alpha=self.alpha[level - 1], detail=self.detail[level - 1])
        return [Train(init, lr=lr), self.down, *below, self.up, mix, Train(steps - init, lr=lr)]

    def full(self) -> list[Phase]:
        """The coarsest level first, then on every finer one a cycle from there."""
        levels = len(self.steps)
        phases: list[Phase] = [self.down] * (levels - 1)
        phases += [Train(self.steps[-1], lr=self.lr[-1])]
        for level in range(levels - 1, 0, -1):
            phases += [self.up, *self.cycle(level)]
        return _joined(phases)

    def cascade(self) -> list[Phase]:
        """Up only, from the coarsest level to the first."""
        phases: list[Phase] = [self.down] * (len(self.steps) - 1)
        for level in range(len(self.steps), 0, -1):
            phases += [self.up] if level < len(self.steps) else []
            phases += [Train(self.steps[level - 1], lr=self.lr[level - 1])]
        return phases


def _recipe(kind: RecipeKind, **options: Any) -> list[Phase]:
    given = {name: value for name, value in options.items() if value is not None}
    return build(Recipe, {"kind": kind, **given}).phases()


_OTHERS = ("kind", "stage_steps")


def plain(steps: int, lr: float | None = None) -> list[Phase]:
    """Training from scratch: one ``Train``."""
    return _recipe("plain", steps=steps, lr=lr)


@signed(Recipe, *_OTHERS)
def vcycle(
    steps: int, init_steps: int | Sequence[int] = 0, coarse_steps: Any = None, **options: Any
) -> list[Phase]:
    """The paper's V-cycle; the options are the fields of :class:`Recipe`."""
    return _recipe("vcycle", steps=steps, init_steps=init_steps, coarse_steps=coarse_steps, **options)


@signed(Recipe, *_OTHERS)
def wcycle(
    steps: int, init_steps: int | Sequence[int] = 0, coarse_steps: Any = None, **options: Any
) -> list[Phase]:
    """A W-cycle: as ``vcycle``, but each level below the first is cycled over twice per visit."""
    return _recipe("wcycle", steps=steps, init_steps=init_steps, coarse_steps=coarse_steps, **options)


@signed(Recipe, *_OTHERS)
def fmg(
    steps: int, init_steps: int | Sequence[int] = 0, coarse_steps: Any = None, **options: Any
) -> list[Phase]:
    """Full multigrid: start at the coarsest level; each finer level reached is given its own V-cycle.

    The coarsest level trains first, on the coarsened initial weights. After each ``Refine`` the V-cycle from
    that level follows, so coarser levels are visited again: this is no cascade, for which see ``cascade``.
    There is nothing worth interpolating with on first arrival.
    """
    return _recipe("fmg", steps=steps, init_steps=init_steps, coarse_steps=coarse_steps, **options)


@signed(Recipe, *_OTHERS, "init_steps", "alpha", "detail")
def cascade(steps: int, coarse_steps: Any = None, **options: Any) -> list[Phase]:
    """A cascade: start at the coarsest level and only go up, every level trained once.

    The options are the fields of :class:`Recipe`, without those of a way down: ``init_steps``,
    ``alpha``, ``detail``.
    """
    for name in sorted(options.keys() & {"init_steps", "alpha", "detail"}):
        raise TrainError(f"cascade takes no option {name!r}: it goes up only, and mixes nothing.")
    return _recipe("cascade", steps=steps, coarse_steps=coarse_steps, **options)


def progressive_stacking(
    stage_steps: Sequence[int], depth: int = 2, lr: float | Sequence[float] | None = None, **options: Any
) -> list[Phase]:
    """Progressive stacking: train a shallow model, stack it, go on, up to the user's model.

    ``stage_steps`` gives the steps per stage, the shallowest first and the full depth last; each
    stage is ``depth`` times as deep as the one before. The blocks of a deeper stage are paired in
    ``halves``, so that a stack is copied whole (Gong et al., "Efficient Training of BERT by
    Progressively Stacking", ICML 2019). ``lr`` may give one rate per level, the full depth first.
    """
    return _recipe("stacking", stage_steps=stage_steps, depth=depth, lr=lr, **options)


def _per_level(value: _T | Sequence[_T], count: int, name: str) -> list[_T]:
    if not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise TrainError(
            f"{name} gives {len(value)} values where {count} are needed: one per level it applies to."
        )
    return list(value)


def _joined(phases: Sequence[Phase]) -> list[Phase]:
    """Without empty training phases, and with neighbouring ones of one rate made one."""
    joined: list[Phase] = []
    for phase in phases:
        last = joined[-1] if joined else None
        if isinstance(phase, Train) and phase.steps == 0:
            continue
        if isinstance(phase, Train) and isinstance(last, Train) and phase.lr == last.lr:
            joined[-1] = Train(last.steps + phase.steps, lr=last.lr)
        else:
            joined.append(phase)
    return joined
