"""The explorer: what it knows, what it previews, and the screen driven by keys."""

import asyncio
from dataclasses import dataclass, fields
from functools import cache

import pytest
import torch

import mlgraph
from mlgraph.cli.browser.explorer import Explorer, Subject
from mlgraph.cli.browser.panels import detail, figures
from mlgraph.cli.browser.preview import (
    CONTROLS,
    Preview,
    coarse_shape,
    command,
    factored,
    frozen,
    preview,
    sketch,
    stepped,
)
from mlgraph.inspect.summary import summarize
from mlgraph.passes import Coalesce
from tests.cli.planted import Attention, states
from tests.cli.test_views import stack

pytest.importorskip("textual", reason="textual is not installed")

from textual.widgets import OptionList, Tree

from mlgraph.cli.browser.app import Browser

DOWN = Subject("tensor", "blocks.0.mlp.down.weight")


@cache
def explorer() -> Explorer:
    return Explorer(stack())


def texts(place: Subject, shown: Preview | None = None) -> list[str]:
    return [line.text.plain for line in detail(explorer(), place, shown or Preview(Coalesce()))]


# what is known


def test_a_tensor_of_any_block_is_shown_at_the_first_of_its_fold():
    assert explorer().shown_at("blocks.2.mlp.up.weight") == "blocks.0.mlp.up.weight"
    assert explorer().shown_at("blocks.4.mlp.up.weight") != "blocks.0.mlp.up.weight"
    assert explorer().shown_at("head.weight") == "head.weight"
    leaf = explorer().leaf("blocks.3.mlp.down.weight")
    assert leaf is not None
    assert leaf.shape == (24, 20)


def test_folds_of_two_kinds_keep_their_numbers_apart():
    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [8, 12] * 3
            self.layers = torch.nn.ModuleList(torch.nn.Linear(24, width) for width in widths)
            self.backs = torch.nn.ModuleList(torch.nn.Linear(width, 24) for width in widths)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer, back in zip(self.layers, self.backs, strict=True):
                x = x + back(torch.relu(layer(x)))
            return x

    found = Explorer(mlgraph.capture(Pair(), (torch.randn(5, 24),)))
    assert [found.shown_at(f"layers.{number}.weight") for number in range(6)] == [
        f"layers.{number % 2}.weight" for number in range(6)
    ]


def test_from_a_parameter_to_its_axis_to_the_others():
    lines = detail(explorer(), DOWN, Preview(Coalesce()))
    axis = next(line.leads for line in lines if line.leads and line.leads.key.endswith("mlp"))
    slots = detail(explorer(), axis, Preview(Coalesce()))
    leads = [line.leads.key for line in slots if line.leads]
    assert leads == ["blocks.0.mlp.up.weight", "blocks.0.mlp.up.bias", "blocks.0.mlp.down.weight"]
    hidden = explorer().slots("hidden")
    assert next(slot for slot in hidden if "norm.weight" in slot.text).text == "blocks.*.norm.weight[0]"
    assert sum(slot.number for slot in hidden) == len(explorer().axes["hidden"].slots)


def test_every_line_leads_to_something_that_can_be_shown():
    seen, todo = set(), [Subject("module", "")]
    while todo:
        place = todo.pop()
        if place not in seen:
            seen.add(place)
            todo += [line.leads for line in detail(explorer(), place, Preview(Coalesce())) if line.leads]
    assert seen > {place for place in explorer().places if place.kind == "tensor"}
    assert {place.key for place in seen if place.kind == "axis"} >= {"hidden", "vocab"}


def test_search_wants_every_word_and_prefers_ends():
    assert explorer().search("mlp down")[:2] == (Subject("module", "blocks.0.mlp.down"), DOWN)
    assert explorer().search("DOWN.WEIGHT") == (DOWN,)
    assert Subject("axis", "hidden") in explorer().search("hidd")
    assert explorer().search("  ") == ()
    assert explorer().search("nothing like it") == ()
    assert explorer().search("blocks.3.mlp.down.weight") == (Subject("tensor", "blocks.3.mlp.down.weight"),)


# what coarsening would do


