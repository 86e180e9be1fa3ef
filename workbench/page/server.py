"""The web server: Gradio mounted in a FastAPI app, with data routes for the views, limits and security headers.

The guards are plain ASGI middleware, since Starlette's decorator would halve the speed of streaming.
"""

import json
import os
import re
import zlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)  # events between two usage summaries, which are not used
os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"  # of that summary
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from workbench import views
from workbench.colours import CELLS_STYLE, ON_DARK, TEXT_STYLE
from workbench.errors import WorkbenchError
from workbench.interventions import active_lines
from workbench.mendable import MENDABLE
from workbench.page.build.page import build
from workbench.page.build.slot import log, message
from workbench.page.components import page_script
from workbench.page.guard import BROKEN, SET_ROUTE, Guard, trusted_hosts
from workbench.page.logins import Logins
from workbench.page.session import text_requests, training_text
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import report_of_call, result
from workbench.page.session.calls import Call
from workbench.page.session.edit_lines import EditRequest, checked_edits
from workbench.page.session.feature_graphs import circuit_tracer_json, edges_csv
from workbench.page.session.map_requests import (
    MapRequest,
    all_maps,
    checked_prompts,
    head_cells,
    head_picture,
    map_call,
    thumbnails,
    whole_page,
)
from workbench.page.session.offers import definition, offer
from workbench.page.session.text_sets import SetRequest
from workbench.page.tabs import TABS, saved
from workbench.page.theme import theme
from workbench.report import as_csv, as_html
from workbench.views.pixels import Picture
from workbench.views.standalone import described
from workbench.views.text_page import text_page

PLOT_STYLE = f"{TEXT_STYLE} .dark .js-plotly-plot {{ {ON_DARK} }} .dark {CELLS_STYLE}"
PAGE_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)  # Gradio's session hash of an open page


def create_app(bench: Bench, *, host: str = "127.0.0.1", auth: tuple[str, str] | None = None) -> FastAPI:
    """The whole application. `auth` is a name and a password that every request must carry."""
    whole = Depends(check_body)
    app = FastAPI(title="OLMo workbench", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[whole])
    add_status_routes(app, bench)
    add_attention_routes(app, bench)
    add_text_routes(app, bench)
    add_corpus_routes(app, bench)
    add_edit_routes(app, bench)
    add_set_routes(app, bench)
    add_export_routes(app, bench)
    for kind in MENDABLE:
        app.add_exception_handler(kind, refuse)
    page = build(bench, (saved, *TABS) if bench.saved else TABS)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        app_kwargs={
            "dependencies": [whole, Depends(event_check(page))],
            "exception_handlers": {Exception: lambda request, error: BROKEN},  # the guard logs it
        },
        show_error=False,  # a browser would read the error's text as HTML
        theme=theme(),
        css=views.asset("page.css") + views.asset("offers.css") + PLOT_STYLE,
        head=f'<script src="{add_script_route(app)}"></script>',
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        allowed_paths=[],
        max_file_size="1kb",
    )
    app.add_middleware(Guard, hosts=trusted_hosts(host), logins=None if auth is None else Logins(*auth))
    return app


def serve(app: FastAPI, host: str, port: int) -> None:
    """Serve the application until it is interrupted. Proxy headers are ignored: any client can forge them."""
    uvicorn.run(app, host=host, port=port, proxy_headers=False, log_level="warning", timeout_graceful_shutdown=2)


def add_script_route(app: FastAPI) -> str:
    """A route of the scripts of the page; returns its address, which changes with them, so that browsers keep them."""
    script = page_script()

    @app.get("/data/page.js")
    def page_js() -> Response:
        return Response(script, media_type="text/javascript", headers={"Cache-Control": "private, max-age=31536000"})

    return f"data/page.js?{zlib.crc32(script.encode()):08x}"


def add_status_routes(app: FastAPI, bench: Bench) -> None:
    """Routes that report the state of the server."""

    @app.get("/healthz")
    def healthz() -> dict[str, str | int]:
        return {"status": "ok", "checkpoints": len(bench.known)}

    @app.get("/data/status")
    def status() -> dict[str, Any]:
        return bench.status()


