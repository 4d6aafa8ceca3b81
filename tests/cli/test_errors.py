"""What cannot be done: one sentence on standard error, exit code 1, nothing written."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file


class Runs:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def refused(result, folder, *parts):
    """One sentence that has the parts, and no file but those that were there."""
    assert result.code == 1
    assert result.out == ""
    assert result.err.startswith("mlgraph: ")
    assert result.err.count("\n") == 1
    assert result.err.endswith((".\n", "?\n"))
    assert "inside mlgraph" not in result.err
    for part in parts:
        assert part in result.err
    assert list(folder.iterdir()) == []


def test_a_width_that_does_not_divide(cli, bert, in_empty_folder):
    refused(cli("coarsen", bert, "--width", 5, "-o", "small.pt"), in_empty_folder, "hidden", "24", "5")


def test_depth_without_blocks(cli, models, in_empty_folder):
    result = cli("coarsen", models / "mlp.pt", "--depth", 2, "-o", "small.pt")
    refused(result, in_empty_folder, "depth", "block", "width")


def test_a_depth_that_does_not_divide(cli, bert, in_empty_folder):
    refused(
        cli("coarsen", bert, "--depth", 3, "-o", "small.pt"), in_empty_folder, "bert.encoder.layer", "4", "3"
    )


def test_an_unknown_file(cli, in_empty_folder):
    refused(cli("coarsen", "nowhere.pt", "--width", 2), in_empty_folder, "nowhere.pt", "check the path")


@pytest.mark.parametrize("part", [0.001, 0.3, 0.99])
def test_a_truncated_file(cli, bert, tmp_path_factory, in_empty_folder, part):
    whole = bert.read_bytes()
    cut = tmp_path_factory.mktemp("cut") / "cut.pt"
    cut.write_bytes(whole[: int(part * len(whole))])
    refused(cli("coarsen", cut, "--width", 2, "-o", "small.pt"), in_empty_folder, "cut.pt")


def test_a_truncated_checkpoint(cli, models, tmp_path_factory, in_empty_folder):
    folder = tmp_path_factory.mktemp("cut") / "bert"
    shutil.copytree(models / "bert", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(cli("coarsen", folder, "--width", 2, "-o", "small"), in_empty_folder, str(folder))


def test_a_checkpoint_whose_weights_do_not_fit(cli, models, tmp_path_factory, in_empty_folder):
    folder = tmp_path_factory.mktemp("other") / "bert"
    shutil.copytree(models / "bert", folder)
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith("layer.0.output.dense.weight"))
    weights[name] = weights[name][:3].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = cli("coarsen", folder, "--width", 2, "-o", "small")
    refused(result, in_empty_folder, f"has {list(weights[name].shape)} for {name}", "of one model")


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "model.bin"])
def test_a_pickle_that_would_run_code(cli, tmp_path_factory, in_empty_folder, name):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / name).write_bytes(pickle.dumps(Runs(folder / "evidence")))
    result = cli("coarsen", folder / name, "--width", 2, "-o", "small.pt")
    refused(result, in_empty_folder, name, "runs whatever code it holds", "--trust")
    assert not (folder / "evidence").exists()


def test_a_module_saved_by_torch_is_such_a_pickle(cli, models, in_empty_folder):
    refused(cli("inspect", models / "pickled.pkl"), in_empty_folder, "pickled.pkl", "--trust")


def test_nan_weights_are_reported(cli, models, tmp_path_factory, in_empty_folder):
    folder = tmp_path_factory.mktemp("nan") / "bert"
    shutil.copytree(models / "bert", folder)
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.weight"][2, 3:5] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = cli("coarsen", folder, "--width", 2, "-o", "small")
    refused(result, in_empty_folder, "bert.encoder.layer.1.output.dense.weight", "2 NaN")


def test_inputs_of_the_wrong_shape(cli, models, in_empty_folder):
    pickled = models / "pickled.pkl"
    result = cli("capture", pickled, "--trust", "--input", "float32[3,5]", "-o", "model.pt")
    refused(result, in_empty_folder, "Sequential does not run on inputs of shape [3, 5]", "6x8")


def test_a_module_without_inputs(cli, models, in_empty_folder):
    refused(cli("capture", models / "pickled.pkl", "--trust"), in_empty_folder, "input")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--axis", "hiden=2"], ["hiden", "hidden"]),
        (["--axis", "vocab=2"], ["vocab", "lookup table"]),
        (["--width", "2", "--freeze", "mpl"], ["mpl", "mlp"]),
    ],
)
def test_a_request_that_the_model_cannot_meet(cli, bert, in_empty_folder, arguments, parts):
    refused(cli("coarsen", bert, *arguments, "-o", "small.pt"), in_empty_folder, *parts)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--axis", "hidden"], "--axis hidden is not NAME=N"),
        (["--axis", "hidden=2", "--axis", "hidden=3"], "'hidden' is given twice"),
        (["--width", "2", "--input", "x=int64[2,"], "x=int64[2, is not [NAME=]DTYPE[SIZES]"),
    ],
)
def test_what_cannot_be_read_is_wrong_usage(cli, in_empty_folder, arguments, part):
    result = cli("coarsen", "absent", *arguments, "-o", "small.pt")
    assert (result.code, part in " ".join(result.err.split())) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["coarsen", "small.pt", "--width", 2, "-o", "small.pt"],
        ["refine", "small.pt", "-o", "small.pt"],
        ["interpolate", "small.pt", "small.pt", "-o", "small.pt"],
        ["apply", "coalesce{width=2}", "small.pt", "-o", "small.pt"],
        ["export", "small.pt", "-o", "small.pt"],
        ["capture", "small.pt", "-o", "./small.pt"],
    ],
)
def test_a_source_is_not_written_over(cli, in_empty_folder, arguments):
    Path("small.pt").write_bytes(b"weights")
    result = cli(*arguments)
    assert (result.code, "is a source itself, which would be lost" in result.err) == (1, True)
    assert Path("small.pt").read_bytes() == b"weights"


def test_a_captured_module_is_not_written_over(cli, models, in_empty_folder):
    Path("net.pt").write_bytes((models / "pickled.pkl").read_bytes())
    before = Path("net.pt").read_bytes()
    assert cli("capture", "net.pt", "--trust", "--input", "float32[3,6]").code == 0
    assert (Path("net.pt").read_bytes() == before, Path("net-captured.pt").exists()) == (True, True)


def test_refining_what_was_never_coarsened(cli, bert, in_empty_folder):
    refused(cli("refine", bert, "-o", "big.pt"), in_empty_folder, "width")


def test_interpolating_two_architectures(cli, models, in_empty_folder):
    result = cli("interpolate", models / "bert.pt", models / "llama.pt", "-o", "mix.pt")
    refused(result, in_empty_folder)


def test_a_pipeline_with_an_unknown_pass(cli, bert, in_empty_folder):
    refused(cli("apply", "coalese{width=2}", bert), in_empty_folder, "did you mean 'coalesce'")


def test_explaining_an_unknown_parameter(cli, bert, in_empty_folder):
    result = cli("explain", bert, "encoder.layer.0.attention.self.query.weight")
    refused(result, in_empty_folder, "did you mean 'bert.encoder.layer.0.attention.self.query.weight'?")


def test_explaining_a_dim_that_is_not_there(cli, bert, in_empty_folder):
    result = cli("explain", bert, "bert.embeddings.LayerNorm.weight[1]")
    refused(result, in_empty_folder, "has 1 dim")


def test_an_export_of_unknown_format(cli, bert, in_empty_folder):
    refused(cli("export", bert, "-o", "model.xyz"), in_empty_folder, ".safetensors")


def test_a_folder_that_is_not_there(cli, bert, in_empty_folder):
    result = cli("coarsen", bert, "--width", 2, "-o", "missing/small.pt")
    refused(result, in_empty_folder, "missing/small.pt")


def test_what_was_there_survives_a_failure(cli, bert, in_empty_folder):
    (in_empty_folder / "small.pt").write_text("before")
    assert cli("coarsen", bert, "--width", 5, "-o", "small.pt").code == 1
    assert (in_empty_folder / "small.pt").read_text() == "before"


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["coarsen"],
        ["coarsen", "bert.pt", "--wdith", "2"],
        ["coarsen", "bert.pt", "--width", "two"],
        ["coarsen", "bert.pt", "--width", "0"],
        ["coarsen", "bert.pt", "--width", "2", "--pairing", "random"],
        ["coarsen", "bert.pt", "--width", "2", "--tied", "loosely"],
        ["coarsen", "bert.pt"],
        ["interpolate", "a.pt", "b.pt", "--alpha", "1.5"],
        ["export", "a.pt"],
    ],
)
def test_wrong_usage_is_exit_code_2(cli, in_empty_folder, arguments):
    result = cli(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert "Usage: mlgraph" in result.err
    assert list(in_empty_folder.iterdir()) == []


def test_debug_lets_the_traceback_through(cli):
    with pytest.raises(Exception, match="There is no file or directory nowhere"):
        cli("coarsen", "nowhere", "--width", 2, "--debug")


def test_an_error_inside_is_a_sentence_too(cli, bert, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("broken\nin two")

    monkeypatch.setattr("mlgraph.inspect.portrait.portrait", fail)
    result = cli("axes", bert, "--no-cache")
    assert result.code == 1
    assert result.err == (
        "mlgraph: An error inside mlgraph (RuntimeError: broken); run again with --debug for the traceback "
        "and report it.\n"
    )


def test_a_lone_tensor_file_is_no_model(cli, in_empty_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    refused(cli("axes", path), in_empty_folder, "model.safetensors")