def test_requests_step_by_step():
    request = Coalesce()
    for name, by in (("width", 1), ("width", 1), ("width", -1), ("depth", 1), ("pairing", 1)):
        request = stepped(request, name, by)
    request = frozen(factored(request, "hidden", 1), "mlp")
    assert request == Coalesce(2, 2, "halves", axes={"hidden": 2}, freeze=("mlp",))
    assert frozen(request, "mlp").freeze == ()
    assert factored(request, "hidden", -1).axes == {}
    assert stepped(Coalesce(), "width", -1) == stepped(Coalesce(), "depth", -1) == Coalesce()
    assert stepped(Coalesce(), "pairing", -1).pairing == "similarity"
    assert not Coalesce(freeze=("mlp",), pairing="halves").asks
    assert command(request, "model.pt") == (
        "mlgraph coarsen model.pt --depth 2 --width 2 --pairing halves --axis hidden=2 --freeze mlp"
    )


def test_every_option_of_the_pass_has_a_control():
    by_place = {"axes", "freeze", "layers"}
    # no key steps through a file, an amount, what is said of these, or what takes long
    written = {
        "align",
        "score",
        "calibration",
        "repair",
        "target_params",
        "target_flops",
        "target_memory",
        "keep_depth",
        "multiple_of",
    }
    assert {control.name for control in CONTROLS} == {f.name for f in fields(Coalesce)} - by_place - written
    assert len({control.key for control in CONTROLS}) == len(CONTROLS)


@pytest.mark.parametrize(
    "request_",
    [
        Coalesce(width=2),
        Coalesce(depth=2),
        Coalesce(2, 2, "halves"),
        Coalesce(axes={"hidden": 3}),
        Coalesce(4, 4),
    ],
)
def test_a_preview_is_what_coarsening_does(request_):
    shown, done = preview(stack(), request_), request_(stack())
    assert shown.refused == ""
    assert shown.after == summarize(done)
    rough = sketch(stack(), request_)
    assert (rough.after, rough.parameters, rough.sizes) == (None, done.num_parameters(), shown.sizes)
    for name in ("embed.weight", "blocks.0.mlp.up.weight", "head.weight"):
        assert coarse_shape(stack(), name, shown.sizes) == tuple(done.tensors[name].shape)


def test_what_cannot_be_is_refused_in_a_sentence():
    assert "which 5 does not divide" in preview(stack(), Coalesce(width=5)).refused
    assert "which 3 does not divide" in preview(stack(), Coalesce(depth=3)).refused
    assert "cannot change" in preview(stack(), Coalesce(axes={"vocab": 31})).refused
    program = mlgraph.capture(Attention(), (states(),))
    assert "no chain of repeated blocks" in preview(program, Coalesce(depth=2)).refused
    for request in (Coalesce(width=5), Coalesce(depth=3), Coalesce(axes={"vocab": 31})):
        assert sketch(stack(), request) == preview(stack(), request)
    assert "31 does not divide" in str(figures(summarize(stack()), preview(stack(), Coalesce(width=31))))


def test_panels_show_sizes_before_and_after():
    shown = preview(stack(), Coalesce(width=2))
    assert "parameter [24, 20] → [12, 10], 1.88 KiB" in texts(DOWN, shown)
    assert "hidden 24 → 12 coarsenable" in texts(Subject("axis", "hidden"), shown)
    frozen = Preview(Coalesce(freeze=("hidden",)))
    assert "hidden 24 kept: you froze it" in texts(Subject("axis", "hidden"), frozen)
    assert "vocab 31 frozen: it indexes a lookup table" in texts(Subject("axis", "vocab"), frozen)
    assert "a chain of 4 blocks; depth divides them" in texts(Subject("module", "blocks.0"))


# the screen


@dataclass(frozen=True)
class Seen:
    """What there was after some keys."""

    text: str
    place: Subject
    cursor: Subject | None
    chosen: Subject | None
    request: Coalesce
    shown: Preview
    searching: bool
    screens: int


LOOK = "look"


def looks(*keys: str, size: tuple[int, int] = (80, 24)) -> list[Seen]:
    """The explorer at every LOOK among the keys; what they ask for is computed before the next one."""

    async def scenario() -> list[Seen]:
        browser, seen = Browser(Explorer(stack())), []
        async with browser.run_test(size=size, notifications=True) as pilot:
            for key in keys:
                if key == LOOK:
                    await pilot.pause()
                    seen.append(look(browser))
                else:
                    await pilot.press(key)
                    await browser.workers.wait_for_complete()
                    await pilot.pause()
        return seen

    return asyncio.run(scenario())


def look(browser: Browser) -> Seen:
    below = browser.screen_stack[0]
    panel, cursor = below.query_one("#detail", OptionList), below.query_one(Tree).cursor_node
    return Seen(
        "\n".join(strip.text.rstrip() for strip in browser.screen._compositor.render_strips()),
        browser.place,
        cursor.data if cursor is not None else None,
        None if panel.highlighted is None else browser.lines[panel.highlighted].leads,
        browser.request,
        browser.shown,
        below.query_one("#search").has_class("open"),
        len(browser.screen_stack),
    )


