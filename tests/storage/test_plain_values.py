"""Values, structures and names: what is encoded is what is decoded, and nothing else is let in."""

from __future__ import annotations

import json
import math
import operator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from mlgraph.program import Note
from mlgraph.storage import allow_ops, op_table
from mlgraph.storage.op_table import decode_target, encode_target
from mlgraph.storage.plain_values import Malformed, decode, encode
from mlgraph.storage.pytrees import decode_spec, encode_spec
from mlgraph.storage.strictjson import dump, parse

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
    st.sampled_from([torch.device("cpu"), torch.device("cuda", 3), torch.device("meta")]),
    st.sampled_from([torch.strided, torch.sparse_coo]),
    st.sampled_from([torch.contiguous_format, torch.channels_last, torch.preserve_format]),
    st.just(...),
    st.builds(slice, *[st.none() | st.integers(-9, 9)] * 3),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(-9, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_values_come_back(value: Any) -> None:
    found = decode(parse(dump(encode(value)), 1 << 30))
    assert type(found) is type(value)
    assert repr(found) == repr(value)


@given(st.floats(allow_nan=False))
def test_floats_come_back_bit_for_bit(value: float) -> None:
    found = decode(json.loads(dump(encode(value))))
    assert found == value
    assert math.copysign(1, found) == math.copysign(1, value)


def test_numbers_of_other_kinds_become_plain() -> None:
    assert decode(encode(torch.Size([2, 3]))) == (2, 3)
    assert type(encode(torch.iinfo(torch.int32).max)) is int


@pytest.mark.parametrize("value", [object(), {1, 2}, torch.ones(1), lambda: None, b"bytes", 2**65, "\ud800"])
def test_other_values_have_no_form(value: Any) -> None:
    with pytest.raises(Malformed):
        encode(value)


structures = st.recursive(
    st.just(0),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(structures)
def test_structures_come_back(tree: Any) -> None:
    spec = pytree.tree_structure(tree)
    notes: list[Note] = []
    found = decode_spec(parse(dump(encode_spec(spec, notes)), 1 << 30), notes)
    assert found == spec
    assert found.unflatten([0] * spec.num_leaves) == tree
    assert not notes


def test_model_outputs_come_back() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    spec = pytree.tree_structure(outputs.BaseModelOutput(last_hidden_state=0, attentions=(0, 0)))
    notes: list[Note] = []
    found = decode_spec(encode_spec(spec, notes), notes)
    assert found == spec
    assert isinstance(found.unflatten([1, 2, 3]), outputs.BaseModelOutput)
    assert not notes


@pytest.mark.parametrize(
    "kind", ["os.environ", "builtins.exec", "tests.gone.Result", "transformers.models.no.modeling_no.X"]
)
def test_a_class_that_is_not_registered_becomes_a_dict(kind: str) -> None:
    notes: list[Note] = []
    data = {"data": {"type": kind, "fields": ["a", "b"], "absent": None, "children": [None, None]}}
    assert decode_spec(data, notes).unflatten([1, 2]) == {"a": 1, "b": 2}
    assert len(notes) == 1
    assert kind in notes[0].text
    data = {"named": {"type": kind, "fields": ["a", "b"], "children": [None, None]}}
    assert decode_spec(data, notes).unflatten([1, 2]) == {"a": 1, "b": 2}


def test_a_structure_without_a_form_is_noted() -> None:
    class Holder:
        pass

    pytree.register_pytree_node(Holder, lambda h: ([h.x], "context"), lambda x, _: Holder())
    holder = Holder()
    holder.x = 0  # type: ignore[attr-defined]
    notes: list[Note] = []
    assert encode_spec(pytree.tree_structure(holder), notes) == {"tuple": [None]}
    assert "Holder has no form in a file" in notes[0].text


@pytest.mark.parametrize(
    "target",
    [
        torch.ops.aten.linear.default,
        torch.ops.aten.scaled_dot_product_attention.default,
        torch.ops.aten.add_.Tensor,
        torch.ops.aten.bernoulli_.float,
        torch.ops.aten.__and__.Tensor,
        torch.ops.aten.sym_size.int,
        torch.ops.aten._assert_scalar.default,
        operator.floordiv,
        torch.sym_max,
        math.ceil,
    ],
    ids=lambda target: getattr(target, "__name__", str(target)),
)
def test_targets_come_back(target: Any) -> None:
    assert decode_target(encode_target(target)) is target


def test_every_op_of_the_table_comes_back() -> None:
    """Over the whole of ATen: what may be named is found again, and it takes and gives plain data only."""
    allowed = 0
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        full = f"{namespace}.{name}.{schema.overload_name or 'default'}"
        try:
            target = decode_target(full)
        except Malformed:
            continue
        allowed += 1
        assert encode_target(target) == full
        assert namespace in op_table._NAMESPACES
        text = str(schema)
        assert "Tensor" in text or "_assert" in name or "constrain" in name
        assert "filename" not in text
        assert "Storage" not in text
        assert "Stream" not in text
    assert allowed > 1500


def test_custom_operators_are_allowed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    @torch.library.custom_op("storage_test::double", mutates_args=())
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    target = torch.ops.storage_test.double.default
    monkeypatch.setattr(op_table, "_NAMESPACES", dict(op_table._NAMESPACES))
    with pytest.raises(Malformed, match="allow_ops"):
        encode_target(target)
    allow_ops("storage_test")
    assert decode_target(encode_target(target)) is target
