"""Sizes for a target, as ``mlgraph coarsen`` chooses and shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlgraph.passes.coalesce import Coalesce
    from mlgraph.program import Program
    from mlgraph.rewrite.targets import Candidate

SHOWN = 8
_TRIED = 4


def chosen(operator: Coalesce, program: Program) -> tuple[Coalesce, list[Candidate], list[str]]:
    """The pass with the sizes that it takes, all candidates from these on, and why those before were left.

    Of a model of a library the first few are tried on its config; the first that it can say is taken, or,
    where it can say none of them, the first.
    """
    from mlgraph.cli.results import status
    from mlgraph.interop.express import refusal

    with status("choosing sizes"):
        found = operator.candidates(program)
        left: list[str] = []
        for number, candidate in enumerate(found[:_TRIED]):
            made = operator.meeting(candidate)
            why = refusal(made.on_shapes(program))
            if why is None:
                return made, found[number:], left
            left.append(f"{described(candidate)} has no config: {why}")
    return operator.meeting(found[0]), found, left


def described(candidate: Candidate) -> str:
    """Its sizes in a line, as ``--axis`` takes them."""
    return " ".join(f"{name}={request}" for name, request in candidate.requests.items()) or "as it is"


def table_of(found: Sequence[Candidate]) -> list[Any]:
    """The first candidates as a table; the first of them is taken."""
    from rich.text import Text

    from mlgraph.inspect.text.console import heading, table
    from mlgraph.inspect.text.numbers import count, size

    rows = [
        (
            count(c.amounts["parameters"]),
            count(c.amounts["flops"]),
            size(c.amounts["bytes"]),
            f"{c.miss:.1%}",
            described(c),
        )
        for c in found[:SHOWN]
    ]
    more = f", {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    head = heading(f"sizes within 5 %, depth and widths most evenly first; the first is taken{more}")
    columns = ("parameters", "forward FLOPs", "memory", "off", "sizes")
    return [Text(), head, table(columns, rows, right=(0, 1, 2, 3))]


def as_json(found: Sequence[Candidate]) -> list[dict[str, Any]]:
    """The candidates as plain data."""
    return [
        {
            "axes": dict(c.requests),
            **{str(name): amount for name, amount in c.amounts.items()},
            "miss": c.miss,
        }
        for c in found
    ]
