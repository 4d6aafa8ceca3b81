"""Every verb on small models: what it says, what it writes, what a program reads of it."""

import json
import resource
import subprocess
import sys

import pytest
import torch
import transformers

import mlgraph
from mlgraph.cli.verbs import VERBS
from mlgraph.interop.open import open_source
from mlgraph.passes import Coalesce
from mlgraph.passes.registry import PASSES

LAYER = "bert.encoder.layer.0.attention.self.query.weight"


def equal(first, second):
    return first.tensors.keys() == second.tensors.keys() and all(
        torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors
    )


def test_coarsen_writes_what_the_pass_makes(cli, models, tmp_path):
    result = cli("coarsen", models / "bert.pt", "--depth", 2, "--width", 2, "-o", tmp_path / "small.pt")
    assert result.code == 0
    assert result.err == ""
    made = Coalesce(depth=2, width=2)(mlgraph.load(models / "bert.pt"))
    assert equal(mlgraph.load(tmp_path / "small.pt"), made)
    assert f"wrote {tmp_path / 'small.pt'} (a program, " in result.out


def test_coarsen_says_what_changed_and_what_did_not(cli, bert):
    result = cli("coarsen", bert, "--depth", 2, "--width", 2, "--dry-run", "--freeze", "mlp", "--json")
    told = result.json
    assert told["pass"] == "coalesce{depth=2,width=2,freeze=[mlp]}"
    assert told["out"] is None
    changed = {
        (change["kind"], change["name"]): (change["before"], change["after"]) for change in told["changed"]
    }
    assert changed == {
        ("axis", "hidden"): (24, 12),
        ("axis", "heads"): (4, 2),
        ("blocks", "bert.encoder.layer"): (4, 2),
    }
    kept = {axis["name"]: axis["reason"] for axis in told["kept"]}
    assert kept["mlp"] == "you asked for it"
    assert "lookup table" in kept["vocab"]
    program = mlgraph.load(bert)
    assert told["before"]["parameters"] == program.num_parameters()
    assert told["after"]["parameters"] == Coalesce(2, 2, freeze=("mlp",))(program).num_parameters()
    assert told["after"]["flops"] < told["before"]["flops"]


def test_a_dry_run_writes_nothing(cli, bert, in_empty_folder):
    result = cli("coarsen", bert, "--width", 2, "--dry-run")
    assert result.code == 0
    assert "left as they are" in result.out
    assert "wrote" not in result.out
    assert list(in_empty_folder.iterdir()) == []


