"""Directories that transformers itself loads, and the way back from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import mlgraph
from mlgraph.capture.inputs.origin import origin_of
from mlgraph.errors import FileError, MlgraphError
from mlgraph.graph.compare import relative_error
from mlgraph.graph.example_call import example_call
from mlgraph.interop import directory
from mlgraph.interop.fitting.align import align
from mlgraph.interop.hollow import hollow
from mlgraph.interop.huggingface import (
    SKELETON,
    NotExpressible,
    express,
    read_skeleton,
    save_huggingface,
    to_huggingface,
)
from mlgraph.interop.open import open_source
from mlgraph.interop.same_outputs import check_outputs
from mlgraph.program import Program
from tests import zoo

# Coarsened by 2 in width and depth, written, and loaded by transformers with equal outputs.
ROUND_TRIPS = (
    "bert", "bert-mlm", "gpt2", "llama", "qwen3", "gemma2", "gemma3", "mixtral", "t5", "bart",
    "whisper", "vit", "dinov2", "clip", "mistral", "qwen2", "gemma", "phi", "phi3", "stablelm",
    "starcoder2", "olmo", "cohere", "granite", "helium", "glm", "gpt-neox", "gpt-j", "opt", "falcon",
    "roberta", "camembert", "albert", "distilbert",
)  # fmt: skip
# Refused by name, with what stands in the way.
REFUSED = {
    # the slopes of its heads follow from their number, and means of slopes are other slopes
    "bloom": "alibi",
}


def tiny_llama(layers: int = 2) -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
        vocab_size=61,
        max_position_embeddings=37,
        use_cache=False,
    )
    return zoo_perturbed(transformers.LlamaForCausalLM(config))


def tiny_t5() -> nn.Module:
    config = transformers.T5Config(
        d_model=24,
        d_kv=6,
        d_ff=40,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=4,
        vocab_size=61,
        use_cache=False,
        decoder_start_token_id=0,
        tie_word_embeddings=True,
    )
    return zoo_perturbed(transformers.T5ForConditionalGeneration(config))


def zoo_perturbed(model: nn.Module) -> nn.Module:
    from tests.perturbation import perturb_

    perturb_(model)
    return model.eval()


def captured(model: nn.Module) -> Program:
    ids = torch.randint(2, 61, (3, 7))
    kwargs = {"input_ids": ids}
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        kwargs["decoder_input_ids"] = torch.randint(2, 61, (3, 5))
    return mlgraph.capture(model, kwargs=kwargs).replace(origin=origin_of(model))


def loaded(folder: Path, cls: Any) -> nn.Module:
    model, report = cls.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    return model.eval()  # type: ignore[no-any-return]


@pytest.mark.slow
def test_coarse_llama_there_and_back(tmp_path: Path) -> None:
    model = tiny_llama()
    program = captured(model)
    source = tmp_path / "source"
    source.mkdir()
    (source / "tokenizer.json").write_text("{}")
    (source / "model.safetensors").write_bytes(b"not to be copied")
    small = mlgraph.coalesce(program, depth=2, width=2)
    saved = save_huggingface(small, tmp_path / "small", shard_size=4000, source_dir=source)
    names = {change.split()[0] for change in saved.changes}
    assert names == {
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
    }
    files = {file.name for file in (tmp_path / "small").iterdir()}
    assert {"config.json", "model.safetensors.index.json", "tokenizer.json", SKELETON} <= files
    assert "model.safetensors" not in files
    assert check_outputs(small, loaded(tmp_path / "small", transformers.LlamaForCausalLM)) < 1e-5

    again = open_source(tmp_path / "small")
    big = mlgraph.decoalesce(again)
    refined = save_huggingface(big, tmp_path / "big")
    assert {change.split()[0] for change in refined.changes} == names
    config = json.loads((tmp_path / "big" / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    assert config["head_dim"] == 6
    assert check_outputs(big, loaded(tmp_path / "big", transformers.LlamaForCausalLM)) < 1e-5


@pytest.mark.slow
def test_a_factor_that_follows_the_width_is_folded_and_taken_out_again(tmp_path: Path) -> None:
    program = captured(tiny_t5())
    small = mlgraph.coalesce(program, width=2)
    fit = express(small)
    assert set(fit.rescales) == {"decoder.final_layer_norm.weight"}
    assert fit.rescales["decoder.final_layer_norm.weight"].factor == pytest.approx(2**-0.5)
    save_huggingface(small, tmp_path / "t5")
    again = open_source(tmp_path / "t5")
    name = "decoder.final_layer_norm.weight"
    torch.testing.assert_close(again.tensors[name], small.tensors[name])
    args, kwargs = example_call(program)
    with torch.no_grad():
        before = mlgraph.emit(mlgraph.decoalesce(small)).eval()(*args, **kwargs).logits
        after = mlgraph.emit(mlgraph.decoalesce(again)).eval()(*args, **kwargs).logits
    assert relative_error(before, after) < 1e-5


@pytest.mark.slow
def test_live_model_shares_nothing_and_computes_the_same() -> None:
    small = mlgraph.coalesce(captured(tiny_llama()), width=2)
    model = to_huggingface(small)
    assert check_outputs(small, model) < 1e-5
    with torch.no_grad():
        model.get_parameter("model.embed_tokens.weight").zero_()
    assert small.tensors["model.embed_tokens.weight"].abs().sum() > 0


@pytest.mark.slow
def test_growth_without_a_parent(tmp_path: Path) -> None:
    big = mlgraph.decoalesce(captured(tiny_llama()), width=2, depth=2, depth_mode="identity")
    saved = save_huggingface(big, tmp_path / "big")
    assert "num_hidden_layers 2 -> 4" in saved.changes
    assert check_outputs(big, loaded(tmp_path / "big", transformers.LlamaForCausalLM)) < 1e-5
    assert open_source(tmp_path / "big").lineage is not None


@pytest.mark.slow
def test_another_dtype(tmp_path: Path) -> None:
    program = captured(tiny_llama(1))
    save_huggingface(program, tmp_path / "half", dtype=torch.bfloat16)
    model = loaded(tmp_path / "half", transformers.LlamaForCausalLM)
    assert next(model.parameters()).dtype is torch.bfloat16


@pytest.mark.slow
def test_large_directories_are_read_tensor_by_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_llama().save_pretrained(tmp_path / "fine")  # type: ignore[operator]
    monkeypatch.setattr(directory, "LARGE", 1)
    program = open_source(tmp_path / "fine")
    assert not program.tensors.in_memory
    eager = from_pretrained_program(tmp_path / "fine", program)
    small, expected = (mlgraph.coalesce(p, depth=2, width=2) for p in (program, eager))
    assert not small.tensors.in_memory
    save_huggingface(small, tmp_path / "small", shard_size=4000)
    written = read_skeleton(tmp_path / "small", keep=True)
    assert written is not None
    for name, tensor in expected.tensors.items():
        assert torch.equal(written.tensors[name], tensor), name


def from_pretrained_program(folder: Path, like: Program) -> Program:
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    args, kwargs = example_call(like)
    return mlgraph.capture(model, args, kwargs).replace(origin=origin_of(model))


def test_models_without_memory_are_captured_as_real_ones_are() -> None:
    model = tiny_llama(1)
    empty = hollow("LlamaForCausalLM", model.config)
    kwargs = {"input_ids": torch.randint(2, 61, (3, 7))}
    found = align(mlgraph.capture(model, kwargs=kwargs), mlgraph.capture(empty, kwargs=kwargs))
    assert [*found.sizes, *found.factors, *found.breaks] == []
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, empty.get_buffer(name))


def test_a_program_of_no_transformers_model_is_refused() -> None:
    program = mlgraph.capture(nn.Linear(3, 2), (torch.randn(5, 3),))
    with pytest.raises(NotExpressible, match="did not come from a transformers model"):
        express(program)


def test_groups_that_no_config_expresses_are_refused_by_name() -> None:
    program = captured(tiny_llama(2))
    table = program.axes
    mlp = next(axis for axis in table if axis.size == 40)
    small = mlgraph.coalesce(program, axes={mlp.id: 2})
    with pytest.raises(NotExpressible, match=r"mlp\.(gate|up|down)_proj\.weight is \[.*\], wanted \[.*\]"):
        express(small)


@pytest.mark.slow
def test_weights_that_are_not_the_programs_are_refused(tmp_path: Path) -> None:
    save_huggingface(captured(tiny_llama(1)), tmp_path / "a")
    save_huggingface(mlgraph.coalesce(captured(tiny_llama(1)), width=2), tmp_path / "b")
    (tmp_path / "a" / SKELETON).write_bytes((tmp_path / "b" / SKELETON).read_bytes())
    with pytest.raises(FileError, match=rf"delete {SKELETON}"):
        read_skeleton(tmp_path / "a")


def test_shard_sizes_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MlgraphError, match="shard size '5 cows' is not understood"):
        save_huggingface(captured(tiny_llama(1)), tmp_path / "x", shard_size="5 cows")
    assert not (tmp_path / "x").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    entry = zoo.get(name)
    model, args, kwargs = entry.build("full")
    program = mlgraph.capture(model, args, kwargs).replace(origin=origin_of(model))
    small = mlgraph.coalesce(program, depth=2 if entry.chain else 1, width=2)
    save_huggingface(small, tmp_path / "small")
    assert check_outputs(small, loaded(tmp_path / "small", type(model)), 1e-5) < 1e-5


@pytest.mark.thorough
@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name: str, tmp_path: Path) -> None:
    entry = zoo.get(name)
    model, args, kwargs = entry.build("full")
    program = mlgraph.capture(model, args, kwargs).replace(origin=origin_of(model))
    with pytest.raises(NotExpressible, match=REFUSED[name]):
        save_huggingface(mlgraph.coalesce(program, depth=2, width=2), tmp_path / "small")
    assert not (tmp_path / "small").exists()
