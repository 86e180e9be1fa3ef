"""`compare_sources`: which features of a crosscoder are in one of its checkpoints and not in another."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.errors import WorkbenchError
from workbench.features.compare_firing import LEAST, beyond_first, largest_difference
from workbench.features.dictionary import Dictionary
from workbench.features.reading import Models, by_source, read_by
from workbench.progress import Progress, steps
from workbench.texts import TextsLike

WHAT = "a comparison by a crosscoder"
TIMES = 5
"""A feature is in one checkpoint only if its size there is this many times that in the other, or more."""


@torch.no_grad()
def compare_sources(
    models: Models,
    tokens: TextsLike,
    crosscoder: Dictionary,
    a: str,
    b: str,
    *,
    finals: Sequence[str] = (),
    progress: Progress | None = None,
) -> pd.DataFrame:
    """How large each feature of a crosscoder is in two of its sources, beside the differences that data order makes.

    A crosscoder has one activation f of a feature for all sources, and a direction d_s in each. So a feature is active
    in all of them or in none, and what differs is how much it writes in each.

    Returns a table with one row for each feature:

    - `feature`: its number.
    - `density`: the share of the tokens at which it is active.
    - `size_a`, `size_b`: mean over all tokens of ‖f d_s‖, in units of the root mean square distance of the source's
      activations from their mean, so that sources of different scales can be compared; `size_change` is B − A.
    - `size_floor`: the largest difference of the size between any two of the `finals`.
    - `refit_a`, `refit_b`: the size by the activations, and not by the weights. With u the unit vector along the larger
      of the two directions and e_s the error of the reconstruction, it is the mean of f, times the least-squares amount
      ⟨u, d_s⟩ + Σ f ⟨u, e_s⟩ / Σ f² that is there along u if all other features stay. Signed, in the units of the size.
    - `beyond`: |size_change| − size_floor; above 0 if data order alone did not make so large a difference.
    - `only`: "A" if it is in A and not in B by this rule: its size in A is at least `TIMES` that in B, so is its
      `refit_a` against |`refit_b`|, it is active at `LEAST` tokens or more, and `beyond` is above 0. "B" for the
      reverse, else "".

    The rows with the largest `beyond` come first. `size_floor` and `beyond` are undefined (NaN) with fewer than two
    `finals`.

    A crosscoder is known to give a feature a direction near zero in a model that has it nevertheless ("complete
    shrinkage"); the refit is the test for that, after the latent scaling of Minder et al. (arXiv 2504.02922).

    Args:
        models: all sources of the crosscoder by id.
        tokens: the texts.
        crosscoder: a dictionary with sources.
        a, b: two of its sources.
        finals: those of its sources that differ only by seed or data order.
        progress: called after each batch.

    Errors: WorkbenchError for a dictionary that is no crosscoder, or a name that is not among its sources.
    """
    if not crosscoder.sources:
        raise WorkbenchError(f"a {crosscoder.kind} has no sources; compare scans of two models with compare_firing")
    number_a, number_b, *of_finals = (crosscoder.source(name) for name in (a, b, *finals))
    named = by_source(crosscoder, models)
    first = next(iter(named.values()))
    texts, crosscoder = texts_for(first, tokens), crosscoder.to(first.device)
    size = tokens_at_a_time(first, WHAT, _per_token(first, crosscoder), texts.longest)
    sums = SourceSums(crosscoder, number_a, number_b)
    for batch in steps(list(texts.batches(size)), progress, WHAT):
        sums.add(read_by(crosscoder, named, batch.ids).flatten(0, 1))
    return sums.table(of_finals)


@work_of(compare_sources)
def _work(models: Models, tokens: TextsLike, crosscoder: Dictionary, *_: object, **__: object) -> Work:
    first = next(iter(by_source(crosscoder, models).values()))
    texts, sources = texts_for(first.config, tokens), len(crosscoder.sources)
    passes = pass_flops(first, texts.tokens, 1 + (crosscoder.layer or 0)) * sources
    nbytes = peak_bytes(first, WHAT, _per_token(first, crosscoder), texts.longest, texts.tokens)
    return Work(passes + 2 * texts.tokens * crosscoder.encoder.numel(), nbytes=nbytes)


def _per_token(model: object, crosscoder: Dictionary) -> float:
    slots = crosscoder.gate.k or 64
    parts = 12 * len(crosscoder) + 8 * (slots + 4 * len(crosscoder.sources)) * crosscoder.width
    return run_bytes(model, capture=[crosscoder.reads]) * len(crosscoder.sources) + parts


class SourceSums:
    """Sums over activations that say how large the features of a crosscoder are in each source.

    `compare_sources` says what the numbers of its `table` are.
    """

    def __init__(self, crosscoder: Dictionary, a: int, b: int) -> None:
        self.crosscoder, self.a, self.b, self.tokens = crosscoder, a, b, 0
        n, sources, d_model = crosscoder.directions.shape
        self.total, self.squares, self.count = torch.zeros(3, n, dtype=torch.float64)
        self.along_error = torch.zeros(2, n, dtype=torch.float64)
        self.mean = torch.zeros(sources, d_model, dtype=torch.float64)
        self.size = torch.zeros(sources, dtype=torch.float64)
        pair = crosscoder.directions[:, [a, b]]  # feature pair d_model
        larger = pair.norm(dim=-1).argmax(-1)
        self.unit = torch.nn.functional.normalize(pair[torch.arange(n), larger], dim=-1)  # feature d_model
        self.along = torch.einsum("fpd,fd->pf", pair, self.unit).double().cpu()

    def add(self, x: Tensor) -> None:
        """Add activations: row source d_model."""
        firing = self.crosscoder.encode(x)
        error = (x.float() - self.crosscoder.decode(firing))[:, [self.a, self.b]]  # row pair d_model
        indices, values = firing.indices.flatten().cpu(), firing.values.double().cpu()
        self.tokens += len(x)
        self.mean += x.double().sum(0).cpu()
        self.size += x.double().square().sum((0, 2)).cpu()
        for sums, parts in ((self.total, values), (self.squares, values.square()), (self.count, values > 0)):
            sums.index_add_(0, indices, parts.flatten().double())
        for number in range(2):
            dots = torch.einsum("rsd,rd->rs", self.unit[firing.indices], error[:, number])
            self.along_error[number].index_add_(0, indices, (values * dots.double().cpu()).flatten())

    def table(self, finals: Sequence[int] = ()) -> pd.DataFrame:
        """The table of `compare_sources`; `finals` are numbers of sources."""
        scale = self.crosscoder.scale
        mean = self.mean / self.tokens
        spread = (self.size / self.tokens - mean.square().sum(-1)).clamp_min(0).sqrt()  # source
        norms = self.crosscoder.directions.norm(dim=-1).double().cpu() / scale / spread.clamp_min(1e-12)
        sizes = (self.total / self.tokens)[:, None] * norms  # feature source
        amount = self.along / scale + self.along_error / self.squares.clamp_min(1e-12)
        refits = amount * self.total / self.tokens / spread[[self.a, self.b], None].clamp_min(1e-12)
        floor = largest_difference([sizes[:, number] for number in finals], len(sizes))
        size_a, size_b = sizes[:, self.a], sizes[:, self.b]
        beyond = (size_b - size_a).abs() - floor
        often = (self.count >= LEAST) & ~(beyond <= 0)
        only_a = often & (size_a >= TIMES * size_b) & (refits[0] >= TIMES * refits[1].abs())
        only_b = often & (size_b >= TIMES * size_a) & (refits[1] >= TIMES * refits[0].abs())
        pairs = zip(only_a.tolist(), only_b.tolist(), strict=True)
        table = pd.DataFrame(
            {
                "feature": range(len(sizes)),
                "density": (self.count / self.tokens).numpy(),
                "size_a": size_a.numpy(),
                "size_b": size_b.numpy(),
                "size_change": (size_b - size_a).numpy(),
                "size_floor": floor.numpy(),
                "refit_a": refits[0].numpy(),
                "refit_b": refits[1].numpy(),
                "beyond": beyond.numpy(),
                "only": ["A" if in_a else "B" if in_b else "" for in_a, in_b in pairs],
            }
        )
        return beyond_first(table, "size_change")
