"""The screen of the explorer: a tree, a panel on what is chosen, and a preview of coarsening."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static, Tree
from textual.widgets.option_list import Option
from textual.widgets.tree import TreeNode
from textual.worker import get_current_worker

from mlgraph.cli.browser.explorer import Explorer, Subject
from mlgraph.cli.browser.panels import PanelLine, detail, figures, label, request_line
from mlgraph.cli.browser.preview import (
    CONTROLS,
    Preview,
    command,
    factored,
    frozen,
    preview,
    sketch,
    stepped,
)
from mlgraph.inspect.modules import Module
from mlgraph.inspect.summary import summarize
from mlgraph.inspect.text.modules import joined
from mlgraph.inspect.text.numbers import count, size
from mlgraph.passes.coalesce import Coalesce

if TYPE_CHECKING:
    from mlgraph.program import Program

_PATIENCE = 0.25
_HELP = f"""\
arrows        move; right and left, or space, unfold and fold; Enter chooses
/ n N         search for words of a path or axis; next, previous match
Tab           go to the panel; Enter there jumps: from a parameter
              to an axis, from an axis to a parameter that shares it
b             back to what was shown before
e             why: the nodes that tie or freeze the parameter shown
{chr(10).join(f"{c.key} {c.key.upper():12}{c.name}: {c.told}" for c in CONTROLS)}
+ -  f        factor of the axis shown; freeze it
r             no coarsening again
q             quit
"""


class Browser(App[None]):
    """Explores one program; whatever it shows comes from an :class:`Explorer`."""

    CSS = """
    #title { height: 1; background: $primary; color: $text; padding: 0 1; }
    #tree { width: 1fr; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
    #side { width: 1fr; border-left: solid $primary; }
    #detail { height: 1fr; border: none; padding: 0; background: $surface; scrollbar-size-vertical: 1; }
    #coarsen { height: auto; max-height: 60%; border-top: solid $primary; padding: 0 1; }
    #figures, #command { height: auto; }
    #search { dock: bottom; height: 1; border: none; padding: 0 1; display: none; }
    #search.open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("slash", "search", "search", key_display="/"),
        Binding("n", "match(1)", "next", show=False),
        Binding("N", "match(-1)", "previous", show=False),
        Binding("b,backspace", "return", "back", key_display="b"),
        Binding("e", "explain", "why"),
        *(Binding(c.key, f"step('{c.name}', 1)", c.name) for c in CONTROLS),
        *(Binding(c.key.upper(), f"step('{c.name}', -1)", f"{c.name} back", show=False) for c in CONTROLS),
        Binding("plus,equals_sign", "factor(1)", "axis", key_display="+-"),
        Binding("minus", "factor(-1)", "axis down", show=False),
        Binding("f", "freeze", "freeze"),
        Binding("r", "reset", "reset", show=False),
        Binding("question_mark", "keys", "keys", key_display="?"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, explorer: Explorer, source: str = "SOURCE") -> None:
        super().__init__()
        self.explorer = explorer
        self.source = source
        self.before = summarize(explorer.program)
        self.request = Coalesce()
        self.shown = Preview(self.request)
        self.place = Subject("module", "")
        self.history: list[Subject] = []
        self.matches: tuple[Subject, ...] = ()
        self.match = -1
        self.lines: list[PanelLine] = []
        self.nodes: dict[Subject, TreeNode[Subject]] = {}

    def compose(self) -> ComposeResult:
        name, held = self.explorer.program.name, self.before
        yield Static(
            Text(f"{name}  {count(held.parameters)} parameters  {size(held.bytes)}", no_wrap=True), id="title"
        )
        with Horizontal():
            yield Tree[Subject](Text(name), Subject("module", ""), id="tree")
            with Vertical(id="side"):
                yield OptionList(id="detail")
                with Vertical(id="coarsen"):
                    yield Static(id="request")
                    yield Static(id="figures")
                    yield Static(id="command")
        yield Input(placeholder="words of a path or an axis", id="search", compact=True)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        tree = self.outline
        tree.guide_depth = 2
        tree.show_guides = True
        self.nodes[self.place] = tree.root
        self._fill(tree.root, self.explorer.root)
        tree.root.expand()
        for node in tree.root.children:
            node.expand()
        tree.focus()
        self._show(self.place)
        self._tell()

    @property
    def outline(self) -> Tree[Subject]:
        """The tree on the left."""
        return self.query_one("#tree", Tree)

    def _fill(self, node: TreeNode[Subject], module: Module, prefix: str = "") -> None:
        for leaf in module.leaves:
            place = Subject("tensor", leaf.path)
            self.nodes[place] = node.add_leaf(label(leaf, f"{prefix}{leaf.name}"), place)
        for child in module.children:
            inner, name = joined(child)
            place = Subject("module", inner.path)
            if len(inner.leaves) == 1 and not inner.children:
                self._fill(node, inner, f"{name}.")
                self.nodes[place] = node.children[-1]
            else:
                self.nodes[place] = node.add(label(inner, name), place)
                self._fill(self.nodes[place], inner)
            while child is not inner:
                self.nodes[Subject("module", child.path)] = self.nodes[place]
                child = child.children[0]

    # what is shown

    def _show(self, place: Subject) -> None:
        self.place = place
        panel = self.query_one("#detail", OptionList)
        self.lines = detail(self.explorer, place, self.shown, (panel.size.width or 40) - 2)
        kept = panel.highlighted
        panel.clear_options()
        panel.add_options(Option(line.text, disabled=line.leads is None) for line in self.lines)
        if kept is not None and kept < len(self.lines) and self.lines[kept].leads is not None:
            panel.highlighted = kept

    def go(self, place: Subject, *, remember: bool = True) -> None:
        """Show a place, and let the tree point at it, unfolded down to it."""
        if remember and place != self.place:
            self.history.append(self.place)
        self.query_one("#detail", OptionList).highlighted = None
        self._show(place)
        if place.kind == "axis":
            return
        node = self.nodes.get(Subject(place.kind, self.explorer.shown_at(place.key)))
        if node is None:
            return
        above = node.parent
        while above is not None:
            above.expand()
            above = above.parent
        self.call_after_refresh(self._point, node, place)

    def _point(self, node: TreeNode[Subject], place: Subject) -> None:
        with self.prevent(Tree.NodeHighlighted):
            self.outline.move_cursor(node)
        self.outline.scroll_to_node(node)
        self._show(place)

    def on_tree_node_highlighted(self, event: Tree.NodeHighlighted[Subject]) -> None:
        place = event.node.data
        if place is not None and self.outline.has_focus:
            self._show(place)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        leads = self.lines[event.option_index].leads
        if leads is not None:
            self.go(leads)
            self._first_choice()

    def _first_choice(self) -> None:
        panel = self.query_one("#detail", OptionList)
        panel.highlighted = next((i for i, line in enumerate(self.lines) if line.leads), None)

    def action_return(self) -> None:
        if self.history:
            self.go(self.history.pop(), remember=False)

    # search

    def action_search(self) -> None:
        box = self.query_one("#search", Input)
        box.add_class("open")
        box.value = ""
        box.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.matches, self.match = self.explorer.search(event.value), -1
        found = f"{len(self.matches)} found" if event.value.strip() else ""
        event.input.border_subtitle = found
        if self.matches:
            self._to_match(0, remember=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._close_search()
        if not self.matches and event.value.strip():
            self.notify(f"nothing is called {event.value.strip()}", severity="warning", timeout=3)

    def on_key(self, event: object) -> None:
        if getattr(event, "key", "") == "escape" and self.query_one("#search").has_class("open"):
            self._close_search()

    def _close_search(self) -> None:
        self.query_one("#search").remove_class("open")
        if self.place.kind == "axis":
            self.query_one("#detail").focus()
            self._first_choice()
        else:
            self.outline.focus()

    def action_match(self, by: int) -> None:
        if self.matches:
            self._to_match((self.match + by) % len(self.matches))

    def _to_match(self, number: int, remember: bool = True) -> None:
        self.match = number
        self.go(self.matches[number], remember=remember)
        self.sub_title = f"{number + 1} of {len(self.matches)}"

    # coarsening

    def action_step(self, name: str, by: int) -> None:
        self._ask(stepped(self.request, name, by))

    def action_reset(self) -> None:
        self._ask(Coalesce())

    def action_factor(self, by: int) -> None:
        axis = self._axis()
        if axis is not None:
            self._ask(factored(self.request, axis, by))

    def action_freeze(self) -> None:
        axis = self._axis()
        if axis is not None:
            self._ask(frozen(self.request, axis))

    def _axis(self) -> str | None:
        """The axis that is shown or highlighted."""
        if self.place.kind == "axis":
            return self.place.key
        panel = self.query_one("#detail", OptionList)
        line = self.lines[panel.highlighted] if panel.highlighted is not None else None
        if line is not None and line.leads is not None and line.leads.kind == "axis":
            return line.leads.key
        self.notify("choose an axis first: Tab goes to the panel, arrows choose", timeout=3)
        return None

    def _ask(self, request: Coalesce) -> None:
        if request != self.request:
            self.request = request
            self._tell()
            self._compute(request)

    @work(thread=True, exclusive=True)
    def _compute(self, request: Coalesce) -> None:
        rough = self._attempt(sketch, request)
        self._report(rough)
        if rough.refused or not request.asks:
            return
        # more keys may follow, and a rewriting that has begun cannot be stopped
        time.sleep(_PATIENCE)
        if not get_current_worker().is_cancelled:
            self._report(self._attempt(preview, request))

    def _report(self, shown: Preview) -> None:
        if not get_current_worker().is_cancelled:
            self.call_from_thread(self._computed, shown)

    def _attempt(self, step: Callable[[Program, Coalesce], Preview], request: Coalesce) -> Preview:
        try:
            return step(self.explorer.program, request)
        except Exception as error:
            return Preview(request, refused=f"An error inside mlgraph: {type(error).__name__}: {error}")

    def _computed(self, shown: Preview) -> None:
        if shown.request == self.request:
            self.shown = shown
            self._show(self.place)
            self._tell()

    def _tell(self) -> None:
        self.query_one("#request", Static).update(request_line(self.request))
        waiting = self.shown.request != self.request
        told = Text("…", "dim") if waiting else figures(self.before, self.shown)
        self.query_one("#figures", Static).update(told)
        done = self.shown.after is not None and not waiting
        line = command(self.request, self.source) if done else ""
        self.query_one("#command", Static).update(Text(line, "dim"))

    # more

    def action_explain(self) -> None:
        from mlgraph.errors import MlgraphError
        from mlgraph.inspect.explain import explain
        from mlgraph.inspect.text.explanation import explanation

        if self.place.kind != "tensor":
            self.notify("choose a parameter first", timeout=3)
            return
        width = max(self.size.width - 12, 40)
        try:
            found = explain(self.explorer.program, self.place.key, self.request.freeze)
        except MlgraphError as error:
            self.notify(str(error), severity="warning")
            return
        told = Text("\n").join(
            Text(line) if isinstance(line, str) else line for line in explanation(found, False, width)
        )
        self.push_screen(Page(told))

    def action_keys(self) -> None:
        self.push_screen(Page(Text(_HELP)))


class Page(ModalScreen[None]):
    """A text over everything else; any key that does not scroll closes it."""

    CSS = """
    Page { align: center middle; }
    Page > VerticalScroll { width: 100%; height: auto; max-height: 100%; margin: 1 2; padding: 0 1;
                      background: $panel; border: solid $primary; overflow-y: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,e,question_mark,enter", "dismiss", "close", key_display="Esc")
    ]

    def __init__(self, text: Text) -> None:
        super().__init__()
        self.text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(self.text)
        yield Footer(compact=True)
