"""A verification report as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from mlgraph.inspect.text.console import bullets, table
from mlgraph.inspect.text.numbers import plural

if TYPE_CHECKING:
    from mlgraph.verify.checks import Check, Verification


def verification(report: Verification) -> list[Any]:
    """One line for each check, and below them what was skipped."""
    rows = [
        (check.check, check.axis or "-", f"{check.error:.1e}", f"{check.tolerance:.0e}", _result(check))
        for check in report.checks
    ]
    headers = ("check", "axis", "largest error", "bound", "result")
    return [table(headers, rows, right=(2, 3)), *bullets("skipped", report.skipped)]


def _result(check: Check) -> Text:
    if check.passed:
        return Text("passed", style="green")
    return Text("FAILED", style="bold red").append(f" at {check.where}" if check.where else "")


def verdict(report: Verification) -> str:
    """What failed, in a sentence."""
    worst = max(report.failures, key=lambda check: check.error)
    place = f", at {worst.where}" if worst.where else ""
    others = len(report.failures) - 1
    rest = f"; so did {plural(others, 'other check')}" if others else ""
    axis = f" of axis {worst.axis}" if worst.axis else ""
    return f"The {worst.check} check{axis} failed with an error of {worst.error:.1e}{place}{rest}."
