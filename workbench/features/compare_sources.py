"""`compare_sources`: which features of a crosscoder are in one of its checkpoints and not in another."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.errors import WorkbenchError
from workbench.features.births import sizes_of
from workbench.features.compare_firing import beyond_first, largest_difference
from workbench.features.dictionary import Dictionary
from workbench.features.latent_scaling import ScalingSums
from workbench.features.reading import Models, by_source, read_by
from workbench.progress import Progress, steps
from workbench.texts import TextsLike

WHAT = "a comparison by a crosscoder"


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
      activations from their mean, so that sources of different scales can be compared; `size_change` is B − A. That
      unit is the one that the crosscoder knows from its training (`sizes`, as for `births`), else that of these texts.
    - `size_floor`: the largest difference of the size between any two of the `finals`.
    - `refit_a`, `refit_b`: the size by the activations, and not by the weights: the mean of f, times the least-squares
      amount along the larger of the two directions (`LatentScaling.amount`). Signed, in the units of the size.
    - `in_error`, `in_reconstruction`: what the activations of the checkpoint with the smaller size have of the feature,
      as a share of that in the other one: near 1, it is there too (see `LatentScaling`).
    - `beyond`: |size_change| − size_floor; above 0 if data order alone did not make so large a difference.
    - `only`: "A" if it is in A and not in B by the rule of `latent_scaling.is_exclusive`, which `births_on_texts` has
      too, and `beyond` is above 0. "B" for the reverse, else "".

    The rows with the largest `beyond` come first. `size_floor` and `beyond` are undefined (NaN) with fewer than two
    `finals`, and both shares with fewer than `latent_scaling.LEAST_PLACES` tokens; `only` is empty for such a feature.

    A crosscoder is known to give a feature a direction near zero in a model that has it nevertheless; latent scaling is
    the test for that (Minder et al., arXiv 2504.02922).

    Args:
        models: all sources of the crosscoder by id.
        tokens: the texts.
        crosscoder: a dictionary with sources.
        a, b: two of its sources.
        finals: those of its sources that differ only by seed or data order.
        progress: called after each batch.

    Errors: WorkbenchError for a dictionary that is not a crosscoder, or a name that is not among its sources.
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
    """Sums over activations, from which the sizes of a crosscoder's features in each source are computed.

    The columns of its `table` are described in `compare_sources`.
    """

    def __init__(self, crosscoder: Dictionary, a: int, b: int) -> None:
        self.crosscoder, self.pair, self.tokens = crosscoder, [a, b], 0
        _, sources, d_model = crosscoder.directions.shape
        self.mean = torch.zeros(sources, d_model, dtype=torch.float64)
        self.square = torch.zeros(sources, dtype=torch.float64)
        known = crosscoder.provenance.get("sizes") is not None
        self.spread = sizes_of(crosscoder).double().cpu() * d_model**0.5 if known else None  # source
        directions = crosscoder.directions[:, self.pair] / crosscoder.scale  # feature pair d_model
        norms = directions.norm(dim=-1)
        larger = (norms / sizes_of(crosscoder)[self.pair] if known else norms).argmax(-1)
        along = directions[torch.arange(len(directions), device=directions.device), larger]
        self.scaling = ScalingSums(directions, torch.nn.functional.normalize(along, dim=-1))

    def add(self, x: Tensor) -> None:
        """Add activations: row source d_model."""
        x, firing = x.float(), self.crosscoder.encode(x)
        self.tokens += len(x)
        self.mean += x.double().sum(0).cpu()
        self.square += x.double().square().sum((0, 2)).cpu()
        self.scaling.add(firing, self.crosscoder.decode(firing)[:, self.pair], x[:, self.pair])

    def table(self, finals: Sequence[int] = ()) -> pd.DataFrame:
        """The table that `compare_sources` returns; `finals` are the indices of the sources that give its floor."""
        spread = self._measured() if self.spread is None else self.spread
        norms = self.crosscoder.directions.norm(dim=-1).double().cpu() / self.crosscoder.scale / spread
        mean = self.scaling.total / self.tokens
        sizes = mean[:, None] * norms  # feature source
        scaling = self.scaling.result(spread[self.pair])
        refits = mean[:, None].numpy() * scaling.amount  # feature pair
        smaller = (range(len(sizes)), scaling.norms.argmin(1))
        floor = largest_difference([sizes[:, number] for number in finals], len(sizes))
        size_a, size_b = sizes[:, self.pair].unbind(1)
        beyond = (size_b - size_a).abs() - floor
        larger = np.where(scaling.norms[:, 0] > scaling.norms[:, 1], "A", "B")
        table = pd.DataFrame(
            {
                "feature": range(len(sizes)),
                "density": (self.scaling.count / self.tokens).numpy(),
                "size_a": size_a.numpy(),
                "size_b": size_b.numpy(),
                "size_change": (size_b - size_a).numpy(),
                "size_floor": floor.numpy(),
                "refit_a": refits[:, 0],
                "refit_b": refits[:, 1],
                "in_error": scaling.in_error[smaller],
                "in_reconstruction": scaling.in_reconstruction[smaller],
                "beyond": beyond.numpy(),
                "only": np.where(scaling.exclusive & ~(beyond <= 0).numpy(), larger, ""),
            }
        )
        return beyond_first(table, "size_change")

    def _measured(self) -> Tensor:
        """The root mean square distance of the activations from their mean on these texts: source."""
        mean = self.mean / self.tokens
        return (self.square / self.tokens - mean.square().sum(-1)).clamp_min(0).sqrt().clamp_min(1e-12)
