"""Reasons and notes are told apart by kind: no code looks into their words but the reader of old files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READER = ROOT / "mlgraph" / "storage" / "notes.py"
_HOLDERS = {"note", "notes", "reason", "frozen", "kept", "why"}
_SEARCHES = {
    "startswith",
    "endswith",
    "find",
    "index",
    "count",
    "partition",
    "rpartition",
    "split",
    "removeprefix",
}
_PATTERNS = {"match", "fullmatch", "search", "findall"}


def _is_sentence(node: ast.expr) -> bool:
    """Whether an expression is the words of a reason or a note, going by names."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
        return _is_sentence(node.args[0])
    if isinstance(node, ast.BoolOp):
        return any(map(_is_sentence, node.values))
    if isinstance(node, ast.Attribute):
        return node.attr in _HOLDERS or (node.attr == "text" and _is_sentence(node.value))
    return isinstance(node, ast.Name) and node.id in _HOLDERS


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def searches(tree: ast.AST) -> Iterator[int]:
    """The lines that compare or search the words of a reason or a note."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(_is_text, sides)) and any(map(_is_sentence, sides)):
                yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, given = node.func.attr, [node.func.value, *node.args]
            if (name in _SEARCHES and _is_sentence(given[0])) or (
                name in _PATTERNS and any(map(_is_sentence, given))
            ):
                yield node.lineno


def test_no_code_searches_the_words_of_a_reason_or_a_note() -> None:
    files = [path for folder in ("mlgraph", "passes", "cli") for path in (ROOT / folder).rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files
        if path != READER
        for line in searches(ast.parse(path.read_text()))
    ]
    assert len(files) > 200
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        'if "lookup table" in axis.frozen: pass',
        'if "lookup table" in axis.frozen.text: pass',
        'if str(note).startswith("kept:"): pass',
        'if note == f"approximate: {axis}": pass',
        're.match("kept: (.*)", str(note))',
        '"counterpart" in (axis.kept or "")',
    ],
)
def test_such_code_is_found(code: str) -> None:
    assert list(searches(ast.parse(code))) == [1]


@pytest.mark.parametrize(
    "code",
    [
        'note.kind == "kept"',
        "name in tensors.frozen",
        'axis.frozen.kind in ("classes", "output")',
        "str(note)",
    ],
)
def test_what_asks_for_the_kind_is_not(code: str) -> None:
    assert not list(searches(ast.parse(code)))
