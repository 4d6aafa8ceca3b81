from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgraph.errors import MlgraphError
from mlgraph.passes import registry
from mlgraph.passes.base import Pass
from mlgraph.passes.notation import NotationReader, render
from mlgraph.passes.pipeline import Pipeline, parse_pass, parse_pipeline
from mlgraph.program import Note, Program


@dataclass(frozen=True)
class Widen(Pass):
    width: int = 1
    rate: float = 0.5
    mode: Literal["copy", "scaled"] = "copy"
    exact: bool = True
    axes: Mapping[str, int | Sequence[int]] | None = None
    freeze: tuple[str, ...] = ()
    label: str | None = None

    def __call__(self, program: Program) -> Program:
        return program.replace(notes=(*program.notes, Note("other", str(self))))


@dataclass(frozen=True)
class GoDeeper(Pass):
    depth: int = 2

    def __call__(self, program: Program) -> Program:
        return program


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(registry.PASSES, "widen", f"{__name__}:Widen")
    monkeypatch.setitem(registry.PASSES, "go_deeper", f"{__name__}:GoDeeper")


names = st.text(min_size=1, max_size=12)
passes = st.builds(
    Widen,
    width=st.integers(-5, 99),
    rate=st.floats(allow_nan=False),
    mode=st.sampled_from(["copy", "scaled"]),
    exact=st.booleans(),
    axes=st.none() | st.dictionaries(names, st.integers(1, 9) | st.lists(st.integers(0, 9), max_size=6)),
    freeze=st.lists(names, max_size=4).map(tuple),
    label=st.none() | st.text(max_size=12),
) | st.builds(GoDeeper, depth=st.integers(1, 9))


@given(st.lists(passes, min_size=1, max_size=4))
def test_a_pipeline_round_trips_as_a_string(chosen):
    registry.PASSES.update(widen=f"{__name__}:Widen", go_deeper=f"{__name__}:GoDeeper")
    pipeline = Pipeline(tuple(chosen))
    assert parse_pipeline(str(pipeline)) == pipeline


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_a_value_is_read_as_it_was_written(value):
    reader = NotationReader(render(value))
    again = reader.value()
    assert again == value
    assert type(again) is type(value)
    assert reader.at_end()


@given(st.text(alphabet='widen{}[]=,;"\\ 12.-e', max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        pipeline = parse_pipeline(text)
    except MlgraphError:
        return
    assert parse_pipeline(str(pipeline)) == pipeline


def test_plain_notation():
    assert str(Widen()) == "widen"
    assert str(Widen(width=2, axes={"model.layers.0.mlp": [0, 0, 1]})) == (
        "widen{width=2,axes={model.layers.0.mlp=[0,0,1]}}"
    )
    assert str(Widen(label="true", freeze=("a b",))) == 'widen{freeze=["a b"],label="true"}'
    assert str(parse_pipeline(" widen { width = 2 } ; go_deeper ; ")) == "widen{width=2};go_deeper"


def test_names_are_snake_case_of_the_class():
    assert GoDeeper.name == "go_deeper"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widne{width=2}", "There is no pass 'widne'; did you mean 'widen'?"),
        ("widen{widht=2}", "Pass 'widen' has no option 'widht'; did you mean 'width'?"),
        ("widen{width=two}", "Option 'width' of pass 'widen' must be a whole number, not 'two'."),
        ("widen{mode=fast}", "Option 'mode' of pass 'widen' must be one of copy, scaled, not 'fast'."),
        ("widen{exact=1}", "Option 'exact' of pass 'widen' must be true or false, not 1."),
        ("widen{width=2", "The pipeline 'widen{width=2' wants ',' at column 14, at the end."),
        ("widen width", "The pipeline 'widen width' wants ';' at column 7, before 'width'."),
        ("widen{width=2,width=3}", "'width' is given twice in 'widen{width=2,width=3}'."),
        ("", "The pipeline is empty; write a pass, for example 'coalesce{width=2}'."),
    ],
)
def test_a_wrong_pipeline_is_refused_in_one_sentence(text, message):
    with pytest.raises(MlgraphError) as refused:
        parse_pipeline(text)
    assert str(refused.value) == message


def test_options_are_checked_in_python_too():
    with pytest.raises(MlgraphError, match="'width' of pass 'widen' must be a whole number, not 2.5"):
        Widen(width=2.5)


def test_one_pass_is_one_pass():
    assert parse_pass("go_deeper{depth=3}") == GoDeeper(depth=3)
    with pytest.raises(MlgraphError, match="holds 2 passes"):
        parse_pass("widen;widen")


def test_every_registered_pass_can_be_imported():
    for name in registry.PASSES:
        loaded = registry.load_pass(name)
        assert loaded.name == name
        assert str(loaded()) == name
