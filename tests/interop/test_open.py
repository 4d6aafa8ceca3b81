import inspect
import json
import pickle

import pytest
import timm
import torch
import transformers
from torch import nn

import mlgraph
from mlgraph.capture.inputs.example import example_inputs
from mlgraph.capture.inputs.notation import parse_inputs
from mlgraph.capture.inputs.primes import find, integers
from mlgraph.errors import CaptureError, FileError, MlgraphError
from mlgraph.interop.open import open_source
from mlgraph.program import HuggingFaceOrigin, TimmOrigin
from tests.zoo import entries, get

FROM_LIBRARIES = [entry for entry in entries(tag="spine") if entry.suite in ("hf", "timm")]


@pytest.fixture(scope="module")
def bert_directory(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "bert"
    get("bert-mlm").build().model.save_pretrained(path)
    return path


@pytest.mark.parametrize("entry", FROM_LIBRARIES, ids=str)
def test_example_inputs_fit(entry):
    model = entry.build().model
    args, kwargs = example_inputs(model)
    output = model(*args, **kwargs)
    assert isinstance(output, torch.Tensor | dict)
    if isinstance(output, dict):
        assert "past_key_values" not in output


@pytest.mark.parametrize("entry", [e for e in FROM_LIBRARIES if e.suite == "hf"], ids=str)
def test_example_sizes_are_told_apart_from_widths(entry):
    model = entry.build().model
    _, kwargs = example_inputs(model)
    numbers = set(integers(model.config.to_dict()))
    batch = {value.shape[0] for value in kwargs.values() if isinstance(value, torch.Tensor)}
    lengths = {kwargs[name].shape[1] for name in ("input_ids", "decoder_input_ids") if name in kwargs}
    assert len(batch) == 1
    assert batch.isdisjoint(lengths)
    assert len(lengths) == sum(name in kwargs for name in ("input_ids", "decoder_input_ids"))
    assert (batch | lengths).isdisjoint(numbers)


@pytest.mark.parametrize("name", ["bert-mlm", "llama", "t5", "whisper", "vit", "clip"])
def test_labels_come_with_heads_that_have_a_loss(name):
    model = get(name).build().model
    _, kwargs = example_inputs(model)
    assert model(**kwargs).loss.dim() == 0
    _, without = example_inputs(model, loss=False)
    assert model(**without).get("loss") is None


@pytest.mark.parametrize(
    ("name", "masked"), [("bert", True), ("gpt2", False), ("llama", False), ("t5", True)]
)
def test_padding_masks_are_for_models_that_look_both_ways(name, masked):
    _, kwargs = example_inputs(get(name).build().model)
    assert ("attention_mask" in kwargs) == masked


def test_a_causal_model_is_known_by_what_it_computes():
    _, kwargs = example_inputs(get("llama").build().model.model)
    assert "attention_mask" not in kwargs


def test_example_inputs_leave_the_model_as_it_was():
    model = get("bert-mlm").build().model.train()
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    example_inputs(model)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_module_of_no_library_needs_its_inputs():
    with pytest.raises(CaptureError, match="What Linear takes is not known; give example inputs"):
        example_inputs(nn.Linear(3, 4))


def test_a_huggingface_directory(bert_directory):
    program = open_source(bert_directory)
    model = transformers.BertForMaskedLM.from_pretrained(bert_directory).eval()
    assert program.name == "bert"
    assert program.notes == ()
    assert program.origin == HuggingFaceOrigin(
        "BertForMaskedLM", model.config.to_dict(), path=str(bert_directory)
    )
    _, kwargs = example_inputs(model)
    mine = mlgraph.emit(program).eval()(**kwargs)
    theirs = model(**kwargs)
    torch.testing.assert_close(mine.loss, theirs.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine.logits, theirs.logits, rtol=1e-5, atol=1e-6)


def test_an_opened_model_takes_its_arguments_in_the_order_of_its_own_forward(bert_directory, tmp_path):
    model = transformers.BertForMaskedLM.from_pretrained(bert_directory).eval()
    program = open_source(bert_directory)
    parameters = mlgraph.capture(model).signature.parameters
    assert parameters[:3] == ("input_ids", "attention_mask", "token_type_ids")
    mlgraph.save(program, tmp_path / "bert.pt")
    for known in (program, mlgraph.coalesce(program, width=2), mlgraph.load(tmp_path / "bert.pt")):
        assert known.signature.parameters == parameters
        module = mlgraph.emit(known).eval()
        assert tuple(inspect.signature(module.forward).parameters)[: len(parameters)] == parameters
    ids = torch.randint(2, 9, (2, 5))
    with pytest.raises(MlgraphError, match="token_type_ids was not given when the model was captured"):
        mlgraph.emit(program)(ids, torch.ones_like(ids), torch.zeros_like(ids))


@pytest.mark.slow
def test_capture_takes_what_the_command_line_takes(bert_directory):
    for source in (bert_directory, str(bert_directory)):
        program = mlgraph.capture(source)
        assert program.state_dict().keys() == open_source(source).state_dict().keys()
        assert {"input_ids", "labels"} <= {given.name for given in program.signature.inputs}
    given = mlgraph.capture(bert_directory, (), {"input_ids": torch.randint(2, 9, (2, 5))})
    assert [given.name for given in given.signature.inputs] == ["input_ids"]


def test_capture_refuses_what_is_no_model():
    with pytest.raises(CaptureError, match="dict is not a module"):
        mlgraph.capture({"weight": torch.zeros(2)})


@pytest.mark.slow
def test_weights_that_the_files_lack_are_named(bert_directory, tmp_path):
    from safetensors.torch import load_file, save_file

    model = transformers.BertForMaskedLM.from_pretrained(bert_directory)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.encoder.layer.0.output.dense.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    notes = [str(note) for note in open_source(tmp_path).notes]
    assert "weights missing in the files, so left at random: bert.encoder.layer.0.output.dense.bias" in notes


@pytest.mark.slow
def test_a_configuration_gives_random_weights(bert_directory):
    program = open_source(f"hf:{bert_directory / 'config.json'}")
    assert isinstance(program.origin, HuggingFaceOrigin)
    assert program.origin.path is None
    assert program.origin.config_path is not None
    assert program.num_parameters() == open_source(bert_directory).num_parameters()


def test_a_timm_name():
    source = (
        "timm:deit_tiny_patch16_224,img_size=28,patch_size=4,embed_dim=24,depth=2,num_heads=4,num_classes=13"
    )
    program = open_source(source)
    kwargs = {"img_size": 28, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 4, "num_classes": 13}
    assert program.origin == TimmOrigin("deit_tiny_patch16_224", kwargs)
    model = timm.create_model("deit_tiny_patch16_224", **kwargs)
    assert program.num_parameters() == sum(p.numel() for p in model.parameters())


def test_a_saved_program(bert_directory, tmp_path):
    program = open_source(bert_directory)
    mlgraph.save(program, tmp_path / "bert.pt")
    again = open_source(tmp_path / "bert.pt")
    assert again.origin == program.origin
    assert again.tensors.keys() == program.tensors.keys()


class Runs:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("write", [pickle.dumps, None], ids=["pickle", "torch.save"])
def test_what_runs_code_on_loading_is_refused(tmp_path, write):
    path = tmp_path / "model.pt"
    if write is None:
        torch.save(Runs(tmp_path / "evidence"), path)
    else:
        path.write_bytes(write(Runs(tmp_path / "evidence")))
    with pytest.raises(FileError, match="loading one runs whatever code it holds; .* pass --trust"):
        open_source(path)
    assert not (tmp_path / "evidence").exists()


def test_an_exported_archive_is_refused_too(tmp_path):
    torch.export.save(torch.export.export(nn.Linear(3, 4), (torch.randn(2, 3),)), tmp_path / "linear.pt2")
    with pytest.raises(FileError, match="torch.export archive, and loading one runs whatever code"):
        open_source(tmp_path / "linear.pt2")


def test_a_trusted_module_is_captured_on_the_inputs_given(tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 5))
    torch.save(model, tmp_path / "mlp.pt")
    inputs = parse_inputs(["float32[3,4]"])
    program = open_source(tmp_path / "mlp.pt", trust=True, inputs=inputs)
    x = torch.randn(7, 4)
    torch.testing.assert_close(mlgraph.emit(program)(x), model(x))


