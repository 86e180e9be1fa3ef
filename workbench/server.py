"""The web server: Gradio inside an own FastAPI app, with data routes for the attention view, limits and headers.

The guards are plain ASGI middleware, since Starlette's decorator would halve the speed of streaming.
"""

import base64
import binascii
import os
import secrets
import socket
import zlib

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench import views
from workbench.errors import WorkbenchError
from workbench.report import Report, Section, as_html
from workbench.results import Result
from workbench.tabs import TABS, shell
from workbench.tabs.bench import Bench
from workbench.tabs.calls import code, result
from workbench.tabs.panel import as_csv, keep
from workbench.tabs.pictures import Ask, checked, head_picture, map_call, thumbnails, whole_page
from workbench.views.pixels import Picture
from workbench.views.theme import theme

MOST_BYTES = 256_000  # of a request's body
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def create_app(bench: Bench, *, host: str = "127.0.0.1", auth: tuple[str, str] | None = None) -> FastAPI:
    """The whole application. `auth` is a name and a password that every request must carry."""
    app = FastAPI(title="OLMo workbench", docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, bench)
    gr.mount_gradio_app(
        app,
        shell.build(bench, TABS),
        path="/",
        theme=theme(),
        css=views.asset("page.css"),
        head=f"<script>{views.asset('common.js')}</script>",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        allowed_paths=[],
        max_file_size="1kb",
    )
    app.add_middleware(Guard, auth=auth)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=trusted_hosts(host), www_redirect=False)
    return app


def add_routes(app: FastAPI, bench: Bench) -> None:
    """The routes that are not Gradio's."""

    @app.get("/healthz")
    def healthz() -> dict[str, str | int]:
        return {"status": "ok", "checkpoints": len(bench.known)}

    @app.post("/data/attention/map")
    def attention_map(ask: Ask) -> Response:
        return pixels(head_picture(bench, ask))

    @app.post("/data/attention/thumbnails")
    def attention_thumbnails(ask: Ask) -> Response:
        return pixels(thumbnails(bench, ask))

    @app.post("/data/attention/offer")
    def attention_offer(ask: Ask) -> dict[str, str]:
        ask = ask
        checked(bench, ask)
        return {"key": keep(bench, map_call(ask)), "code": code(map_call(ask), bench)}

    @app.post("/data/attention/page")
    def attention_page(ask: Ask) -> Response:
        return attachment(whole_page(bench, ask), "html", "text/html")

    @app.get("/data/export/{key}.csv")
    def export_csv(key: str) -> Response:
        return attachment(as_csv(offered(bench, key)), "csv", "text/csv")

    @app.get("/data/export/{key}.html")
    def export_page(key: str) -> Response:
        found = offered(bench, key)
        section = Section(found.title, found.table(), pictures=[found])
        return attachment(as_html(Report(found.title, [section], found.provenance)), "html", "text/html")

    @app.exception_handler(WorkbenchError)
    def refuse(request: Request, error: WorkbenchError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)


def offered(bench: Bench, key: str) -> Result:
    """The result of a call that the page has shown lately."""
    if key not in bench.offered:
        raise WorkbenchError("this view is no longer kept; run it again")
    return result(bench.offered[key], bench)


def attachment(text: str, ending: str, kind: str) -> Response:
    """A text to be saved as a file."""
    return Response(
        text, media_type=kind, headers={"Content-Disposition": f'attachment; filename="olmo-workbench.{ending}"'}
    )


def pixels(picture: Picture) -> Response:
    """A picture as deflated bytes; the browser inflates them."""
    headers = {
        "Content-Encoding": "deflate",
        "Cache-Control": "no-store",
        "X-Side": str(picture.side),
        "X-Scale": repr(picture.scale),
        "X-Signed": str(int(picture.signed)),
    }
    return Response(zlib.compress(picture.pixels, 1), media_type="application/octet-stream", headers=headers)


def trusted_hosts(host: str) -> list[str]:
    """The names under which the page may be asked for: this machine's own, so that no other site's name leads here."""
    own = {"127.0.0.1", "localhost", "[::1]"}
    return sorted(own if host in own | {"::1"} else own | {host, socket.gethostname(), socket.getfqdn()})


class Guard:
    """Refuses strangers, uploads, large bodies and other sites' requests; adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, auth: tuple[str, str] | None = None) -> None:
        self.app, self.auth = app, auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refusal = self.refusal(scope)
        if refusal is not None:
            return await refusal(scope, receive, with_headers(send))
        await self.app(scope, limited(receive), with_headers(send))

    def refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that is not let in; None if it is."""
        headers, path = Headers(scope=scope), scope["path"].rstrip("/")
        if self.auth is not None and not self.knows(headers.get("authorization", "")):
            return JSONResponse({"detail": "log in"}, 401, headers={"WWW-Authenticate": 'Basic realm="OLMo workbench"'})
        if path.startswith("/gradio_api/upload"):
            return JSONResponse({"detail": "nothing can be uploaded here"}, 404)
        origin = headers.get("origin")
        if origin is not None and origin.split("://")[-1] != headers.get("host"):
            return JSONResponse({"detail": "asked from another site"}, 403)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BYTES:
            return JSONResponse({"detail": f"the request is larger than {MOST_BYTES:,} bytes"}, 413)
        return None

    def knows(self, authorization: str) -> bool:
        """Whether a Basic login is the right one, compared in constant time."""
        kind, _, code = authorization.partition(" ")
        try:
            given = base64.b64decode(code, validate=True)
        except binascii.Error:
            return False
        return kind.lower() == "basic" and secrets.compare_digest(given, ":".join(self.auth).encode())


def limited(receive: Receive) -> Receive:
    """A body without a stated length ends the connection when it grows too large."""
    seen = 0

    async def receive_some() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return message if seen <= MOST_BYTES else {"type": "http.disconnect"}

    return receive_some


def with_headers(send: Send) -> Send:
    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await send(message)

    return send_with
