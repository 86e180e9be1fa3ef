"""The attention view as a stand-alone page: for notebooks, exported HTML and files, with its data inside and no server.

    view = attention(attention_maps(model, tokens, tokenizer=tokenizer), head_atlas(model, tokens))
    view                            # as the last line of a notebook's cell
    view.save("attention.html")
    attention(maps_of_a, other=maps_of_b)   # A, B and B − A

The page uses the view's JavaScript unchanged; requests to a server are answered from data inside the page.
"""

import base64
import html
import json
import sys
import webbrowser
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np

from workbench.analyses.attention_maps import WEIGHTINGS
from workbench.errors import WorkbenchError
from workbench.results import Maps, Measures
from workbench.views import asset

ORDERS = ("induction", "previous", "first", "self", "duplicate", "entropy", "distance")


VIEWS = ("rail", "attention", "head_card")


@dataclass(frozen=True, repr=False)
class StandalonePage:
    """A stand-alone page, which a notebook shows in a frame; `height` is the frame's, in pixels."""

    page: str
    height: int

    def __repr__(self) -> str:
        return f"<the attention view, a page of {len(self.page) / 1000:.0f} kB>"

    def _repr_html_(self) -> str:
        frame = f'width="100%" height="{self.height}" style="border: 0"'
        return f'<iframe title="attention" {frame} srcdoc="{html.escape(self.page)}"></iframe>'

    def show(self) -> None:
        """Show the page: in a notebook below the cell, otherwise in a browser, from a file for temporary use."""
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is not None:
            sys.modules["IPython"].display.display(self)
            return
        with NamedTemporaryFile("w", suffix=".html", delete=False, encoding="utf-8") as file:
            file.write(self.page)
        webbrowser.open(Path(file.name).as_uri())

    def save(self, path: str | Path) -> None:
        """Write the page to a file."""
        Path(path).write_text(self.page, encoding="utf-8")


def attention(
    maps: Maps, atlas: Measures | None = None, *, other: Maps | None = None, height: int = 780
) -> StandalonePage:
    """The attention view of all heads over one text; with a `head_atlas`, heads can be sorted by its scores.

    With the maps of an `other` checkpoint over the same tokens, A, B and B − A are shown side by side. The page holds
    the weights up to the diagonal in float32: before compression 2 bytes × tokens² × heads, so it is for short texts.
    Errors: WorkbenchError unless the maps hold every head of every layer at every position.
    """
    layers, heads = _shape_of_maps(maps)
    if other is not None and (
        other.tokens != maps.tokens or other.heads != maps.heads or other.queries != maps.queries
    ):
        raise WorkbenchError("A and B are maps of different heads or tokens and cannot be shown side by side")
    orders = {name: atlas[name].values.ravel().tolist() for name in ORDERS if atlas is not None and name in atlas}
    about = described(maps.provenance)
    value = {
        "checkpoint": "A",
        "other": None if other is None else "B",
        "prompt": "",
        "texts": list(maps.tokens),
        "layers": layers,
        "heads": heads,
        "orders": {name: [None if score != score else score for score in scores] for name, scores in orders.items()},
        "best": _best_head(orders, heads),
        "weigh": "value" if maps.value_name == WEIGHTINGS["value-norm"] else "weight",
        "about": about,
    }
    packed = b"".join(_triangles(one) for one in (maps, other) if one is not None)
    inside = json.dumps({"value": value, "deflated": base64.b64encode(zlib.compress(packed, 9)).decode()})
    parts = "".join(f'<div id="{name}">{asset(f"{name}.html")}</div>' for name in VIEWS)
    views = (f"window.standalone('{name}', (element, props, watch) => {{{asset(f'{name}.js')}}});" for name in VIEWS)
    shared = ("common", "typeset", "vector", "maps", "offers", "standalone")
    scripts = [*(asset(f"{name}.js") for name in shared), *views]
    style = "".join(f"#{name} {{ {asset(f'{name}.css')} }}" for name in VIEWS)  # each view's rules hold for it alone
    return StandalonePage(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>attention</title>'
        f'<style>{asset("standalone.css")}{asset("offers.css")}{style}</style></head><body class="attention-page">'
        f'<main id="view">{parts}</main><p class="about">{html.escape(about)}</p>'
        f'<script type="application/json" id="data">{inside.replace("<", chr(92) + "u003c")}</script>'
        f"{''.join(f'<script>{text}</script>' for text in scripts)}</body></html>",
        height,
    )


def described(provenance: Mapping[str, Any]) -> str:
    """A provenance as one line: "name: value · name: value"; a value is cut to 200 characters."""
    told = {name: " ".join(str(value).split()) for name, value in provenance.items()}
    return " · ".join(f"{name}: {text if len(text) <= 200 else text[:199] + '…'}" for name, text in told.items())


def _triangles(maps: Maps) -> bytes:
    """Each head's weights up to the diagonal, row by row, as little-endian float32."""
    rows, columns = np.tril_indices(len(maps.tokens))
    return maps.values[:, rows, columns].astype("<f4").tobytes()


def _shape_of_maps(maps: Maps) -> tuple[int, int]:
    """(layers, heads of each layer) of maps. Raises WorkbenchError unless they hold every head and every query."""
    heads = sum(name.startswith("L0H") for name in maps.heads)
    layers = len(maps.heads) // heads if heads else 0
    if maps.heads != tuple(f"L{layer}H{head}" for layer in range(layers) for head in range(heads)):
        raise WorkbenchError(
            f"the view needs every head of every layer, L0H0 first; given: {', '.join(maps.heads[:6])}"
        )
    if len(maps.queries) != len(maps.tokens):
        raise WorkbenchError(f"the view needs every query position; given: {len(maps.queries)} of {len(maps.tokens)}")
    return layers, heads


def _best_head(orders: dict[str, list[float]], heads: int) -> dict[str, int] | None:
    """The head to open first: the strongest induction head."""
    if "induction" not in orders:
        return None
    place = max(range(len(orders["induction"])), key=orders["induction"].__getitem__)
    return {"layer": place // heads, "head": place % heads}
