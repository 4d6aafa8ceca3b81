"""Pages and pictures: they stand alone, names cannot break out of them, and they tell what they should."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import mlgraph
from mlgraph.passes import Coalesce
from mlgraph.program import Note
from mlgraph.program.families import Family
from mlgraph.view import page, svg, view
from mlgraph.view.colours import colours
from mlgraph.view.draw import arrowhead, rounded, shifted
from mlgraph.view.markup import escaped, json_script, tag
from mlgraph.view.sides import legend, palette, sides
from tests.captured import captured
from tests.view.hostile import ATTACKS, hostile_view

SVG = "{http://www.w3.org/2000/svg}"


class Outline(HTMLParser):
    """The elements and attributes of a page, as a browser would make them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.scripts = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag == "script":
            self.open.append((None, {}))

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "script":
            self.scripts[self.open[-1][1].get("id")] = data


@pytest.fixture(scope="module")
def bert():
    return view(captured("bert-mlm").program)


@pytest.fixture(scope="module")
def pair():
    fine = captured("bert-mlm").program
    return {"fine": view(fine), "coarse": view(Coalesce(depth=2, width=2)(fine.skeleton()))}


@pytest.mark.parametrize("attack", ATTACKS)
def test_names_cannot_break_out_of_a_page(attack):
    outline = Outline(page({"": hostile_view("plain")}))
    attacked = Outline(page({"": hostile_view(attack)}))
    assert attacked.tags == outline.tags
    assert [name for name, _ in attacked.attributes] == [name for name, _ in outline.attributes]
    assert not any(name.startswith("on") for name, _ in attacked.attributes)
    tips = json.loads(attacked.scripts["mlgraph-data"])["tips"]
    assert any(attack in text for tip in tips.values() for _, text in tip)


@pytest.mark.parametrize("attack", ATTACKS)
def test_names_cannot_break_out_of_a_picture(attack):
    def shape(name):
        return [
            element.tag for element in ElementTree.fromstring(svg({name: hostile_view(name)}).encode()).iter()
        ]

    assert [name for name in shape(attack) if name != f"{SVG}text"] == [
        name for name in shape("plain") if name != f"{SVG}text"
    ]


@given(st.text())
def test_escaped_text_is_read_back(text):
    element = ElementTree.fromstring(tag("a", {"b": text}, escaped(text)))
    shown = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
    assert (element.text or "") == shown.replace("\r\n", "\n").replace("\r", "\n")
    assert Outline(json_script("x", [text])).tags == ["script"]
    assert json.loads(Outline(json_script("x", [text])).scripts["x"]) == [text]


def test_a_page_needs_nothing_but_itself(bert):
    text = page({"": bert})
    outline = Outline(text)
    assert not {"link", "img", "iframe", "object", "base"} & set(outline.tags)
    assert not {"src", "href", "action", "srcset"} & {name for name, _ in outline.attributes}
    assert not re.search(r"@import|url\(|https?://|fetch\(|import\(", text)


def test_a_picture_needs_no_style_sheet_and_lies_within_its_bounds(bert):
    text = svg({"": bert})
    root = ElementTree.fromstring(text.encode())
    assert not re.search(r"class=|style=|var\(|href|https?://(?!www\.w3\.org/2000/svg)", text)
    width, height = (float(root.get(name)) for name in ("width", "height"))
    assert root.get("viewBox") == f"0 0 {width:.1f} {height:.1f}"

    def check(element, dx, dy):
        found = re.search(r"translate\(([\d.-]+) ([\d.-]+)\)", element.get("transform", ""))
        dx, dy = (dx + float(found[1]), dy + float(found[2])) if found else (dx, dy)
        if element.tag == f"{SVG}rect":
            assert 0 <= dx + float(element.get("x", 0)) <= width - float(element.get("width")) + 0.1
            assert 0 <= dy + float(element.get("y", 0)) <= height - float(element.get("height")) + 0.1
        for inner in element:
            check(inner, dx, dy)

    check(root, 0.0, 0.0)


def test_a_picture_names_every_axis_that_it_colours(bert):
    root = ElementTree.fromstring(svg({"": bert}).encode())
    written = {text for element in root.iter() if (text := (element.text or "").strip())}
    for entry in legend(sides({"": bert})):
        assert entry.family.name in written
    assert {"query", "attention", "softmax attention"} <= written
    assert any("frozen: it indexes a lookup table" in text for text in written)


