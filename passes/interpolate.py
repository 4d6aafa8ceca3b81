"""Interpolation of two programs of one architecture."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlgraph.errors import MlgraphError
from mlgraph.passes.base import Pass
from mlgraph.passes.options import option

if TYPE_CHECKING:
    import torch

    from mlgraph.program import Program
    from mlgraph.program.tensors import TensorRecipe

Alpha = float | Mapping[str, float]


@dataclass(frozen=True)
class Interpolate(Pass):
    """``(1 - alpha) * first + alpha * second`` (arXiv 2404.07999, the interpolation operator).

    Breaks the symmetry of copied neurons. Masks, tables and other constants are the first program's, and so
    are integers and booleans. ``alpha`` is a number, or a table from axis name, or from a glob of tensor
    names, to number: a tensor takes the first that names an axis it has or its own name, ``default`` names
    the rest (1 where it is left out).

    The second program may be the coarse one that was made of the first: it is de-coalesced on the way. Then
    ``detail`` says how much is kept of what coarsening averaged away. With w₀ the first program's weights and
    w_c the coarse one's, restriction R and prolongation P,

        w = (1 - alpha)·P R w₀ + alpha·P w_c + detail·(w₀ - P R w₀).

    1 - alpha is the paper's interpolation and the default; 1 with ``alpha`` 1 is multigrid's coarse-grid
    correction, w₀ + P(w_c - R w₀) (Brandt, Mathematics of Computation 31, 1977).

    ``align`` permutes neurons and heads of the second program, whose function that keeps, to match the
    first's: two models that were trained apart (Ainsworth et al., "Git Re-Basin", arXiv 2209.04836).
    """

    alpha: float | dict[str, float] = option(
        0.5, "how much of the second program", least=0, most=1, metavar="[AXIS=]A"
    )
    detail: float | dict[str, float] | None = option(
        None,
        "how much of what coarsening the first averaged away; nothing: 1 - alpha",
        least=0,
        most=1,
        metavar="[AXIS=]D",
    )

    align: bool = option(False, "order the neurons and heads of the second program as the first's first")

    def __call__(self, program: Program, other: Program | None = None) -> Program:  # type: ignore[override]
        if other is None:
            raise MlgraphError("interpolate takes two programs: give the second one too.")
        return interpolate(program, other, self.alpha, self.detail, self.align)


def interpolate(
    first: Program,
    second: Program,
    alpha: Alpha = 0.5,
    detail: Alpha | None = None,
    align: bool = False,
) -> Program:
    """The program with tensors ``(1 - alpha) * first + alpha * second``; see :class:`Interpolate`.

    Raises:
        OptionError: a share is no number between 0 and 1.
        MlgraphError: the programs differ in architecture; the message names the first difference. Or
            ``detail`` is given, and ``second`` is not a coarse program made of one like ``first``.
    """
    from mlgraph.program import require_program
    from mlgraph.rewrite.refine import is_coarse, refine_by_lineage, smoothed

    require_program(first, second)
    asked = Interpolate(
        dict(alpha) if isinstance(alpha, Mapping) else alpha,
        dict(detail) if isinstance(detail, Mapping) else detail,
        align,
    )
    alpha, detail = asked.alpha, asked.detail
    coarse = second if is_coarse(second, first) else None
    if detail is not None and coarse is None:
        raise MlgraphError(
            "detail is what coarsening averaged away: give the coarse program that was made of the first as "
            "the second one, or leave detail out."
        )
    refined = second if coarse is None else refine_by_lineage(coarse, "copy", "decoalesce")
    smooth = None if coarse is None or detail is None else smoothed(first, coarse)
    if align:
        from mlgraph.rewrite.alignment import moves_between, permuted

        _refuse_difference(first, refined)
        refined = permuted(refined, moves_between(first, refined))
    return mixed(first, refined, Mix(first, alpha, detail, align), smooth)


class Mix:
    """The weights of a mix, per tensor of ``program`` by name; see :class:`Interpolate`."""

    def __init__(
        self, program: Program, alpha: Alpha, detail: Alpha | None = None, align: bool = False
    ) -> None:
        self.given = dict[str, Any](alpha=alpha)
        if detail is not None:
            self.given["detail"] = detail
        if align:
            self.given["align"] = "true"
        self._alpha = _by_name(program, alpha, 1.0)
        self._detail = None if detail is None else _by_name(program, detail, None)

    def alpha(self, name: str) -> float:
        """How much of the second program."""
        found = self._alpha(name)
        assert found is not None
        return found

    def detail(self, name: str) -> float:
        """How much of what coarsening averaged away."""
        found = None if self._detail is None else self._detail(name)
        return 1.0 - self.alpha(name) if found is None else found

    def tensor(
        self, name: str, first: torch.Tensor, second: torch.Tensor, smooth: torch.Tensor | None
    ) -> torch.Tensor:
        """``(1 - alpha)·smooth + alpha·second + detail·(first - smooth)``, ``smooth`` being P R ``first``.

        Without ``smooth`` the detail is 1 - alpha, with which it cancels.
        """
        import torch

        alpha, detail = self.alpha(name), self.detail(name)
        if smooth is None or detail == 1.0 - alpha:
            return torch.lerp(first, second, alpha)
        wide = torch.promote_types(first.dtype, torch.float32)
        kept = smooth.to(device=first.device, dtype=wide)
        mean = torch.lerp(kept, second.to(wide), alpha)
        return mean.add_(first.to(wide).sub(kept), alpha=detail).to(first.dtype)


def mixed(first: Program, refined: Program, mix: Mix, smooth: Program | None = None) -> Program:
    """The mix of two programs of one architecture; ``smooth`` is P R ``first``.

    Raises:
        MlgraphError: the programs differ in architecture; the message names the first difference.
    """
    from mlgraph.graph.constants import constants
    from mlgraph.rewrite.coarsen import realise

    _refuse_difference(first, refined)
    fixed = constants(first)
    recipes = {name: _recipe(first, refined, smooth, mix, name, name in fixed) for name in first.tensors}
    told = ",".join(f"{name}={value}" for name, value in mix.given.items())
    return first.replace(
        tensors=first.tensors.replace(realise(first, recipes, first.tensors.meta())),
        history=(*refined.history, f"interpolate{{{told}}}"),
    )


def _by_name(program: Program, given: Alpha, rest: float | None) -> Callable[[str], float | None]:
    """A number for every tensor by its name: a table goes by axes and by globs of names."""
    if not isinstance(given, Mapping):
        return lambda _: float(given)
    rows = [(_members(program, key), float(value)) for key, value in given.items() if key != "default"]
    rest = float(given["default"]) if "default" in given else rest
    return lambda name: next((value for members, value in rows if name in members), rest)


def _members(program: Program, key: str) -> set[str]:
    if not set("*?[") & set(key):
        return {slot.tensor for axis in program.axes.select(key) for slot in axis.slots}
    found = set(fnmatch.filter(program.tensors, key))
    if not found:
        raise MlgraphError(f"No tensor of {program.name} is called {key}: name an axis, or a glob that fits.")
    return found


def _recipe(
    first: Program, second: Program, smooth: Program | None, mix: Mix, name: str, fixed: bool
) -> TensorRecipe:
    from mlgraph.program.tensors import TensorRecipe

    def make() -> torch.Tensor:
        a = first.tensors[name].detach()
        if fixed or not (a.is_floating_point() or a.is_complex()):
            return a.clone()
        b = second.tensors[name].detach().to(device=a.device, dtype=a.dtype)
        return mix.tensor(name, a, b, None if smooth is None else smooth.tensors[name].detach())

    return TensorRecipe(make)


def _refuse_difference(first: Program, second: Program) -> None:
    others = second.tensors.meta()
    for name, tensor in first.tensors.meta().items():
        if name not in second.tensors:
            raise MlgraphError(
                f"the programs differ: the first has a tensor {name}, the second has none; interpolate "
                "needs one architecture."
            )
        other = others[second.tensors.aliases.get(name, name)]
        if tensor.shape != other.shape:
            raise MlgraphError(
                f"the programs differ: {name} is {list(tensor.shape)} in the first and {list(other.shape)} "
                "in the second; "
                "interpolate needs one architecture."
            )
    extra = next((name for name in second.tensors if name not in first.tensors), None)
    if extra is not None:
        raise MlgraphError(
            f"the programs differ: the second has a tensor {extra}, the first has none; interpolate needs "
            "one architecture."
        )
    ops = zip(_ops(first), _ops(second), strict=False)
    for position, (a, b) in enumerate(ops):
        if a != b:
            raise MlgraphError(
                f"the programs differ at op {position}: {a} in the first, {b} in the second; interpolate "
                "needs one architecture."
            )
    if len(_ops(first)) != len(_ops(second)):
        raise MlgraphError(
            f"the programs differ: {len(_ops(first))} ops in the first, {len(_ops(second))} in the second; "
            "interpolate needs one architecture."
        )


def _ops(program: Program) -> list[Any]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
