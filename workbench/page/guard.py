"""Access control: the server accepts only requests of its own page, to its own names, with its login, of limited size.

Plain ASGI, since Starlette's decorator for middleware would halve the speed of streaming.
"""

import re
import socket
import time
from collections.abc import Mapping
from ipaddress import IPv6Address

from fastapi import Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench.choices import LOOPBACK
from workbench.page.build.slot import log
from workbench.page.logins import Logins
from workbench.page.session.cancellation import ARRIVED

MOST_BYTES = 256_000  # of a request's body
SET_ROUTE, MOST_SET_BYTES = "/data/texts/set", 2_500_000  # the only larger body: a set of texts, as JSON
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
# All paths that the page requests, after URL decoding. Gradio has many more routes: they read and write files, fetch
# from other machines, take uploads.
ROUTES = re.compile(
    r"/(healthz|config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)?|/(data|assets|static)/.+"
    r"|/gradio_api/(info|app_id|run/predict|queue/(join|data))"
)
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:@/\[\]]+)(:\d*)?")  # a name or an address, and a port


def refused(status: int, why: str) -> JSONResponse:
    """An error response with the reason as a sentence."""
    return JSONResponse({"detail": why}, status)


def too_large(path: str) -> JSONResponse:
    """The response to a request whose body is too large."""
    return refused(413, f"the request is larger than {most_bytes(path):,} bytes")


def most_bytes(path: str) -> int:
    """Largest size of the body of a request for this path, in bytes."""
    return MOST_SET_BYTES if path == SET_ROUTE else MOST_BYTES


BROKEN = refused(500, "the server failed to answer this request; the error is in the server's log")


def trusted_hosts(host: str) -> frozenset[str]:
    """The Host headers that are accepted: names of this machine only, so that the name of another
    site that points to this machine is refused.

    A `Guard` also accepts the address at which a connection arrived, which belongs to this machine, too.
    """
    names = {*LOOPBACK} if host in LOOPBACK else {*LOOPBACK, host, socket.gethostname(), socket.getfqdn()}
    return frozenset(in_header(name) for name in names)


def in_header(host: str) -> str:
    """A name or an address in the form of a Host header: lower case, an IPv6 address in brackets."""
    host = host.partition("%")[0].lower()  # without the interface of a link-local address
    return str(IPv6Address(host).ipv4_mapped or f"[{host}]") if ":" in host else host


class Guard:
    """ASGI middleware that accepts only the page's own requests and adds the security headers to every response.

    It refuses, with a reason, requests with another Host header, without the login, for another route, from another
    site, or with a large body.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], logins: Logins | None = None) -> None:
        self.app, self.hosts, self.logins = app, hosts, logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})  # the page uses no websocket
        scope[ARRIVED] = time.monotonic_ns()
        refusal = self.refusal(scope)
        if refusal is not None:
            return await refusal(scope, receive, Reply(send).send)
        answer, body = (
            Reply(send, {} if self.logins is None else self.logins.cookie(scope)),
            Body(receive, most_bytes(scope["path"])),
        )
        try:
            await self.app(scope, body.receive, body.unless_large(answer.send))
        except Exception:  # noqa: BLE001 - an outer server would respond without the headers
            log.exception("a request failed")
        if not answer.began:
            await (too_large(scope["path"]) if body.is_large else BROKEN)(scope, receive, answer.send)

    def refusal(self, scope: Scope) -> Response | None:
        """The response that refuses a request; None if the request is accepted."""
        headers = Headers(scope=scope)
        if not self.is_own(headers.get("host", ""), scope):
            return refused(400, "the server has no such host name; use the address that it printed when it started")
        refusal = None if self.logins is None else self.logins.refusal(scope)
        if refusal is not None:
            return refusal
        if not ROUTES.fullmatch(scope["path"]):
            return refused(404, "this path does not exist on this server; it accepts no uploads and serves no files")
        origin = headers.get("origin")
        if origin is not None and origin.split("://")[-1] != headers.get("host"):
            return refused(403, "requests from other sites are not accepted")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()) or int(length[:20]) > most_bytes(scope["path"]):
            return too_large(scope["path"])
        return None

    def is_own(self, host: str, scope: Scope) -> bool:
        """Whether a Host header names this server: by one of its names, or by the address of the connection."""
        address, _ = scope.get("server") or ("", None)
        named = HOST.fullmatch(host.lower())
        return named is not None and named[1] in {*self.hosts, in_header(address)}


class Body:
    """Counts the bytes of a request's body as they arrive, since a request may not state its length.

    Above `most` bytes, the application receives a disconnect instead of the body.
    """

    def __init__(self, receive: Receive, most: int = MOST_BYTES) -> None:
        self._receive, self._most, self._seen = receive, most, 0

    @property
    def is_large(self) -> bool:
        """Whether more bytes have arrived than are allowed."""
        return self._seen > self._most

    async def receive(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.is_large else message

    def unless_large(self, send: Send) -> Send:
        """A `send` that drops the application's response to a body that is too large; `Guard` sends another one."""

        async def send_unless(message: Message) -> None:
            if not self.is_large:
                await send(message)

        return send_unless


class Reply:
    """Sends a response with the security headers and those in `more`. `began` is true once a response has started."""

    def __init__(self, send: Send, more: Mapping[str, str] | None = None) -> None:
        self._send, self._headers, self.began = send, {**HEADERS, **(more or {})}, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.began = True
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers[name] = value
        await self._send(message)
