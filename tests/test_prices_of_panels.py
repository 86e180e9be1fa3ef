"""A click on a price pays for all that it computes: every panel of every tab, on the embedded series."""

import re
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest
import torch
from headless import Headless, served
from test_cost import Operations

from hooks import stoppable
from workbench import checkpoints
from workbench.analyses.support.cost import ALONE, pass_flops
from workbench.disk_cache import DiskCache
from workbench.page.build import slot
from workbench.page.session import prices, steered
from workbench.page.session.bench import KEPT_BYTES, KEPT_RESULTS, Bench
from workbench.page.session.result_cache import ResultCache
from workbench.page.session.speed import Rate, Speed
from workbench.page.tabs import features, training
from workbench.text_pairs import TextPairs

PROMPT = "The capital of France is not far from the river and the old bridge of the town where the market stands"
NAMES, GOODS = ("Marta", "Pedro", "Anna"), ("oranges", "lemons", "bread", "fish")
TEXTS = [f"{name} sells {what}" for name in NAMES for what in GOODS]
CSV = "text,label\n" + "".join(f"{text},{'ab'[number % 2]}\n" for number, text in enumerate(TEXTS))
WEIGHTS = {torch.ops.aten.mm: 0, torch.ops.mkldnn._linear_pointwise: 0, torch.ops.aten.addmm: 1}
"""Products with one matrix, and which of their arguments holds the rows of tokens."""


class Passes(Operations):
    """Counts operations. A product of a matrix with a few tokens counts as one with `ALONE`, since it takes as long."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = self.count
        found = super().__torch_dispatch__(function, types, args, kwargs)
        which = WEIGHTS.get(function._overloadpacket)
        if which is not None:
            rows = args[which].numel() // args[which].shape[-1]
            self.count = before + (self.count - before) * max(1, ALONE / rows)
        return found


class Page(Headless):
    """A page whose prices are operations."""

    computed = 0

    def due(self):
        """The prices in sight: by the button, the operations that it states, and at most."""
        shown = {name: self.value(name) for name in self.ids if name and name.endswith("-price") and self.visible(name)}
        return {name: [float(number) for number in re.findall(r"\d+", text)] for name, text in shown.items()}

    @contextmanager
    def counting(self, check):
        with stoppable(check), Passes() as passes:
            try:
                yield
            finally:
                self.computed += passes.count


def few_pairs(pairs):
    """The first four pairs."""
    others = None if pairs.others is None else pairs.others[:4]
    return TextPairs(pairs.clean[:4], pairs.corrupted[:4], pairs.answers[:4], others)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A function that opens the page at a tab. It asks before everything, and its prices are operations."""
    run = checkpoints.main_run(checkpoints.series("tiny-olmo"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patched.setattr(Speed, "seconds", lambda _, work: (work.flops, work.at_most))
        patched.setattr(Rate, "measured", lambda *_: None)
        patched.setattr(DiskCache, "holds", lambda *_: False)
        patched.setattr(DiskCache, "kept", lambda _, key, make: (make(), True))
        patched.setattr(steered, "NEW_TOKENS", 4)
        patched.setattr(prices.Price, "__str__", lambda price: f"{price.seconds:.0f} to {price.at_most:.0f}")
        bench = Bench([run[0], run[-1]], 10**9, asks_above=0.0)
        pairs = bench.pairs
        patched.setattr(bench, "pairs", lambda *names: few_pairs(pairs(*names)))
        for name in bench.known:
            bench.load(name)
        own = bench.sets.add("mine.csv", CSV).name
        with served(bench) as client:

            def open_at(name, **query):
                bench.results = ResultCache(KEPT_RESULTS, KEPT_BYTES)
                address = urlencode({"prompt": PROMPT, "set": own, "compare_length": 4, **query})
                page = Page(client, name, address)
                patched.setattr(slot, "stoppable", page.counting)
                page.open()
                return page, bench

            yield open_at


SEEN = {tab.replace(" ", ""): {"tab": tab} for tab in ("Hidden states", "Attribution", "Circuits", "Compare", "Texts")}
SEEN |= {
    "Training": {"tab": "Training", "metric": training.FOLLOWED},
    "FeaturesOfSet": {"tab": "Features"},
    "FeaturesOfToken": {"tab": "Features", "features": list(features.LISTS)[1]},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN)
def test_a_click_on_a_price_pays_for_all_that_it_computes(opened, name):
    page, bench = opened(name, **SEEN[name])
    model, tokens = bench.load(bench.default)[0], bench.tokens(bench.default, PROMPT).shape[1]
    assert page.computed <= 3 * pass_flops(model, tokens, logits=tokens), "without a click: the prompt's own passes"
    agreed = set()
    while new := [button for button in page.due() if button not in agreed]:
        button, page.computed = new[0], 0
        stated, at_most = page.due()[button]
        page.fire(button, "click")
        agreed.add(button)
        assert page.failed == [] and button not in page.due(), button
        assert page.computed <= 1.4 * at_most, button
        assert stated <= 3 * page.computed or not page.computed, button  # an earlier panel may have computed it
    assert len(agreed) > 1
