"""The coverage table: run, render, compare with the committed baseline."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.zoo_table.checks import COLUMNS, NONE, YES, Row

BASELINE = Path(__file__).with_name("baseline.json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "coverage.md"
SUITES = {
    "hf": "transformers",
    "timm": "timm",
    "torch": "torch.nn",
    "module": "hand-written",
}
ABOUT = """\
# Coverage

Written by `python -m tests.zoo_table`; every model is a tiny one of its class, built from random weights.
A column says **yes** only if the check passed:

- *captured*: the emitted module's outputs equal the model's (1e-5 relative, fp32, eval mode).
- *axes*: the dims coarsened by default are exactly those that the class halves with its own fields.
- *sound*: permuting every inferred axis in all its slots at once changes nothing (fp64, 1e-9).
- *width*, *depth*, *both*: after coarsening by 2, names, shapes and ties equal those of the class built at
  half size, which loads the state dict strictly and gives outputs of the same shapes. Where the zoo says that
  the class hard-codes an inner width, the program may halve it all the same, which is listed below.
- *regrow*: de-coalescing brings back names, shapes and the coarse function, and coalescing again is
  bit for bit exact.
- *round trip*: the coarse model, written in its library's own format, is loaded by the library with
  nothing missing or left over, and gives the same outputs; or it is written as its class, with constants
  that the class makes from its width, which are listed below with how far they move the outputs; or by width
  alone, or without an axis that the class has no other size for, as is listed too.

**refused** means that mlgraph said no in a sentence that names the axis, op or line, or kept a width that
the class halves, for the reason that the axis gives; **NO** that the result was wrong or an error escaped;
`-` that the column does not apply.
"""


def _check(name: str, columns: tuple[str, ...]) -> Row:
    import torch

    from tests.zoo import get
    from tests.zoo_table.checks import check

    torch.set_num_threads(1)
    return check(get(name), columns)


def run(
    names: Sequence[str], workers: int | None = None, columns: tuple[str, ...] = COLUMNS
) -> Iterable[Row]:
    """Rows in the order of ``names``, checked by several processes of one thread each."""
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        yield from map(partial(_check, columns=columns), names)
        return
    # A fresh process now and then keeps caches of traced graphs from piling up.
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=25) as pool:
        yield from pool.imap(partial(_check, columns=columns), names)


_INSTALLED = re.compile(r"[^\s(]*/site-packages/")


def render(rows: Sequence[Row]) -> str:
    parts = [ABOUT, "## Totals\n", _totals(rows)]
    for suite, title in SUITES.items():
        chosen = [row for row in rows if row.suite == suite]
        if chosen:
            parts += [f"## {title} ({len(chosen)})\n", _table(chosen)]
    reasons = [
        f"- `{row.name}`, {column}: {_INSTALLED.sub('', reason)}"
        for row in rows
        for column, reason in row.reasons.items()
    ]
    if reasons:
        parts += ["## Where not, or not as the class, and why\n", "\n".join(reasons) + "\n"]
    return "\n".join(parts)


def _totals(rows: Sequence[Row]) -> str:
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for suite, title in [*SUITES.items(), ("", "all")]:
        chosen = [row for row in rows if suite in ("", row.suite)]
        if not chosen:
            continue
        cells = []
        for column in COLUMNS:
            asked = [row for row in chosen if _asked(row, column)]
            cells.append(f"{sum(row.outcomes.get(column) == YES for row in asked)} / {len(asked)}")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _asked(row: Row, column: str) -> bool:
    """Whether the column applies and was run, or was not reached because the model was not captured."""
    if column in row.outcomes:
        return row.outcomes[column] != NONE
    return len(row.outcomes) == 1


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| model | family | " + " | ".join(COLUMNS) + " | s |",
        "|---|---|" + "---|" * len(COLUMNS) + "---:|",
    ]
    for row in rows:
        cells = [row.outcomes.get(column, "") for column in COLUMNS]
        lines.append(f"| {row.name} | {row.family} | " + " | ".join(cells) + f" | {row.seconds:.1f} |")
    return "\n".join(lines) + "\n"


def write_baseline(rows: Sequence[Row]) -> None:
    """Commit what passes now: per model, the columns that say yes."""
    passed = {row.name: [c for c in COLUMNS if row.outcomes.get(c) == YES] for row in rows}
    BASELINE.write_text(json.dumps(passed, indent=1, sort_keys=True) + "\n")


def read_baseline() -> dict[str, list[str]]:
    return json.loads(BASELINE.read_text()) if BASELINE.exists() else {}


def worse(row: Row, baseline: dict[str, list[str]], columns: Sequence[str] = COLUMNS) -> list[str]:
    """Those of ``columns`` that passed in the baseline and do not pass now, each with its reason."""
    passed = [column for column in baseline.get(row.name, []) if column in columns]
    lost = [column for column in passed if row.outcomes.get(column) != YES]
    return [
        f"{row.name}, {column}: {row.outcomes.get(column, 'missing')} {row.reasons.get(column, '')}".strip()
        for column in lost
    ]


def to_json(rows: Sequence[Row]) -> str:
    return json.dumps([asdict(row) for row in rows], indent=1)


def from_json(paths: Iterable[str | Path]) -> list[Row]:
    """Rows of files that ``to_json`` made, later ones in the place of earlier ones."""
    rows = [Row(**row) for path in paths for row in json.loads(Path(path).read_text())]
    return list({row.name: row for row in rows}.values())
