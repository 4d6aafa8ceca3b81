"""Emitted modules against the models they came from."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mlgraph import MlgraphError, capture, emit
from mlgraph.emit import checkpoint_blocks
from mlgraph.emit.module import EmittedBlock
from tests.captured import captured, same_function, worst
from tests.selection import some
from tests.zoo import entries

SPINE = some(entry.name for entry in entries(tag="spine"))


@pytest.mark.parametrize("name", SPINE)
def test_computes_what_the_model_computes(name: str) -> None:
    case = captured(name)
    expected, module = case.fresh().eval(), emit(case.program).eval()
    outputs, gradients = same_function(module, expected, case.args, case.kwargs)
    assert outputs < 1e-6
    assert gradients < 1e-5
    assert module.state_dict().keys() == expected.state_dict().keys()
    assert [n for n, _ in module.named_parameters()] == [n for n, _ in expected.named_parameters()]


@pytest.mark.parametrize("name", SPINE)
def test_trains_as_the_model_trains(name: str) -> None:
    case = captured(name)
    # Equal seeds give equal dropout masks, for the draws come in the same order.
    expected, module = case.fresh().train(), copy.deepcopy(emit(case.program)).train()
    outputs, gradients = same_function(module, expected, case.args, case.kwargs)
    assert outputs < 1e-6
    assert gradients < 1e-5
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(module.state_dict()[key], value)


def larger(tensor: torch.Tensor) -> torch.Tensor:
    """A longer batch of longer sequences, where the tensor is one of token ids or its mask."""
    grown = torch.cat([tensor, tensor.flip(0), tensor])
    return torch.cat([grown, grown[:, :4]], dim=1) if tensor.dim() == 2 else grown


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "swin", "fused-gpt"])
def test_runs_at_other_sizes(name: str) -> None:
    case = captured(name)
    args = tuple(larger(argument) for argument in case.args)
    kwargs = {key: larger(value) for key, value in case.kwargs.items()}
    outputs, gradients = same_function(emit(case.program).eval(), case.fresh().eval(), args, kwargs)
    assert outputs < 1e-6
    assert gradients < 1e-5


def test_parameters_are_those_of_the_program() -> None:
    program = captured("gpt2").program
    module = emit(program)
    for name, parameter in module.named_parameters():
        assert parameter is program.tensors[name]
    assert module.program.tensors["transformer.wte.weight"] is program.tensors["transformer.wte.weight"]


def test_training_a_module_trains_its_program() -> None:
    case = captured("fused-gpt")
    plain = {name: tensor.detach().clone() for name, tensor in case.program.tensors.items()}
    program = case.program.replace(tensors=case.program.tensors.replace(plain))
    module = emit(program)
    before = {name: tensor.clone() for name, tensor in plain.items()}
    module(*case.args, **case.kwargs).sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    changed = [name for name in program.tensors.parameters if not torch.equal(plain[name], before[name])]
    assert len(changed) > len(before) // 2


def test_a_tied_tensor_is_one_parameter_under_both_names() -> None:
    module = emit(captured("gpt2").program)
    assert module.lm_head.weight is module.transformer.wte.weight
    assert {"lm_head.weight", "transformer.wte.weight"} <= module.state_dict().keys()


def test_capture_of_an_emitted_module_is_its_program() -> None:
    module = emit(captured("bert").program)
    assert capture(module).graph is captured("bert").program.graph


def test_dropout_follows_the_mode_of_its_own_module() -> None:
    case = captured("bert")
    module = emit(case.program)
    dropouts = [m for m in module.modules() if isinstance(m, nn.Dropout)]
    assert dropouts
    module.train()
    first, second = (module(*case.args, **case.kwargs)[0] for _ in range(2))
    assert not torch.equal(first, second)
    module.eval()
    first, second = (module(*case.args, **case.kwargs)[0] for _ in range(2))
    assert torch.equal(first, second)
    dropouts[0].train()
    assert not torch.equal(first, module(*case.args, **case.kwargs)[0])


class Attentive(nn.Module):
    """Attention whose only randomness is the dropout of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.5 if self.training else 0.0)


def test_attention_dropout_follows_the_mode() -> None:
    model, x = Attentive(), torch.randn(2, 5, 8)
    module = emit(capture(model, (x,)))
    module.eval()
    assert torch.equal(module(x), model.eval()(x))
    module.train()
    assert not torch.equal(module(x), module(x))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


def test_batch_norm_moves_its_statistics_in_training_only() -> None:
    model, x = Normed(), torch.randn(6, 4)
    before = copy.deepcopy(model.state_dict())
    module = emit(capture(model, (x,)))
    for key, value in before.items():
        assert torch.equal(model.state_dict()[key], value), f"capture changed {key}"
    module.eval()
    module(x)
    assert int(module.norm.num_batches_tracked) == 0
    module.train()
    module(x)
    reference = nn.BatchNorm1d(4)
    reference(x)
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(module.norm.state_dict()[key], value)


