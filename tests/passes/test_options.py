"""Options are declared once, as typed fields with help, and everything else is made of them."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgraph.cli.pass_options import command_line, runs
from mlgraph.passes import Coalesce, Decoalesce
from mlgraph.passes.options import OptionError, build, entries, inline, option, reference, table_of
from mlgraph.passes.registry import PASSES, load_pass

ROOT = Path(__file__).resolve().parents[2]


def declarations(name: str) -> Iterator[str]:
    """Where a field, or a function's parameter with a default, is called ``name``."""
    for folder in ("mlgraph", "passes", "cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                if isinstance(node, ast.ClassDef):
                    fields = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
                    yield from (
                        place for target in fields if isinstance(target, ast.Name) and target.id == name
                    )
                elif isinstance(node, ast.FunctionDef):
                    plain = node.args.args[len(node.args.args) - len(node.args.defaults) :]
                    keyword = [
                        a
                        for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                        if d is not None
                    ]
                    yield from (place for argument in (*plain, *keyword) if argument.arg == name)


@pytest.mark.parametrize("name", ["pairing"])
def test_an_option_is_declared_once(name):
    assert len(list(declarations(name))) == 1


@pytest.mark.parametrize("name", PASSES)
def test_every_option_of_every_pass_has_help(name):
    assert [entry.name for entry in entries(load_pass(name)) if not entry.metadata.get("help")] == []


names = st.text("abcxyz._09", min_size=1, max_size=6).filter(lambda name: name[0].isalpha())
requests = st.builds(
    Coalesce,
    depth=st.integers(1, 9),
    width=st.integers(1, 9),
    pairing=st.sampled_from(["adjacent", "halves", "similarity"]),
    tied=st.sampled_from(["exact", "paper"]),
    axes=st.dictionaries(
        names,
        st.integers(1, 9) | st.lists(st.integers(0, 9), min_size=2, max_size=5) | st.just("2:select:pad"),
        max_size=3,
    ),
    reduce=st.sampled_from(["mean", "select"]),
    extend=st.sampled_from(["copy", "pad"]),
    layers=st.lists(st.integers(0, 9), max_size=4),
    freeze=st.lists(names, max_size=3),
) | st.builds(
    Decoalesce,
    depth=st.none() | st.integers(1, 9),
    width=st.none() | st.integers(1, 9),
    pairing=st.sampled_from(["adjacent", "halves"]),
    depth_mode=st.sampled_from(["copy", "scaled", "identity"]),
)


@given(requests)
def test_a_command_line_gives_the_pass_that_it_was_written_from(request_):
    import typer
    from typer.testing import CliRunner

    read = []

    @runs(type(request_))
    def command(operator: Any) -> None:
        read.append(operator)

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, command_line(request_), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert read == [request_]


@given(requests)
def test_a_table_gives_what_it_was_written_from(request_):
    assert build(type(request_), table_of(request_)) == request_


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = option(1, "how many", least=1)
    name: str = option("x", "what it is called")


@dataclasses.dataclass(frozen=True)
class Outer:
    steps: int = option(3, "how long")
    inner: Inner = inline(Inner(size=2))
    only: Inner = option(Inner(), "a nested one")


def test_what_stands_inline_is_read_from_the_table_around_it():
    assert build(Outer, {"steps": 1, "size": 5, "only": {"name": "z"}}) == Outer(1, Inner(5), Inner(name="z"))
    assert build(Outer, {"name": "q"}) == Outer(inner=Inner(2, "q"))
    assert table_of(Outer(inner=Inner(2, "q"))) == {"name": "q"}
    assert [(line.name, line.default) for line in reference(Outer)] == [
        ("steps", "3"),
        ("size", "2"),
        ("name", '"x"'),
        ("only.size", "1"),
        ("only.name", '"x"'),
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"stepz": 1}, "There is no field 'stepz': did you mean 'steps'?"),
        ({"size": 0}, "The field 'size' must be at least 1, not 0."),
        ({"size": "two"}, "The field 'size' is 'two': give a whole number."),
        ({"only": {"size": True}}, "The field 'only.size' is True: give a whole number."),
        ({"only": 3}, "The field 'only' is 3: give a table."),
    ],
)
def test_a_wrong_table_is_refused_in_a_sentence(table, message):
    with pytest.raises(OptionError) as refused:
        build(Outer, table)
    assert str(refused.value) == message
