"""What a user tries first: a library model with ids alone, one wrapped for training, own model code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from torch.distributed import destroy_process_group, init_process_group

from mlgraph import capture, emit
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