class Standardized(nn.Module):
    """Batch norm without running statistics normalises by the batch in evaluation, too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, None, None, training=True)


def test_batch_norm_without_statistics_does_not_follow_the_mode() -> None:
    x = torch.randn(6, 4)
    module = emit(capture(Standardized(), (x,))).eval()
    torch.testing.assert_close(module(x), Standardized()(x))


@pytest.mark.parametrize("name", some(["gpt2", "swin"], ["gpt2"]))
def test_compiles_without_a_graph_break(name: str) -> None:
    case = captured(name)
    module = emit(case.program).eval()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    found = compiled(*case.args, **case.kwargs)
    expected = module(*case.args, **case.kwargs)
    assert worst(_first(found), _first(expected)) < 1e-6


def _first(result: object) -> torch.Tensor:
    return result if isinstance(result, torch.Tensor) else result[0]  # type: ignore[index]


def test_compile_option_compiles_the_call() -> None:
    assert emit(captured("fused-gpt").program, compile=True)._compiled_call_impl is not None


def test_a_deep_copy_has_tensors_and_a_program_of_its_own() -> None:
    case = captured("gpt2")
    module = emit(case.program).eval()
    twin = copy.deepcopy(module)
    expected = module(**case.kwargs)[0]
    assert torch.equal(twin(**case.kwargs)[0], expected)
    assert twin.lm_head.weight is twin.transformer.wte.weight
    with torch.no_grad():
        twin.transformer.wte.weight.zero_()
    assert torch.equal(module(**case.kwargs)[0], expected)
    assert twin.program.tensors["transformer.wte.weight"] is twin.transformer.wte.weight


def test_pickles_with_its_program() -> None:
    case = captured("gpt2")
    module = emit(case.program).eval()
    again = pickle.loads(pickle.dumps(module))
    assert torch.equal(again(**case.kwargs)[0], module(**case.kwargs)[0])
    assert [n.name for n in again.program.graph.nodes] == [n.name for n in case.program.graph.nodes]
    assert again.program.signature.inputs == case.program.signature.inputs


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "torch-encoder"])
def test_each_block_is_a_module_at_its_original_path(name: str) -> None:
    case = captured(name)
    module = emit(case.program)
    blocks = {path: m for path, m in module.named_modules() if isinstance(m, EmittedBlock)}
    numbered = {f"{chain.prefix}{n}" for chain in case.program.blocks for n in chain.numbers}
    assert set(blocks) == numbered
    assert len(blocks) == 4
    # equal blocks share their code, so that torch.compile compiles one
    assert len({type(block) for block in blocks.values()}) == 1
    assert all(list(block.parameters()) for block in blocks.values())


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    case = captured("gpt2")
    plain, saved = (copy.deepcopy(emit(case.program)) for _ in range(2))
    assert checkpoint_blocks(saved) == 4
    outputs, gradients = same_function(saved, plain, case.args, case.kwargs)
    assert outputs == 0.0
    assert gradients < 1e-6
    assert list(saved.state_dict()) == list(plain.state_dict())


def test_checkpointing_needs_blocks() -> None:
    with pytest.raises(MlgraphError, match="no chain of blocks"):
        checkpoint_blocks(nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_bfloat16_is_as_close_to_float32_as_the_model_in_bfloat16(name: str) -> None:
    case = captured(name)
    exact = _first(case.fresh().eval()(**case.kwargs))
    native = _first(case.fresh().to(torch.bfloat16).eval()(**case.kwargs))
    module = emit(case.program, dtype=torch.bfloat16).eval()
    found = _first(module(**case.kwargs))
    assert found.dtype is native.dtype is torch.bfloat16
    assert worst(found.float(), exact) < 2 * worst(native.float(), exact) + 1e-3
    assert {p.dtype for p in module.program.tensors.values() if p.is_floating_point()} <= {
        torch.bfloat16,
        torch.float32,
    }


@pytest.mark.parametrize("name", some(["gpt2", "llama", "qwen3"]))
def test_autocast_gives_what_it_gives_on_the_model(name: str) -> None:
    case = captured(name)
    with torch.autocast("cpu", torch.bfloat16):
        expected = _first(case.fresh().eval()(**case.kwargs))
        found = _first(emit(case.program).eval()(**case.kwargs))
    assert found.dtype is expected.dtype
    assert worst(found.float(), expected.float()) < 1e-2


def test_follows_a_move_to_another_device() -> None:
    case = captured("llama")
    module = copy.deepcopy(emit(case.program)).to("meta")
    result = module(**{key: value.to("meta") for key, value in case.kwargs.items()})
    assert result[0].device.type == "meta"


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({}, "argument input_ids is missing"),
        ({"input_ids": torch.zeros(3, dtype=torch.long)}, r"must have shape \[batch, sequence\], not \[3\]"),
        (
            {"input_ids": torch.zeros(3, 4, dtype=torch.long), "labels": torch.zeros(1)},
            "argument labels was not",
        ),
        ({"input_ids": torch.zeros(3, 4, dtype=torch.long), "colour": 1}, "argument colour is not one"),
    ],
)
def test_other_arguments_are_refused_by_name(kwargs: dict[str, torch.Tensor], sentence: str) -> None:
    with pytest.raises(MlgraphError, match=sentence):
        emit(captured("gpt2").program)(**kwargs)
