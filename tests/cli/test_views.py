"""Inspect and diff: what is folded, what is told in a line, what is marked, and how they fit a terminal."""

import json
from functools import cache

import pytest
import torch
from rich.console import Console
from torch import nn

import mlgraph
from mlgraph.inspect.history import lineage
from mlgraph.inspect.modules import Module, TensorLeaf, module_tree
from mlgraph.inspect.paired_modules import ADDED, CHANGED, REMOVED, SAME
from mlgraph.inspect.text.layout import Row, lay_out, wrapped
from mlgraph.inspect.text.modules import TreeView, tree_lines
from tests.cli.planted import Language, Mlp, ids


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(24)
        self.mlp = Mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.norm(x))


class Stack(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, 24)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(24, 31, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@cache
def stack(depth: int = 4) -> mlgraph.Program:
    torch.manual_seed(0)
    return mlgraph.capture(Stack(depth), (ids(),), name="stack")


def shown(program: mlgraph.Program, width: int = 80, **view: object) -> list[str]:
    return [line.plain for line in tree_lines(module_tree(program), TreeView(**view), width)]


def linear(name: str, out: int, inner: int, dims: tuple[str, str] = ("mlp", "hidden")) -> Module:
    axes = tuple(zip(dims, (out, inner), strict=True))
    leaf = TensorLeaf("weight", f"{name}.weight", dims, (out, inner), 4 * out * inner, True, None, axes)
    return Module(name, name, (leaf,))


def block(name: str, *children: Module) -> Module:
    return Module(name, name, (), children)


def stage(number: int, hidden: int, extra: tuple[Module, ...] = ()) -> Module:
    layers = [linear(str(place), 2 * hidden, hidden) for place in "abcd"]
    return block(str(number), *layers, *extra)


def test_repeats_are_folded_and_depth_cuts():
    lines = shown(stack())
    assert sum("norm.weight" in line for line in lines) == 1
    assert any(line.startswith("blocks ×4 ") for line in lines)
    assert lines[-1] == "Inside ×N, figures are those of one of the N."
    shallow = shown(stack(), depth=1)
    assert [line.split()[0] for line in shallow] == ["module", "stack", "embed", "blocks", "head"]


def test_stages_that_differ_in_sizes_take_a_line():
    down = linear("down", 8, 16)
    root = block("model", stage(0, 8, (down,)), stage(1, 16, (linear("down", 8, 16),)), stage(2, 32))
    lines = [line.plain for line in tree_lines(root)]
    assert sum("a.weight" in line for line in lines) == 1
    assert any(line.startswith("1") and "like 0: mlp 32" in line for line in lines)
    assert any("like 0: mlp 64, hidden 32, without down" in line for line in lines)
    every = [line.plain for line in tree_lines(root, TreeView(every_tensor=True))]
    assert sum("a.weight" in line for line in every) == 3


def test_stages_with_other_dims_are_not_alike():
    other = block("1", *(linear(place, 16, 8, ("hidden", "mlp")) for place in "abcd"))
    lines = [line.plain for line in tree_lines(block("model", stage(0, 8), other))]
    assert not any("like" in line for line in lines)


@pytest.mark.parametrize("width", [50, 60, 80, 100, 119, 120, 140, 200])
def test_every_width_is_kept(width):
    for view in (TreeView(), TreeView(every_tensor=True)):
        assert max(len(line.plain) for line in tree_lines(module_tree(stack()), view, width)) <= width


def test_long_labels_lose_first_names_before_their_details_wrap():
    rows = [Row("│ ", "one.two.three.four.five.weight", ("[hidden,", "heads·head_dim]"), ("1,024",))]
    wide, narrow = (lay_out(Row("", "module", ("dims",), ("params",)), rows, width) for width in (80, 52))
    assert "one.two.three.four.five.weight [hidden, heads·head_dim]" in wide[1].plain
    assert narrow[1].plain.startswith("│ …")
    assert "five.weight [hidden, heads·head_dim]" in narrow[1].plain


def test_wrapping_keeps_every_word():
    parts = ("[kv_heads·rep·(head_dim | head_dim),", "hidden]")
    for width in range(8, 50):
        lines = wrapped(parts, width)
        assert max(map(len, lines)) <= width
        assert "".join(lines).replace(" ", "") == "".join(parts).replace(" ", "")


def test_print_shows_what_the_command_line_shows(cli, tmp_path, monkeypatch):
    mlgraph.save(stack(), tmp_path / "stack.pt")
    monkeypatch.setenv("COLUMNS", "80")
    assert f"{stack()}\n" == cli("inspect", tmp_path / "stack.pt").out
    assert f"{stack().axes}\n" == cli("axes", tmp_path / "stack.pt").out
    assert str(stack().blocks).splitlines()[1].split()[:2] == ["blocks", "×4"]
    assert repr(stack()).startswith("<Program stack: ")
    monkeypatch.delenv("NO_COLOR")
    console = Console(width=80, color_system="truecolor", force_terminal=True)
    with console.capture() as captured:
        console.print(stack().axes)
    assert "\x1b[32m" in captured.get()


@pytest.mark.parametrize("option", ["--blocks", "--graph", "--code"])
def test_views_as_data(cli, tmp_path, option):
    mlgraph.save(stack(), tmp_path / "stack.pt")
    told = json.loads(cli("inspect", tmp_path / "stack.pt", option, "--json").out)
    if option == "--blocks":
        assert told["chains"][0]["blocks"] == 4
    elif option == "--graph":
        calls = [node["call"] for node in told[0]["nodes"]]
        assert "linear = linear(layer_norm, blocks.0.mlp.up.weight, blocks.0.mlp.up.bias)" in calls
        assert told[0]["nodes"][0]["dims"] == ["[batch,", "sequence,", "hidden]"]
    else:
        assert len([entry for entry in told if len(entry["modules"]) == 4]) == 1


@pytest.mark.parametrize(
    "options", [["--graph", "--code"], ["--blocks", "--params"], ["--code", "--depth", 1]]
)
def test_views_that_exclude_each_other_are_refused(cli, bert, options):
    result = cli("inspect", bert, *options)
    assert result.code == 2
    assert str(options[0]) in result.err


def pairs(tree):
    yield tree
    for child in tree.children:
        yield from pairs(child)


def test_trees_of_programs_that_differ_in_depth_pair_blocks_with_their_groups():
    before, after = stack(), mlgraph.coalesce(stack(), depth=2)
    tree = mlgraph.diff(before, after).modules
    blocks = next(pair for pair in pairs(tree) if pair.repeats == (4, 2))
    assert (blocks.mark, blocks.folded) == (CHANGED, True)
    assert blocks.parameters == (4 * (48 + 500 + 504), 2 * (48 + 500 + 504))
    up = next(pair for pair in pairs(blocks) if pair.name == "up").tensors[0]
    mean = (before.tensors["blocks.0.mlp.up.weight"] + before.tensors["blocks.1.mlp.up.weight"]) / 2
    first = before.tensors["blocks.0.mlp.up.weight"]
    assert up.gap is not None
    assert up.gap >= 0.999 * float(((first - mean).norm() / first.norm()).detach())


def test_a_block_that_stayed_is_not_called_changed_nor_one_that_changed_the_same():
    before, after = stack(), mlgraph.coalesce(stack(), axes={"blocks": [[0], [1, 2, 3]]})
    tree = mlgraph.diff(before, after).modules
    marks = {tensor.mark for pair in pairs(tree) if pair.name == "up" for tensor in pair.tensors}
    assert marks >= {SAME, CHANGED}


def test_what_only_one_has_is_marked():
    torch.manual_seed(1)
    one = mlgraph.capture(Language(), (ids(),))
    other = stack()
    tree = mlgraph.diff(one, other).modules
    marks = {child.name: child.mark for child in tree.children}
    assert marks["blocks"] == ADDED
    assert marks["mlp"] == REMOVED
    assert marks["embed"] == CHANGED


def test_lineage_is_a_path_of_levels():
    small = mlgraph.coalesce(stack(), depth=2, width=2)
    big = mlgraph.decoalesce(small)
    mixed = mlgraph.interpolate(stack(), big, alpha=0.5)
    assert [step.level for step in lineage(stack())] == ["L1"]
    assert [step.level for step in lineage(big)] == ["L1", "L2", "L1'"]
    assert not any(step.changes for step in lineage(big))
    first, second = lineage(big, stack())[1:]
    assert first.operation == "coalesce{depth=2,width=2}"
    assert {(c.name, c.before, c.after) for c in first.changes} == {
        ("hidden", 24, 12),
        ("mlp", 20, 10),
        ("blocks", 4, 2),
    }
    assert second.operation == "decoalesce"
    assert {(c.name, c.before, c.after) for c in second.changes} >= {("hidden", 12, 24), ("blocks", 2, 4)}
    assert lineage(mixed)[-1].level.startswith("L1")


@pytest.mark.parametrize("width", [60, 80, 140])
def test_diff_fits_and_tells_sizes_before_and_after(cli, tmp_path, monkeypatch, width):
    mlgraph.save(stack(), tmp_path / "a.pt")
    mlgraph.save(mlgraph.decoalesce(mlgraph.coalesce(stack(), depth=2, width=2)), tmp_path / "b.pt")
    mlgraph.save(mlgraph.coalesce(stack(), depth=2, width=2), tmp_path / "c.pt")
    monkeypatch.setenv("COLUMNS", str(width))
    small = cli("diff", tmp_path / "a.pt", tmp_path / "c.pt").out
    assert max(map(len, small.splitlines())) <= width
    assert "hidden 24 → 12" in small
    assert "blocks ×4 → ×2" in small
    grown = cli("diff", tmp_path / "a.pt", tmp_path / "b.pt").out
    assert "B  L1 → L2 → L1'" in grown
    assert "Δ" in grown


def test_48_layers_take_fewer_than_60_lines():
    assert len(str(stack(48)).splitlines()) < 60
