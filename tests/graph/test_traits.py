"""The one table of ops: what it says holds of torch's own ops, and nobody else keeps such a table."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from mlgraph.graph import ops
from mlgraph.graph.traits import MOVES, OPS, PASSES, Facts, Trait

ROOT = Path(__file__).resolve().parents[2]
aten = torch.ops.aten


def call(target: Any) -> fx.Node:
    graph = fx.Graph()
    x = graph.placeholder("x")
    return graph.call_function(target, (x, x))


ATEN = {
    name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if "aten::" in name
}


def names() -> set[str]:
    return {name if name.startswith("__") else name.rstrip("_") for name in ATEN} | ATEN


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_listed_op_exists(name: str) -> None:
    # the product by groups is registered by a library, drop-path and getitem are Python's
    elsewhere = {
        "grouped_mm",
        "grouped_mm_fallback",
        "drop_path",
        "getitem",
        "quantized_lstm",
        "quantized_gru",
    }
    assert name in names() | elsewhere


def test_overloads_and_in_place_forms_share_a_row() -> None:
    for target in (aten.add.Tensor, aten.add.Scalar, aten.add_.Tensor):
        assert ops.op_name(call(target)) == "add"
        assert ops.has(call(target), Trait.SUM)
    assert ops.op_label(call(aten.add_.Tensor)) == "add_"
    assert ops.op_name(call(aten.__and__.Tensor)) == "__and__"
    assert ops.op_name(call(operator.getitem)) == "getitem"
    assert ops.op_name(call(ops.drop_path)) == "drop_path"
    assert ops.op_name(call(aten.add.Tensor).args[0]) == "placeholder"


def test_a_division_that_rounds_is_no_quotient() -> None:
    assert ops.has(call(aten.div.Tensor), Trait.QUOTIENT)
    assert not ops.has(call(aten.div.Tensor_mode), Trait.QUOTIENT)


def test_an_op_that_is_not_listed_has_no_traits() -> None:
    node = call(aten.lgamma.default)
    assert ops.traits_of(node.target) is Trait.NONE
    assert ops.positions(node) is None


X = torch.arange(1.0, 25.0, dtype=torch.float64).reshape(2, 3, 4)
INDEX = torch.tensor([2, 0])
# How each op is called on a tensor of shape [2, 3, 4], where it takes more than that.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "_to_copy": (),
    "to": (torch.float64,),
    "type_as": (X,),
    "movedim": (0, 1),
    "permute": ([2, 0, 1],),
    "swapaxes": (0, 2),
    "transpose": (0, 2),
    "_unsafe_view": ([6, 4],),
    "reshape": ([6, 4],),
    "view": ([6, 4],),
    "view_as": (torch.zeros(6, 4),),
    "unflatten": (2, [2, 2]),
    "unsqueeze": (1,),
    "broadcast_to": ([5, 2, 3, 4],),
    "expand": ([5, 2, 3, 4],),
    "expand_as": (torch.zeros(5, 2, 3, 4),),
    "repeat": ([2, 1, 1],),
    "repeat_interleave": (2,),
    "flip": ([1],),
    "roll": ([1], [1]),
    "narrow": (1, 0, 2),
    "select": (1, 0),
    "slice": (1, 0, 2),
    "gather": (1, torch.zeros(2, 2, 4, dtype=torch.long)),
    "index": ([INDEX],),
    "index_select": (1, INDEX),
    "adaptive_avg_pool1d": ([2],),
    "adaptive_avg_pool2d": ([2, 2],),
    "avg_pool2d": ([2, 2],),
    "cumsum": (1,),
    "max_pool2d": ([2, 2],),
    "pixel_shuffle": (2,),
    "upsample_bicubic2d": ([4, 4], False),
    "upsample_bilinear2d": ([4, 4], False),
    "drop_path": (0.5, [0], False),
    "alpha_dropout": (0.5, False),
    "dropout": (0.5, False),
    "feature_alpha_dropout": (0.5, False),
    "feature_dropout": (0.5, False),
}
# What takes tensors of other shapes.
SHAPES = {"t": (3, 4), "numpy_T": (3, 4), "matrix_H": (3, 4), "pixel_shuffle": (1, 4, 2, 2), "index": (3, 4)}
FOUR = {"upsample_bicubic2d", "upsample_bilinear2d"}


def function(name: str) -> Callable[..., Any]:
    if name == "drop_path":
        return ops.drop_path
    packet = getattr(aten, name)
    return packet if name != "to" else packet.dtype  # type: ignore[no-any-return]


def called(name: str, x: torch.Tensor) -> torch.Tensor:
    return function(name)(x, *ARGUMENTS.get(name, ()))  # type: ignore[no-any-return]


def given(name: str) -> torch.Tensor:
    shape = SHAPES.get(name, (1, 2, 3, 4) if name in FOUR else (2, 3, 4))
    return torch.arange(1.0, 1.0 + torch.Size(shape).numel(), dtype=torch.float64).reshape(shape) - 7.5


def with_traits(traits: Trait) -> list[str]:
    found = {name: row.traits if isinstance(row, Facts) else row for name, row in OPS.items()}
    complex_ones = {"view_as_complex", "view_as_real"}
    return sorted(name for name, own in found.items() if own & traits and name not in complex_ones)


@pytest.mark.parametrize("name", with_traits(PASSES))
def test_what_passes_on_passes_on(name: str) -> None:
    x = given(name)
    assert torch.equal(called(name, x), x)


@pytest.mark.parametrize("name", with_traits(Trait.REORDERS | Trait.RESHAPES | Trait.SHIFTS))
def test_what_only_moves_keeps_every_element(name: str) -> None:
    x = given(name)
    assert torch.equal(called(name, x).flatten().sort().values, x.flatten().sort().values)


@pytest.mark.parametrize("name", with_traits(Trait.RESHAPES))
def test_what_reshapes_keeps_the_order_of_elements(name: str) -> None:
    x = given(name)
    assert torch.equal(called(name, x).flatten(), x.flatten())


@pytest.mark.parametrize("name", with_traits(MOVES | Trait.LOOKS_UP))
def test_what_moves_makes_no_new_elements(name: str) -> None:
    x = given(name)
    assert torch.isin(called(name, x), x).all()


@pytest.mark.parametrize(
    "name", with_traits(PASSES | MOVES | Trait.LOOKS_UP | Trait.LINEAR | Trait.HOMOGENEOUS)
)
def test_factors_pass_through_what_is_homogeneous(name: str) -> None:
    x = given(name)
    torch.testing.assert_close(called(name, 3 * x), 3 * called(name, x))


@pytest.mark.parametrize("name", with_traits(PASSES | MOVES | Trait.LOOKS_UP | Trait.LINEAR))
def test_sums_pass_through_what_is_linear(name: str) -> None:
    x = given(name)
    y = x.sin()
    torch.testing.assert_close(called(name, x + y), called(name, x) + called(name, y))


@pytest.mark.parametrize("name", with_traits(Trait.ACTIVATION))
def test_activations_work_element_by_element_or_halve(name: str) -> None:
    x = given(name)
    arguments = (torch.tensor([0.25], dtype=x.dtype),) if name == "prelu" else ()
    result = getattr(aten, name)(x, *arguments)
    assert result.shape in (x.shape, (*x.shape[:-1], x.shape[-1] // 2))
    assert not torch.allclose(result, x[..., : result.shape[-1]])


@pytest.mark.parametrize("name", [name for name, row in OPS.items() if isinstance(row, Facts)])
def test_positions_are_those_of_the_schema(name: str) -> None:
    row = OPS[name]
    assert isinstance(row, Facts)
    assert row.positions is not None
    packet = getattr(aten, name)
    arguments = [a.name for a in getattr(packet, packet.overloads()[0])._schema.arguments]
    said = {
        place: arguments[position] for place, position in vars(row.positions).items() if position is not None
    }
    known = {
        "input": {"input", "self", "mat1", "batch1", "indices"},
        "weight": {"weight", "mat2", "batch2", "other"},
        "bias": {"bias", "self"},
        "epsilon": {"eps"},
    }
    assert {place for place, argument in said.items() if argument not in known[place]} == set()


# Facts about ops belong to the table. These hold other things than facts.
RULES = {
    "mlgraph/graph/": "the table itself, and rules per op for FLOPs",
    "mlgraph/axes/rules/": "rules per op for axes",
    "mlgraph/capture/masks/": "rules per op for masks read as functions of their indices",
    "mlgraph/emit/codegen.py": "code per op",
    "mlgraph/emit/spelling.py": "how ops are written in code",
    "mlgraph/storage/op_table.py": "the closed list of what a file may name",
    "mlgraph/capture/size_guards.py": "functions in formulas of sizes",
    "mlgraph/capture/tracing.py": "methods met in Python while a model is traced, before there is a graph",
    "mlgraph/interop/timm.py": "methods that initialise modules, before there is a graph",
    "mlgraph/view/": "words for a reader, and kinds of boxes",
}


def is_op(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value in names()
    text = ast.unparse(node) if node is not None else ""
    return "aten." in text and isinstance(node, ast.Attribute)


def tables(path: Path) -> list[str]:
    """Collections of nothing but ops, two or more; dicts from ops to functions are rules, and no facts."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    types = {
        id(n.slice) for n in ast.walk(tree) if isinstance(n, ast.Subscript) and "Literal" in ast.unparse(n)
    }
    for node in ast.walk(tree):
        if id(node) in types:
            continue
        if isinstance(node, ast.Set | ast.Tuple | ast.List):
            held: list[ast.expr | None] = list(node.elts)
        elif isinstance(node, ast.Dict):
            facts = [
                v for v in node.values if not isinstance(v, ast.Name | ast.Attribute | ast.Lambda | ast.Call)
            ]
            held = list(node.keys) if facts else []
        else:
            continue
        if len(held) > 1 and all(map(is_op, held)):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)[:80]}")
    return found


def test_no_other_module_keeps_a_table_of_ops() -> None:
    paths = [
        path for folder in ("mlgraph", "passes", "cli") for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    free = [path for path in paths if not str(path.relative_to(ROOT)).startswith(tuple(RULES))]
    assert [table for path in free for table in tables(path)] == []


def test_such_a_table_is_found_where_there_is_one() -> None:
    assert tables(ROOT / "mlgraph/emit/spelling.py")
