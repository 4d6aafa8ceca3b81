"""``mlgraph view``: pages and pictures of models, and what cannot be drawn."""

import pytest

from tests.cli.test_errors import refused


def test_a_page(cli, bert, tmp_path):
    result = cli("view", bert, "-o", tmp_path / "bert.html")
    assert (result.code, result.err) == (0, "")
    text = (tmp_path / "bert.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "bert.encoder.layer" in text
    assert "figcaption>" not in text.replace("figcaption {", "")


@pytest.mark.slow
def test_a_picture_of_a_directory(cli, models, tmp_path):
    assert cli("view", models / "llama", "-o", tmp_path / "llama.svg").code == 0
    assert "<svg" in (tmp_path / "llama.svg").read_text()


def test_coarsened_on_the_fly(cli, bert, tmp_path):
    assert cli("view", bert, "--depth", 2, "--width", 2, "-o", tmp_path / "two.html").code == 0
    text = (tmp_path / "two.html").read_text()
    assert "coalesce{depth=2,width=2}" in text
    assert "24 → 12" in text


def test_beside_another(cli, models, tmp_path):
    result = cli("view", models / "bert.pt", models / "mlp.pt", "-o", tmp_path / "two.html")
    assert result.code == 0
    assert (tmp_path / "two.html").read_text().count("</figcaption>") == 3


def test_beside_what_it_came_from(cli, bert, tmp_path):
    assert cli("coarsen", bert, "--width", 2, "-o", tmp_path / "small.pt").code == 0
    assert cli("view", tmp_path / "small.pt", "-o", tmp_path / "small.html").code == 0
    text = (tmp_path / "small.html").read_text()
    assert "<figcaption>before</figcaption>" in text
    assert "24 → 12" in text


def test_the_default_name(cli, bert, in_empty_folder):
    assert cli("view", bert).code == 0
    assert [path.name for path in in_empty_folder.iterdir()] == ["bert.html"]


def test_neither_page_nor_picture(cli, bert, in_empty_folder):
    refused(cli("view", bert, "-o", "bert.pdf"), in_empty_folder, "bert.pdf", ".html", ".svg")


def test_no_such_folder(cli, bert, in_empty_folder):
    refused(cli("view", bert, "-o", "nowhere/bert.html"), in_empty_folder, "nowhere/bert.html")


@pytest.mark.parametrize("option", ["--depth", "--width"])
def test_another_and_coarsened(cli, models, in_empty_folder, option):
    result = cli("view", models / "bert.pt", models / "mlp.pt", option, 2, "-o", "two.html")
    assert result.code == 2
    assert "not both" in " ".join(result.err.split())
    assert list(in_empty_folder.iterdir()) == []


def test_what_does_not_divide(cli, bert, in_empty_folder):
    refused(cli("view", bert, "--width", 5, "-o", "bert.html"), in_empty_folder, "hidden", "24", "5")