def add_attention_routes(app: FastAPI, bench: Bench) -> None:
    """Routes of the attention view: pictures, exact numbers, offers (see `offer`) and the stand-alone page."""

    @app.post("/data/attention/map")
    def attention_map(request: MapRequest) -> Response:
        return pixels(head_picture(bench, request))

    @app.post("/data/attention/thumbnails")
    def attention_thumbnails(request: MapRequest) -> Response:
        return pixels(thumbnails(bench, request))

    @app.post("/data/attention/cells/{query}/{key}")
    def attention_cells(request: MapRequest, query: int, key: int) -> Response:
        return Response(head_cells(bench, request, query, key), media_type="application/octet-stream")

    @app.post("/data/attention/offer")
    def attention_offer(request: MapRequest) -> dict[str, str]:
        checked_prompts(bench, request)
        call = map_call(request)
        told = offer(bench, call) | {"about": described(result(call, bench).provenance)}
        if request.other is not None:  # a difference of maps: add the definition of a map
            told["definition"] += f"\n\n\n{definition(map_call(replace(request, other=None)))}"
        return told

    @app.post("/data/attention/page")
    def attention_page(request: MapRequest) -> Response:
        page, call = whole_page(bench, request), all_maps(request.checkpoint, request.prompt, request.edits)
        return attachment(page, f"{call.file_name}.html", "text/html")


def add_text_routes(app: FastAPI, bench: Bench) -> None:
    """Routes of the token strips: the details of a token, and offers (see `offer`)."""

    @app.post("/data/text/offer")
    def text_offer(request: text_requests.TextRequest) -> dict[str, str]:
        call = text_requests.text_call(bench, request)
        if not request.length:  # the text is only read: its losses are for the picture's last line
            result(call, bench)
        return offer(bench, call)

    @app.post("/data/text/token")
    def text_token(request: text_requests.TokenRequest) -> dict[str, Any]:
        return text_requests.token_details_value(bench, request)

    @app.post("/data/text/token/offer")
    def text_token_offer(request: text_requests.TokenRequest) -> dict[str, str]:
        return offer(bench, text_requests.token_call(bench, request))


def add_corpus_routes(app: FastAPI, bench: Bench) -> None:
    """Routes of the training text of a checkpoint's series."""

    @app.post("/data/corpus/seen")
    def corpus_seen(request: training_text.SeenRequest) -> dict[str, Any]:
        return training_text.seen(bench, request)

    @app.post("/data/corpus/seen/offer")
    def corpus_seen_offer(request: training_text.SeenRequest) -> dict[str, str]:
        return offer(bench, training_text.seen_call(bench, request))

    @app.post("/data/corpus/shade")
    def corpus_shade(request: training_text.ShadeRequest) -> dict[str, Any]:
        return training_text.shading(bench, request)

    @app.post("/data/corpus/shade/offer")
    def corpus_shade_offer(request: training_text.ShadeRequest) -> dict[str, str]:
        return offer(bench, training_text.shade_call(bench, request))


def add_edit_routes(app: FastAPI, bench: Bench) -> None:
    """The route that reads typed edits."""

    @app.post("/data/edits")
    def edits(request: EditRequest) -> dict[str, Any]:
        """The edits in their canonical spelling, or a sentence on what is wrong with them."""
        opened = bench.read(request.checkpoint, request.prompt)
        try:
            return {"lines": active_lines(checked_edits(bench, opened, request.edits))}
        except WorkbenchError as error:  # a normal response to typed text
            return {"lines": [], "problem": message(error)}


def add_set_routes(app: FastAPI, bench: Bench) -> None:
    """The route to which a user sends a set of texts, which stays in memory."""

    @app.post(SET_ROUTE)
    def take_set(request: SetRequest) -> dict[str, Any]:
        found = bench.sets.add(request.file, request.content, request.text, request.label)
        return {"name": found.name, "title": found.title, "counted": found.counted}


