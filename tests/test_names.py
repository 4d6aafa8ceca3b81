"""Words stand for one thing each: no two classes, nor types that are aliased, have one name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.test_layers import MODULES

# An operator, and the phase that carries it out: both public, under these names.
TWICE = {"Interpolate"}


def defined(module: str) -> Iterator[str]:
    """The classes and type aliases that a module defines."""
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z]\w*[a-z]\w*", target.id):
                yield target.id


def test_names_of_types_stand_for_one_thing():
    found: dict[str, list[str]] = {}
    for module in MODULES:
        for name in defined(module):
            found.setdefault(name, []).append(module)
    assert {name: where for name, where in found.items() if len(where) > 1 and name not in TWICE} == {}
