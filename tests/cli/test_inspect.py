"""What `mlgraph inspect` shows."""

import pytest
import torch

import mlgraph


def test_inspect_folds_repeats_and_names_axes(cli, bert):
    out = cli("inspect", bert).out
    assert "encoder.layer ×4" in out
    assert "query.weight +bias" in out
    assert "[heads·head_dim, hidden]" in out
    assert "input_ids" in out
    assert out.count("query.weight") == 1


def test_inspect_as_data_adds_up(cli, bert):
    told = cli("inspect", bert, "--json").json
    program = mlgraph.load(bert)

    def total(module):
        here = [tensor for tensor in module["tensors"] if tensor["is_parameter"] and not tensor["tied"]]
        return module["repeat"] * (
            sum(torch.Size(tensor["shape"]).numel() for tensor in here) + sum(map(total, module["children"]))
        )

    assert total(told["modules"]) == told["parameters"] == program.num_parameters()


@pytest.mark.parametrize("option", ["--params", "--blocks", "--graph", "--code"])
def test_views_of_inspect(cli, bert, option):
    result = cli("inspect", bert, option)
    assert result.code == 0
    expected = {
        "--params": "query.bias",
        "--blocks": "bert.encoder.layer",
        "--graph": "scaled_dot_product_attention",
        "--code": "def forward(self",
    }
    assert expected[option] in result.out


def test_the_generated_code_is_python(cli, bert):
    compile(cli("inspect", bert, "--code").out, "forward.py", "exec")


def test_levels_of_inspect(cli, bert):
    shallow = cli("inspect", bert, "--depth", 1).out
    assert "cls.predictions" in shallow
    assert "query" not in shallow
