"""The views as Gradio components: a token strip, its details, the rail of heads, an attention view, tools of a picture.

Their templates are fixed and their scripts set texts with `textContent`, so the browser never parses a token as markup.
The page loads the scripts of all views once, in `page_script`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from workbench.views import asset

SHARED = (
    "common",
    "typeset",
    "offers",
    "vector",
    "layered",
    "feature_graph",
    "maps",
    "status",
    "training_text",
)  # scripts that all views use
VIEWS = (
    "token_strip",
    "token_details",
    "attention",
    "rail",
    "head_card",
    "tools",
    "player",
    "interventions",
    "history",
    "text_sets",
    "text_table",
    "feature_card",
    "circuit_graph",
    "sentence",
    "hint",
    "selection",
)


def page_script() -> str:
    """The script of the page: what the views share, then each view as a function, which its components call."""
    shared = (asset(f"{name}.js") for name in SHARED)
    views = (f"{name}: (element, trigger, props, watch) => {{\n{asset(f'{name}.js')}}},\n" for name in VIEWS)
    return f"{''.join(shared)}window.workbench.views = {{\n{''.join(views)}}};\n"


def token_strip(value: Mapping[str, Any] | None = None, *, elem_id: str, label: str = "tokens") -> gr.HTML:
    """A text as a strip of tokens, each coloured by one number. `strip.strip` makes its value; see token_strip.js.

    Events: `pin`, of the prompt's strip; `swap`, `second` and `unpin`, of a pinned prompt's.
    """
    return _component("token_strip", value, elem_id=elem_id, label=label, events=("pin", "swap", "second", "unpin"))


def token_details(*, elem_id: str, label: str = "token", render: bool = True) -> gr.HTML:
    """Details of the chosen token of a strip: expected tokens, logit lens, attention of heads; see token_details.js.

    Events: `branch` ({token, id, ids}: continue from this alternative), `use` ({token, ids}: take as next prompt),
    `explain` (the features at the selected token are asked for) and `feature` ({dictionary, feature}: one is to be
    shown).
    """
    return _component(
        "token_details",
        None,
        elem_id=elem_id,
        label=label,
        render=render,
        events=("branch", "use", "explain", "feature"),
    )


def attention_view(value: Mapping[str, Any] | None = None, *, elem_id: str, label: str = "attention") -> gr.HTML:
    """The full map of the selected head, or the maps A, B and B − A of two checkpoints; see attention.js."""
    return _component("attention", value, elem_id=elem_id, label=label)


def rail(*, elem_id: str) -> gr.HTML:
    """All heads of all layers as thumbnails; see rail.js."""
    return _component("rail", None, elem_id=elem_id, label="heads", min_width=160)


def head_card(*, elem_id: str) -> gr.HTML:
    """The selected head: scores, actions, and what the chosen cell of its map shows; see head_card.js."""
    return _component("head_card", None, elem_id=elem_id, label="head", min_width=160)


def tools(value: Mapping[str, Any] | None = None, *, elem_id: str) -> gr.HTML:
    """The heading of a picture and its tools; see tools.js. Event: `select` ({point}), a click on the plot."""
    return _component("tools", value, elem_id=elem_id, label="tools", events=("select",))


def player(value: Mapping[str, Any], *, elem_id: str) -> gr.HTML:
    """A button that advances a slider automatically, and the name of the slider's current entry; see player.js."""
    return _component("player", value, elem_id=elem_id, label="play")


def interventions(*, elem_id: str) -> gr.HTML:
    """The stack of edits of the model: switched on and off, removed, and typed; see interventions.js.

    Event: `edit` ({edits, shown}), after each change.
    """
    return _component("interventions", None, elem_id=elem_id, label="edits of the model", events=("edit",))


def history(*, elem_id: str) -> gr.HTML:
    """A menu of what was run in this visit; choosing an entry opens its address. See history.js."""
    return _component("history", None, elem_id=elem_id, label="History", min_width=90)


def text_set_menu(value: Mapping[str, Any], *, elem_id: str) -> gr.HTML:
    """The menu of sets of texts, with a card to paste one or open a file; see text_sets.js.

    Event: `choose` ({texts: the name of a set}).
    """
    return _component("text_sets", value, elem_id=elem_id, label="set of texts", min_width=100, events=("choose",))


def text_table(*, elem_id: str) -> gr.HTML:
    """A table of texts or features, sortable, in pages; see text_table.js. Event: `open` ({text}), a click on a row."""
    return _component("text_table", None, elem_id=elem_id, label="texts", events=("open",))


def feature_card(*, elem_id: str) -> gr.HTML:
    """The card of a feature; see feature_card.js.

    Events: `open` ({dictionary, feature}), a click on a neighbour; `use` ({text}), a click on the number of a text;
    `called` ({dictionary, feature, name}), a name that was typed.
    """
    return _component("feature_card", None, elem_id=elem_id, label="feature", events=("open", "use", "called"))


def circuit_graph(*, elem_id: str) -> gr.HTML:
    """A circuit as a layered graph, with its proof beside it, or at one checkpoint of a run; see circuit_graph.js.

    Events: `prove` ({edges: a number}), `whole` ({}: the whole curve), `patch` ({edge: a name}).
    """
    return _component("circuit_graph", None, elem_id=elem_id, label="circuit", events=("prove", "whole", "patch"))


def sentence(value: str = "", *, elem_id: str | None = None, elem_classes: str | Sequence[str] = ()) -> gr.HTML:
    """A sentence as plain text, never parsed as markup, since an error may quote text from a link."""
    return gr.HTML(
        value,
        html_template=" ",
        js_on_load=_view_call("sentence"),
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes=[elem_classes] if isinstance(elem_classes, str) else list(elem_classes),
    )


def hint(text: str) -> gr.HTML:
    """A tab's first-time hint, with a button that hides it permanently; see hint.js."""
    return gr.HTML(
        text,
        html_template=" ",
        css_template=asset("hint.css"),
        js_on_load=_view_call("hint"),
        apply_default_css=False,
        elem_classes=["how"],
    )


def selection() -> gr.HTML:
    """Passes the selection that all tabs share from the page to Python. It shows nothing.

    Event: `select` ({token, layer, head, tuned}, each None if none is selected), after every change of the selection.
    """
    return gr.HTML(
        html_template=" ",
        js_on_load=_view_call("selection", ["select"]),
        apply_default_css=False,
        elem_id="selection",
        padding=False,
    )


def _component(
    name: str,
    value: Mapping[str, Any] | None,
    *,
    elem_id: str,
    label: str,
    min_width: int = 300,
    render: bool = True,
    events: Sequence[str] = (),
) -> gr.HTML:
    return gr.HTML(
        dict(value or {}),
        html_template=asset(f"{name}.html"),
        css_template=asset(f"{name}.css"),
        js_on_load=_view_call(name, events),
        apply_default_css=False,
        elem_id=elem_id,
        min_width=min_width,
        label=label,
        render=render,
    )


def _view_call(view: str, events: Sequence[str] = ()) -> str:
    """The script of a component: a call of its view. Gradio takes each quoted name in it for an event."""
    return f"window.workbench.views.{view}(element, trigger, props, watch);  // {', '.join(map(repr, events))}"
