"""Speed, as ratios side by side: ``python -m tests.benchmarks [NAME...]`` appends a line per result.

Each benchmark runs as a process of its own and prints JSON lines; to each is added what it ran on, and it is
appended to ``tests/benchmarks/log.jsonl``, which is tracked. With ``--page OUT.html`` the log is drawn as a
page instead.
"""

from __future__ import annotations

import argparse
import html
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOG = Path(__file__).with_name("log.jsonl")
# What each is run with, so that all of them together take minutes on two cores.
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "step_speed": ("--models", "gpt2", "bert", "--steps", "15"),
    "capture_speed": (),
    "coalesce_speed": (),
    "driver_overhead": (),
    "inspect_speed": (),
}


def results(name: str) -> Iterator[dict[str, Any]]:
    """The JSON lines that a benchmark prints."""
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *BENCHMARKS[name]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def machine() -> dict[str, Any]:
    """What a result was measured on."""
    import torch
    import transformers

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit,
        "processor": platform.machine(),
        "cores": len(_cores()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _cores() -> set[int]:
    import os

    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def page(out: Path) -> None:
    """Write the log as a table in HTML, newest first, every benchmark apart."""
    rows = [json.loads(line) for line in LOG.read_text(encoding="utf-8").splitlines()]
    parts = ["<!doctype html><meta charset=utf-8><title>mlgraph: speed</title>"]
    for name in sorted({row["benchmark"] for row in rows}):
        parts.append(f"<h2>{html.escape(name)}</h2><table>")
        for row in reversed([row for row in rows if row["benchmark"] == name]):
            shown = {key: value for key, value in row.items() if key not in ("benchmark", "on")}
            cells = [row["on"]["date"], row["on"]["commit"], json.dumps(shown)]
            parts.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
        parts.append("</table>")
    out.write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--page", type=Path, metavar="OUT", help="draw the log instead of measuring")
    options = parser.parse_args()
    if options.page:
        page(options.page)
        return
    unknown = set(options.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"there is no benchmark {min(unknown)!r}: choose from {', '.join(BENCHMARKS)}")
    on = machine()
    for name in options.names or BENCHMARKS:
        for found in results(name):
            line = json.dumps({"benchmark": name, **found, "on": on})
            print(line, flush=True)
            with LOG.open("a", encoding="utf-8") as log:
                log.write(line + "\n")


if __name__ == "__main__":
    main()
