"""One tiny model of every model type in the libraries' own registries: captured, coarsened, regrown.

``python -m tests.zoo_table.families --out FILE [--only hf|timm] [--limit SECONDS] [NAME...]`` appends a line
of JSON per model to FILE. Those that FILE holds already are skipped, so that a run can be broken off and gone
on with; types without an entry in the zoo come first. ``--page`` writes ``docs/families.md`` from FILE. What
cannot be built small is listed with the reason. Every model has a process of its own, ended after so many
seconds of CPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mlgraph
from mlgraph.program import Program
from tests import oracles
from tests.zoo import entries
from tests.zoo.tiny import build, timm_modules, transformers_types

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
_INSTALLED = re.compile(r"[^\s(]*/site-packages/")
_WAITING = 20


def check(name: str) -> dict[str, Any]:
    """What holds of one model: ``built``, ``captured``, ``coarsened``, ``regrown``; the first that does not,
    with its error or reason."""
    row: dict[str, Any] = {"name": name}
    stage = "built"
    try:
        model, (args, kwargs) = build(name)
        row["class"], row["parameters"] = type(model).__name__, sum(p.numel() for p in model.parameters())
        stage = "captured"
        program = mlgraph.capture(model, args, kwargs)
        with torch.no_grad():
            wanted = model(*args, **kwargs)
            error = oracles.outputs_error(mlgraph.emit(program).eval()(*args, **kwargs), wanted)
        if not error <= 1e-5:
            raise AssertionError(f"outputs differ by {error:.1e}")
        row["chains"] = [len(chain) for chain in program.blocks]
        row["axes"] = sorted({axis.name for axis in program.axes if axis.coarsenable_by_default})
        stage = "coarsened"
        if not row["axes"]:
            raise AssertionError(f"no axis is coarsened by default: {_common_reasons(program)}")
        small = mlgraph.coalesce(program, width=2)
        row["kept"] = small.num_parameters() / max(1, program.num_parameters())
        if program.blocks.chains and all(len(chain) % 2 == 0 for chain in program.blocks):
            mlgraph.emit(mlgraph.coalesce(program, depth=2)).eval()(*args, **kwargs)
        stage = "regrown"
        mlgraph.emit(mlgraph.decoalesce(small)).eval()(*args, **kwargs)
        report = mlgraph.verify(program, checks=("soundness", "growth"))
        if not report:
            raise AssertionError(str(report.failures[0]))
        stage = "all"
    except Exception as error:  # what is wrong is what this table is for
        row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        row["refused"] = isinstance(error, mlgraph.MlgraphError)
    row["fails"] = stage
    return row


def _common_reasons(program: Program) -> str:
    """The reasons for which most axes stay."""
    wide = [axis for axis in program.axes if axis.size > 1]
    counted = Counter(str(axis.frozen or axis.kept) for axis in wide)
    return "; ".join(f"{count} of {len(wide)}, {reason}" for reason, count in counted.most_common(3))


def _work(name: str, limit: int, sender: Connection) -> None:
    warnings.filterwarnings("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    sender.send(check(name) | {"cpu": round(time.process_time(), 1)})


class _Smallest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


def _import_libraries() -> None:
    """Have what every model needs imported, torch.export's tracing too."""
    import timm  # noqa: F401
    import transformers  # noqa: F401

    program = mlgraph.capture(_Smallest(), (torch.randn(3, 4),))
    mlgraph.verify(mlgraph.coalesce(program, width=2), checks=("soundness", "growth"))


def rows(names: list[str], limit: int) -> Iterator[dict[str, Any]]:
    """One row for each name, checked in a process of its own for at most ``limit`` seconds of CPU."""
    # forked, so that the libraries are imported once
    _import_libraries()
    context = multiprocessing.get_context("fork")
    for name in names:
        receiver, sender = context.Pipe(duplex=False)
        start = time.monotonic()
        process = context.Process(target=_work, args=(name, limit, sender))
        process.start()
        sender.close()
        row = {"name": name, "fails": "time", "error": f"not done in {limit} s"}
        if receiver.poll(_WAITING * limit):
            try:
                row = receiver.recv()
            except EOFError:
                process.join()
                if process.exitcode != -signal.SIGXCPU:
                    row |= {"fails": "process", "error": f"it ended with {process.exitcode}"}
        process.kill()
        process.join()
        yield row | {"seconds": round(time.monotonic() - start, 1)}


_STAGES = ("built", "captured", "coarsened", "regrown", "time", "process")
_SAYS = {
    "built": "Not built small",
    "captured": "Not captured",
    "coarsened": "Not coarsened",
    "regrown": "Not regrown, or not sound",
    "time": "Not done in time",
    "process": "Ended its process",
}
_HEAD = """\
# Families

Written by `python -m tests.zoo_table.families --out FILE --page` from what runs of that script without
`--page` left in FILE. One tiny model of every model type that transformers has a model
of, and of each module of timm's models, with a configuration shrunk by the names of its fields alone. *All*
means: captured, with outputs equal to the model's (1e-5, fp32); coarsened by 2 in width, and in depth where
chains are even; regrown to run on the same inputs; sound and growing exactly (`verify`, fp64).

"""


def render(found: list[dict[str, Any]]) -> str:
    """The page: totals, and what does not hold with its reason."""
    lines = ["| | types | built small | captured | coarsened | all |", "|---|---:|---:|---:|---:|---:|"]
    for library, title in (("hf", "transformers"), ("timm", "timm"), ("", "both")):
        rows = [row for row in found if library in ("", row["name"].partition(":")[0])]
        fails = Counter(row["fails"] for row in rows)
        built = len(rows) - fails["built"] - fails["time"] - fails["process"]
        captured = built - fails["captured"]
        coarsened = captured - fails["coarsened"]
        cells = (len(rows), built, captured, coarsened, fails["all"])
        lines.append(f"| {title} | {' | '.join(map(str, cells))} |")
    for stage in _STAGES:
        rows = sorted((row for row in found if row["fails"] == stage), key=lambda row: row["name"])
        if rows:
            lines += ["", f"## {_SAYS[stage]} ({len(rows)})", ""]
            lines += [f"- `{row['name']}`: {_INSTALLED.sub('', row['error'])}" for row in rows]
    known = len(transformers_types()) + len(timm_modules())
    lines = [f"{len(found)} of {known} types have been run.", "", *lines]
    return _HEAD + "\n".join(lines) + "\n"


def every_type() -> list[str]:
    """All types, in a fixed random order, those that the zoo has an entry for last."""
    names = [f"hf:{kind}" for kind in transformers_types()] + [f"timm:{module}" for module in timm_modules()]
    random.Random(0).shuffle(names)
    known = {_letters(entry.name) for entry in entries()}
    return sorted(names, key=lambda name: _letters(name.partition(":")[2]) in known)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, later ones in the place of earlier ones."""
    text = path.read_text() if path.exists() else ""
    return list({row["name"]: row for row in map(json.loads, text.splitlines())}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=("hf", "timm"))
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = options.names or [n for n in every_type() if options.only in (None, n.partition(":")[0])]
    done = set() if options.names else {row["name"] for row in read(options.out)}
    with options.out.open("a") as file:
        for row in rows([] if options.page else [n for n in chosen if n not in done], options.limit):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row["name"], row["fails"], row["seconds"], row.get("error", "")[:160], flush=True)
    found = read(options.out)
    if options.page:
        PAGE.write_text(render(found))
    print(dict(Counter(row["fails"] for row in found)))


if __name__ == "__main__":
    main()
