"""Sentence-transformers directories: their modules follow the model, as the real package reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

import mlgraph
from mlgraph.interop.huggingface import save_huggingface
from mlgraph.interop.open import open_source
from tests.selection import some

SENTENCES = ["the small cat sat", "a dog ran over the hill", "cat"]
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["the", "small", "cat", "sat", "a", "dog", "ran", "over", "hill"],
]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("st")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    bert, out = folder / "bert", folder / "source"
    BertModel(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=2,
            max_position_embeddings=16,
        )
    ).save_pretrained(bert)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(bert)
    transformer = Transformer(str(bert))
    modules = [
        transformer,
        Pooling(32, "mean"),
        Dense(32, 8, activation_function=torch.nn.Tanh()),
        Normalize(),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(out))
    return out


def embedded(folder: Path, program) -> torch.Tensor:
    """The embeddings by the emitted module and, by hand, by the modules as they stand in the folder."""
    model = SentenceTransformer(str(folder), device="cpu")
    inputs = model.tokenize(SENTENCES) if hasattr(model, "tokenize") else model.preprocess(SENTENCES)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        states = mlgraph.emit(program).eval()(input_ids=ids, attention_mask=mask)["last_hidden_state"]
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        dense = load_file(next((folder).glob("*_Dense/model.safetensors")))
        out = torch.tanh(pooled @ dense["linear.weight"].T + dense["linear.bias"])
    return torch.nn.functional.normalize(out, dim=-1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("width", some([1, 2], [1]))
def test_the_package_embeds_as_the_emitted_module_does(source: Path, tmp_path: Path, width: int) -> None:
    small = mlgraph.coalesce(open_source(source), depth=2, width=width)
    saved = save_huggingface(small, tmp_path / "small")
    assert not [note for note in saved.notes if "left out" in note]
    model = SentenceTransformer(str(tmp_path / "small"), device="cpu")
    assert [type(module) for module in model] == [Transformer, Pooling, Dense, Normalize]
    found = model.encode(SENTENCES, convert_to_tensor=True)
    torch.testing.assert_close(found, embedded(tmp_path / "small", small), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_the_dense_layer_sees_what_averaged_features_give(source: Path, tmp_path: Path) -> None:
    """Grown back, the small model feeds copies; the dense layer of the source then gives what the small one's
    gives of the features themselves."""
    small = mlgraph.coalesce(open_source(source), width=2)
    save_huggingface(small, tmp_path / "small")
    [fine] = [load_file(path)["linear.weight"] for path in source.glob("*_Dense/model.safetensors")]
    [coarse] = [
        load_file(path)["linear.weight"] for path in (tmp_path / "small").glob("*_Dense/*.safetensors")
    ]
    features = torch.randn(5, 16)
    assert small.lineage is not None
    [coarse_of] = {g for axis, g in small.lineage.groupings.items() if len(g) == 32 and "hidden" in axis}
    torch.testing.assert_close(features @ coarse.T, features[:, list(coarse_of)] @ fine.T)


@pytest.mark.slow
def test_a_module_that_cannot_follow_is_named(source: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(source, other)
    modules = json.loads((other / "modules.json").read_text())
    modules[2]["type"] = "my.package.Gate"
    (other / "modules.json").write_text(json.dumps(modules))
    small = mlgraph.coalesce(open_source(other), width=2)
    saved = save_huggingface(small, tmp_path / "small")
    assert any("modules.json and its modules were left out: Gate in 2_Dense" in note for note in saved.notes)
    assert not (tmp_path / "small" / "modules.json").exists()


def test_what_else_stands_in_a_directory_is_named(source: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(source, other)
    (other / "onnx").mkdir()
    (other / "onnx" / "model.onnx").write_bytes(b"")
    saved = save_huggingface(mlgraph.coalesce(open_source(other), depth=2), tmp_path / "small")
    assert any(note.startswith("left out of the directory:") and "onnx/" in note for note in saved.notes)


@pytest.mark.slow
def test_the_card_tells_what_was_done_and_keeps_the_licence(source: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(source, other)
    (other / "README.md").write_text("---\nlicense: mit\nwidget:\n- a\n---\n# Mine\n\nA model of mine.\n")
    save_huggingface(mlgraph.coalesce(open_source(other), depth=2), tmp_path / "small")
    card = (tmp_path / "small" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\ntags: [mlgraph]\n---\n")
    assert "- `coalesce{depth=2}`" in card
    assert "num_hidden_layers 4 -> 2" in card
    assert card.endswith("## The card of the model it came from\n\n# Mine\n\nA model of mine.\n")
