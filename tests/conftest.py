"""How the tests run: their order, their marks, their random numbers, and the browser.

The process that hands tests to other processes (`-n 2`) reads this file and runs no test. So nothing here imports
torch, which takes seconds; the fixtures that need it are in `tests/fixtures.py`.
"""

import asyncio
import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from workbench.imports import to_stay, uncollected
from workbench.page.stubs import without_stubs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of subprocesses too

SLOW_FILES = frozenset(  # files that `make quick` leaves out
    [
        "ablation",
        "activation_patching",
        "attention",
        "attribution_graph",
        "attribution_patching",
        "backends",
        "broken_checkpoints",
        "chat_page",
        "check",
        "circuit",
        "circuit_neurons",
        "circuits_tab",
        "command_line",
        "compare_attention",
        "compare_behaviour",
        "compare_weights",
        "contrast",
        "cost",
        "docs",
        "documentation_examples",
        "edit_stack",
        "embedded_dictionaries",
        "every_analysis",
        "explaining_rows",
        "fields",
        "feature_commands",
        "feature_scan",
        "faithfulness",
        "feature_training",
        "features_along_run",
        "generate_tab",
        "head_atlas",
        "interrupts",
        "known_answers",
        "linear_probe",
        "loading",
        "means",
        "memory",
        "metrics",
        "noise_floor",
        "notebooks",
        "olmo",
        "olmo_generation",
        "olmo_training",
        "original",
        "page_compat",
        "path_patching",
        "patchscope",
        "plots",
        "prices",
        "probe_commands",
        "readme",
        "representation_similarity",
        "saved",
        "server",
        "set_commands",
        "sparse_probing",
        "standalone",
        "steering",
        "stopping",
        "streams",
        "tabs",
        "taps",
        "taps_editing",
        "tensor_parallel",
        "texts_of_analyses",
        "texts_tab",
        "tiny_olmo",
        "token_saliency",
        "trajectory",
        "transplant",
        "tuned_lens",
        "weights",
    ]
)


LONGEST_FILES = (  # without those that drive the browser; the longest first
    "test_notebooks",
    "test_known_answers",
    "test_standalone",
    "test_docs",
    "test_command_line",
    "test_readme",
    "test_prices_of_panels",
    "test_olmo_generation",
    "test_server",
    "test_texts_tab",
    "test_feature_training",
    "test_tabs",
    "test_circuits_tab",
    "test_memory",
    "test_representation_similarity",
    "test_cost",
    "test_every_analysis",
    "test_taps_editing",
    "test_edit_stack",
    "test_chat_page",
    "test_trajectory",
)


QUICK = "not slow and not browser"
"""The marks of `make quick`."""

FIRST_BROWSER_FILES = (  # about half of the time of the files that drive the browser; the others are the second half
    "test_circuits",
    "test_edit_stack",
    "test_journeys",
    "test_panels",
)


def pytest_configure(config: pytest.Config) -> None:
    """Import the fixtures where tests run, and keep the order of files in parallel runs.

    pytest-xdist would begin with the files of the most tests.
    """
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False
    if not config.getoption("tx", None) or hasattr(config, "workerinput"):  # `tx`: where `-n` starts processes
        with uncollected():
            config.pluginmanager.import_plugin("tests.fixtures")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Whether `make quick` leaves out a file or folder: to import it and deselect its tests would take seconds."""
    return True if config.getoption("markexpr") == QUICK and marks_of(collection_path) else None


def marks_of(path: Path) -> set[str]:
    """The marks of all tests of a file or folder."""
    if "browser" in (path.name, path.parent.name):
        return {"browser"}
    return {"slow"} if path.stem.removeprefix("test_") in SLOW_FILES else set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files, and those that drive a browser; in parallel runs, put the longest files first.

    Each file is run by one worker (`--dist loadfile`), and a long one at the end would leave the other workers idle.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {name: place for place, name in enumerate(LONGEST_FILES)}
        items.sort(key=lambda item: -1 if "browser" in marks_of(item.path) else places.get(item.path.stem, len(places)))
    for item in items:
        for mark in marks_of(item.path):
            item.add_marker(mark)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin each test with the same random numbers, in any order and in any worker."""
    sys.modules["torch"].default_generator.manual_seed(0)  # `torch.manual_seed` formats a stack for other devices


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import the test files without garbage collection, and Gradio without its stubs."""
    with uncollected(), without_stubs():
        return (yield)


def pytest_collection_finish() -> None:
    """Take what the imports made out of garbage collection: a full collection of it takes half a second."""
    to_stay()


def pytest_sessionfinish() -> None:
    """Take what the tests made out of it too: pytest collects garbage five times before it ends."""
    gc.collect()
    to_stay()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """With `--dist loadfile`, share the files that drive the browser out in two parts: see `BrowserInTwoParts`."""
    return BrowserInTwoParts(config, log) if config.getvalue("dist") == "loadfile" else None


class BrowserInTwoParts(LoadFileScheduling):
    """Gives each worker whole files, and the files that drive the browser in two parts.

    The files of a part share a server, a browser and its pages.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        path = PurePosixPath(file)
        if "browser" not in path.parts:
            return file
        return "browser, first part" if path.stem in FIRST_BROWSER_FILES else "browser, second part"


@pytest.fixture(scope="module", autouse=True)
def no_event_loop() -> None:
    """Check that no file leaves an event loop running in this thread: later files could not run their own."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """One browser for each file: Playwright's synchronous interface runs an event loop in this thread while open."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        yield browser
        browser.close()


def launch_chromium(playwright: "Playwright") -> "Browser":
    """A browser that also runs in a container, and shows scrollbars."""
    return playwright.chromium.launch(
        executable_path=browser_path(shutil.which),
        args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        ignore_default_args=["--hide-scrollbars"],
    )


def browser_path(which: Callable[[str], str | None]) -> str | None:
    """The system's Chromium or Chrome, or None for the one of `playwright install chromium`."""
    return which("chromium") or which("google-chrome")
