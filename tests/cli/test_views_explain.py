"""``explain`` names the true reason in ten planted cases, and the nodes that lead to it with their source."""

import inspect
from functools import cache

import pytest
import torch

import mlgraph
from mlgraph.errors import AxisError
from mlgraph.inspect.explain import AxisExplanation, Step
from tests.cli import planted

CASES = {
    "language": (planted.Language, planted.ids),
    "scrambled": (planted.Scrambled, planted.states),
    "returned": (planted.Returned, planted.states),
    "joined": (planted.Joined, planted.states),
    "attention": (planted.Attention, planted.states),
    "grouped": (lambda: planted.Attention(groups=2), planted.states),
    "rotary": (lambda: planted.Attention(rotary=True), planted.states),
}


@cache
def program(case: str) -> mlgraph.Program:
    model, example = CASES[case]
    return mlgraph.capture(model().eval(), (example(),), name=case)


def explained(case: str, target: str, axis: str, freeze: tuple[str, ...] = ()) -> AxisExplanation:
    """What is said of an axis of a dim, by the axis' name."""
    (dim,) = mlgraph.explain(program(case), target, freeze)
    return next(found for found in dim.axes if found.axis.name == axis)


def way(found: AxisExplanation, tensor: str) -> tuple[Step, ...]:
    return next(tie.steps for tie in found.ties if f"{tie.slot.tensor}[{tie.slot.dim}]" == tensor)


def ops(steps: tuple[Step, ...]) -> list[str]:
    return [step.op for step in steps]


def lines(steps: tuple[Step, ...]) -> list[str]:
    """The source text of steps, one after the other without repeats; every one is a line of the models."""
    texts: list[str] = []
    source = inspect.getsource(planted).splitlines()
    for step in steps:
        path, number, text = step.source.split(":", 2)
        assert path.endswith("planted.py")
        assert source[int(number) - 1].strip() == text.strip()
        if not texts or texts[-1] != text.strip():
            texts.append(text.strip())
    return texts


def test_frozen_by_a_vocabulary():
    found = explained("language", "embed.weight[0]", "vocab")
    assert found.fate == ("frozen", "it indexes a lookup table")
    assert ops(found.chain) == ["embedding"]
    assert lines(found.chain) == ["x = self.embed(ids)"]


def test_frozen_by_an_op_without_a_rule():
    found = explained("scrambled", "up.weight[0]", "features")
    assert found.fate == ("frozen", "there is no rule for mlgraph_tests.scramble.default")
    assert ops(found.chain) == ["linear", "relu", "scramble"]
    assert lines(found.chain) == [
        "inner = torch.relu(self.up(x))",
        "inner = torch.ops.mlgraph_tests.scramble(inner)",
    ]
    assert found.cause == found.chain[-1]


def test_frozen_behind_an_op_without_a_rule():
    found = explained("scrambled", "down.weight[1]", "mlp")
    assert found.fate == ("frozen", "there is no rule for mlgraph_tests.scramble.default")
    assert ops(found.chain) == ["linear", "scramble"]


def test_frozen_by_the_output():
    found = explained("returned", "head.weight[0]", "classes")
    assert found.fate == ("frozen", "it is returned by the model and nothing else contracts it")
    assert ops(found.chain) == ["linear", "sigmoid", "output"]
    assert lines(found.chain[:-1]) == ["return torch.sigmoid(self.head(inner))"]


def test_kept_by_rotary_halves():
    found = explained("rotary", "query.weight[0]", "head_dim")
    assert found.axis.size == planted.HEAD_DIM // 2
    assert found.fate == ("kept", "activations are summed over it with no parameter on one side")
    assert found.remarks == (
        "the dim has it in two halves side by side, tied to each other by cat",
        "constants of the model lie on it: frequencies",
    )
    assert ops(found.chain)[-2:] == ["cat", "scaled_dot_product_attention"]
    assert "chunk" in ops(found.chain)
    assert lines(found.chain)[-2:] == [
        "query, key = self.rotate(query, angles), self.rotate(key, angles)",
        "mixed = F.scaled_dot_product_attention(query, key, value)",
    ]
    assert "frequencies" in {tie.slot.tensor for tie in found.ties}


def test_without_rotation_there_are_no_halves():
    found = explained("attention", "query.weight[0]", "head_dim")
    assert found.axis.size == planted.HEAD_DIM
    assert found.remarks == ()


def test_frozen_by_the_user():
    free = explained("language", "mlp.up.weight[0]", "mlp")
    assert free.fate == ("coarsenable", "")
    found = explained("language", "mlp.up.weight[0]", "mlp", freeze=("mlp",))
    assert found.fate == ("kept", "you asked for it by freezing mlp")
    assert found.chain == ()
    steps = way(found, "mlp.down.weight[1]")
    assert ops(steps) == ["linear", "gelu", "linear"]
    assert lines(steps) == ["inner = F.gelu(self.up(x))", "return self.down(inner)"]


def test_frozen_by_the_pass_that_the_user_gave(cli, tmp_path):
    small = mlgraph.coalesce(program("language"), width=2, freeze=("mlp",))
    mlgraph.save(small, tmp_path / "small.pt")
    out = cli("explain", tmp_path / "small.pt", "mlp.up.weight").out
    assert "mlp (20) kept: you asked for it by freezing mlp" in out
    assert "hidden (12) coarsenable" in out
    again = cli("explain", tmp_path / "small.pt", "mlp.up.weight[1]", "--freeze", "hidden").out
    assert "hidden (12) kept: you asked for it by freezing hidden" in again


