"""A text as a stand-alone page of tokens: for notebooks and exported HTML, with its data inside and no server.

text_page(generate(model, tokens, tokenizer=tokenizer))         # as the last line of a notebook's cell
text_page(token_losses(model, tokens, tokenizer=tokenizer)["loss"]).save("text.html")
"""

import html
import json

from workbench.errors import WorkbenchError
from workbench.generation import Written
from workbench.results import Curves
from workbench.views import asset
from workbench.views.standalone import StandalonePage, described
from workbench.views.strip import strip_of


def text_page(result: Written | Curves, *, height: int = 420) -> StandalonePage:
    """A page with a generated text, or with one number for each token of one text.

    A click on a token shows the tokens that were expected in its place; `height` is the frame's, in pixels.

    Errors: WorkbenchError for a result that does not have one number for each token of one text.
    """
    if not isinstance(result, Written) and (len(result.lines) != 1 or result.x_labels is None):
        raise WorkbenchError("this view needs token texts; pass the result for one text, computed with tokenizer=")
    expected = [list(likely) for likely in result.alternatives] if isinstance(result, Written) else []
    data = json.dumps({"value": strip_of(result), "expected": expected}).replace("<", "\\u003c")
    views = (
        f"window.standalone('{name}', (element, props, watch, trigger) => {{{asset(f'{name}.js')}}});"
        for name in ("token_details", "token_strip")
    )
    parts = (*(asset(f"{name}.js") for name in ("common", "typeset", "offers", "vector", "text_page")), "".join(views))
    scripts = "".join(f"<script>{text}</script>" for text in parts)
    title = html.escape(result.title)
    return StandalonePage(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{asset("standalone.css")}{asset("offers.css")}'
        f'{asset("token_strip.css")}{asset("token_details.css")}</style></head><body class="text-page"><main>'
        f'<div id="token_strip">{asset("token_strip.html")}</div>'
        f'<div id="token_details">{asset("token_details.html")}</div>'
        f'</main><p class="about">{html.escape(described(result.provenance))}</p>'
        f'<script type="application/json" id="data">{data}</script>{scripts}</body></html>',
        height,
    )
