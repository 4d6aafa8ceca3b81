"""A traceable submodule of a model that is none: captured from it, changed, and put back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mlgraph
from mlgraph import CaptureError, MlgraphError
from mlgraph.cli.app import run

WIDTH, INNER = 16, 24


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(4))
        self.scale = 2.0

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, *, flat: bool = False) -> Any:
        for layer in self.layers:
            x = layer(x)
        if mask is not None:
            x = x * mask[..., None]
        return {"states": x.flatten(1) if flat else x}


class Wrapper(nn.Module):
    """Decides by values what it does around its trunk, so it cannot be traced as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, WIDTH)
        self.encoder = Trunk()
        self.head = nn.Linear(WIDTH, 31)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.encoder(self.embed(ids), mask=(ids > 0).float())["states"] * self.encoder.scale
        if ids.sum() % 2 == 0:
            x = x.flip(1)
        return self.head(x)


IDS = torch.arange(15).reshape(3, 5)


def wrapper() -> nn.Module:
    torch.manual_seed(0)
    return Wrapper().eval()


def test_a_model_that_cannot_be_captured_names_a_submodule_that_can() -> None:
    model = wrapper()
    with pytest.raises(CaptureError) as caught:
        mlgraph.capture(model, (IDS,))
    message = str(caught.value)
    assert "if ids.sum() % 2 == 0:" in message
    assert "--module encoder (in Python module='encoder'), which holds" in message
    assert not model.training


def test_no_submodule_is_named_where_none_can_be_captured() -> None:
    class Deep(Trunk):
        def forward(self, x: torch.Tensor) -> Any:  # type: ignore[override]
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(CaptureError) as caught:
        mlgraph.capture(nn.Sequential(Deep()), (torch.randn(2, 5, WIDTH),))
    assert "--module 0 " not in str(caught.value)


def test_a_submodule_is_captured_on_what_the_model_gives_it_and_put_back() -> None:
    model = wrapper()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    program = mlgraph.capture(model, (IDS,), module="encoder")
    assert [leaf.name for leaf in program.signature.inputs] == ["x", "mask"]
    whole = mlgraph.emit(program, into=model)
    for ids in (IDS, torch.randint(0, 31, (2, 9))):
        assert torch.allclose(whole(ids), model(ids), atol=1e-6)
    assert whole.head.weight is model.head.weight
    assert type(model.encoder) is Trunk
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(whole.state_dict()) == list(before)


def test_a_submodules_interface_keeps_its_width() -> None:
    model = wrapper()
    program = mlgraph.capture(model, (IDS,), module="encoder")
    small = mlgraph.coalesce(program, width=2, depth=2)
    shapes = {name: tuple(value.shape) for name, value in small.state_dict().items()}
    assert shapes["layers.0.up.weight"] == (INNER // 2, WIDTH)
    assert "layers.2.up.weight" not in shapes
    assert mlgraph.emit(small, into=model)(IDS).shape == (3, 5, 31)
    grown = mlgraph.decoalesce(mlgraph.coalesce(program, width=2))
    expected = mlgraph.emit(mlgraph.coalesce(program, width=2), into=model)(IDS)
    assert torch.allclose(mlgraph.emit(grown, into=model)(IDS), expected, atol=1e-5)


def test_an_output_alone_keeps_its_width_too() -> None:
    class Opening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Linear(5, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.features(x))

    model, x = Opening(), torch.randn(4, 5)
    small = mlgraph.coalesce(mlgraph.capture(model, (x,), module="features"), width=2)
    assert small.state_dict()["0.weight"].shape == (WIDTH // 2, 5)
    assert small.state_dict()["2.weight"].shape == (WIDTH, WIDTH // 2)
    assert mlgraph.emit(small, into=model)(x).shape == (4, 3)


class Tied(nn.Module):
    """A trunk that holds the table which the head around it reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Embedding(31, WIDTH), Block(), Block())
        self.head = nn.Linear(WIDTH, 31, bias=False)
        self.head.weight = self.trunk[0].weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(ids))


def test_a_parameter_shared_with_the_model_around_is_shared_again() -> None:
    model = Tied()
    program = mlgraph.capture(model, (IDS,), module="trunk")
    whole = mlgraph.emit(mlgraph.coalesce(program, width=2), into=model)
    assert whole.trunk.get_parameter("0.weight") is whole.head.weight
    assert whole.head.weight is model.head.weight


def test_a_changed_parameter_that_is_shared_is_refused() -> None:
    model = Tied()
    program = mlgraph.capture(model, (IDS,), module="trunk")
    with torch.no_grad():
        model.head.weight = nn.Parameter(model.head.weight + 1)
        model.trunk[0].weight = model.head.weight
    with pytest.raises(MlgraphError, match=r"trunk\.0\.weight is head\.weight of Tied too"):
        mlgraph.emit(program, into=model)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (
            lambda m: mlgraph.capture(m, (IDS,), module="encodr"),
            "no submodule 'encodr'; did you mean 'encoder'?",
        ),
        (lambda m: mlgraph.capture(m, (IDS,), module="encoder.layers"), "encoder.layers is not called when"),
        (
            lambda m: mlgraph.emit(mlgraph.capture(m.head, (torch.randn(2, WIDTH),)), into=m),
            "is not the program of a submodule",
        ),
        (
            lambda m: mlgraph.emit(mlgraph.capture(m, (IDS,), module="encoder"), into=nn.Linear(2, 2)),
            "Linear has no submodule encoder",
        ),
    ],
)
def test_what_cannot_be_is_said(act: Callable[[nn.Module], Any], sentence: str) -> None:
    with pytest.raises(MlgraphError) as caught:
        act(wrapper())
    assert sentence in str(caught.value)


def test_a_submodule_called_twice_is_told() -> None:
    class Twice(Wrapper):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.embed(ids)
            return self.head(self.encoder(self.encoder(x)["states"])["states"])

    program = mlgraph.capture(Twice(), (IDS,), module="encoder")
    assert "encoder is called 2 times; the program is that of its first call" in map(str, program.notes)


def test_a_program_of_a_submodule_is_saved_with_its_place(tmp_path: Path) -> None:
    model = wrapper()
    mlgraph.save(mlgraph.capture(model, (IDS,), module="encoder"), tmp_path / "encoder.pt")
    whole = mlgraph.emit(mlgraph.load(tmp_path / "encoder.pt"), into=model)
    assert torch.allclose(whole(IDS), model(IDS), atol=1e-6)


def test_the_command_line_takes_a_submodule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import BertConfig

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}
    config = BertConfig(**sizes, vocab_size=31, architectures=["BertForMaskedLM"])
    config.to_json_file(tmp_path / "config.json")
    source, out = f"hf:{tmp_path / 'config.json'}", tmp_path / "trunk.pt"
    code = run(["coarsen", source, "--module", "bert.encoder", "--width", "2", "-o", str(out)])
    assert (code, capsys.readouterr().err) == (0, "")
    state = mlgraph.load(out).state_dict()
    assert state["layer.0.intermediate.dense.weight"].shape == (12, 16)
    assert run(["inspect", source, "--module", "bert.encodr"]) == 1
    assert "did you mean 'bert.encoder" in capsys.readouterr().err
