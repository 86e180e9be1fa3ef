"""The server connects only to this machine: all browser tests use a server that ends at any other connection."""

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import confined


@pytest.mark.parametrize(
    "attempt",
    [
        "import urllib.request; urllib.request.urlopen('http://example.com', timeout=1)",
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=0.1)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    ],
)
def test_a_server_that_left_the_machine_would_end(tmp_path: Path, attempt: str):
    (tmp_path / "program.py").write_text(attempt)
    done = subprocess.run(confined(str(tmp_path / "program.py")), capture_output=True, text=True)
    assert done.returncode == 77 and "left the machine" in done.stderr


def test_a_server_may_talk_to_its_own_machine(tmp_path: Path):
    (tmp_path / "program.py").write_text(
        "import socket\nlistener = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(listener.getsockname()).close()\n"
    )
    assert subprocess.run(confined(str(tmp_path / "program.py"))).returncode == 0
    assert sys.executable in confined("app.py")