def drive(*keys: str, size: tuple[int, int] = (80, 24)) -> Seen:
    """The explorer after keys."""
    return looks(*keys, LOOK, size=size)[0]


def keys_of(text: str) -> list[str]:
    names = {" ": "space", ".": "full_stop", "_": "underscore"}
    return [names.get(character, character) for character in text]


def left(seen: Seen) -> str:
    return "\n".join(line[:39] for line in seen.text.splitlines())


def words(seen: Seen) -> str:
    """The text of the screen as one line, without the border between the panels."""
    return " ".join(seen.text.replace("│", " ").split())


def test_the_first_screen_shows_the_tree():
    shown = drive().text
    assert "stack" in shown
    assert "blocks ×4" in shown
    assert "coarsen depth 1  width 1" in shown
    assert "q quit" in shown


def test_folding_and_unfolding():
    unfolded, folded, again = looks("down", "down", LOOK, "space", LOOK, "space", LOOK)
    assert unfolded.place == Subject("module", "blocks.0")
    assert "mlp" in left(unfolded)
    assert "mlp" not in left(folded)
    assert "mlp" in left(again)


def test_search_jumps_and_goes_on():
    found = drive("slash", *keys_of("down.weight"), "enter")
    assert found.place == found.cursor == DOWN
    assert "blocks.0.mlp.down.weight" in found.text
    typing, first, second, back = looks("slash", *keys_of("we"), LOOK, "enter", LOOK, "n", LOOK, "N", LOOK)
    assert (typing.searching, first.searching) == (True, False)
    assert second.place != first.place == back.place


def test_a_search_in_vain_is_told_and_escape_ends_one():
    vain, left_off = looks("slash", *keys_of("zz"), "enter", LOOK, "slash", "d", "escape", LOOK)
    assert "nothing is called zz" in words(vain)
    assert not left_off.searching


def test_jumps_from_parameter_to_axis_to_parameter_and_back():
    way = ["slash", *keys_of("down.weight"), "enter", "tab", "down"]
    chosen, axis, slot, back, first = looks(*way, LOOK, "enter", LOOK, "enter", LOOK, "b", LOOK, "b", LOOK)
    assert chosen.chosen == Subject("axis", "hidden")
    assert axis.place == chosen.chosen
    assert slot.place == slot.cursor == Subject("tensor", "embed.weight")
    assert back.place == axis.place
    assert first.place == DOWN


def test_the_preview_follows_the_factors():
    two, reset, refused = looks("w", "d", LOOK, "r", LOOK, "w", "w", "w", "w", LOOK)
    assert two.request == Coalesce(2, 2)
    assert "depth 2 width 2" in words(two)
    assert "hidden 24 → 12" in words(two)
    assert "blocks 4 → 2" in words(two)
    assert "mlgraph coarsen SOURCE --depth 2 --width 2" in words(two)
    assert reset.shown == Preview(Coalesce())
    assert "which 5 does not divide" in words(refused)
    assert drive("w", "W", "p", "p").request == Coalesce(pairing="similarity")


def test_an_axis_gets_its_own_factor_and_is_frozen():
    keys = ["slash", *keys_of("hidden"), "enter", LOOK, "plus", "plus", LOOK, "minus", "minus", LOOK]
    axis, factor, none, frozen = looks(*keys, "w", "f", LOOK)
    assert axis.place == Subject("axis", "hidden")
    assert factor.request.axes == {"hidden": 3}
    assert "hidden 24 → 8 coarsenable" in factor.text
    assert none.request == Coalesce()
    assert frozen.request == Coalesce(width=2, freeze=("hidden",))
    assert "hidden 24 kept: you froze it" in frozen.text
    assert "choose an axis first" in words(drive("plus"))


def test_why_and_keys_open_a_page():
    why, closed, keys = looks(
        "slash", *keys_of("down.weight"), "enter", "e", LOOK, "escape", LOOK, "question_mark", LOOK
    )
    assert why.screens == 2
    assert "contracts in" in why.text
    assert closed.screens == 1
    assert "freeze it" in keys.text


@pytest.mark.parametrize("size", [(80, 24), (140, 40), (50, 12)])
def test_every_size_of_terminal(size):
    shown = drive("w", size=size).text
    assert len(shown.splitlines()) <= size[1]
    assert max(map(len, shown.splitlines())) <= size[0]
    assert "stack" in shown
