"""Pipelines of passes as strings.

A pipeline reads ``coalesce{depth=2,width=2};decoalesce{depth_mode=copy}``: passes in the order in which they
run, each with its options in braces. An option's value is a number, ``true``, ``false``, ``none``, a word, a
``"quoted string"``, a list ``[0,0,1]`` or a table ``{hidden=2,mlp=[0,0,1]}``. Options at their defaults
are left out, and ``parse_pipeline(str(pipeline)) == pipeline``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

from mlgraph.errors import MlgraphError
from mlgraph.passes.base import Pass
from mlgraph.passes.notation import NotationReader
from mlgraph.passes.registry import load_pass
from mlgraph.program import Program


@dataclass(frozen=True)
class Pipeline:
    """Passes that run one after another."""

    passes: tuple[Pass, ...] = ()
    name: ClassVar[str] = "pipeline"

    def __call__(self, program: Program) -> Program:
        """The program that the last pass makes."""
        return reduce(lambda made, operator: operator(made), self.passes, program)

    def on_shapes(self, program: Program) -> Program:
        """The same on shapes alone, as :meth:`Pass.on_shapes`."""
        return reduce(lambda made, operator: operator.on_shapes(made), self.passes, program)

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __str__(self) -> str:
        return ";".join(str(operator) for operator in self.passes)


def parse_pipeline(text: str) -> Pipeline:
    """The pipeline written in ``text``.

    Raises MlgraphError at a pass or an option that does not exist, with the nearest that does, and at
    text that breaks the notation, with the column.
    """
    reader = NotationReader(text)
    passes = []
    while not reader.at_end():
        name = reader.word("a pass")
        options = reader.table() if reader.at("{") else {}
        passes.append(load_pass(name).from_options(options))
        if not reader.at_end():
            reader.expect(";")
    if not passes:
        raise MlgraphError("The pipeline is empty; write a pass, for example 'coalesce{width=2}'.")
    return Pipeline(tuple(passes))


def parse_pass(text: str) -> Pass:
    """The one pass written in ``text``; raises MlgraphError where it is not exactly one."""
    passes = parse_pipeline(text).passes
    if len(passes) != 1:
        raise MlgraphError(f"{text!r} holds {len(passes)} passes where one is wanted.")
    return passes[0]
