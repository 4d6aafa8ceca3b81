"""Malformed and hostile files: one sentence each, and nothing is run."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlgraph.storage import load, save
from tests.storage.forge import Parts, put_together, take_apart, write_header
from tests.storage.programs import descended
from tests.storage.refusals import refusal


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "model.pt"
    save(descended(), path)
    return path


@pytest.fixture
def parts(good: Path) -> Parts:
    return take_apart(good)


def test_the_forge_is_honest(parts: Parts, tmp_path: Path) -> None:
    """What is put together unchanged loads, so that the refusals below are for what was changed."""
    program = load(put_together(parts, tmp_path / "model.pt"))
    assert str(program.graph) == str(descended().graph)


Change = Callable[[Parts], Any]


def _set(row: Any, *path: Any, to: Any) -> None:
    for key in path[:-1]:
        row = row[key]
    row[path[-1]] = to


def _parameters(*names: str) -> dict[str, Any]:
    return {"dict": [["parameters", {"tuple": list(names)}]]}


def _origin(**entries: Any) -> dict[str, Any]:
    return {"dict": [[key, value] for key, value in ({"kind": "huggingface"} | entries).items()]}


CHANGES: dict[str, tuple[Change, str]] = {
    # operations
    "unknown op": (lambda p: _set(p.node("mul"), 2, to="aten.explode.default"), "not an operation of"),
    "unknown overload": (lambda p: _set(p.node("mul"), 2, to="aten.mul.nope"), "not an operation of"),
    "os.system": (lambda p: _set(p.node("mul"), 2, to="os.system"), "not among the operations"),
    "builtins.eval": (lambda p: _set(p.node("mul"), 2, to="builtins.eval"), "not among"),
    "operator.call": (lambda p: _set(p.node("mul"), 2, to="operator.call"), "not among"),
    "operator.attrgetter": (lambda p: _set(p.node("mul"), 2, to="operator.attrgetter"), "not among"),
    "file reading op": (lambda p: _set(p.node("mul"), 2, to="aten.from_file.default"), "not among"),
    "file writing op": (lambda p: _set(p.node("mul"), 2, to="aten.save.default"), "not a"),
    "printing op": (lambda p: _set(p.node("mul"), 2, to="aten._print.default"), "not a"),
    "storage op": (lambda p: _set(p.node("mul"), 2, to="aten.set_.source_Storage"), "not among"),
    "out op": (lambda p: _set(p.node("mul"), 2, to="aten.mul.out"), "not among"),
    "other namespace": (lambda p: _set(p.node("mul"), 2, to="c10d.barrier.default"), "not among"),
    "attribute of a namespace": (
        lambda p: _set(p.node("mul"), 2, to="aten.__class__.mro"),
        "not an operation",
    ),
    "attribute of an op": (lambda p: _set(p.node("mul"), 2, to="aten.mul.__call__"), "not an operation"),
    "target is a number": (lambda p: _set(p.node("mul"), 2, to=3), "not among"),
    # nodes
    "forward reference": (lambda p: _set(p.node("linear_default"), 3, 0, to={"node": 20}), "before it"),
    "self reference": (lambda p: _set(p.nodes[8], 3, 0, to={"node": 8}), "before it"),
    "negative reference": (lambda p: _set(p.node("linear_default"), 3, 0, to={"node": -1}), "out of range"),
    "reference is a boolean": (
        lambda p: _set(p.node("linear_default"), 3, 0, to={"node": True}),
        "out of range",
    ),
    "call_module": (lambda p: _set(p.node("mul"), 0, to="call_module"), "no known kind of node"),
    "name twice": (lambda p: _set(p.node("gelu_default"), 1, to="linear_default"), "taken"),
    "name is a keyword": (lambda p: _set(p.node("gelu_default"), 1, to="import"), "taken"),
    "name is code": (lambda p: _set(p.node("gelu_default"), 1, to="x = 1; y"), "no identifier"),
    "placeholder is code": (lambda p: _set(p.nodes[0], 2, to="a=print(1)"), "no identifier"),
    "placeholder is a keyword": (lambda p: _set(p.nodes[0], 2, to="lambda"), "no target"),
    "placeholder has a default": (lambda p: _set(p.nodes[0], 3, to=[1]), "no arguments"),
    "get_attr is code": (lambda p: _set(p.nodes[2], 2, to='x").__class__("'), "no name"),
    "get_attr is unknown": (lambda p: _set(p.nodes[2], 2, to="other.weight"), "does not have"),
    "tensor read twice": (lambda p: _set(p.nodes[2], 2, to=p.nodes[3][2]), "by two nodes"),
    "kwarg is code": (lambda p: p.node("gelu_default")[4].append(["a=1,b", 1]), "no identifier"),
    "kwarg twice": (lambda p: p.node("gelu_default")[4].append(p.node("gelu_default")[4][0]), "given twice"),
    "kwarg unknown": (lambda p: p.node("gelu_default")[4].append(["other", 1]), "does not run"),
    "wrong argument": (lambda p: _set(p.node("linear_default"), 3, 1, to="weight"), "does not run"),
    "wrong size": (lambda p: _set(p.node("view_default"), 3, 1, "list", 1, to=7), "does not run"),
    "no output": (lambda p: p.nodes.pop(), "exactly one output"),
    "two outputs": (
        lambda p: p.nodes.append([*p.nodes[-1][:1], "output_1", *p.nodes[-1][2:]]),
        "exactly one",
    ),
    "no nodes": (lambda p: p.nodes.clear(), "exactly one output"),
    "output is no tuple": (lambda p: _set(p.nodes[-1], 3, 0, to=1), "not one tuple"),
    "row too short": (lambda p: p.node("mul").pop(), "wrong length"),
    "source is two lines": (
        lambda p: _set(p.program["graphs"][0]["strings"], 1, to="a\nimport os"),
        "one line",
    ),
    "source is out of range": (lambda p: _set(p.node("mul"), 6, to=10**6), "out of range"),
    "surrogate": (lambda p: _set(p.node("gelu_default"), 4, 0, 1, to="\ud800"), "Unicode"),
    # values
    "unknown tag": (lambda p: _set(p.node("mul"), 3, 1, to={"pickle": "gASVAAAA"}), "unknown tag"),
    "two tags": (lambda p: _set(p.node("mul"), 3, 1, to={"list": [], "tuple": []}), "no tag"),
    "bare array": (lambda p: _set(p.node("mul"), 3, 1, to=[1]), "no tag"),
    "unknown dtype": (lambda p: _set(p.node("mul"), 3, 1, to={"dtype": "load"}), "no known dtype"),
    "unknown device": (lambda p: _set(p.node("mul"), 3, 1, to={"device": "nowhere"}), "no device"),
    "huge integer": (lambda p: _set(p.node("mul"), 3, 1, to=10**30), "out of range"),
    "endless integer": (lambda p: _set(p.node("mul"), 3, 1, to=10**4000), "out of range"),
    "unhashable key": (lambda p: _set(p.saved, "origin", to={"dict": [[{"list": []}, 1]]}), "scalar"),
    "key twice": (lambda p: _set(p.saved, "origin", to={"dict": [["a", 1], ["a", 2]]}), "twice"),
    "origin is a list": (lambda p: _set(p.saved, "origin", to={"list": []}), "no dict"),
    "origin of no kind": (lambda p: _set(p.saved, "origin", to=_origin(kind="keras")), "not known"),
    "class is a number": (lambda p: _set(p.saved, "origin", to=_origin(**{"class": 7})), "no text"),
    "config is text": (lambda p: _set(p.saved, "origin", to=_origin(config="x")), "no dict of names"),
    "path is a number": (lambda p: _set(p.saved, "origin", to=_origin(path=7)), "no text"),
    "rescale is text": (
        lambda p: _set(p.saved, "origin", to=_origin(rescales={"dict": [["up.weight", "2"]]})),
        "two numbers",
    ),
    "note of no kind": (
        lambda p: _set(
            p.saved, "origin", to=_origin(notes={"dict": [["size of head is fixed", {"list": ["odd", ""]}]]})
        ),
        "not known",
    ),
    "kinds are text": (lambda p: _set(p.saved, "origin", to=_origin(notes="x")), "no dict"),
    "history is text": (lambda p: _set(p.saved, "origin", to=_origin(history="x")), "no list of passes"),
    "neither up nor down": (
        lambda p: _set(p.saved, "lineage", "options", to={"dict": [["direction", "left"]]}),
        "neither down nor up",
    ),
    # signature and structures
    "parameter is code": (lambda p: _set(p.saved, "origin", to=_parameters("x=exit()")), "arguments"),
    "parameter is a keyword": (lambda p: _set(p.saved, "origin", to=_parameters("lambda")), "arguments"),
    "parameter twice": (lambda p: _set(p.saved, "origin", to=_parameters("x", "x")), "arguments"),
    "parameters are a number": (
        lambda p: _set(p.saved, "origin", to={"dict": [["parameters", 7]]}),
        "arguments",
    ),
    "too few inputs": (lambda p: p.saved["inputs"].pop(), "inputs"),
    "input too large": (lambda p: _set(p.saved, "inputs", 0, 1, to=[1 << 40, 1 << 40]), "too large"),
    "input size negative": (lambda p: _set(p.saved, "inputs", 0, 1, to=[-1, 5]), "out of range"),
    "wrong number of symbols": (lambda p: p.saved["inputs"][0][3].append("x"), "symbol"),
    "symbol is code": (lambda p: _set(p.saved, "inputs", 0, 3, to=["__import__('os')", None]), "no name"),
    "too few results": (lambda p: _set(p.saved, "out_spec", to={"tuple": [None]}), "results"),
    "unknown structure": (lambda p: _set(p.saved, "out_spec", to={"object": [None, None]}), "unknown tag"),
    "bad factory": (lambda p: _set(p.saved, "out_spec", to={"default": ["os", []]}), "factory"),
    "range twice": (lambda p: p.saved["ranges"].append(["batch", 1, 7]), "twice"),
    "grouping twice": (lambda p: p.saved["lineage"]["groupings"].append(["hidden", [0]]), "twice"),
    "range is text": (lambda p: _set(p.saved, "ranges", 0, 1, to="s0"), "out of range"),
    # tensors
    "tensor listed twice": (lambda p: p.saved["tensors"].append(p.saved["tensors"][0]), "twice"),
    "tensor missing": (lambda p: p.saved["tensors"].pop(), "other tensors"),
    "tensor of another shape": (lambda p: _set(p.saved, "tensors", 0, 2, to=[1, 1]), "other tensors"),
    "tensor of another dtype": (lambda p: _set(p.saved, "tensors", 0, 1, to="int8"), "other tensors"),
    "tie to nothing": (lambda p: _set(p.saved, "aliases", 0, 1, to="nothing"), "does not fit"),
    "tie over a tensor": (lambda p: _set(p.saved, "aliases", 0, 0, to="mask"), "does not fit"),
    "stored parent": (lambda p: _set(p.program["programs"][0], "tensors", 0, 3, to=True), "other tensors"),
    # lineage
    "own parent": (lambda p: _set(p.saved, "lineage", "parent", to=len(p.program["programs"]) - 1), "range"),
    "no programs": (lambda p: p.program["programs"].clear(), "no program"),
    "missing graph": (lambda p: _set(p.saved, "graph", to=99), "out of range"),
    "missing field": (lambda p: p.saved.pop("notes"), "exactly the fields"),
    "extra field": (lambda p: _set(p.saved, "code", to="import os"), "exactly the fields"),
    # container
    "negative offset": (lambda p: _set(p.entries, "scale", "data_offsets", to=[-4, 0]), "out of range"),
    "overlap": (lambda p: _set(p.entries, "scale", "data_offsets", to=[0, 4]), "overlap"),
    "beyond the end": (
        lambda p: _set(p.entries, "mask", "data_offsets", to=[1 << 40, (1 << 40) + 25]),
        "hole",
    ),
    "claimed larger": (lambda p: _set(p.entries, "mask", "shape", to=[1 << 40]), "as its shape"),
    "product overflows": (lambda p: _set(p.entries, "mask", "shape", to=[1 << 33, 1 << 33]), "too large"),
    "unknown stored dtype": (lambda p: _set(p.entries, "mask", "dtype", to="OBJECT"), "no known dtype"),
    "name with a quote": (lambda p: _set(p.entries, 'a"b', to=p.entries.pop("mask")), "no name"),
    "too few checksums": (lambda p: _set(p.metadata, "crc32", to="00"), "checksum"),
    "checksums are no numbers": (lambda p: _set(p.metadata, "crc32", to="zz" * 4 * 9), "checksum"),
    "trailing bytes": (lambda p: setattr(p, "data", p.data + b"more"), "no tensor"),
    "missing bytes": (lambda p: setattr(p, "data", p.data[:-1]), "truncated"),
    "booleans that are none": (lambda p: setattr(p, "data", p.data[:-1] + b"\x07"), "damaged"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_hostile_fields_are_refused(parts: Parts, tmp_path: Path, change: str) -> None:
    apply, words = CHANGES[change]
    apply(parts)
    assert words in refusal(put_together(parts, tmp_path / "hostile.pt"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested"),
        ("[" * 100_000, "nested"),
        ('{"graphs":' * 1000, "nested"),
        ('"' + "\\" * 500_001, "JSON"),
        ('{"graphs":[],"graphs":[],"programs":[]}', "twice"),
        ('{"graphs":[NaN],"programs":[]}', "NaN"),
        ('{"graphs":[1e999],"programs":[]}', "no program"),
        ("[" + "[],[]," * 1_000_000 + "[]]", "too many parts"),
        ("", "JSON"),
        ("null", "fields"),
        ("1" * 10_000, "JSON"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
def test_hostile_json_is_refused(parts: Parts, tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(put_together(parts, tmp_path / "hostile.pt", program=text))


def test_a_deep_header_is_refused_at_any_recursion_limit(parts: Parts, tmp_path: Path) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        path = put_together(parts, tmp_path / "hostile.pt", program="[" * 10**6 + "]" * 10**6)
        assert "nested" in refusal(path)
    finally:
        sys.setrecursionlimit(limit)


def test_every_truncation_is_refused(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    for size in [*range(80), *range(80, len(data), 997), len(data) - 1]:
        path = tmp_path / "short.pt"
        path.write_bytes(data[:size])
        assert "truncated" in (message := refusal(path)) or "short" in message


def test_every_flipped_bit_is_noticed(good: Path, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    for position in [*range(300), *range(300, len(data), 211)]:
        data[position] ^= 1 << position % 8
        (tmp_path / "flipped.pt").write_bytes(data)
        refusal(tmp_path / "flipped.pt")
        data[position] ^= 1 << position % 8


def test_another_version_is_named(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "future.pt"
    path.write_bytes(good.read_bytes().replace(b'"mlgraph":"2"', b'"mlgraph":"7"', 1))
    assert "format version '7', and this version of mlgraph reads 2" in refusal(path)


def test_weights_without_a_program_are_named(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    assert "no program" in refusal(write_header(header, bytes(4), tmp_path / "plain.safetensors"))


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_header_lengths_that_are_not_credible(good: Path, tmp_path: Path, length: int) -> None:
    path = tmp_path / "long.pt"
    path.write_bytes(struct.pack("<Q", length) + good.read_bytes()[8:])
    refusal(path)


@pytest.mark.parametrize("kind", ["absent", "directory", "empty", "text", "zeros"])
def test_things_that_are_no_program(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing.pt"
    match kind:
        case "directory":
            path.mkdir()
        case "empty":
            path.touch()
        case "text":
            path.write_text("a model, honestly\n" * 10)
        case "zeros":
            path.write_bytes(bytes(10_000))
    message = refusal(path)
    if kind == "absent":
        assert "no such file" in message


# Graphs whose sizes would take forever to work out.


def _split_everything(parts: Parts, rows: int) -> None:
    for row in parts.program["programs"]:
        row["inputs"][0][1] = [rows, 5]
    split = parts.node("split_tensor")
    split[2:4] = ["aten.unbind.int", [split[3][0], 0]]


def _endless(name: str) -> Change:
    def change(parts: Parts) -> None:
        node = parts.node("mul")
        big = {"tuple": [1] * 100}
        args: dict[str, list[Any]] = {
            "operator.pow": [10, 10**10],
            "operator.lshift": [1, 10**12],
            "operator.mul": ["x" * 1000, 10**12],
            "operator.add": [big, big],
            "aten.diff.default": [{"node": 3}, 10**9],
            "aten.combinations.default": [{"node": 3}, 10**9],
        }
        node[2:5] = [name, args[name], []]

    return change


def _doubling(parts: Parts) -> None:
    """A chain of squares, each twice as long as the one before."""
    strings = [0, 0]
    rows, last = parts.nodes, parts.nodes[-1]
    start = len(rows) - 1
    rows[-1] = ["call", "square", "operator.mul", [10**9, 10**9], [], *strings]
    for number in range(60):
        place = {"node": start + number}
        rows.append(["call", f"square_{number}", "operator.mul", [place, place], [], *strings])
    rows.append(last)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda parts: _split_everything(parts, 1 << 30), "too many tensors"),
        (_endless("operator.pow"), "too large"),
        (_endless("operator.lshift"), "too large"),
        (_endless("operator.mul"), "no numbers"),
        (_endless("operator.add"), "no numbers"),
        (_endless("aten.diff.default"), "too often"),
        (_endless("aten.combinations.default"), "too often"),
        (_doubling, "too large"),
    ],
)
def test_graphs_that_would_take_forever(parts: Parts, tmp_path: Path, change: Change, words: str) -> None:
    change(parts)
    path = put_together(parts, tmp_path / "endless.pt")
    start = time.perf_counter()
    assert words in refusal(path)
    assert time.perf_counter() - start < 5
