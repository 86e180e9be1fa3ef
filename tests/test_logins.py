"""One login guards every route, and wrong logins are slowed down for each client."""

import base64

import pytest
from fastapi.testclient import TestClient

from tests.served_app import GRADIO_ROUTES, client_of
from workbench.page.guard import HEADERS
from workbench.page.logins import KEPT_CLIENTS, MOST_WRONG, WITHIN, Logins


@pytest.fixture(scope="module")
def guarded(bench):
    return client_of(bench, auth=("ada", "s3:cret"))


@pytest.mark.parametrize(
    "path", [*GRADIO_ROUTES, "/healthz", "/data/attention/map", "/gradio_api/queue/join", "/nowhere"]
)
def test_one_login_guards_every_route(guarded, path):
    kinds = (b"Basic !", b"Basic \xe9", b"Basic", b"Bearer x", b"Basic =", b"\xff", b"Basic " + b"A" * 9999)
    others = [{"authorization": kind} for kind in kinds]
    for login in ({}, *others, basic("ada", "wrong"), basic("eve", "s3:cret"), basic("ada", "\u00ff")):
        reply = at_address(guarded, next(ADDRESSES)).get(path, headers=login)
        assert reply.status_code == 401 and "log in" in reply.json()["detail"]
        assert reply.headers["www-authenticate"].startswith("Basic") and "set-cookie" not in reply.headers
    assert guarded.get(path, headers=basic("ada", "s3:cret")).status_code not in (401, 429)


ADDRESSES = (f"10.0.{number // 250}.{number % 250}" for number in range(50_000))


def at_address(client, address):
    """Another client of the same server."""
    return TestClient(client.app, base_url=client.base_url, client=(address, 5000))


def test_wrong_logins_are_slowed_down_and_only_those_of_their_client(guarded):
    attacker, person = (at_address(guarded, next(ADDRESSES)) for _ in range(2))
    statuses = [attacker.get("/healthz", headers=basic("ada", str(guess))).status_code for guess in range(100)]
    assert statuses == [401] * MOST_WRONG + [429] * (100 - MOST_WRONG)
    reply = attacker.get("/healthz", headers=basic("ada", "s3:cret"))
    assert reply.status_code == 429 and 0 < int(reply.headers["retry-after"]) <= WITHIN
    assert "try again in" in reply.json()["detail"] and "set-cookie" not in reply.headers
    assert {name: reply.headers[name] for name in HEADERS} == HEADERS
    assert attacker.get("/healthz").status_code == 401  # this header makes a browser ask for the login
    assert person.get("/healthz", headers=basic("ada", "s3:cret")).status_code == 200


def test_who_is_logged_in_does_not_wait_for_others_at_the_same_address(guarded):
    address = next(ADDRESSES)
    person, attacker = at_address(guarded, address), at_address(guarded, address)
    person.get("/healthz", headers=basic("ada", "s3:cret"))
    for guess in range(2 * MOST_WRONG):
        attacker.get("/healthz", headers=basic("ada", str(guess)))
    assert attacker.get("/healthz", headers=basic("ada", "s3:cret")).status_code == 429
    reply = person.get("/healthz", headers=basic("ada", "s3:cret"))
    assert reply.status_code == 200 and "set-cookie" not in reply.headers  # this client has the cookie
    assert person.get("/healthz").status_code == 401  # the cookie alone is not a login


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self):
        return self.now


def status(logins, address, password):
    """The status of the response to a login: 200 if it is accepted."""
    headers = [(b"authorization", basic("ada", password)["authorization"].encode())] if password else []
    refusal = logins.refusal({"type": "http", "headers": headers, "client": (address, 5000)})
    return 200 if refusal is None else refusal.status_code


def test_a_client_may_be_wrong_so_often_a_minute_and_waits_no_longer():
    logins = Logins("ada", "s3:cret", clock := Clock())
    answers = []
    while clock.now < 10 * WITHIN:
        answers.append(status(logins, "192.0.2.1", "wrong"))
        clock.now += 0.1
    assert answers.count(401) == 10 * MOST_WRONG and answers.count(429) == len(answers) - 10 * MOST_WRONG
    assert status(logins, "192.0.2.1", "s3:cret") == 429
    clock.now += WITHIN
    assert status(logins, "192.0.2.1", "s3:cret") == 200


def test_requests_without_a_login_are_not_wrong_ones():
    logins = Logins("ada", "s3:cret", Clock())
    assert {status(logins, "192.0.2.1", "") for _ in range(100)} == {401}
    assert status(logins, "192.0.2.1", "s3:cret") == 200


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),  # one client can use all addresses of its IPv6 network
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::1%eth0", True),
        ("", "", True),
    ],
)
def test_clients_are_told_apart(one, other, same):
    logins = Logins("ada", "s3:cret", Clock())
    for _ in range(MOST_WRONG):
        status(logins, one, "wrong")
    assert status(logins, other, "s3:cret") == (429 if same else 200)


def test_only_so_many_clients_are_remembered():
    logins = Logins("ada", "s3:cret", Clock())
    for number in range(KEPT_CLIENTS + 100):
        status(logins, f"10.{number // 65536}.{number // 256 % 256}.{number % 256}", "wrong")
    assert len(logins._wrong) == KEPT_CLIENTS


def basic(name, password):
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}