def test_what_is_not_coarsened_is_told_without_colour(bert):
    root = ElementTree.fromstring(svg({"": bert}).encode())
    dashes = {element.get("stroke"): element.get("stroke-dasharray") for element in root.iter(f"{SVG}path")}
    chosen = dict(zip((family.name for family in bert.families), colours(bert.families), strict=True))
    assert dashes[chosen["hidden"][0]] is None
    assert dashes[chosen["head_dim"][0]] == "6 2.5"
    assert dashes[chosen["vocab"][0]] == "1.5 2.5"


def test_hovering_tells_shapes_sources_and_ties(bert):
    tips = json.loads(Outline(page({"": bert})).scripts["mlgraph-data"])["tips"]
    text = {key: "\n".join(line for _, line in tip) for key, tip in tips.items()}
    query = next(tip for tip in text.values() if tip.startswith("query\n"))
    assert "attention.self.query.weight [heads·head_dim, hidden] = [24, 24] float32" in query
    assert "modeling_bert.py" in query
    assert any("residual" in tip for tip in text.values())
    tied = next(tip for tip in text.values() if tip.startswith("word_embeddings\n"))
    assert "tied with cls.predictions.decoder.weight" in tied


def test_axes_that_two_programs_share_have_one_colour(pair):
    found = sides(pair)
    fine, coarse = found
    for number, family in enumerate(coarse.view.families):
        other = [n for n, one in enumerate(fine.view.families) if set(one.ids) & set(family.ids)]
        assert coarse.places[number] in [fine.places[n] for n in other]
    sizes = {entry.family.name: entry.size_text for entry in legend(found)}
    assert sizes["hidden"] == "24 → 12"
    assert len(palette(found)) == len(set(fine.places) | set(coarse.places))


def test_a_pair_stands_side_by_side_and_is_written_in_sizes(pair):
    text = page(pair)
    outline = Outline(text)
    assert dict(outline.open[[name for name, _ in outline.open].index("body")][1])["class"] == "in-sizes"
    assert outline.tags.count("figure") == 4
    assert "× 4 → 2" in text
    assert "<figcaption>coarse</figcaption>" in text


def test_colours_go_on_past_the_table():
    many = colours([Family("any", 4, (), 0, "coarsenable")] * 30)
    assert len(set(many)) == 30
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for pair in many for colour in pair)


def test_parallel_lines_keep_their_distance():
    line = [(0.0, 0.0), (0.0, 10.0), (20.0, 10.0), (20.0, 30.0)]
    assert shifted(line, 2.0) == [(-2.0, 0.0), (-2.0, 12.0), (18.0, 12.0), (18.0, 30.0)]
    assert shifted(line, 0.0) == line


def test_corners_are_rounded_and_arrows_point_where_lines_go():
    assert rounded([(0.0, 0.0), (0.0, 20.0), (30.0, 20.0)]) == "M0.0 0.0L0.0 13.0Q0.0 20.0 7.0 20.0L30.0 20.0"
    assert arrowhead([(0.0, 0.0), (0.0, 9.0)]).startswith("0.0,9.0 ")
    assert arrowhead([(9.0, 5.0), (0.0, 5.0)]).startswith("0.0,5.0 5.0,")


def test_notebooks_show_programs_axes_and_blocks():
    program = captured("bert-mlm").program
    for shown, words in (
        (program, ["BertForMaskedLM", "<svg", "query"]),
        (program.axes, ["hidden", "coarsenable", "frozen: it indexes a lookup table"]),
        (program.blocks, ["bert.encoder.layer", "×4"]),
    ):
        text = shown._repr_html_()
        assert all(word in text for word in words)
        assert "<script" not in text
        ElementTree.fromstring(f"<div>{text}</div>")


def test_notebooks_escape_names():
    mlp = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    program = mlgraph.capture(mlp, (torch.randn(5, 6),)).replace(
        name="<script>alert(1)</script>", notes=(Note("other", "<b>"),)
    )
    assert not {"script", "b"} & set(Outline(program._repr_html_().replace("<b>", "", 1)).tags)
