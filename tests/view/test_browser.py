"""The page in a headless Chromium: hovering, choosing an axis, folding, sizes, dark and light."""

import base64
import json
import re
import shutil
import subprocess

import pytest

from mlgraph.passes import Coalesce
from mlgraph.view import page, view
from tests.captured import captured

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium, chromium-browser or google-chrome"),
]

ACTS = """
const found = {};
const one = (selector) => document.querySelector(selector);
const all = (selector) => Array.from(document.querySelectorAll(selector));
const visible = (element) => element.getClientRects().length > 0;
const click = (element) => element.dispatchEvent(new MouseEvent("click", {bubbles: true}));
const hover = (element) => {
  const box = element.getBoundingClientRect();
  element.dispatchEvent(new MouseEvent("mousemove", {bubbles: true, clientX: box.x + 2, clientY: box.y + 2}));
};
const titled = (title) => all(".box").find((box) => box.querySelector(".title")?.textContent === title);
const state = () => ({
  choosing: document.body.classList.contains("choosing"),
  chosen: all(".legend li.chosen b").map((name) => name.textContent),
  edges: all(".edge.on").length,
  boxes: all(".box.on").length,
  slots: all(".legend .slots li").filter(visible).map((slot) => slot.textContent),
});
const legend = (name) => all(".legend li[data-axis]")
  .find((item) => item.querySelector("b")?.textContent === name);
try { (() => { %s })(); } catch (error) { found.error = String(error.stack || error); }
const out = document.createElement("pre");
out.id = "found";
out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(found))));
document.body.append(out);
"""


@pytest.fixture(scope="module")
def shown():
    return view(captured("bert-mlm").program)


@pytest.fixture
def act(tmp_path, shown):
    """Run statements in the page and give what they put into ``found``."""

    def run(statements, views=None, size="1400,1000"):
        text = page(views or {"": shown})
        file = tmp_path / "page.html"
        file.write_text(text.replace("</body>", f"<script>{ACTS % statements}</script></body>"))
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}", "--dump-dom"]
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [CHROMIUM, *options, profile, file.as_uri()], capture_output=True, text=True, timeout=120
        )
        encoded = re.search(r'<pre id="found">([^<]*)</pre>', done.stdout)
        assert encoded, done.stderr[-2000:]
        found = json.loads(base64.b64decode(encoded[1]))
        assert "error" not in found, found["error"]
        return found

    return run


def test_choosing_an_axis_lights_up_its_edges_boxes_and_slots(act, shown):
    found = act(
        """
        found.before = state();
        click(legend("heads").querySelector("button"));
        found.heads = state();
        found.faded = getComputedStyle(titled("gelu")).opacity;
        found.lit = getComputedStyle(titled("query")).opacity;
        click(legend("hidden").querySelector("button"));
        found.hidden = state();
        document.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape", bubbles: true}));
        found.after = state();
        """
    )
    assert found["before"] == found["after"]
    assert not found["before"]["choosing"]
    assert found["heads"]["chosen"] == ["heads"]
    block = shown.parts["bert.encoder.layer"]
    place = next(n for n, family in enumerate(shown.families) if family.name == "heads")
    assert found["heads"]["edges"] == sum(place in edge.families for edge in block.edges)
    assert "bert.encoder.layer.0.attention.self.query.weight[0] emits" in found["heads"]["slots"]
    assert float(found["faded"]) < 0.3 < float(found["lit"])
    assert found["hidden"]["chosen"] == ["hidden"]
    assert found["hidden"]["edges"] > found["heads"]["edges"]


def test_an_axis_is_chosen_by_its_name_on_a_box_and_by_its_edges(act):
    found = act(
        """
        click(titled("intermediate.dense").querySelector(".names [data-axis]"));
        found.name = state().chosen;
        click(titled("intermediate.dense").querySelector(".names [data-axis]"));
        found.again = state().chosen;
        const cable = all(".edge").find((edge) => edge.querySelectorAll(".strand").length === 2);
        click(cable.querySelector(".reach"));
        found.edge = state().chosen;
        """
    )
    assert found == {"name": ["mlp"], "again": [], "edge": ["heads"]}


