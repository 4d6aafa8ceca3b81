"""Depth surgery, against the class itself with other layers and against the old program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

from mlgraph.capture.model import capture
from mlgraph.errors import MlgraphError
from mlgraph.graph.interpret import Interpretation
from mlgraph.graph.ops import op_label
from mlgraph.program import Program
from mlgraph.rewrite.depth.restack import restack
from tests import zoo
from tests.blocks.test_find import Residual, Skipping, Stack, captured
from tests.selection import some
from tests.strategies import THOROUGH, Shape, transformers


def evaluate(program: Program, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    names = [leaf.name for leaf in program.signature.inputs]
    order = program.signature.parameters
    given = {**dict(zip(order, args, strict=False)), **kwargs}
    leaves = pytree.tree_leaves([given[name] for name in order if name in given])
    assert len(leaves) == len(names)
    with torch.no_grad():
        results = Interpretation(program).run(leaves)
    return pytree.tree_unflatten(results, program.signature.out_spec)


def tensors_of(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def assert_equal(left: Any, right: Any, **tolerance: float) -> None:
    left, right = tensors_of(left), tensors_of(right)
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, **tolerance) if tolerance else torch.testing.assert_close(
            a, b, rtol=0, atol=0
        )


FAMILIES = [
    *(
        "bert",
        "gpt2",
        "llama",
        "qwen3",
        "gemma2",
        "gemma3",
        "mixtral",
        "t5",
        "bart",
        "whisper",
        "vit",
        "dinov2",
    ),
    *(
        "clip",
        "deit",
        "swin",
        "convnext",
        "torch-encoder",
        "fused-gpt",
        "shared-layers",
        "grouped-convolutions",
    ),
]


@pytest.mark.parametrize("name", some(FAMILIES))
def test_the_same_layout_is_the_same_program(name: str) -> None:
    program = captured(name)
    _, args, kwargs = zoo.get(name).build()
    result = restack(program, {chain.name: tuple(range(len(chain))) for chain in program.blocks})
    assert list(result.program.tensors) == list(program.tensors)
    assert all(source.name == new for new, source in result.sources.items())
    assert_equal(evaluate(program, args, kwargs), evaluate(result.program, args, kwargs))


@pytest.mark.parametrize("name", some(FAMILIES, ("bert", "swin")))
def test_dropping_blocks_is_the_class_with_fewer_layers(name: str) -> None:
    """Every other block kept: names, shapes and outputs are those of the class at half depth."""
    program = captured(name)
    result = restack(program, {chain.name: tuple(range(0, len(chain), 2)) for chain in program.blocks})
    model, args, kwargs = zoo.get(name).build("half_depth")
    small = result.program.state_dict()
    expected = model.state_dict()
    assert set(small) == set(expected)
    assert [n for n in expected if n not in result.program.tensors.aliases] == [
        n for n in small if n not in result.program.tensors.aliases
    ]
    assert {n: t.shape for n, t in small.items()} == {n: t.shape for n, t in expected.items()}
    model.load_state_dict(small)
    with torch.no_grad():
        assert_equal(model(*args, **kwargs), evaluate(result.program, args, kwargs), rtol=1e-5, atol=1e-5)


class Collecting(nn.Module):
    """Returns hidden states as a tuple of layers + 1, and a mean over layers of a stacked statistic."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 6)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        x = self.embed(x)
        hidden, statistics = [x], []
        for layer in self.layers:
            statistics.append(layer.up(layer.norm(x)).square().mean())
            x = layer(x)
            hidden.append(x)
        hidden[-1] = self.norm(x)
        return {"last": hidden[-1], "hidden": tuple(hidden), "statistic": torch.stack(statistics).sum()}


