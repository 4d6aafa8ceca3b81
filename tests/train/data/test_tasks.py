from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import mlgraph
from mlgraph.train import TrainError
from mlgraph.train.config import Data
from mlgraph.train.data.images import FolderImages, IdxImages, idx_pair, parts_of, read_idx
from mlgraph.train.data.tasks import load_data
from mlgraph.train.data.text import MaskedBlocks, TokenBlocks, fingerprint, read_documents, tokenize
from mlgraph.train.data.tokenizer import load_tokenizer, special_token, train_bpe
from tests.train.models import idx_bytes, idx_files

TEXTS = [f"line {n}: the quick brown fox jumps over {n} lazy dogs\n" * 3 for n in range(60)]


def _write(folder: Path, kind: str) -> Path:
    if kind == "jsonl":
        path = folder / "data.jsonl"
        path.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in TEXTS))
        return path
    if kind == "parquet":
        parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        parquet.write_table(arrow.table({"text": TEXTS}), folder / "data.parquet")
        return folder / "data.parquet"
    if kind == "saved":
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(folder / "saved"))
        return folder / "saved"
    if kind == "folder":
        (folder / "texts").mkdir()
        for number, text in enumerate(TEXTS):
            (folder / "texts" / f"{number:03d}.txt").write_text(text)
        return folder / "texts"
    path = folder / "data.txt"
    path.write_text("".join(TEXTS))
    return path