def test_hovering_shows_what_a_box_and_an_edge_are(act):
    found = act(
        """
        const tip = one(".tip");
        found.first = tip.hidden;
        hover(titled("query").querySelector(".shape"));
        found.box = tip.innerText;
        const place = tip.getBoundingClientRect();
        found.inside = place.left >= 0 && place.right <= innerWidth && place.top >= 0;
        hover(all(".edge").find((edge) => edge.dataset.axes).querySelector(".reach"));
        found.edge = tip.innerText;
        hover(one("header"));
        found.last = tip.hidden;
        """
    )
    assert found["first"] is True
    assert found["last"] is True
    assert found["inside"]
    assert "attention.self.query.weight [heads·head_dim, hidden] = [24, 24]" in found["box"]
    assert "→" in found["edge"]


def test_the_tree_of_modules_points_at_boxes_and_chooses_axes(act):
    found = act(
        """
        all(".modules, .tree details").forEach((details) => { details.open = true; });
        const module = all(".tree summary").find((found) => found.dataset.path.endsWith("attention.self"));
        hover(module);
        found.pointed = all(".box.pointed").map((box) => box.querySelector(".title").textContent);
        hover(one("header"));
        found.after = all(".box.pointed").length;
        click(all(".tree [data-axis]").find((name) => name.textContent === "mlp"));
        found.chosen = state().chosen;
        """
    )
    assert found == {"pointed": ["query", "key", "value", "attention"], "after": 0, "chosen": ["mlp"]}


def test_folding_and_unfolding(act):
    found = act(
        """
        const open = () => all(".card").map((card) => card.open);
        const button = one('[data-do="fold"]');
        found.first = open();
        click(button); found.folded = open();
        click(all(".box[data-part]")[0]); found.one = open();
        click(button); click(button); found.last = open();
        """
    )
    assert found == {
        "first": [True, True],
        "folded": [False, False],
        "one": [False, True],
        "last": [True, True],
    }


def test_sizes_instead_of_names(act):
    found = act(
        """
        const lines = () => Array.from(titled("query").querySelectorAll("text")).filter(visible)
          .map((text) => text.textContent);
        found.names = lines();
        click(one('[data-do="sizes"]'));
        found.sizes = lines();
        """
    )
    assert found == {"names": ["query", "heads·head_dim ← hidden"], "sizes": ["query", "4·6 ← 24"]}


def test_dark_and_light_differ_in_ground_and_in_axes(act):
    found = act(
        """
        const colours = () => [getComputedStyle(document.body).backgroundColor,
          getComputedStyle(one(".strand")).stroke];
        const button = one('[data-do="theme"]');
        click(button); found.dark = [document.documentElement.dataset.theme, ...colours()];
        click(button); found.light = [document.documentElement.dataset.theme, ...colours()];
        """
    )
    assert found["dark"][0] == "dark"
    assert found["light"][0] == "light"
    assert all(dark != light for dark, light in zip(found["dark"], found["light"], strict=True))


@pytest.mark.parametrize(("size", "beside"), [("1500,1000", True), ("480,900", False)])
def test_a_pair_stands_side_by_side_where_there_is_room(act, shown, size, beside):
    coarse = view(Coalesce(depth=2, width=2)(captured("bert-mlm").program.skeleton()))
    found = act(
        """
        const [a, b] = all(".card")[0].querySelectorAll("figure");
        found.beside = Math.abs(a.getBoundingClientRect().top - b.getBoundingClientRect().top) < 5;
        found.scrolls = document.documentElement.scrollWidth > innerWidth + 1;
        click(legend("hidden").querySelector("button"));
        found.lit = all(".card").map((card) => Array.from(card.querySelectorAll("figure"))
          .map((figure) => figure.querySelectorAll(".edge.on").length));
        """,
        {"fine": shown, "coarse": coarse},
        size,
    )
    assert found["beside"] is beside
    assert found["scrolls"] is False
    assert all(fine == coarse > 0 for fine, coarse in found["lit"])


def test_a_hostile_page_runs_nothing_of_its_names(act):
    from tests.view.hostile import ATTACKS, hostile_view

    views = {attack: hostile_view(attack) for attack in ATTACKS}
    found = act(
        """
        window.alert = () => { found.alerted = true; };
        all(".box, .edge").forEach((group) => { hover(group); click(group); });
        found.elements = all("img, iframe, svg svg").length;
        """,
        views,
    )
    assert found == {"elements": 0}
