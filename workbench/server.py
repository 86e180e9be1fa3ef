"""The web server: Gradio inside an own FastAPI app, with data routes for the attention view, limits and headers.

The guards are plain ASGI middleware, since Starlette's decorator would halve the speed of streaming.
"""

import base64
import binascii
import os
import secrets
import socket
import zlib
from dataclasses import replace
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench import views
from workbench.choices import LOOPBACK
from workbench.errors import WorkbenchError
from workbench.report import as_csv, as_html, report_of
from workbench.results import Result
from workbench.tabs import TABS, shell, texts
from workbench.tabs.bench import Bench
from workbench.tabs.calls import Call, code, result
from workbench.tabs.panel import definition, keep
from workbench.tabs.pictures import Ask, checked, head_cells, head_picture, map_call, thumbnails, whole_page
from workbench.tabs.place import MENDABLE, log, message
from workbench.views.pixels import Picture
from workbench.views.standalone import described
from workbench.views.text_page import text_page
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

TOO_LARGE = JSONResponse({"detail": f"the request is larger than {MOST_BYTES:,} bytes"}, 413)


def create_app(bench: Bench, *, host: str = "127.0.0.1", auth: tuple[str, str] | None = None) -> FastAPI:
    """The whole application. `auth` is a name and a password that every request must carry."""
    app = FastAPI(title="OLMo workbench", docs_url=None, redoc_url=None, openapi_url=None)
    add_status(app, bench)
    add_attention(app, bench)
    add_texts(app, bench)
    add_exports(app, bench)
    for kind in MENDABLE:
        app.add_exception_handler(kind, refuse)
    gr.mount_gradio_app(
        app,
        shell.build(bench, TABS),
        path="/",
        theme=theme(),
        css=views.asset("page.css"),
        head="".join(
            f"<script>{views.asset(name)}</script>" for name in ("common.js", "offers.js", "maps.js", "status.js")
        ),
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


def add_status(app: FastAPI, bench: Bench) -> None:
    """Routes that say how the server is."""

    @app.get("/healthz")
    def healthz() -> dict[str, str | int]:
        return {"status": "ok", "checkpoints": len(bench.known)}

    @app.get("/data/status")
    def status() -> dict[str, Any]:
        return bench.status()


def add_attention(app: FastAPI, bench: Bench) -> None:
    """Routes of the attention view: its pictures, exact numbers and offers."""

    @app.post("/data/attention/map")
    def attention_map(ask: Ask) -> Response:
        return pixels(head_picture(bench, ask))

    @app.post("/data/attention/thumbnails")
    def attention_thumbnails(ask: Ask) -> Response:
        return pixels(thumbnails(bench, ask))

    @app.post("/data/attention/cells/{query}/{key}")
    def attention_cells(ask: Ask, query: int, key: int) -> Response:
        return Response(head_cells(bench, ask, query, key), media_type="application/octet-stream")

    @app.post("/data/attention/offer")
    def attention_offer(ask: Ask) -> dict[str, str]:
        checked(bench, ask)
        call = map_call(ask)
        told = offer(bench, call) | {"about": described(result(call, bench).provenance)}
        if ask.other is not None:  # a difference of maps, which are defined too
            told["definition"] += f"\n\n\n{definition(map_call(replace(ask, other=None)))}"
        return told

    @app.post("/data/attention/page")
    def attention_page(ask: Ask) -> Response:
        return attachment(whole_page(bench, ask), "html", "text/html")


def add_texts(app: FastAPI, bench: Bench) -> None:
    """Routes of the token strips: a token looked at, and offers."""

    @app.post("/data/text/offer")
    def text_offer(ask: texts.Ask) -> dict[str, str]:
        return offer(bench, texts.text_call(bench, ask))

    @app.post("/data/text/token")
    def text_token(look: texts.Look) -> dict[str, Any]:
        return texts.looked_at(bench, look)

    @app.post("/data/text/token/offer")
    def text_token_offer(look: texts.Look) -> dict[str, str]:
        return offer(bench, texts.look_call(bench, look))


def add_exports(app: FastAPI, bench: Bench) -> None:
    """Downloads of what the page has offered lately."""

    @app.get("/data/export/{key}.csv")
    def export_csv(key: str) -> Response:
        return attachment(as_csv(report_of(offered(bench, key))), "csv", "text/csv")

    @app.get("/data/export/{key}.html")
    def export_page(key: str) -> Response:
        found = offered(bench, key)
        if bench.offered[key].show is text_page:
            return attachment(text_page(found).page, "html", "text/html")
        return attachment(as_html(report_of(found)), "html", "text/html")


def refuse(request: Request, error: Exception) -> JSONResponse:
    """The answer to what cannot be done."""
    if not isinstance(error, WorkbenchError):
        log.error("a request failed", exc_info=error)
    return JSONResponse({"detail": message(error)}, status_code=422)


def offer(bench: Bench, call: Call) -> dict[str, str]:
    """A call as Python, the definitions of its functions, and the key of its downloads."""
    return {"key": keep(bench, call), "code": code(call, bench), "definition": definition(call)}


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
        "X-Rest": repr(picture.rest),
        "X-Signed": str(int(picture.signed)),
        "X-Second": str(int(picture.second)),
    }
    return Response(zlib.compress(picture.pixels, 1), media_type="application/octet-stream", headers=headers)


