"""Input shapes of a program at a batch size and a sequence length of one's choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlgraph.errors import MlgraphError

if TYPE_CHECKING:
    from mlgraph.program import Input, Program


def shapes_at(
    program: Program, batch: int | None = None, sequence: int | None = None
) -> list[tuple[int, ...]]:
    """The shape of every input leaf with ``batch`` samples of ``sequence`` tokens; None: as captured.

    Raises:
        MlgraphError: the program has no such size to vary, or does not take it.
    """
    inputs = program.signature.inputs
    wanted = {"batch": batch, "sequence": sequence}
    for name, size in wanted.items():
        if size is not None and not any(_varies(symbol, name) for leaf in inputs for symbol in leaf.symbols):
            raise MlgraphError(f"{program.name} has no {name} size that varies: leave --{name} out.")
    shapes = [_shape(leaf, wanted) for leaf in inputs]
    _check(program, shapes)
    return shapes


def _varies(symbol: str | None, name: str) -> bool:
    return symbol is not None and (symbol == name or symbol.endswith(f"_{name}"))


def _shape(leaf: Input, wanted: dict[str, int | None]) -> tuple[int, ...]:
    symbols = leaf.symbols or (None,) * len(leaf.shape)
    found = []
    for symbol, size in zip(symbols, leaf.shape, strict=True):
        asked = next((w for name, w in wanted.items() if w is not None and _varies(symbol, name)), None)
        found.append(size if asked is None else asked)
    return tuple(found)


def _check(program: Program, shapes: list[tuple[int, ...]]) -> None:
    for leaf, shape in zip(program.signature.inputs, shapes, strict=True):
        for symbol, size in zip(leaf.symbols, shape, strict=False):
            low, high = program.signature.ranges.get(str(symbol), (0, None))
            if symbol is not None and (size < low or (high is not None and size > high)):
                most = "" if high is None else f" and at most {high}"
                raise MlgraphError(f"{leaf.name} takes {symbol} of at least {low}{most}, not {size}.")
