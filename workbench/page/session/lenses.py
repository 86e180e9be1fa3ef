"""The tuned lenses that a page knows, and which of them fits a checkpoint."""

from dataclasses import dataclass

from workbench.analyses.support.translators import TunedLens
from workbench.analyses.tuned_lens import lens_divergence
from workbench.errors import WorkbenchError
from workbench.page.session.arguments import Argument, VariableNames
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call, texts_arguments
from workbench.page.session.prices import price_of
from workbench.page.session.requests import TabRequest

LENSES = ("logit lens", "tuned lens")
"""The lenses that a page offers, in the order of `Selection.tuned`."""
NO_LENS = (
    "There is no tuned lens for this checkpoint: learn one with `train_tuned_lens`, and start the page with "
    "`python app.py --lens FOLDER`."
)


@dataclass(frozen=True)
class LensOf(Argument):
    """A tuned lens by its name, `chosen`, for a checkpoint."""

    chosen: str

    def value(self, bench: Bench) -> TunedLens:
        return bench.lens(self.chosen)

    def code(self, variables: VariableNames) -> str:
        return f"TunedLens.load({self.chosen!r})"


def lens_for(bench: Bench, checkpoint: str) -> LensOf | None:
    """The tuned lens that reads a checkpoint; None if no lens fits.

    A lens of this checkpoint comes before one that its series shares, and both come before a lens of another model of
    its shape.
    """
    series, ranks = bench.series_of(checkpoint), {}
    for name in bench.lenses:
        lens = bench.lens(name)
        if fits(bench, checkpoint, lens):
            ranks[name] = (lens.model == checkpoint, lens.model == series)
    best = max(ranks, key=lambda name: ranks[name], default=None)
    return None if best is None else LensOf(checkpoint, best)


def fits(bench: Bench, checkpoint: str, lens: TunedLens) -> bool:
    """Whether a lens is for a model of a checkpoint's shape."""
    try:
        lens.check_fits(bench.outline(checkpoint))
    except WorkbenchError:
        return False
    return True


def divergence_call(request: TabRequest, lens: LensOf) -> Call:
    """The call that compares a tuned lens with the logit lens on the set of texts."""
    return Call.of(lens_divergence, *texts_arguments(request), lens)


def lens_in_words(bench: Bench, request: TabRequest, lens: LensOf) -> str:
    """The name of the lens, and the mean over layers of both lenses' KL from the final distribution on the set of
    texts, unless that takes long to compute."""
    call = divergence_call(request, lens)
    told = f"Read through {bench.lens(lens.chosen).title}."
    if price_of(bench, call).seconds > bench.asks_above:
        return told
    tuned, plain = result(call, bench).values.mean(1)
    texts = bench.sets.get(request.selection.texts).counted
    return (
        f"{told} KL from the final distribution, mean over layers and over the tokens of {texts}: {tuned:.2f} nats; of "
        f"the logit lens: {plain:.2f}."
    )
