"""The options of `python app.py`: their help, and what is wrong with them in a sentence."""

import re
import socket
import sys

import pytest

import app
from workbench import checkpoints


@pytest.mark.parametrize("auth", [[], ["--auth", "name"], ["--auth", "name:"], ["--auth", ":secret"]])
def test_others_are_let_in_with_a_login_only(auth, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py", "--host", "0.0.0.0", *auth])
    with pytest.raises(SystemExit, match="--auth"):
        app.main()


def test_this_machine_alone_is_served_by_default(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py"])
    assert app.arguments().host == "127.0.0.1"
    for spelling in ("nf4", "4bit", "8bit"):
        monkeypatch.setattr(sys, "argv", ["app.py", "--quantize", spelling])
        assert app.arguments().quantize == spelling


def test_help_explains_every_option(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["app.py", "--help"])
    with pytest.raises(SystemExit):
        app.main()
    shown = capsys.readouterr().out
    for option in ("series", "checkpoint", "dtype", "device", "quantize", "port", "auth", "host", "memory", "threads"):
        assert re.search(rf"--{option}\b.*\n? +\S", shown)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memory", "-1"], "--memory -1: it should be a number of GB above 0"),
        (["--memory", "nan"], "--memory nan"),
        (["--threads", "0"], "--threads 0: it should be a number from 1"),
        (["--port", "99999"], "--port 99999: the page cannot be served there"),
        (
            ["--host", "no.such.host.invalid", "--auth", "a:b"],
            "no.such.host.invalid --port 7860: the page cannot be served",
        ),
        (["--port", "0", "--device", "abacus"], "no device 'abacus'"),
        (["--port", "0", "--device", "abacus", "--memory", "1", "--dtype", "float32"], "no device 'abacus'"),
        (["--port", "0", "--series", 5000 * "x"], "File name too long"),
    ],
)
def test_options_that_will_not_do_are_said_in_a_sentence(options, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py", *options])
    with pytest.raises(SystemExit, match=re.escape(said)) as stopped:
        app.main()
    assert "\n" not in stopped.value.code and len(stopped.value.code) < 1000


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(checkpoints, "series", lambda _: pytest.fail("something was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["app.py", "--port", str(port)])
        with pytest.raises(SystemExit, match=f"--port {port}: the page cannot be served there: Address already in use"):
            app.main()


def test_an_unknown_series_is_said(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py", "--series", "no/such/series/here", "--port", "0"])
    with pytest.raises(SystemExit, match="no series 'no/such/series/here'"):
        app.main()