def add_export_routes(app: FastAPI, bench: Bench) -> None:
    """Routes that download the results of calls that the page has offered recently."""

    @app.get("/data/export/{key}.csv")
    def export_csv(key: str) -> Response:
        call = offered(bench, key)
        return attachment(as_csv(report_of_call(call, bench)), f"{call.file_name}.csv", "text/csv")

    @app.get("/data/export/{key}.edges")
    def export_edges(key: str) -> Response:
        call = offered(bench, key)
        return attachment(edges_csv(bench, call), f"{call.file_name}-edges.csv", "text/csv")

    @app.get("/data/export/{key}.json")
    def export_json(key: str) -> Response:
        call = offered(bench, key)
        return attachment(circuit_tracer_json(bench, call), f"{call.file_name}.json", "application/json")

    @app.get("/data/export/{key}.html")
    def export_page(key: str) -> Response:
        call = offered(bench, key)
        is_page = call.show is text_page
        page = text_page(result(call, bench)).page if is_page else as_html(report_of_call(call, bench))
        return attachment(page, f"{call.file_name}.html", "text/html")


def refuse(request: Request, error: Exception) -> JSONResponse:
    """The response to a request that failed with a `MENDABLE` error: its message, with status 422."""
    if not isinstance(error, WorkbenchError):
        log.error("a request failed", exc_info=error)
    return JSONResponse({"detail": message(error)}, status_code=422)


def offered(bench: Bench, key: str) -> Call:
    """A call that the page has shown recently. Raises WorkbenchError if its key is no longer kept."""
    call = bench.offered.get(key)
    if call is None:
        raise WorkbenchError("this result is no longer in memory; run the view again")
    return call


def attachment(text: str, name: str, kind: str) -> Response:
    """A response that the browser saves as a file with this name."""
    return Response(text, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def pixels(picture: Picture) -> Response:
    """A response with a picture as deflated bytes, which the browser inflates; its sizes and scale are headers."""
    headers = {
        "Content-Encoding": "deflate",
        "Cache-Control": "no-store",
        "X-Side": str(picture.side),
        "X-Scale": repr(picture.scale),
        "X-Rest": repr(picture.rest),
        "X-Signed": str(int(picture.signed)),
        "X-Second": str(int(picture.second)),
    }
    return Response(zlib.compress(picture.pixels, 1), media_type="application/octet-stream", headers=headers)


async def check_body(request: Request) -> None:
    """Refuse a body that is not JSON, or that holds NaN, infinity or half a surrogate pair.

    JSON can spell half a surrogate pair, but it is not text and has no encoding.
    """
    if request.method == "POST":
        try:
            json.dumps(await request.json(), ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError as error:
            raise HTTPException(422, "the request contains half a surrogate pair, which is not text") from error
        except (ValueError, RecursionError) as error:
            raise HTTPException(422, f"the request is not valid JSON: {error}") from error


def event_check(page: gr.Blocks) -> Callable[[Request], Coroutine[Any, Any, None]]:
    """A check, made before Gradio's own, that refuses other pages and events that this page does not have."""

    async def check(request: Request) -> None:
        if request.method == "GET" and request.query_params.get("page"):
            raise HTTPException(404, "this server has only one page, without a name")
        if request.method == "POST":
            problem = event_problem(page, await request.json())
            if problem is not None:
                raise HTTPException(422, problem)

    return check


def event_problem(page: gr.Blocks, event: object) -> str | None:
    """Why a request is not an event of a page; None if it is. The reason quotes no input: browsers read it as HTML."""
    if not isinstance(event, dict):
        return "an event must be a JSON object"
    number, values, name = (event.get(key) for key in ("fn_index", "data", "session_hash"))
    if type(number) is not int or number not in page.fns:
        return "the page does not have this event; reload the page"
    if not isinstance(values, list) or len(values) != len(page.fns[number].inputs):
        return f"this event takes {len(page.fns[number].inputs)} values; reload the page"
    if event.get("batched"):
        return "this page does not accept batched events"
    if not isinstance(name, str) or not PAGE_NAME.fullmatch(name):
        return "an event needs a session_hash of at most 64 letters and digits"
    return None