@pytest.mark.parametrize("kind", ["text", "folder", "jsonl", "parquet", "saved"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_kind_of_source_gives_its_text(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path, kind)
    assert "".join(read_documents([path], "text")) == "".join(TEXTS)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_wrong_column_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(TrainError, match="'body'.*text"):
        list(read_documents([_write(tmp_path, kind)], "body"))


def test_missing_empty_and_broken_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no file .*none.txt"):
        list(read_documents([tmp_path / "none.txt"], "text"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainError, match="empty"):
        list(read_documents([tmp_path / "empty"], "text"))
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text"')
    with pytest.raises(TrainError, match="bad.jsonl, line 2"):
        list(read_documents([tmp_path / "bad.jsonl"], "text"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9 au lait", r"a\.txt is no UTF-8 text"),
        ("a.bin", bytes(range(256)), r"a\.bin is no UTF-8 text"),
        ("a.jsonl", b'{"text": "caf\xe9"}', r"a\.jsonl is no UTF-8 text"),
        ("a.parquet", b"PAR1 and then nothing", r"a\.parquet cannot be read"),
        ("saved/dataset_info.json", b"{", r"saved cannot be read"),
    ],
)
def test_unreadable_documents_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("datasets")
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(TrainError, match=message):
        list(read_documents([path.parent if "saved" in name else path], "text"))


def test_tokens_are_cached_and_decode_to_the_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("bpe:320", TEXTS, tmp_path / "tok").model
    tokens = tokenize(TEXTS, tokenizer, tmp_path / "ids")
    assert tokenizer.decode(tokens.tolist(), skip_special_tokens=True) == "".join(TEXTS)
    assert (tokens == special_token(tokenizer, "eos_token")).sum() == len(TEXTS)
    again = tokenize(iter(()), load_tokenizer("bpe:320", iter(()), tmp_path / "tok").model, tmp_path / "ids")
    assert np.array_equal(tokens, again)


def test_the_cache_key_follows_the_files(tmp_path: Path) -> None:
    path = _write(tmp_path, "text")
    before = fingerprint([path], "a")
    assert fingerprint([path], "a") == before != fingerprint([path], "b")
    path.write_text("other")
    assert fingerprint([path], "a") != before


@pytest.mark.parametrize(
    ("name", "message"), [("bpe:12", "at least 300"), ("none.json", "no tokenizer none.json")]
)
def test_wrong_tokenizers_are_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        load_tokenizer(name, TEXTS, tmp_path / "tok")


def test_blocks_tile_the_tokens() -> None:
    blocks = TokenBlocks(np.arange(23, dtype=np.uint16), 5)
    assert len(blocks) == 4
    assert torch.cat([blocks[n]["input_ids"] for n in range(4)]).tolist() == list(range(20))
    assert torch.equal(blocks[1]["labels"], blocks[1]["input_ids"])
    with pytest.raises(TrainError, match="fewer than one block"):
        TokenBlocks(np.arange(3), 5)


def test_masking_follows_bert() -> None:
    blocks = MaskedBlocks(np.arange(100, 60100) % 500, 60000, mask=7, size=500)
    sample = blocks[0]
    chosen = sample["labels"] != -100
    assert chosen.float().mean() == pytest.approx(0.15, abs=0.01)
    assert torch.equal(sample["labels"][chosen], blocks.ids(0)[chosen])
    assert torch.equal(sample["input_ids"][~chosen], blocks.ids(0)[~chosen])
    masked = sample["input_ids"][chosen] == 7
    kept = sample["input_ids"][chosen] == blocks.ids(0)[chosen]
    assert masked.float().mean() == pytest.approx(0.8, abs=0.02)
    assert kept.float().mean() == pytest.approx(0.1, abs=0.02)


def test_idx_files_give_images_and_labels(tmp_path: Path) -> None:
    data = IdxImages(*idx_pair(idx_files(tmp_path)), size=8, channels=3, flip=False)
    image, label = data[4]
    assert (len(data), tuple(image.shape), int(label)) == (6, (3, 8, 8), 1)
    assert -1 <= image.min() <= image.max() <= 1
    same = IdxImages(*idx_pair(idx_files(tmp_path)), size=5, channels=1, flip=False)
    assert read_idx(idx_files(tmp_path)).shape == (6, 5, 4)
    assert next(iter(DataLoader(same, batch_size=2)))[0].shape == (2, 1, 5, 5)


def test_broken_idx_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not idx")
    (tmp_path / "y").write_bytes(idx_bytes(np.zeros((3, 3), np.uint8))[:-1])
    with pytest.raises(TrainError, match="no idx file"):
        read_idx(tmp_path / "x")
    with pytest.raises(TrainError, match="cut off"):
        read_idx(tmp_path / "y")
    (tmp_path / "z.gz").write_bytes(gzip.compress(idx_bytes(np.zeros((3, 3), np.uint8)))[:-9])
    with pytest.raises(TrainError, match="z.gz cannot be read"):
        read_idx(tmp_path / "z.gz")
    (tmp_path / "head").write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(TrainError, match="cut off in its header"):
        read_idx(tmp_path / "head")
    with pytest.raises(TrainError, match="not named as idx images"):
        idx_pair(tmp_path / "x")


def test_image_folders_have_a_class_per_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name, colour in (("cat", (255, 0, 0)), ("dog", (0, 0, 255))):
        (tmp_path / name).mkdir()
        image.new("RGB", (10, 6), colour).save(tmp_path / name / "a.png")
    data = FolderImages(tmp_path, 4, 3, flip=True)
    assert data.classes == ["cat", "dog"]
    red, label = data[0]
    assert torch.allclose(red[0], torch.ones(4, 4))
    assert int(label) == 0
    with pytest.raises(TrainError, match="no images in folders by class"):
        FolderImages(tmp_path / "cat", 4, 3, flip=False)


def test_a_folder_of_parts_has_training_and_held_out_images(tmp_path: Path) -> None:
    for name in ("split/train/cat", "split/test/cat", "classes/train", "classes/car", "idx"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"):
        (tmp_path / "idx" / name).touch()
    (tmp_path / "classes/train/locomotive.png").touch()
    split, idx = tmp_path / "split", tmp_path / "idx"
    assert parts_of(split) == (split / "train", split / "test")
    assert parts_of(idx) == (idx / "train-images-idx3-ubyte.gz", idx / "t10k-images-idx3-ubyte.gz")
    # a class may be called train
    assert parts_of(tmp_path / "classes") == (tmp_path / "classes", None)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a.png").write_bytes(b"no image")
    with pytest.raises(TrainError, match=r"image .*a\.png cannot be read"):
        FolderImages(tmp_path, 4, 3, flip=False)[0]


def test_classes_of_evaluation_are_numbered_as_in_training(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("train/bird", "train/cat", "eval/cat", "other/cow"):
        (tmp_path / name).mkdir(parents=True)
        image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    train = FolderImages(tmp_path / "train", 4, 3, flip=False)
    assert int(FolderImages(tmp_path / "eval", 4, 3, flip=False, classes=train.classes)[0][1]) == 1
    with pytest.raises(TrainError, match="class 'cow', which the training images lack"):
        FolderImages(tmp_path / "other", 4, 3, flip=False, classes=train.classes)


def test_a_model_of_too_few_classes_is_refused(tmp_path: Path) -> None:
    images = idx_files(tmp_path)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    program = mlgraph.capture(model, (torch.randn(3, 1, 4, 4),))
    options = {"task": "image-classification", "train": (str(images),), "image_size": 4, "channels": 1}
    with pytest.raises(TrainError, match=r"classes up to 2 and the model has 2 logits: .* 3 classes"):
        load_data(Data(**options, batch=2), program, "model")


class WithNothing(torch.nn.Module):
    """Returns an entry that is no tensor before its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.out = torch.nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, self.out(x.flatten(1))


def test_outputs_may_hold_more_than_tensors(tmp_path: Path) -> None:
    program = mlgraph.capture(WithNothing(), (torch.randn(3, 1, 4, 4),))
    options = {"task": "image-classification", "image_size": 4, "channels": 1}
    data = Data(train=(str(idx_files(tmp_path)),), batch=2, **options)
    assert len(load_data(data, program, "model").train) == 2


def test_a_saved_tokenizer_is_the_one_that_was_named(tmp_path: Path) -> None:
    folder = tmp_path / "known"
    load_tokenizer("bpe:320", TEXTS, tmp_path / "cache").save(folder)
    load_tokenizer(str(folder), (), tmp_path).save(tmp_path / "copied")
    assert (tmp_path / "copied/tokenizer_config.json").read_bytes() == (
        folder / "tokenizer_config.json"
    ).read_bytes()
    train_bpe(TEXTS, 305).save(str(folder / "other.json"))
    load_tokenizer(str(folder / "other.json"), (), tmp_path).save(tmp_path / "other")
    assert load_tokenizer(str(tmp_path / "other"), (), tmp_path).model.get_vocab_size() == 305


def test_a_trained_tokenizer_knows_its_special_tokens() -> None:
    tokenizer = train_bpe(TEXTS, 300)
    assert special_token(tokenizer, "mask_token") == 2
    assert special_token(tokenizer, "unk_token") is None
