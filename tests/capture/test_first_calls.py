"""What a user tries first: a library model with ids alone, one wrapped for training, own model code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.distributed import destroy_process_group, init_process_group

from mlgraph import CaptureError, capture, emit
from mlgraph.interop.open import open_source

WIDTHS = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
IDS = torch.arange(16).view(2, 8)


def llama() -> nn.Module:
    config = transformers.LlamaConfig(**WIDTHS, num_attention_heads=2, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config).eval()


def test_caches_are_turned_off_with_a_word() -> None:
    model = llama()
    program = capture(model, kwargs={"input_ids": IDS})
    assert [note.text for note in program.notes] == [
        "captured with use_cache=False, for a program keeps no DynamicCache from one call to the next"
    ]
    found = emit(program).eval()(input_ids=IDS[:, :5])
    torch.testing.assert_close(found.logits, model(IDS[:, :5]).logits)
    assert found.past_key_values is None


def test_whoever_says_so_himself_hears_nothing() -> None:
    assert capture(llama(), kwargs={"input_ids": IDS, "use_cache": False}).notes == ()


def test_an_encoder_has_no_caches_to_turn_off() -> None:
    config = transformers.BertConfig(**WIDTHS, num_attention_heads=2)
    assert capture(transformers.BertModel(config), (IDS,)).notes == ()


def test_encoder_and_decoder() -> None:
    config = transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    model = transformers.T5ForConditionalGeneration(config).eval()
    call = {"input_ids": IDS, "decoder_input_ids": IDS[:, :5]}
    module = emit(capture(model, kwargs=call)).eval()
    torch.testing.assert_close(module(**call).logits, model(**call).logits)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield
    destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (nn.parallel.DistributedDataParallel, "DistributedDataParallel"),
        (nn.DataParallel, "DataParallel"),
        (lambda model: torch.compile(nn.DataParallel(model)), "OptimizedModule"),
    ],
)
def test_wrappers_are_taken_off(wrap: type[nn.Module], name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    program = capture(wrap(model), (torch.randn(3, 4),))
    assert program.name == "Sequential"
    assert list(program.tensors) == list(dict(model.named_parameters()))
    assert program.notes[0].text == f"the module inside of {name} is captured, under its own names"
    again = capture(wrap(emit(program)))
    assert again.tensors["0.weight"] is model[0].weight


OWN = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class OwnConfig(PretrainedConfig):
    model_type = "own-plain"

    def __init__(self, hidden_size=8, vocab_size=40, **other):
        self.hidden_size, self.vocab_size = hidden_size, vocab_size
        super().__init__(**other)


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.table = nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, labels=None):
        logits = self.head(self.table(input_ids))
        return logits{RETURNS}
"""


@pytest.mark.parametrize(
    "returns", ["", ", logits.mean(1)", " if labels is None else (logits.sum(), logits)"]
)
def test_model_code_of_a_directory_may_return_plain_tensors(
    returns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"modeling_own_{len(returns)}"
    (tmp_path / f"{name}.py").write_text(OWN.replace("{RETURNS}", returns))
    monkeypatch.syspath_prepend(str(tmp_path))
    own = __import__(name)
    own.OwnConfig.register_for_auto_class()
    own.OwnModel.register_for_auto_class("AutoModelForCausalLM")
    model = own.OwnModel(own.OwnConfig())
    model.save_pretrained(tmp_path / "saved")
    module = emit(open_source(tmp_path / "saved", trust=True))
    found, wanted = module(input_ids=IDS), model(input_ids=IDS)
    torch.testing.assert_close(found, wanted)
    sys.modules.pop(name)


TAKES = r"Sequential does not take these arguments: {}; its forward takes \(input\)"
FORMS: dict[str, tuple[Any, Any, str]] = {
    "a tensor": (torch.zeros(2, 6), None, r"args is a Tensor, and must be a tuple .*: write args=\(x,\)"),
    "a dict": ({"input": torch.zeros(2, 6)}, None, "args is a dict, .*: pass it as kwargs"),
    "a list of names": ((), [torch.zeros(2, 6)], "kwargs must be a dict"),
    "another name": ((), {"inputs": torch.zeros(2, 6)}, TAKES.format("missing a required argument: 'input'")),
    "too many": ((torch.zeros(2, 6), None), None, TAKES.format("too many positional arguments")),
}


@pytest.mark.parametrize("form", FORMS)
def test_arguments_that_a_model_does_not_take(form: str) -> None:
    args, kwargs, words = FORMS[form]
    with pytest.raises(CaptureError, match=words):
        capture(nn.Sequential(nn.Linear(6, 4)), args, kwargs)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"x": {0: torch.export.Dim("b")}}, r"must be the arg names \['input'\]"),
        ({"input": {0: 3}}, "Static shape constraint of 3 does not match"),
        ({"input": {1: torch.export.Dim("n", max=9)}}, r"You marked n|in the specified range"),
    ],
)
def test_dynamic_shapes_that_do_not_fit(shapes: Any, words: str) -> None:
    with pytest.raises(CaptureError, match=f"dynamic_shapes do not fit the model.*{words}") as refused:
        capture(nn.Sequential(nn.Linear(6, 4)), (torch.zeros(2, 6),), dynamic_shapes=shapes)
    assert "--module" not in str(refused.value)


def test_arguments_that_have_no_name() -> None:
    class Nameless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor, /, scale: torch.Tensor | None = None) -> torch.Tensor:
            return self.linear(x) if scale is None else self.linear(x) * scale

    model, x, scale = Nameless(), torch.randn(2, 6), torch.randn(2, 4)
    assert torch.equal(emit(capture(model, (x,)))(x), model(x))
    assert torch.equal(emit(capture(model, (x,), {"scale": scale}))(x, scale=scale), model(x, scale))
