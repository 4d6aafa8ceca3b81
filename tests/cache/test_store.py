"""Entries of the cache: read back as written, or refused; old ones make room."""

import json
import os

import pytest

from mlgraph.cache import store
from mlgraph.cache.sources import file_digest, key_of, run_sources, unchanged


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_a_record_is_read_as_it_was_written(folder):
    one = store.entry("a")
    assert one.header is None
    one.finish({"source": "x", "sources": {}})
    one.write("more.json", {"b": [1, 2.5, "ü"]})
    assert store.entry("a").header == {"source": "x", "sources": {}}
    assert store.entry("a").read("more.json") == {"b": [1, 2.5, "ü"]}
    assert [found.path.name for found in store.entries()] == ["a"]
    assert (folder / "a").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "link", "other"])
def test_a_damaged_record_is_refused(folder, damage, tmp_path):
    one = store.entry("a")
    one.finish({"source": "x", "sources": {}})
    path = one.path / "entry.json"
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[-3] ^= 1
        path.write_bytes(data)
    elif damage == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif damage == "other":
        path.write_text(json.dumps({"source": "x", "sources": {}}))
    else:
        path.write_bytes(data[: 40 if damage == "cut" else 0])
    with pytest.raises(store.Damaged):
        _ = one.header
    said = []
    assert store.recall(one, said.append) is None
    assert len(said) == 1
    assert "captured again" in said[0]
    assert not one.path.exists()


def test_a_record_that_is_too_large_is_neither_written_nor_read(folder, monkeypatch):
    monkeypatch.setattr(store, "LARGEST_RECORD", 100)
    one = store.entry("a")
    one.write("big.json", "x" * 200)
    assert one.read("big.json") is None
    one.write("fits.json", 1)
    (one.path / "fits.json").write_bytes(b"x" * 101)
    with pytest.raises(store.Damaged, match="larger"):
        one.read("fits.json")


def test_entries_unused_for_longest_make_room(folder, monkeypatch):
    for number in range(4):
        one = store.entry(str(number))
        one.finish({"source": "x", "sources": {}})
        os.utime(one.path / "entry.json", (number, number))
    monkeypatch.setattr(store, "LARGEST_FOLDER", 3 * one.size)
    store.entry("new").finish({"source": "x", "sources": {}})
    assert {found.path.name for found in store.entries()} == {"new", "3", "2"}
    assert store.clear()[0] == 3
    assert list(store.entries()) == []


def test_a_changed_source_makes_an_entry_stale(folder, tmp_path):
    code = tmp_path / "net.py"
    code.write_text("x = 1")
    one = store.entry("a")
    one.finish({"source": "x", "sources": {str(code): file_digest(code)}})
    assert store.recall(one, pytest.fail) is not None
    code.write_text("x = 2")
    assert store.recall(one, pytest.fail) is None


def test_sources_are_ones_own_and_those_named(tmp_path):
    found = run_sources({os.__file__}, tmp_path)
    assert os.path.realpath(__file__) in found
    assert os.__file__ in found
    assert not any("site-packages" in path for path in found)
    assert unchanged(found)
    assert run_sources({str(tmp_path / "gone.py")}, tmp_path) is None


def test_keys_do_not_depend_on_the_order_of_fields():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
