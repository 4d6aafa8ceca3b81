"""Names of tensors that count up from block to block."""

from __future__ import annotations

from mlgraph.program.numbering import number_under, numbered, renumber


def test_numbered_names() -> None:
    pattern = numbered(["a.3.w2", "a.5.w2", "a.7.w2"])
    assert pattern is not None
    assert (pattern.prefix, pattern.start, pattern.step) == ("a.", 3, 2)
    assert [pattern(index) for index in range(2)] == ["a.3.w2", "a.5.w2"]
    assert numbered(["a.0.w", "a.2.w", "a.3.w"]) is None
    assert numbered(["a.0.w0", "a.1.w1"]) is None
    assert numbered(["embedding.norm", "layer.0.norm"]) is None
    assert number_under("a.12.b", "a.") == 12
    assert number_under("a.1x.b", "a.") is None
    assert renumber("a.12.b", "a.", 3) == "a.3.b"
    assert renumber("a.12", "a.", 3) == "a.3"
