"""Interpolation of two programs of one architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlgraph.errors import MlgraphError
from mlgraph.passes.base import Pass
from mlgraph.passes.options import option

if TYPE_CHECKING:
    import torch

    from mlgraph.program import Program
    from mlgraph.program.tensors import Recipe

Alpha = float | Mapping[str, float]


@dataclass(frozen=True)
class Interpolate(Pass):
    """``(1 - alpha) * first + alpha * second`` (arXiv 2404.07999, the interpolation operator).

    Breaks the symmetry of copied neurons. Integer and boolean buffers are the first program's. ``alpha`` is
    a number, or a table from axis name to number: a tensor takes the first that names an axis it has,
    ``default`` names the rest (1 where it is left out).
    """

    alpha: float | dict[str, float] = option(
        0.5, "how much of the second program", least=0, most=1, metavar="[AXIS=]A"
    )

    def __call__(self, program: Program, other: Program | None = None) -> Program:  # type: ignore[override]
        if other is None:
            raise MlgraphError("interpolate takes two programs: give the second one too.")
        return interpolate(program, other, self.alpha)


def interpolate(first: Program, second: Program, alpha: Alpha = 0.5) -> Program:
    """The program with tensors ``(1 - alpha) * first + alpha * second``; see :class:`Interpolate`.

    Raises:
        MlgraphError: the programs differ in architecture; the message names the first difference.
    """
    from mlgraph.rewrite.coarsen import realise

    _refuse_difference(first, second)
    weigh = weights(first, alpha)
    recipes = {name: _recipe(first, second, name, weigh(name)) for name in first.tensors}
    return first.replace(
        tensors=first.tensors.replace(realise(first, recipes, first.tensors.meta())),
        history=(*second.history, f"interpolate{{alpha={alpha}}}"),
    )


def weights(program: Program, alpha: Alpha) -> Callable[[str], float]:
    """How much of the second program every tensor takes, by its name; see :class:`Interpolate`."""
    if not isinstance(alpha, Mapping):
        return lambda _: float(alpha)
    table = program.axes
    rows = [
        ({s.tensor for axis in table.select(key) for s in axis.slots}, value)
        for key, value in alpha.items()
        if key != "default"
    ]
    rest = float(alpha.get("default", 1.0))
    return lambda name: next((float(value) for members, value in rows if name in members), rest)


def _recipe(first: Program, second: Program, name: str, alpha: float) -> Recipe:
    import torch

    from mlgraph.program.tensors import Recipe

    def make() -> torch.Tensor:
        a = first.tensors[name].detach()
        if not (a.is_floating_point() or a.is_complex()):
            return a.clone()
        b = second.tensors[name].detach().to(device=a.device, dtype=a.dtype)
        return torch.lerp(a, b, alpha)

    return Recipe(make)


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