def test_a_trusted_state_dict_has_no_graph(tmp_path):
    torch.save(nn.Linear(3, 4).state_dict(), tmp_path / "weights.pth")
    for inputs in (None, parse_inputs(["float32[2,3]"])):
        with pytest.raises(FileError, match="a state dict, weights without a model: name the model"):
            open_source(tmp_path / "weights.pth", trust=True, inputs=inputs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no config.json; give a Hugging Face model directory"),
        ("{", "is not JSON"),
        ("[1]", "holds no JSON object"),
        ("{}", "names neither architectures nor model_type"),
        (json.dumps({"architectures": ["NoSuchModel"]}), "has no class 'NoSuchModel'"),
        (
            json.dumps({"architectures": ["BertModel"], "auto_map": {"AutoModel": "x.Y"}}),
            "brings its own model code",
        ),
        (
            json.dumps({"architectures": ["BertModel"], "model_type": "bert"}),
            "could not be loaded by BertModel",
        ),
    ],
)
def test_a_damaged_directory_is_refused_in_one_sentence(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(FileError, match=message) as refused:
        open_source(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "timm:deit_tiny_patch16_225",
            "timm has no model 'deit_tiny_patch16_225'; did you mean 'deit_tiny_patch16_",
        ),
        ("timm:deit_tiny_patch16_224,depth", "'depth' in .* is not key=value"),
        ("timm:deit_tiny_patch16_224,deep=3", "timm could not make"),
        ("nowhere", "There is no file or directory nowhere; check the path"),
        ("hf:nowhere.json", "There is no nowhere.json"),
    ],
)
def test_an_unknown_name_is_refused_in_one_sentence(source, message):
    with pytest.raises((CaptureError, FileError), match=message) as refused:
        open_source(source)
    assert "\n" not in str(refused.value)


def test_input_specs():
    args, kwargs = parse_inputs(["int64[3,7]<100", "x=float32[2, 5]", "flag=bool[4]"])
    assert args[0].dtype == torch.int64
    assert args[0].shape == (3, 7)
    assert 2 < int(args[0].max()) < 100
    assert kwargs["x"].dtype == torch.float32
    assert kwargs["x"].shape == (2, 5)
    assert kwargs["flag"].dtype == torch.bool


@pytest.mark.parametrize("spec", ["int64", "int65[3]", "ids=[3,7]", "x=float32[a]", "relu[3]"])
def test_a_wrong_input_spec_is_refused(spec):
    with pytest.raises(CaptureError, match="write for example ids=int64"):
        parse_inputs([spec])


def test_an_unnamed_input_cannot_follow_a_named_one():
    with pytest.raises(CaptureError, match="name it too"):
        parse_inputs(["x=float32[2]", "float32[2]"])


def test_outer_fields_of_a_configuration_come_first():
    config = {"text": {"size": 3, "deep": {"only": 5}}, "size": 4}
    assert find(config, "size") == 4
    assert find(config, "only") == 5
    assert find(config, "none") is None
