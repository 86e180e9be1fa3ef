"""Waiting times of the page, measured in a browser: `python -m tests.benchmarks.page [--rounds 8]`.

Every time is measured from a command or a click until the result is painted; `inf` is one that did not come.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import start, stop, tab
from tests.conftest import launch_chromium
from workbench import checkpoints
from workbench.analyses.support.sample_text import SAMPLE_TEXT

SERIES = "tiny-olmo"
NEW = 200  # generated tokens
LIMITS = {
    "from `python app.py` to a usable page": 5_000,
    "another head, 512 tokens": 60,
    "another head, 2,048 tokens": 120,
    "first streamed token": None,
    f"a streamed token, mean of {NEW}": None,
    f"the same of `generate` alone, mean of {NEW}": None,
}
SWITCH = """([layer, head]) => new Promise((resolve) => {
    const view = document.querySelector("#attention"), name = `L${layer}H${head}`, began = performance.now();
    const seen = new MutationObserver(() => {
        if (!view.querySelector(`[data-drawn=${name}]`) && view.dataset.drawn !== name) return;
        seen.disconnect();
        requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
    });
    seen.observe(view, { subtree: true, attributes: true, attributeFilter: ["data-drawn"] });
    setTimeout(() => resolve(Infinity), 30_000);
    document.querySelector(`#rail .thumb[data-layer="${layer}"][data-head="${head}"]`).click();
})"""
STREAM = """(button, most) => new Promise((resolve) => {
    const list = document.querySelector("#written .tokens"), began = performance.now();
    const count = () => list.querySelectorAll(".token:not(.given)").length;
    let first = null, emptied = false;
    const seen = new MutationObserver(() => {
        emptied ||= count() < most;
        if (!emptied || count() === 0) return;
        first ??= [performance.now() - began, count()];
        if (count() < most) return;
        seen.disconnect();
        resolve([first[0], (performance.now() - began - first[0]) / (count() - first[1])]);
    });
    seen.observe(list, { childList: true });
    setTimeout(() => resolve([Infinity, Infinity]), 60_000);
    button.click();
})"""


def text_of(length: int) -> str:
    """A text of so many tokens, or one fewer."""
    tokenizer = checkpoints.tokenizer_of(SERIES)
    ids = tokenizer(SAMPLE_TEXT * (1 + 8 * length // len(SAMPLE_TEXT)))["input_ids"]
    return tokenizer.decode(ids[: length - 1])


@contextmanager
def opened(query: str) -> Iterator[tuple[Page, float]]:
    """A new server and browser, and the milliseconds from the server's start to the page's first result."""
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        page, began = browser.new_page(viewport={"width": 1300, "height": 900}), time.perf_counter()
        process, address = start(fresh=True)
        try:
            page.goto(f"{address}/?{query}", wait_until="commit")
            page.wait_for_selector("body[data-ready]")
            yield page, 1000 * (time.perf_counter() - began)
        finally:
            browser.close()
            stop(process)


def switches(page: Page, length: int, rounds: int) -> float:
    """Median milliseconds from the first click on a head until its map is painted, while the page is at rest."""
    page.locator("#prompt textarea").fill(text_of(length))
    page.locator("#run").click()
    page.wait_for_function("n => document.querySelectorAll('#spine .token').length >= n", arg=length - 8)
    page.wait_for_timeout(4000)
    heads = [(layer, head) for layer in range(4) for head in range(6) if (layer, head) != (2, 5)][: rounds + 1]
    times = []
    for spot in heads:
        times.append(page.evaluate(SWITCH, list(spot)))
        page.wait_for_timeout(1000)
    return statistics.median(times[1:])


def generating(rounds: int) -> float:
    """Median milliseconds for each token of `generate`, without the page."""
    model, tokenizer = checkpoints.load(SERIES)
    ids = torch.tensor([tokenizer("Old Marta lives in")["input_ids"]])
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        model.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
        times.append(1000 * (time.perf_counter() - began) / NEW)
    return statistics.median(times)


def measured(rounds: int) -> list[float]:
    """Measured milliseconds, in the order of `LIMITS`."""
    with opened("") as (page, usable):
        tab(page, "Attention")
        page.wait_for_selector("#attention [data-drawn], #attention[data-drawn]")
        short, long = (switches(page, length, rounds) for length in (512, 2048))
    with opened(f"length={NEW}&ends=false&prompt=Old%20Marta%20lives%20in") as (page, _):
        page.wait_for_function(f"document.querySelectorAll('#written .token:not(.given)').length >= {NEW}")
        page.wait_for_timeout(1000)
        first, each = page.get_by_role("button", name="Generate").first.evaluate(STREAM, NEW)
    torch.set_num_threads(1)  # as the server has
    return [usable, short, long, first, each, generating(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.page", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    print("| page | at most | measured |\n|---|---|---|")
    for (what, limit), found in zip(LIMITS.items(), measured(parser.parse_args().rounds), strict=True):
        print(f"| {what} | {f'{limit:,} ms' if limit else ''} | {found:,.1f} ms |")


if __name__ == "__main__":
    main()
