"""Mutates saved programs and loads what comes of it.

Run as ``python -m tests.storage.fuzz FILE COUNT SEED``: ``COUNT`` mutants of a saved program, half of them
of its bytes and half of its fields with the checksums put right, as an attacker would. A mutant of bytes
must be refused; one of fields must be refused with one sentence or load as exactly what it says. The process
watches itself by an audit hook: unpickling, processes, sockets and writes end it. Prints a JSON line with
counts, the longest load in seconds and the growth of memory in bytes; what is wrong ends it with the number
of the mutant, which it then leaves in the temporary directory.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mlgraph.errors import FileError
from mlgraph.program import Program
from mlgraph.storage import load, save
from tests.storage.forge import Parts, put_together, take_apart

MAX_SECONDS = 5.0

NASTY: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**62,
    2**63,
    2**64 + 1,
    10**40,
    0.0,
    -0.5,
    1e308,
    "",
    "import",
    "__class__",
    "os.system",
    "aten.from_file.default",
    "aten.unbind.int",
    "aten.as_strided.default",
    "aten.resize_.default",
    "\ud800",
    "\x00",
    "a\nb",
    "x" * 100_000,
    [],
    {},
    [[[[[[[[]]]]]]]],
    {"node": 0},
    {"node": 10**9},
    {"list": []},
    {"tuple": [{"list": []}]},
    {"float": "nan"},
    {"device": "cuda:99"},
    {"dtype": "complex32"},
    {"dtype": "quint8"},
    {"slice": [None, None, 0]},
    {"memory_format": "channels_last"},
]


def mutate_bytes(data: bytes, random_: random.Random) -> bytes:
    """``data`` changed, cut, grown or shuffled in one or a few places."""
    changed = bytearray(data)
    for _ in range(random_.choice([1, 1, 1, 2, 8])):
        position = (
            random_.randrange(len(changed))
            if random_.random() < 0.5
            else random_.randrange(min(400, len(changed)))
        )
        length = random_.choice([1, 1, 2, 8, 64, 1000])
        match random_.randrange(6):
            case 0:
                changed[position] ^= 1 << random_.randrange(8)
            case 1:
                changed[position : position + length] = random_.randbytes(length)
            case 2:
                del changed[position : position + length]
            case 3:
                changed[position:position] = random_.randbytes(length)
            case 4:
                changed[position:] = b""
            case 5:
                source = random_.randrange(len(changed))
                changed[position : position + length] = changed[source : source + length]
        if not changed:
            break
    return bytes(changed)


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found.append((value, key))
        places(item, found)
    return found


def mutate_fields(parts: Parts, random_: random.Random) -> None:
    """Change one or a few values of the header or program."""
    for _ in range(random_.choice([1, 1, 1, 2, 3])):
        root = random_.choices([parts.program, parts.entries, parts.metadata], [8, 2, 1])[0]
        everywhere = places(root, [])
        if not everywhere:
            continue
        container, key = random_.choice(everywhere)
        other, other_key = random_.choice(everywhere)
        match random_.randrange(7):
            case 0:
                container[key] = random_.choice(NASTY)
            case 1:
                del container[key]
            case 2 if isinstance(container, list):
                container.insert(key, container[key])
            case 3:
                container[key] = json.loads(json.dumps(other[other_key]))
            case 4 if isinstance(container[key], int):
                container[key] += random_.choice([-1, 1, 7, 10**6, 2**40])
            case 5 if isinstance(container[key], str) and container[key]:
                text = container[key]
                place = random_.randrange(len(text))
                container[key] = (
                    text[:place]
                    + random_.choice(["", "_", ".", '"', "0", "é", "(", "\n"])
                    + text[place + 1 :]
                )
            case _:
                container[key], other[other_key] = other[other_key], container[key]


class CodeRan(BaseException):
    """A mutant made the process do something it must not."""


class Watch:
    """While on, ends the process at any audit event that loading data has no business to cause."""

    FORBIDDEN = (
        "os.system", "os.exec", "os.fork", "os.spawn", "subprocess.", "socket.", "webbrowser.", "pickle.",
        "ctypes.dlopen", "shutil.", "os.remove", "os.rename", "os.mkdir", "os.chmod",
    )  # fmt: skip

    def __init__(self) -> None:
        self.on = False
        sys.addaudithook(self.see)

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event.startswith(self.FORBIDDEN) or (event == "open" and set(str(args[1])) & set("wax+")):
            self.on = False
            raise CodeRan(f"{event} {args!r}"[:300])


def check(path: Path, watch: Watch) -> Program | None:
    """The program of a mutant, every tensor read; None where it is refused in one sentence."""
    watch.on = True
    try:
        program = load(path)
        for name in program.tensors:
            program.tensors[name]
    except FileError as error:
        message = str(error)
        assert path.name in message, message
        assert message.endswith("."), message
        assert len(message.splitlines()) == 1, message
        return None
    finally:
        watch.on = False
    return program


def assert_says_what_it_holds(program: Program, path: Path) -> None:
    """Assert that nothing in an accepted file was ignored: saved again, it is the same."""
    again = path.with_name("again.pt")
    save(program, again)
    first, second = take_apart(path), take_apart(again)
    assert first.program["programs"] == second.program["programs"] or _pruned(first) == _pruned(second)
    assert {k: (v["dtype"], v["shape"]) for k, v in first.entries.items()} == {
        k: (v["dtype"], v["shape"]) for k, v in second.entries.items()
    }


def _pruned(parts: Parts) -> Any:
    """The program and its ancestors, without what no other part refers to."""
    rows, graphs = parts.program["programs"], parts.program["graphs"]
    found = []
    position: int | None = len(rows) - 1
    while position is not None:
        row = dict(rows[position])
        graph = graphs[row.pop("graph")]
        nodes = [[*node[:5], *(graph["strings"][place] for place in node[5:])] for node in graph["nodes"]]
        lineage = row["lineage"]
        position = None if lineage is None else lineage["parent"]
        row["lineage"] = lineage and {**lineage, "parent": None}
        found.append((row, nodes))
    return found


def main(source: Path, count: int, seed: int, *, only: int | None = None) -> None:
    faulthandler.enable()
    faulthandler.dump_traceback_later(60, repeat=False, exit=True)
    data, parts = source.read_bytes(), take_apart(source)
    watch = Watch()
    longest, accepted, refused = 0.0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.pt"
        path.write_bytes(data)
        load(path)  # torch imports parts of itself, and makes its caches, the first time
        assert check(path, watch) is not None
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(count) if only is None else [only]:
            random_ = random.Random(seed * 1_000_003 + number)
            try:
                if number % 2:
                    mutant = mutate_bytes(data, random_)
                    path.write_bytes(mutant)
                else:
                    changed = parts.copy()
                    mutate_fields(changed, random_)
                    try:
                        put_together(changed, path)
                    except (TypeError, ValueError, KeyError):
                        continue
                faulthandler.dump_traceback_later(60, repeat=False, exit=True)
                start = time.perf_counter()
                program = check(path, watch)
                seconds = time.perf_counter() - start
                longest = max(longest, seconds)
                assert seconds < MAX_SECONDS, f"it took {seconds} s"
                refused, accepted = refused + (program is None), accepted + (program is not None)
                if program is not None:
                    assert not number % 2 or mutant == data, "changed bytes were accepted"
                    assert_says_what_it_holds(program, path)
            except BaseException as error:
                (Path(tempfile.gettempdir()) / "mutant.pt").write_bytes(path.read_bytes())
                print(f"mutant {number} of seed {seed}: {error!r}", file=sys.stderr)
                raise
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"accepted": accepted, "refused": refused, "longest": longest, "growth": growth}))


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        int(sys.argv[3]),
        only=int(sys.argv[4]) if len(sys.argv) > 4 else None,
    )