LAYOUTS = [(0, 2), (3,), (0, 0, 1, 1, 2, 2, 3, 3), (0, 1, 2, 3, 0, 1, 2, 3), (3, 1)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_a_stack(layout: tuple[int, ...]) -> None:
    layers = [Residual() for _ in range(4)]
    x = torch.randn(3, 5, 6)
    result = restack(capture(Stack(*layers), (x,)), {"layers": layout})
    expected = Stack(*(layers[block] for block in layout))
    assert list(result.program.state_dict()) == list(expected.state_dict())
    assert_equal(expected(x), evaluate(result.program, (x,), {}), rtol=1e-5, atol=1e-6)
    for new, source in result.sources.items():
        assert source.chain == "layers"
        assert source.position is not None
        assert new.startswith(f"layers.{source.block}.")
        assert source.name == f"layers.{layout[source.block]}." + new.split(".", 2)[2]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_collected_values_follow_the_layout(layout: tuple[int, ...]) -> None:
    layers = [Residual() for _ in range(4)]
    model, x = Collecting(*layers), torch.randn(3, 5, 6)
    result = restack(capture(model, (x,)), {"layers": layout})
    other = Collecting(*(layers[block] for block in layout))
    other.embed, other.norm = model.embed, model.norm
    found = evaluate(result.program, (x,), {})
    assert isinstance(found["hidden"], tuple)
    assert len(found["hidden"]) == len(layout) + 1
    assert_equal(other(x), found, rtol=1e-5, atol=1e-6)


class Scattered(nn.Module):
    """Concatenates values of its layers out of their order, as aggregation trees do."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(24, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return self.head(torch.cat([found[2], found[0], found[3], found[1]], -1))


def test_values_collected_out_of_order_keep_their_order() -> None:
    model, x = Scattered(*(Residual() for _ in range(4))), torch.randn(3, 5, 6)
    program = capture(model, (x,))
    (chain,) = program.blocks
    same = restack(program, {chain.name: tuple(range(len(chain)))})
    assert_equal(model(x), evaluate(same.program, (x,), {}), rtol=1e-5, atol=1e-6)
    with pytest.raises(MlgraphError, match=r"block \d of layers is dropped but node \w+ reads"):
        restack(program, {chain.name: (0, 2)})


class Stage(nn.Module):
    """Layers, with what reduces the width of their input before them, or not."""

    def __init__(self, reduces: bool) -> None:
        super().__init__()
        self.reduce = nn.Linear(6, 6) if reduces else nn.Identity()
        self.layer = Residual()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.reduce(x))


def test_a_block_may_end_in_the_next_numbered_module() -> None:
    model, x = Stack(*(Stage(number > 0) for number in range(4))), torch.randn(3, 5, 6)
    program = capture(model, (x,))
    (chain,) = program.blocks
    same = restack(program, {})
    assert list(same.program.state_dict()) == list(program.state_dict())
    shorter = restack(program, {chain.name: (0,)})
    numbers = {name.split(".")[1] for name in shorter.program.state_dict()}
    assert numbers == {str(number) for number in range(len(numbers))}


def test_a_reader_of_one_dropped_block_is_named() -> None:
    program = capture(Skipping(), (torch.randn(3, 5, 6),))
    with pytest.raises(
        MlgraphError, match=r"block 1 of layers is dropped but node \w+ reads its inner values"
    ):
        restack(program, {"layers": (0, 2)})
    with pytest.raises(MlgraphError, match="block 0 of layers becomes 2 blocks"):
        restack(program, {"layers": (0, 0, 1, 2)})


def test_copies_do_not_share_memory() -> None:
    program = capture(Stack(Residual(), Residual()), (torch.randn(3, 5, 6),))
    result = restack(program, {"layers": (0, 0, 1)})
    first, second = (result.program.tensors[f"layers.{block}.up.weight"] for block in (0, 1))
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()
    assert isinstance(second, nn.Parameter)
    assert second.requires_grad


def test_layers_after_the_chain_are_renumbered() -> None:
    layers = [Residual(0.5), *(Residual() for _ in range(4)), Residual(0.25)]
    x = torch.randn(3, 5, 6)
    result = restack(capture(Stack(*layers), (x,)), {"layers": (0, 2)})
    expected = Stack(layers[0], layers[1], layers[3], layers[5])
    assert list(result.program.state_dict()) == list(expected.state_dict())
    assert_equal(expected(x), evaluate(result.program, (x,), {}), rtol=1e-5, atol=1e-6)


def test_modules_in_metadata_are_renumbered() -> None:
    result = restack(
        capture(Stack(*(Residual() for _ in range(4))), (torch.randn(3, 5, 6),)), {"layers": (1, 3)}
    )
    modules = {node.meta.get("module") for node in result.program.graph.nodes if node.op == "call_function"}
    assert {"layers.0", "layers.1"} <= modules
    assert not any("layers.3" in str(module) for module in modules)


def test_unread_tensors_and_aliases_go_with_their_block() -> None:
    class Odd(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.unread = nn.Parameter(torch.randn(2))
            self.again = self.up

    layers = [Odd() for _ in range(4)]
    program = capture(Stack(*layers), (torch.randn(3, 5, 6),))
    result = restack(program, {"layers": (1, 3)}).program
    expected = Stack(layers[1], layers[3])
    assert set(result.state_dict()) == set(expected.state_dict())
    assert torch.equal(result.tensors["layers.0.unread"], layers[1].unread)
    assert result.tensors.aliases["layers.1.again.weight"] == "layers.1.up.weight"


def test_layers_called_again_keep_their_tensors() -> None:
    one, two = Residual(), Residual(0.5)
    x = torch.randn(3, 5, 6)
    program = capture(Stack(one, two, one, two, one, two), (x,))
    result = restack(program, {"layers": (0, 2)})
    expected = Stack(one, two, one, two)
    assert set(result.program.state_dict()) == set(expected.state_dict())
    assert len(result.program.tensors) == len(program.tensors)
    assert_equal(expected(x), evaluate(result.program, (x,), {}), rtol=1e-5, atol=1e-6)


def test_batch_norm_counters_stay_with_their_block() -> None:
    program = captured("grouped-convolutions")
    counters = [node for node in program.graph.nodes if op_label(node) == "add_"]
    result = restack(program, {program.blocks[0].name: (0, 1)}).program
    kept = [node for node in result.graph.nodes if op_label(node) == "add_"]
    assert len(counters) == 2 * len(kept) > 0


def test_bad_layouts_are_refused_by_name() -> None:
    program = capture(Stack(Residual(), Residual()), (torch.randn(3, 5, 6),))
    with pytest.raises(MlgraphError, match=r"no chain 'decoder'.*chains: layers"):
        restack(program, {"decoder": (0,)})
    with pytest.raises(MlgraphError, match=r"layers has no block 2: its blocks are 0 to 1"):
        restack(program, {"layers": (0, 2)})
    with pytest.raises(MlgraphError, match="layers would have no block left"):
        restack(program, {"layers": ()})


@given(shape=transformers(even=True, depth=4), data=st.data())
@settings(max_examples=20 if THOROUGH else 2)
def test_random_transformers_and_layouts(shape: Shape, data: st.DataObject) -> None:
    """Any layout runs, is well formed, has the chain it should, and numbers its tensors densely."""
    model, ids = shape.build(), shape.inputs()
    program = capture(model, (ids,))
    (chain,) = program.blocks
    layout = tuple(data.draw(st.lists(st.integers(0, len(chain) - 1), min_size=2, max_size=5)))
    result = restack(program, {chain.name: layout})
    result.program.graph.lint()
    again = [found for found in result.program.blocks if len(found) == len(layout)]
    assert [found.period for found in again] == [chain.period]
    back = restack(program, {chain.name: tuple(range(len(chain)))}).program
    assert_equal(model(ids), evaluate(back, (ids,), {}), rtol=1e-10, atol=1e-10)
    places = [name.split(".")[1] for name in result.program.tensors if name.startswith(f"{chain.name}.")]
    # what all blocks read may lie beside them, under a name
    numbers = {int(place) for place in places if place.isdecimal()}
    assert numbers == set(range(chain.period * len(layout)))
    assert all(torch.isfinite(t).all() for t in tensors_of(evaluate(result.program, (ids,), {})))
