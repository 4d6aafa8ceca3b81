"""The floors of the package: imports run down only, and in no circle; and how long a file may be."""

from __future__ import annotations

import ast
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"mlgraph": "mlgraph", "passes": "mlgraph.passes", "cli": "mlgraph.cli"}

# From the ground up. Packages of one floor do not import one another; the face is the package itself.
FLOORS = (
    ("errors",),
    ("program", "files"),
    ("graph", "cache"),
    ("capture", "axes", "blocks", "rewrite", "emit", "storage", "view"),
    ("passes", "interop", "verify"),
    ("train", "inspect"),
    ("mlgraph",),
    ("cli",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FACE = "mlgraph"
# Where names of modules stand as text: the one table that refers upward, and tables of lazy imports.
REFERS_UPWARD = "mlgraph.program.late"
STARTS_THE_COMMAND_LINE = "mlgraph.__main__"
LONGEST = 400  # lines of a file


def modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()


def named(text: str) -> str | None:
    """The module that a dotted name stands for or lies in, where it is one of this package's."""
    parts = text.split(":")[0].split(".")
    if parts[0] != FACE:
        return None
    for length in range(len(parts), 1, -1):
        if ".".join(parts[:length]) in MODULES:
            return ".".join(parts[:length])
    return FACE


def imports(module: str) -> set[str]:
    """What a module imports: at its top, inside functions, for types, and by strings that name modules."""
    found: set[str | None] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found.update(named(f"{node.module}.{name.name}") for name in node.names)
        elif isinstance(node, ast.Import):
            found.update(named(name.name) for name in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value.split(":")[0]
            found.update({text} & MODULES.keys() - {FACE})
    return {name for name in found if name is not None} - {module}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR_OF else FACE


IMPORTS = {module: imports(module) for module in MODULES}


def test_every_module_stands_on_a_floor():
    loose = {m.split(".")[1] for m in MODULES if m.count(".") == 1} - FLOOR_OF.keys()
    assert loose == {"__main__"}


@pytest.mark.parametrize("module", [m for m in MODULES if m not in (REFERS_UPWARD, STARTS_THE_COMMAND_LINE)])
def test_imports_run_down(module):
    here = room(module)
    climbing = {
        name for name in IMPORTS[module] if room(name) != here and FLOOR_OF[room(name)] >= FLOOR_OF[here]
    }
    assert not climbing


def test_no_circles():
    """Not by imports inside functions either, and not inside a package."""
    graph = nx.DiGraph(
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        # a package's own file hands on what its modules define
        if not name.startswith(f"{module}.") and module != REFERS_UPWARD
    )
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_the_floors_are_drawn_from_what_is_there():
    packages = {path.parent.name for path in (ROOT / "mlgraph").glob("*/__init__.py")}
    files = {path.stem for path in (ROOT / "mlgraph").glob("*.py")} - {"__init__", "__main__"}
    assert packages | files | {"passes", "cli", FACE} == FLOOR_OF.keys()


def test_files_are_short_enough_to_be_read_whole():
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in MODULES.values()}
    assert {path.name: lines for path, lines in lengths.items() if lines > LONGEST} == {}
