"""The page with a model of 1.3 B parameters, in a browser: `python -m tests.benchmarks.big_page [--most 30]`.

A checkpoint of random weights is written to a temporary folder (5 GB). Every tab is opened on a prompt of 44 tokens and
every panel that waits for a click is agreed to, those too that only then say a price. Reported for each: the price that
the page said, the seconds until it was drawn, and the server's peak memory beyond what it held with the model loaded. A
panel that takes longer than `--most` seconds is stopped, and reported with the seconds that Stop took. The last line is
the largest peak, beside the 1.5 GB that no panel may exceed.

`--small` takes a model of 20 M parameters, to try the program.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from playwright.sync_api import Page, sync_playwright
from safetensors.torch import save_file
from transformers import OlmoConfig

from hooks import OlmoForCausalLM
from tests.benchmarks.page import text_of
from tests.browser.conftest import start, stop, tab
from tests.conftest import launch_chromium
from workbench import checkpoints

BUDGET = 1.5  # GB beyond the model
CONFIG = OlmoConfig(
    vocab_size=50_304,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=16,
    max_position_embeddings=2048,
    tie_word_embeddings=False,
    architectures=["OlmoForCausalLM"],
    dtype="float32",
)
SMALL = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 4}
TOKENS = 44
BUSY = "[data-testid=status-tracker]:not(.hide)"
PRICES = "button[id$=-price]:visible"
PATIENCE = 1200.0  # seconds
CALM = 4.0  # seconds without an event, after which nothing more is due


def write_model(folder: Path, config: OlmoConfig) -> None:
    """A checkpoint of random weights in one file for each layer, and the embedded series' tokenizer."""
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in OlmoForCausalLM(config).state_dict().items()}
    shards: dict[str, dict[str, torch.Size]] = {}
    for name, shape in shapes.items():
        layer = name.split(".")[2] if ".layers." in name else "rest"
        shards.setdefault(f"model-{layer}.safetensors", {})[name] = shape
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for file, names in shards.items():
        tensors = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in names.items()}
        save_file(tensors, folder / file, {"format": "pt"})
    places = {name: file for file, names in shards.items() for name in names}
    size = 4 * sum(shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    tokenizer = checkpoints.locate("tiny-olmo").parent
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)


class Server:
    """The memory of the server's process."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self.held = self.most = 0.0

    def settle(self) -> None:
        """Take the memory of now as that with the model loaded."""
        self.held = self._read("VmRSS")

    def reset(self) -> None:
        """Start to measure a peak."""
        (self._folder / "clear_refs").write_text("5")

    def peak(self) -> float:
        """Peak memory since `reset`, less what was held with the model loaded, in GB; `most` keeps the maximum."""
        found = self._read("VmHWM") - self.held
        self.most = max(self.most, found)
        return found

    def _read(self, name: str) -> float:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e9


def wait(page: Page, most: float) -> tuple[float, bool]:
    """Wait until no event has run for `CALM` seconds; returns the seconds until then, and whether all events ended.

    If events still run after `most` seconds, they do not end.
    """
    began = busy = time.monotonic()
    while time.monotonic() - busy < CALM:
        page.wait_for_timeout(100)
        if page.locator(BUSY).count():
            busy = time.monotonic()
            if busy - began > most:
                return busy - began, False
    return busy - began, True


def stopped(page: Page) -> float:
    """Press Stop; returns the seconds until no event runs."""
    began = time.monotonic()
    page.locator("#stop").click()
    while page.locator(BUSY).count():
        page.wait_for_timeout(50)
        if time.monotonic() - began > PATIENCE:
            raise TimeoutError("Stop had no effect")
    return time.monotonic() - began


def measured(page: Page, server: Server, name: str, act: str, most: float) -> str:
    """A row of the table: what was said, and the seconds and memory of what runs now."""
    (seconds, done), peak = wait(page, most), server.peak()
    ended = "" if done else f"stopped in {stopped(page):.1f} s"
    return f"| {name} | {act} | {seconds:.1f} | {peak:.2f} | {ended} |"


def rows(page: Page, server: Server, most: float, wanted: list[str]) -> Iterator[str]:
    """A row for each tab as it is opened, and for each of its panels that waits for a click."""
    names = page.locator("#tabs [role=tab]").all_inner_texts()
    for name in dict.fromkeys(wanted or names):
        server.reset()
        tab(page, name)
        yield measured(page, server, name, "opened", PATIENCE)
        done = set() if name == names[0] else {"rail-price"}  # it stands beside every tab
        while left := [button for button in priced(page) if button not in done]:
            done.add(button := left[0])
            server.reset()
            said = page.locator(f"#{button}").inner_text()
            page.locator(f"#{button}").click()
            yield measured(page, server, f"{name}: {button.removesuffix('-price')}", said, most)


def priced(page: Page) -> list[str]:
    """The ids of the buttons in sight that agree to a price."""
    return page.locator(PRICES).evaluate_all("buttons => buttons.map(button => button.id)")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.big_page", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--most", type=float, default=PATIENCE, help="seconds after which a panel is stopped")
    parser.add_argument("--tabs", nargs="*", default=[], help="tabs to open (default: all)")
    parser.add_argument("--folder", type=Path, help="where the model is, or is written and stays")
    parser.add_argument("--small", action="store_true", help="a model of 20 M parameters, to try the program")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="big-olmo-") as temporary, sync_playwright() as playwright:
        series = args.folder or Path(temporary) / "series"
        if not (series / "step0" / "config.json").is_file():
            write_model(series / "step0", OlmoConfig(**CONFIG.to_dict() | SMALL) if args.small else CONFIG)
        asks_above = "0.1" if args.small else "5"
        process, address = start("--threads", "2", "--ask-above", asks_above, series=str(series), fresh=True)
        server, browser = Server(psutil.Process(process.pid).pid), launch_chromium(playwright)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        began = time.monotonic()
        page.goto(f"{address}/?length=4&prompt={text_of(TOKENS)}", wait_until="commit")
        page.wait_for_selector("body[data-ready]", timeout=1000 * PATIENCE)
        wait(page, PATIENCE)
        problems = page.locator("#problem p").all_inner_texts()
        assert not problems, f"the page shows no model: {problems}"
        loaded = server.peak()
        server.settle()
        server.most = 0.0
        print("| tab or panel | price | seconds | GB beyond the model | |\n|---|---|---|---|---|")
        print(
            f"| first page, with loading | | {time.monotonic() - began:.1f} | {loaded - server.held:.2f} | |",
            flush=True,
        )
        for row in rows(page, server, args.most, args.tabs):
            print(row, flush=True)
        print(f"largest peak: {server.most:.2f} GB beyond the model; at most {BUDGET} GB are allowed")
        browser.close()
        stop(process)


if __name__ == "__main__":
    main()
