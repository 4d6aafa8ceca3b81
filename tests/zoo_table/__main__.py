"""``python -m tests.zoo_table [NAME...]``: run the table.

Without names the whole zoo is run, ``docs/coverage.md`` is written, and the exit code is 1 where a
model got worse than the committed baseline; ``--accept`` makes what passes now the baseline. A run may be cut
into pieces: rows that ``--json`` wrote stand in for running these models in a run with ``--rows FILE...``.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.zoo import entries
from tests.zoo_table import table
from tests.zoo_table.checks import COLUMNS, Row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo_table")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--suite", choices=[*table.SUITES])
    parser.add_argument("--tag")
    parser.add_argument("--columns", help="comma-separated; default: all")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--accept", action="store_true", help="make what passes now the baseline")
    parser.add_argument("--json", metavar="FILE", help="write the rows as JSON too")
    parser.add_argument(
        "--rows", metavar="FILE", nargs="+", default=[], help="rows that --json wrote earlier"
    )
    options = parser.parse_args()

    chosen = entries(suite=options.suite, tag=options.tag)
    whole = not (options.names or options.suite or options.tag or options.columns)
    columns = tuple(options.columns.split(",")) if options.columns else COLUMNS
    names = options.names or [entry.name for entry in chosen]
    start = time.perf_counter()
    known = table.from_json(options.rows)
    made = {row.name: row for row in known if row.name in names}
    for row in table.run([name for name in names if name not in made], options.workers, columns):
        made[row.name] = row
        cells = " ".join(f"{row.outcomes.get(column, ''):8}" for column in columns)
        print(f"{row.name:28} {cells} {row.seconds:6.1f}", flush=True)
        for column, reason in row.reasons.items():
            print(f"    {column}: {reason}", flush=True)
    rows: list[Row] = [made[name] for name in names]
    minutes = (time.perf_counter() - start) / 60
    print(f"{len(rows)} models in {minutes:.1f} minutes")
    if options.json:
        with open(options.json, "w") as file:
            file.write(table.to_json(rows))
    if whole:
        table.DOCUMENT.parent.mkdir(exist_ok=True)
        spent = sum(row.seconds for row in rows) / 60
        summary = f"\n{len(rows)} models in {spent:.1f} minutes of one thread.\n"
        table.DOCUMENT.write_text(table.render(rows) + summary)
    if whole and options.accept:
        table.write_baseline(rows)
    lost = [line for row in rows for line in table.worse(row, table.read_baseline(), columns)]
    for line in lost:
        print(f"worse: {line}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
