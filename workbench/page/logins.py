"""The page's login: one name and one password. Only clients that send wrong logins have to wait."""

import base64
import math
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address, ip_network

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import Scope

MOST_WRONG = 10  # wrong logins of a client
WITHIN = 60.0  # seconds
KEPT_CLIENTS = 4096
COOKIE = "olmo-workbench"


class Logins:
    """Checks the login that every request has to carry.

    After `MOST_WRONG` wrong logins of a client within `WITHIN` seconds, the client's logins are not checked until the
    first of the wrong ones is `WITHIN` seconds old. Several people may share one address, so a browser that has logged
    in receives a cookie, and requests with the cookie do not have to wait.
    """

    def __init__(self, name: str, password: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._login, self._clock = f"{name}:{password}".encode(), clock
        self._token = secrets.token_urlsafe(32)
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()  # times of each client's last wrong logins

    def refusal(self, scope: Scope) -> JSONResponse | None:
        """The response that refuses a request without the right login; None if the login is right."""
        request = Request(scope)
        given, client = request.headers.get("authorization", ""), client_of(scope)
        wait = 0 if self._has_cookie(request) else self._wait(client)
        if given and wait:
            why = f"{MOST_WRONG} wrong logins came from {client} within a minute; try again in {wait} s"
            return JSONResponse({"detail": why}, 429, headers={"Retry-After": str(wait)})
        if is_login(given, self._login):
            return None
        if given:
            self._count(client)
        why = "log in with the name and the password given to --auth"
        return JSONResponse({"detail": why}, 401, headers={"WWW-Authenticate": 'Basic realm="OLMo workbench"'})

    def cookie(self, scope: Scope) -> dict[str, str]:
        """The header that sets the cookie in a browser that has logged in; empty if the request carries the cookie."""
        if self._has_cookie(Request(scope)):
            return {}
        return {"set-cookie": f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/"}

    def _has_cookie(self, request: Request) -> bool:
        return secrets.compare_digest(request.cookies.get(COOKIE, "").encode(), self._token.encode())

    def _wait(self, client: str) -> int:
        """The number of seconds for which a client's logins are not checked."""
        wrong = self._wrong.get(client, deque[float]())
        return 0 if len(wrong) < MOST_WRONG else max(0, math.ceil(wrong[0] + WITHIN - self._clock()))

    def _count(self, client: str) -> None:
        """Count a wrong login."""
        self._wrong.setdefault(client, deque(maxlen=MOST_WRONG)).append(self._clock())
        self._wrong.move_to_end(client)
        while len(self._wrong) > KEPT_CLIENTS:
            self._wrong.popitem(last=False)


def client_of(scope: Scope) -> str:
    """The client of a request: its IPv4 address, or its IPv6 network of 64 bits, which one person holds as a whole."""
    host = scope["client"][0] if scope.get("client") else "an unknown address"
    try:
        address = ip_address(host)
    except ValueError:  # not an IP address: a socket in the file system, for example
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ip_network((address.packed, 64), strict=False))


def is_login(authorization: str, login: bytes) -> bool:
    """Whether a Basic Authorization header holds `login` (NAME:PASSWORD), compared in constant time."""
    kind, _, code = authorization.partition(" ")
    try:
        given = base64.b64decode(code, validate=True)
    except ValueError:
        return False
    return kind.lower() == "basic" and secrets.compare_digest(given, login)
