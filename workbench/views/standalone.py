"""The attention view as a page of its own: for notebooks, exported HTML and files, with its data inside and no server.

    view = attention(attention_maps(model, tokens, tokenizer=tokenizer), head_atlas(model, tokens))
    view                            # as the last line of a notebook's cell
    view.save("attention.html")

The view's own files are used as they are; what they ask a server for is answered from the page itself.
"""

import base64
import html
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch

from workbench.errors import WorkbenchError
from workbench.results import Maps, Measures
from workbench.views import asset
from workbench.views.pixels import encode

ORDERS = ("induction", "previous", "first", "self", "duplicate", "entropy", "distance")


@dataclass(frozen=True, repr=False)
class View:
    """A page, shown in a frame of a notebook."""

    page: str
    height: int

    def __repr__(self) -> str:
        return f"<the attention view, a page of {len(self.page) / 1000:.0f} kB>"

    def _repr_html_(self) -> str:
        frame = f'width="100%" height="{self.height}" style="border: 0"'
        return f'<iframe title="attention" {frame} srcdoc="{html.escape(self.page)}"></iframe>'

    def save(self, path: str | Path) -> None:
        """Write the page to a file."""
        Path(path).write_text(self.page, encoding="utf-8")


def attention(maps: Maps, atlas: Measures | None = None, *, height: int = 780) -> View:
    """The attention view of all heads over one text; with a `head_atlas`, heads can be put in order by its scores.

    Errors: WorkbenchError unless the maps hold every head of every layer at every position, as weights from 0 to 1.
    """
    layers, heads = _places(maps)
    picture = encode(torch.tensor(maps.values))
    orders = {name: atlas[name].values.ravel().tolist() for name in ORDERS if atlas is not None and name in atlas}
    value = {
        "checkpoint": "",
        "other": None,
        "prompt": "",
        "texts": list(maps.tokens),
        "layers": layers,
        "heads": heads,
    }
    data = {
        "value": value | {"orders": orders, "best": _best(orders, heads)},
        "side": picture.side,
        "scale": picture.scale,
        "deflated": base64.b64encode(zlib.compress(picture.pixels, 9)).decode(),
    }
    inside = json.dumps(data).replace("<", "\\u003c")
    view = f"((element, props, watch) => {{{asset('attention.js')}}})(...Object.values(window.standalone));"
    scripts = "".join(f"<script>{text}</script>" for text in (asset("common.js"), asset("standalone.js"), view))
    return View(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>attention</title>'
        f"<style>{asset('standalone.css')}{asset('attention.css')}</style></head><body>"
        f'<div id="view">{asset("attention.html")}</div>'
        f'<script type="application/json" id="data">{inside}</script>{scripts}</body></html>',
        height,
    )


def _places(maps: Maps) -> tuple[int, int]:
    """How many layers, and heads in each."""
    heads = sum(name.startswith("L0H") for name in maps.heads)
    layers = len(maps.heads) // heads if heads else 0
    if maps.heads != tuple(f"L{layer}H{head}" for layer in range(layers) for head in range(heads)):
        raise WorkbenchError(
            f"the view shows every head of every layer, L0H0 first; given are {', '.join(maps.heads[:6])}"
        )
    if len(maps.queries) != len(maps.tokens):
        raise WorkbenchError(
            f"the view shows every query position; given are {len(maps.queries)} of {len(maps.tokens)}"
        )
    return layers, heads


def _best(orders: dict[str, list[float]], heads: int) -> dict[str, int] | None:
    """The head to open first: the strongest induction head."""
    if "induction" not in orders:
        return None
    place = max(range(len(orders["induction"])), key=orders["induction"].__getitem__)
    return {"layer": place // heads, "head": place % heads}