def trusted_hosts(host: str) -> list[str]:
    """The names under which the page may be asked for: this machine's own, so that no other site's name leads here."""
    own = {f"[{name}]" if ":" in name else name for name in LOOPBACK}
    return sorted(own if host in LOOPBACK else own | {host, socket.gethostname(), socket.getfqdn()})


class Guard:
    """Refuses strangers, uploads, large bodies and other sites' requests; adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, auth: tuple[str, str] | None = None) -> None:
        self.app, self.login = app, None if auth is None else ":".join(auth).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})  # nothing here needs one
        send = with_headers(send)
        refusal = self.refusal(scope)
        if refusal is not None:
            return await refusal(scope, receive, send)
        body = Body(receive)
        await self.app(scope, body.receive, body.unless_large(send))
        if body.is_large:
            await TOO_LARGE(scope, receive, send)

    def refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that is not let in; None if it is."""
        headers, path = Headers(scope=scope), scope["path"].rstrip("/")
        if self.login is not None and not is_login(headers.get("authorization", ""), self.login):
            return JSONResponse({"detail": "log in"}, 401, headers={"WWW-Authenticate": 'Basic realm="OLMo workbench"'})
        if path.startswith("/gradio_api/upload"):
            return JSONResponse({"detail": "nothing can be uploaded here"}, 404)
        origin = headers.get("origin")
        if origin is not None and origin.split("://")[-1] != headers.get("host"):
            return JSONResponse({"detail": "asked from another site"}, 403)
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()) or int(length[:20]) > MOST_BYTES:
            return TOO_LARGE
        return None


def is_login(authorization: str, login: bytes) -> bool:
    """Whether a Basic authorization is this login, NAME:PASSWORD, compared in constant time."""
    kind, _, code = authorization.partition(" ")
    try:
        given = base64.b64decode(code, validate=True)
    except binascii.Error:
        return False
    return kind.lower() == "basic" and secrets.compare_digest(given, login)


class Body:
    """A request's body, counted as it comes, since its length may not be stated. Past the limit it seems to end."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._seen = receive, 0

    @property
    def is_large(self) -> bool:
        """Whether more came than is let in."""
        return self._seen > MOST_BYTES

    async def receive(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.is_large else message

    def unless_large(self, send: Send) -> Send:
        """Hold back the answer to a body that is too large: another is given."""

        async def send_unless(message: Message) -> None:
            if not self.is_large:
                await send(message)

        return send_unless


def with_headers(send: Send) -> Send:
    """The same way out, with the security headers on every answer."""

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await send(message)

    return send_with