def test_what_was_frozen_stays_so_whatever_the_user_says():
    found = explained("language", "embed.weight[0]", "vocab", freeze=("vocab",))
    assert found.fate == ("frozen", "it indexes a lookup table")


def test_tied_through_a_residual():
    found = explained("language", "mlp.down.weight[0]", "hidden")
    steps = way(found, "embed.weight[1]")
    assert ops(steps) == ["linear", "add", "embedding"]
    assert lines(steps) == ["return self.down(inner)", "x = x + self.mlp(x)", "x = self.embed(ids)"]


def test_tied_through_a_head():
    found = explained("attention", "query.weight[0]", "heads")
    steps = way(found, "out.weight[1]")
    assert ops(steps) == [
        *("linear", "view", "transpose", "scaled_dot_product_attention"),
        *("transpose", "reshape", "linear"),
    ]
    assert lines(steps) == [
        "query = self.query(x).view(batch, length, HEADS, HEAD_DIM).transpose(1, 2)",
        "mixed = F.scaled_dot_product_attention(query, key, value)",
        "mixed = mixed.transpose(1, 2).reshape(batch, length, HEADS * HEAD_DIM)",
        "return self.out(mixed)",
    ]
    assert found.fate == ("coarsenable", "")


def test_tied_through_queries_in_groups():
    found = explained("grouped", "key.weight[0]", "kv_heads")
    assert (found.axis.size, found.fate) == (planted.HEADS // 2, ("coarsenable", ""))
    steps = way(found, "query.weight[0]")
    assert {"expand", "reshape", "scaled_dot_product_attention"} < set(ops(steps))
    assert lines(steps) == [
        "key = self.key(x).view(batch, length, HEADS // self.groups, HEAD_DIM).transpose(1, 2)",
        "key = self.repeated(key)",
        "mixed = F.scaled_dot_product_attention(query, key, value)",
        "query = self.query(x).view(batch, length, HEADS, HEAD_DIM).transpose(1, 2)",
    ]
    repeated = explained("grouped", "query.weight[0]", "rep")
    assert repeated.fate == ("kept", "kv_heads, with which it makes up a dim, is coarsened instead")


def test_tied_through_a_shared_table():
    found = explained("language", "embed.weight[1]", "hidden")
    role = {slot.tensor: slot.role for slot in found.axis.slots}
    assert role["embed.weight"] == "both"
    steps = way(found, "norm.weight[0]")
    assert ops(steps) == ["linear", "layer_norm"]
    assert lines(steps) == ["return F.linear(x, self.embed.weight)", "x = self.norm(x)"]
    assert lines(way(found, "mlp.up.weight[1]"))[0] == "x = self.embed(ids)"


def test_tied_through_a_concatenation():
    (dim,) = mlgraph.explain(program("joined"), "out.weight[1]")
    assert [found.axis.size for found in dim.axes] == [planted.INNER, planted.HEADS]
    for found, source in zip(dim.axes, ("left", "right"), strict=True):
        steps = way(found, f"{source}.weight[0]")
        assert ops(steps) == ["linear", "cat", "relu", "linear"]
        assert lines(steps) == [
            "return self.out(both)",
            "both = torch.cat([left, right], dim=-1)",
            "left, right = torch.relu(self.left(x)), torch.relu(self.right(x))",
        ]
        assert {tie.slot.tensor for tie in found.ties} == {f"{source}.weight", f"{source}.bias"}


def test_the_explained_reasons_hold():
    """What the planted cases say of coarsening is what coarsening does."""
    small = mlgraph.coalesce(program("joined"), width=2)
    assert small.tensors["out.weight"].shape == (planted.WIDTH, (planted.INNER + planted.HEADS) // 2)
    with pytest.raises(AxisError, match="there is no rule for mlgraph_tests"):
        mlgraph.coalesce(program("scrambled"), axes={"features": 2})
    with pytest.raises(AxisError, match="returned by the model"):
        mlgraph.coalesce(program("returned"), axes={"classes": 7})
    halved = mlgraph.coalesce(program("grouped"), width=2)
    assert halved.tensors["key.weight"].shape[0] == planted.HEAD_DIM
    assert halved.tensors["query.weight"].shape[0] == 2 * planted.HEAD_DIM
    assert torch.isfinite(halved.tensors["query.weight"]).all()


def test_an_unknown_axis_to_freeze_is_named():
    with pytest.raises(AxisError, match="there is no axis 'hiden'; the nearest is hidden"):
        mlgraph.explain(program("language"), "embed.weight", freeze=("hiden",))


@pytest.mark.parametrize("width", [60, 80, 140])
def test_ways_fit_and_name_their_lines(cli, tmp_path, monkeypatch, width):
    mlgraph.save(program("grouped"), tmp_path / "grouped.pt")
    monkeypatch.setenv("COLUMNS", str(width))
    out = cli("explain", tmp_path / "grouped.pt", "key.weight", "--all").out
    assert max(map(len, out.splitlines())) <= width
    assert "planted.py:" in out
    assert "by scaled_dot_product_attention, which it reaches through" in " ".join(out.split())
