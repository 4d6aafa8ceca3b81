"""``python -m tests.coverage [NAME...]``: run the table.

Without names the whole zoo is run, ``docs/coverage.md`` is written, and the exit code is 1 where a
model got worse than the committed baseline; ``--accept`` makes what passes now the baseline.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.coverage import table
from tests.coverage.checks import COLUMNS, Row
from tests.zoo import entries


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.coverage")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--suite", choices=[*table.SUITES])
    parser.add_argument("--tag")
    parser.add_argument("--columns", help="comma-separated; default: all")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--accept", action="store_true", help="make what passes now the baseline")
    parser.add_argument("--json", metavar="FILE", help="write the rows as JSON too")
    options = parser.parse_args()

    chosen = entries(suite=options.suite, tag=options.tag)
    whole = not (options.names or options.suite or options.tag or options.columns)
    columns = tuple(options.columns.split(",")) if options.columns else COLUMNS
    names = options.names or [entry.name for entry in chosen]
    start = time.perf_counter()
    rows: list[Row] = []
    for row in table.run(names, options.workers, columns):
        rows.append(row)
        cells = " ".join(f"{row.outcomes.get(column, ''):8}" for column in columns)
        print(f"{row.name:28} {cells} {row.seconds:6.1f}", flush=True)
        for column, reason in row.reasons.items():
            print(f"    {column}: {reason}", flush=True)
    minutes = (time.perf_counter() - start) / 60
    print(f"{len(rows)} models in {minutes:.1f} minutes")
    if options.json:
        with open(options.json, "w") as file:
            file.write(table.to_json(rows))
    if whole:
        table.DOCUMENT.parent.mkdir(exist_ok=True)
        summary = f"\n{len(rows)} models in {minutes:.1f} minutes.\n"
        table.DOCUMENT.write_text(table.render(rows) + summary)
    if whole and options.accept:
        table.write_baseline(rows)
    lost = [line for row in rows for line in table.worse(row, table.read_baseline())]
    for line in lost:
        print(f"worse: {line}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
