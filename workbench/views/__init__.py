"""The page's own components: a token strip and an attention view, each an .html, .css and .js file beside this one.

Their templates are fixed and their scripts build the page with `textContent`, so that no token is read as markup.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

HERE = Path(__file__).parent


def token_strip(value: Mapping[str, Any] | None = None, *, elem_id: str, label: str = "tokens") -> gr.HTML:
    """A text token by token, coloured by one number each; its value is a `strip.Strip`, see token_strip.js.

    Events: `select` ({token}) and `branch` ({token, id}: go on from this alternative).
    """
    return _component("token_strip", value, elem_id=elem_id, label=label)


def attention_view(value: Mapping[str, Any] | None = None, *, elem_id: str, label: str = "attention") -> gr.HTML:
    """All heads as thumbnails and one as a full map, or the maps A, B and A−B of two checkpoints; see attention.js."""
    return _component("attention", value, elem_id=elem_id, label=label)


def tools(value: Mapping[str, Any] | None = None, *, elem_id: str) -> gr.HTML:
    """The line under a plot: Python, CSV, PNG, HTML, link. Event: `select` ({x, y, curve}), a click on the plot."""
    return _component("tools", value, elem_id=elem_id, label="tools")


def asset(name: str) -> str:
    """The text of a file of this folder."""
    return (HERE / name).read_text(encoding="utf-8")


def _component(name: str, value: Mapping[str, Any] | None, *, elem_id: str, label: str) -> gr.HTML:
    return gr.HTML(
        dict(value or {}),
        html_template=asset(f"{name}.html"),
        css_template=asset(f"{name}.css"),
        js_on_load=asset(f"{name}.js"),
        apply_default_css=False,
        elem_id=elem_id,
        min_width=300,
        label=label,
    )
