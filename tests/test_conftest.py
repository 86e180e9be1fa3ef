"""The choice of the browser for the tests."""

import re
from pathlib import Path

import pytest
from conftest import FIRST_BROWSER_FILES, LONGEST_FILES, SLOW_FILES, browser_path

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("installed", "path"),
    [
        (["chromium", "google-chrome"], "/bin/chromium"),
        (["google-chrome"], "/bin/google-chrome"),
        (["firefox"], None),  # None: Playwright's own browser is used
    ],
)
def test_the_browser_is_the_systems_or_playwrights(installed: list[str], path: str | None) -> None:
    assert browser_path({name: f"/bin/{name}" for name in installed}.get) == path


def test_make_looks_for_the_same_browsers() -> None:
    """`make` looks for browsers in the same order as the tests, and else installs one."""
    asked: list[str] = []
    browser_path(asked.append)
    recipe = (ROOT / "Makefile").read_text().partition("chromium: $(VENV)/.installed\n\t")[2]
    found = re.findall(r"command -v (\S+)", recipe)
    assert asked == [name for name in found if name != "apt-get"]
    assert "apt-get install -y -qq chromium" in recipe and "playwright install chromium" in recipe


def test_files_that_are_treated_differently_are_there() -> None:
    named = {*LONGEST_FILES, *(f"test_{name}" for name in SLOW_FILES)}
    named |= {f"browser/{name}" for name in FIRST_BROWSER_FILES}
    assert {name for name in named if not (ROOT / f"tests/{name}.py").exists()} == set()
