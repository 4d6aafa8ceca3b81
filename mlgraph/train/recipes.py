"""Builders of phase programs: V-cycles and their kin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mlgraph.train.errors import TrainError
from mlgraph.train.phases import Coarsen, Interpolate, Phase, Refine, Train, whole_steps

_T = TypeVar("_T")


def plain(steps: int, lr: float | None = None) -> list[Phase]:
    """Training from scratch: one ``Train``."""
    return [Train(steps, lr=lr)]


def vcycle(
    steps: int,
    init_steps: int | Sequence[int] = 0,
    coarse_steps: int | Sequence[int] | None = None,
    depth: int = 2,
    width: int = 2,
    levels: int = 2,
    alpha: float | Sequence[float] = 0.5,
    lr: float | Sequence[float] | None = None,
    pairing: str = "adjacent",
    tied: str = "exact",
    depth_mode: str = "copy",
    axes: Mapping[str, Any] | None = None,
) -> list[Phase]:
    """The paper's V-cycle.

    ``steps`` are the steps at level 1 in all: ``init_steps`` of them (the paper's E_a) before
    coarsening, the rest after interpolation. ``coarse_steps`` (E_small) are the steps per visit of a
    coarser level, half of ``steps`` by default; below level 1 the first ``init_steps`` of them likewise
    come before going further down. Sequences give one value per level: ``coarse_steps`` for levels
    2 to ``levels``, ``init_steps`` and ``alpha`` for levels 1 to ``levels - 1``, ``lr`` for every level. The
    paper takes ``alpha`` 0.5 for BERT, 0.25 for GPT and DeiT.
    """
    return _cycle(
        1, steps, init_steps, coarse_steps, depth, width, levels, alpha, lr, pairing, tied, depth_mode, axes
    )


def wcycle(
    steps: int,
    init_steps: int | Sequence[int] = 0,
    coarse_steps: int | Sequence[int] | None = None,
    depth: int = 2,
    width: int = 2,
    levels: int = 3,
    alpha: float | Sequence[float] = 0.5,
    lr: float | Sequence[float] | None = None,
    pairing: str = "adjacent",
    tied: str = "exact",
    depth_mode: str = "copy",
    axes: Mapping[str, Any] | None = None,
) -> list[Phase]:
    """A W-cycle: as ``vcycle``, but each level below the first is cycled over twice per visit."""
    return _cycle(
        2, steps, init_steps, coarse_steps, depth, width, levels, alpha, lr, pairing, tied, depth_mode, axes
    )


def fmg(
    steps: int,
    init_steps: int | Sequence[int] = 0,
    coarse_steps: int | Sequence[int] | None = None,
    depth: int = 2,
    width: int = 2,
    levels: int = 2,
    alpha: float | Sequence[float] = 0.5,
    lr: float | Sequence[float] | None = None,
    pairing: str = "adjacent",
    tied: str = "exact",
    depth_mode: str = "copy",
    axes: Mapping[str, Any] | None = None,
) -> list[Phase]:
    """Full multigrid: start at the coarsest level; each finer level reached is given its own V-cycle.

    The coarsest level trains first, on the coarsened initial weights. After each ``Refine`` the
    V-cycle from that level follows; there is nothing worth interpolating with on first arrival.
    """
    down = Coarsen(depth=depth, width=width, pairing=pairing, tied=tied, axes=axes)
    recipe = _Recipe(
        1, steps, init_steps, coarse_steps, levels, alpha, lr, down, Refine(depth_mode=depth_mode)
    )
    phases: list[Phase] = [down] * (levels - 1)
    phases += [Train(recipe.steps[levels - 1], lr=recipe.lr[levels - 1])]
    for level in range(levels - 1, 0, -1):
        phases += [recipe.up, *recipe.cycle(level)]
    return _joined(phases)


def progressive_stacking(
    stage_steps: Sequence[int],
    depth: int = 2,
    lr: float | Sequence[float] | None = None,
    depth_mode: str = "copy",
) -> list[Phase]:
    """Progressive stacking: train a shallow model, stack it, go on, up to the user's model.

    ``stage_steps`` gives the steps per stage, the shallowest first and the full depth last; each
    stage is ``depth`` times as deep as the one before. The blocks of a deeper stage are paired in
    ``halves``, so that a stack is copied whole (Gong et al., "Efficient Training of BERT by
    Progressively Stacking", ICML 2019). ``lr`` may give one rate per level, the full depth first.
    """
    levels = len(stage_steps)
    if not levels:
        raise TrainError("stage_steps is empty: give the steps of each stage, the shallowest first.")
    rates = _per_level(lr, levels, "lr")
    phases: list[Phase] = [Coarsen(depth=depth, width=1, pairing="halves")] * (levels - 1)
    for stage, steps in enumerate(stage_steps):
        phases += [Refine(depth_mode=depth_mode)] if stage else []
        phases += [Train(steps, lr=rates[levels - 1 - stage])]
    return phases


def _cycle(
    visits: int,
    steps: int,
    init_steps: int | Sequence[int],
    coarse_steps: int | Sequence[int] | None,
    depth: int,
    width: int,
    levels: int,
    alpha: float | Sequence[float],
    lr: float | Sequence[float] | None,
    pairing: str,
    tied: str,
    depth_mode: str,
    axes: Mapping[str, Any] | None,
) -> list[Phase]:
    down = Coarsen(depth=depth, width=width, pairing=pairing, tied=tied, axes=axes)
    up = Refine(depth_mode=depth_mode)
    return _joined(_Recipe(visits, steps, init_steps, coarse_steps, levels, alpha, lr, down, up).cycle(1))


class _Recipe:
    """The options of a cycle, level by level."""

    def __init__(
        self,
        visits: int,
        steps: int,
        init_steps: int | Sequence[int],
        coarse_steps: int | Sequence[int] | None,
        levels: int,
        alpha: float | Sequence[float],
        lr: float | Sequence[float] | None,
        down: Coarsen,
        up: Refine,
    ) -> None:
        if levels < 1:
            raise TrainError(f"levels={levels}: a cycle has at least one level.")
        coarse = steps // 2 if coarse_steps is None else coarse_steps
        self.visits, self.levels, self.down, self.up = visits, levels, down, up
        self.steps = [steps, *_per_level(coarse, levels - 1, "coarse_steps")]
        self.init = [*_per_level(init_steps, levels - 1, "init_steps"), 0]
        self.alpha = _per_level(alpha, levels - 1, "alpha")
        self.lr = _per_level(lr, levels, "lr")
        for level, (init, all_) in enumerate(zip(self.init, self.steps, strict=True), 1):
            if whole_steps(init) > whole_steps(all_):
                raise TrainError(f"init_steps={init} exceeds the {all_} steps of level {level}: give fewer.")

    def cycle(self, level: int) -> list[Phase]:
        steps, init, lr = self.steps[level - 1], self.init[level - 1], self.lr[level - 1]
        if level == self.levels:
            return [Train(steps, lr=lr)]
        # At the coarsest level a second visit would only repeat the first.
        visits = self.visits if level + 1 < self.levels else 1
        below = self.cycle(level + 1) * visits
        mix = Interpolate(self.alpha[level - 1])
        return [Train(init, lr=lr), self.down, *below, self.up, mix, Train(steps - init, lr=lr)]


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