def test_axes_and_groupings_by_name(cli, bert, tmp_path):
    grouping = ",".join(str(index // 2) for index in range(40))
    result = cli(
        "coarsen", bert, "--axis", "heads=2", "--axis", f"mlp={grouping}", "-o", tmp_path / "small.pt"
    )
    assert result.code == 0
    shapes = mlgraph.load(tmp_path / "small.pt").tensors
    assert shapes["bert.encoder.layer.0.intermediate.dense.weight"].shape == (20, 24)
    assert shapes[LAYER].shape == (12, 24)


@pytest.mark.slow
def test_the_default_name_says_what_was_done(cli, models, in_empty_folder):
    for source in ("bert.pt", "bert"):
        assert cli("coarsen", models / source, "--depth", 2, "--width", 2).code == 0
    assert cli("capture", models / "mlp.pt").code == 0
    assert sorted(path.name for path in in_empty_folder.iterdir()) == ["bert-d2w2", "bert-d2w2.pt", "mlp.pt"]


def test_a_huggingface_directory_gives_one(cli, models, tmp_path):
    result = cli("coarsen", models / "bert", "--depth", 2, "--width", 2, "-o", tmp_path / "small")
    assert result.code == 0
    assert "a Hugging Face model" in result.out
    model, report = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "small", output_loading_info=True
    )
    assert not any(report.values())
    assert model.config.hidden_size == 12
    assert model.config.num_hidden_layers == 2
    program = mlgraph.coalesce(open_source(models / "bert"), depth=2, width=2)
    ids = torch.randint(1, 97, (2, 5))
    mask = torch.ones_like(ids)
    expected = mlgraph.emit(program).eval()(input_ids=ids, attention_mask=mask, labels=ids).logits
    torch.testing.assert_close(model.eval()(ids, mask).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_name_ending_in_pt_gives_a_program(cli, models, tmp_path):
    assert cli("coarsen", models / "bert", "--width", 2, "-o", tmp_path / "small.pt").code == 0
    assert (
        mlgraph.load(tmp_path / "small.pt").num_parameters()
        < mlgraph.load(models / "bert.pt").num_parameters()
    )


def test_a_pipeline_is_told_of_as_its_passes_are(cli, bert):
    passes = "coalesce{depth=2,width=2}"
    told = cli("apply", passes, bert, "--dry-run", "--json").json
    assert told == cli("coarsen", bert, "--depth", 2, "--width", 2, "--dry-run", "--json").json
    both = cli("apply", f"{passes};decoalesce", bert, "--dry-run", "--json").json
    assert (both["pass"], both["changed"], both["out"]) == (f"{passes};decoalesce", [], None)
    assert both["after"] == both["before"]
    shorter = cli("apply", "coalesce{depth=2};coalesce{width=2}", bert, "--dry-run", "--json").json
    assert [(change["before"], change["after"]) for change in shorter["changed"]] == [(4, 2)]


def test_down_up_and_between(cli, bert, tmp_path):
    small, big, mixed = (tmp_path / name for name in ("small.pt", "big.pt", "mixed.pt"))
    assert cli("coarsen", bert, "--depth", 2, "--width", 2, "-o", small).code == 0
    assert cli("refine", small, "-o", big).code == 0
    assert cli("interpolate", bert, big, "--alpha", 0.25, "-o", mixed).code == 0
    first, second, mix = (mlgraph.load(path) for path in (bert, big, mixed))
    name = "bert.encoder.layer.3.output.dense.weight"
    expected = 0.75 * first.tensors[name] + 0.25 * second.tensors[name]
    torch.testing.assert_close(mix.tensors[name], expected)
    kept = tmp_path / "kept.pt"
    assert cli("interpolate", bert, small, "--alpha", 1, "--detail", 1, "-o", kept).code == 0
    assert mlgraph.load(kept).num_parameters() == first.num_parameters()
    torch.testing.assert_close(mlgraph.load(kept).tensors[name], first.tensors[name])
    told = cli("interpolate", bert, big, "--detail", 1, "-o", tmp_path / "no.pt")
    assert (told.code, "give the coarse program" in told.err) == (1, True)
    pipeline = tmp_path / "pipeline.pt"
    assert cli("apply", "coalesce{depth=2,width=2};decoalesce", bert, "-o", pipeline).code == 0
    assert equal(mlgraph.load(pipeline), second)
    told = cli("diff", bert, big, "--json").json
    ways = [[(step["level"], step["operation"]) for step in side] for side in told["lineage"]]
    assert ways == [[("L1", "")], [("L1", ""), ("L2", "coalesce{depth=2,width=2}"), ("L1'", "decoalesce")]]
    assert told["operations"] == {}
    assert not told["same"]
    assert {change["name"] for change in told["tensors"]} >= {LAYER}


def test_growth(cli, bert, tmp_path):
    assert cli("refine", bert, "--width", 2, "--depth", 2, "-o", tmp_path / "big.pt").code == 0
    assert mlgraph.load(tmp_path / "big.pt").tensors[LAYER].shape == (48, 48)


def test_a_model_differs_from_itself_in_nothing(cli, bert):
    result = cli("diff", bert, bert)
    assert result.code == 0
    assert "The graphs are the same, and so are all" in result.out
    assert cli("diff", bert, bert, "--json").json["same"]


def test_axes(cli, bert):
    assert "hidden" in cli("axes", bert).out
    told = {axis["id"]: axis for axis in cli("axes", bert, "--json").json}
    assert told["hidden"]["size"] == 24
    assert {"tensor": LAYER, "dim": 1, "role": "contracts", "occurrence": 0} in told["hidden"]["slots"]
    assert f"{LAYER}[1]" in cli("axes", bert, "--slots").out


def test_blocks(cli, models):
    assert "×4" in cli("blocks", models / "llama.pt").out
    told = cli("blocks", models / "llama.pt", "--json").json
    assert [(chain["name"], chain["blocks"]) for chain in told["chains"]] == [("model.layers", 4)]
    assert cli("blocks", models / "mlp.pt").out.startswith("No repeated blocks")


def test_explain_follows_the_graph(cli, bert):
    told = cli("explain", bert, f"{LAYER}[0]", "--json").json
    assert [axis["axis"]["name"] for axis in told[0]["axes"]] == ["heads", "head_dim"]
    ties = {
        tie["slot"]["tensor"]: [step["op"] for step in tie["steps"]] for tie in told[0]["axes"][0]["ties"]
    }
    key = LAYER.replace("query", "key")
    assert ties[key][0] == ties[key][-1] == "linear"
    assert "scaled_dot_product_attention" in ties[key]
    assert "modeling_bert.py" in cli("explain", bert, f"{LAYER}[0]").out


def test_explain_names_what_froze_an_axis(cli, bert):
    result = cli("explain", bert, "bert.embeddings.word_embeddings.weight[0]")
    assert "frozen" in result.out
    assert "embedding" in result.out


def test_verify(cli, models):
    result = cli("verify", models / "bert.pt")
    assert result.code == 0
    assert "FAILED" not in result.out
    told = cli("verify", models / "bert.pt", "--json").json
    assert told["passed"]
    assert {check["check"] for check in told["checks"]} >= {"soundness", "growth"}


def test_verify_runs_the_model_beside_what_came_from_it(cli, tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(
        "import torch\n\n\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, factor=1.0):\n"
        "        super().__init__()\n"
        "        self.one, self.factor = torch.nn.Linear(6, 8), factor\n\n"
        "    def forward(self, x):\n"
        "        return self.factor * self.one(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    net = __import__("net").Net()
    path = tmp_path / "net.pt"
    mlgraph.save(mlgraph.capture(net, (torch.randn(3, 6),)), path)
    only = ("--check", "storage", "--json")
    told = cli("verify", path, "--model", f"{tmp_path / 'net.py'}:Net", *only).json
    assert [row["check"] for row in told["checks"]] == ["model", "model", "storage"]
    assert told["passed"]
    other = cli("verify", path, "--model", f"{tmp_path / 'net.py'}:Net(2.0)", *only)
    assert other.code == 1
    assert "result 0 differs" in other.out


def test_verify_fails_with_exit_code_1(cli, bert, monkeypatch):
    from mlgraph.verify.checks import Check, Verification

    failed = Verification("bert", (Check("soundness", "heads", 0.5, 1e-9, "view_3"),))
    monkeypatch.setitem(vars(mlgraph), "verify", lambda *args, **kwargs: failed)
    result = cli("verify", bert)
    assert result.code == 1
    assert "FAILED at view_3" in result.out
    assert result.err == (
        "mlgraph: The soundness check of axis heads failed with an error of 5.0e-01, at view_3.\n"
    )


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_export_of_weights(cli, models, tmp_path, ending):
    from safetensors.torch import load_file

    path = tmp_path / f"model.{ending}"
    assert cli("export", models / "bert.pt", "-o", path).code == 0
    state = load_file(path) if ending == "safetensors" else torch.load(path, weights_only=True)
    model = transformers.BertForMaskedLM.from_pretrained(models / "bert")
    model.load_state_dict(state, strict=True)


def test_export_of_the_graph(cli, models, tmp_path):
    assert cli("export", models / "mlp.pt", "-o", tmp_path / "mlp.pt2").code == 0
    module = torch.export.load(tmp_path / "mlp.pt2").module()
    x = torch.randn(5, 6)
    torch.testing.assert_close(module(input=x), mlgraph.emit(mlgraph.load(models / "mlp.pt")).eval()(x))


@pytest.mark.slow
def test_capture_tells_the_inputs(cli, models, tmp_path):
    result = cli("capture", models / "bert", "-o", tmp_path / "bert.pt")
    assert result.code == 0
    assert "input input_ids" in result.out
    again = cli("capture", models / "bert", "-o", tmp_path / "bert.pt", "--no-loss", "--json").json
    assert set(again["inputs"]) == {"input_ids", "attention_mask"}


def test_output_fits_80_columns_and_has_no_escapes(cli, models):
    for verb in ("inspect", "axes", "blocks"):
        out = cli(verb, models / "llama.pt").out
        assert max(len(line) for line in out.splitlines()) <= 80
        assert "\x1b" not in out


def test_every_verb_is_listed_and_has_help(cli):
    listed = cli("--help").out
    for verb in VERBS:
        assert verb.name in listed
        result = cli(verb.name, "--help")
        assert result.code == 0
        assert f"Usage: mlgraph {verb.name}" in result.out


def test_version(cli):
    assert cli("--version").out == f"mlgraph {mlgraph.__version__}\n"


def test_python_m_mlgraph_and_the_time_of_help():
    command = [sys.executable, "-X", "importtime", "-m", "mlgraph", "--help"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.0
    assert "coarsen" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mlgraph.cli.app" in imported
    assert imported.isdisjoint({"torch", "transformers", "numpy", "networkx", "mlgraph.program.program"})


@pytest.mark.slow
def test_weights_are_written_in_another_dtype(cli, models, tmp_path):
    assert (
        cli("coarsen", models / "bert", "--width", 2, "-o", tmp_path / "a", "--dtype", "bfloat16").code == 0
    )
    assert (
        cli("coarsen", models / "bert.pt", "--width", 2, "-o", tmp_path / "a.pt", "--dtype", "bfloat16").code
        == 0
    )
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "a", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert mlgraph.load(tmp_path / "a.pt").tensors[LAYER].dtype == torch.bfloat16


@pytest.mark.slow
def test_a_timm_model_gives_the_call_that_loads_it(cli, tmp_path):
    import timm

    options = "img_size=28,patch_size=4,embed_dim=24,depth=4,num_heads=4,num_classes=13"
    source = f"timm:deit_tiny_patch16_224,{options}"
    result = cli("coarsen", source, "--depth", 2, "--width", 2, "-o", tmp_path / "small.safetensors")
    assert result.code == 0
    facts = json.loads((tmp_path / "small.json").read_text())
    model = timm.create_model(
        facts["model"], **facts["kwargs"], checkpoint_path=tmp_path / "small.safetensors"
    )
    assert model.embed_dim == 12
    assert len(model.blocks) == 2


def test_every_option_of_every_pass_is_listed(cli):
    told = {entry["pass"]: entry for entry in cli("passes", "--json").json}
    assert told.keys() == PASSES.keys()
    options = {(name, option["name"]): option for name in told for option in told[name]["options"]}
    assert options["coalesce", "pairing"]["type"] == "one of adjacent, halves, similarity"
    assert options["lemon", "width"]["default"] == "2.0"
    assert all(option["help"] for option in options.values())
    out = cli("passes").out
    assert all(option["name"] in out for option in options.values())
    assert cli("apply").code == 2


def test_selecting_and_leaving_out(cli, bert, tmp_path):
    small, big = tmp_path / "small.pt", tmp_path / "big.pt"
    given = ["--layers", "0,3", "--axis", "mlp=2:select:pad", "--extend", "pad"]
    assert cli("coarsen", bert, *given, "-o", small).code == 0
    made = Coalesce(layers=(0, 3), axes={"mlp": "2:select:pad"}, extend="pad")(mlgraph.load(bert))
    assert equal(mlgraph.load(small), made)
    assert cli("refine", small, "-o", big).code == 0
    assert mlgraph.load(big).num_parameters() == mlgraph.load(bert).num_parameters()
    refused = cli("coarsen", bert, "--width", 2, "--extend", "pad", "-o", tmp_path / "no.pt")
    assert (refused.code, "averaged and cannot be padded" in refused.err) == (1, True)


@pytest.mark.slow
def test_a_huggingface_directory_of_some_layers(cli, models, tmp_path):
    assert cli("coarsen", models / "bert", "--layers", "1,3", "-o", tmp_path / "small").code == 0
    model, report = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "small", output_loading_info=True
    )
    assert not any(report.values())
    assert model.config.num_hidden_layers == 2
    fine = transformers.AutoModelForMaskedLM.from_pretrained(models / "bert").state_dict()
    for name, tensor in model.state_dict().items():
        before = (
            name.replace("layer.0.", "layer.1.")
            if "layer.0." in name
            else name.replace("layer.1.", "layer.3.")
        )
        assert torch.equal(tensor, fine[before]), name
