"""What `mlgraph plan` shows and writes."""

from mlgraph.train.config import load_config


def test_plan(cli, models, tmp_path):
    found = cli("plan", models / "mlp.pt", "--budget", "1e9", "-o", tmp_path / "run.toml")
    assert found.code == 0
    assert "vcycle   width" in found.out
    assert max(map(len, found.out.splitlines())) <= 80
    assert load_config(tmp_path / "run.toml").recipe.coarsen.width == 2
    assert cli("plan", models / "mlp.pt", "--budget", "1e9", "--json").json["ceilings"]
    assert cli("plan", models / "mlp.pt", "--budget", "5").code == 1
