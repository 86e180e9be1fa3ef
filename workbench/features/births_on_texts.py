"""Births of features measured on texts: firing at each checkpoint, latent scaling, families."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from hooks import OlmoForCausalLM, edits
from hooks.products import fast_products
from hooks.sites import layer_of
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.features.births import SHARE, FeatureBirths, births, revision_of, sizes_of
from workbench.features.dictionary import Dictionary
from workbench.features.families import families_of
from workbench.features.latent_scaling import LEAST_PLACES, ScalingSums, is_exclusive
from workbench.features.reading import by_source
from workbench.progress import Progress, steps
from workbench.texts import TextsLike

WHAT = "births on texts"
NOTHING = np.zeros((0, 0), dtype=np.float32)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MeasuredBirths(FeatureBirths):
    """Births of features with measures on texts, besides all that `FeatureBirths` has.

    The crosscoder has one activation f of a feature for all sources. Whether a feature fires in one source is read from
    the activations of that source: the *amount* is what the crosscoder writes along the feature's direction there, f ·
    norm, plus the component of its error along this direction. A source *fires* at a token where f > 0 and the amount
    is at least half of f times the largest norm of all sources.

    *Latent scaling* (Minder et al., arXiv 2504.02922) tells whether a feature with a small norm is really missing. It
    fits how much of the activation goes with f although the feature does not write it:

    - `scaled`: the norm of the vector v that minimises Σ ‖error + f · direction − f v‖². It is the `norm` where the
      feature writes all that goes with it; above it, where the crosscoder left something in its error ("complete
      shrinkage"). The product of two fits, one on every second text, is taken, so that noise does not add to it.
      `after_scaling()` has the births by these norms.
    - `refit`, `in_error`, `in_reconstruction`: how much of the feature each end has, as a share of what the end of the
      largest norm has (see `LatentScaling`). The last one also finds what other features write in its place ("latent
      decoupling"). Near 1: the feature is there too. Near 0: it is not.

    Attributes:
        tokens: the number of tokens of the texts.
        counts: the number of tokens at which each feature is active: feature.
        density: the share of tokens at which each source fires: feature source.
        mean: the mean amount over the tokens at which the feature is active, in sizes of the activations: feature
            source; 0 for one that is never active.
        scaled: the norms after latent scaling: feature source; NaN for one that is active at fewer than 30 tokens.
        refit: feature; NaN as `scaled`.
        in_error, in_reconstruction: feature end; NaN as `scaled`.
        twin, likeness: the feature whose activations correlate most with its own, and the correlation: feature. A
            feature that is born when its twin dies may be the twin in another place. −1 and 0 for one that is never
            active.
        family: the number of its family, −1 for none: feature. See `families`.
        need: the rise of the summed loss when the feature is removed and the error kept, for each token at which it
            is active, to first order: −Σ f ⟨∂loss/∂x, direction⟩ / count, in nats: feature source; 0 for one that is
            never active. Empty if it was not asked for. `token_losses_without` computes it exactly.
            A first-order estimate ranks, and does not measure: for 18 features of the embedded crosscoder at step
            6,000 (six that copy, twelve drawn at random) it correlates by 0.95 with the exact rise, is off by more than
            a quarter for 12 of them, mostly too small (0.28 for 0.49 nats), and has the wrong sign for one. Integrated
            gradients do not mend this cheaply: along one path that takes away all features at once, four steps
            correlate by 0.80 only; along a path for each feature two steps are off by at most 0.003, at two backward
            passes a feature, where `token_losses_without` is exact with one forward pass.
    """

    tokens: int
    counts: np.ndarray
    density: np.ndarray
    mean: np.ndarray
    scaled: np.ndarray
    refit: np.ndarray
    in_error: np.ndarray
    in_reconstruction: np.ndarray
    twin: np.ndarray
    likeness: np.ndarray
    family: np.ndarray
    need: np.ndarray = field(default_factory=lambda: NOTHING)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, on {self.tokens:,} tokens>"

    def after_scaling(self) -> FeatureBirths:
        """The births by the norms after latent scaling. Features without them are not born."""
        return FeatureBirths(
            self.dictionary,
            self.checkpoints,
            self.steps,
            self.others,
            np.nan_to_num(self.scaled),
            at_end=self.at_end,
            provenance=self.provenance,
        )

    @property
    def run_density(self) -> np.ndarray:
        """The density along the run: feature checkpoint."""
        return self.density[:, : len(self.checkpoints)]

    @property
    def is_scaled(self) -> np.ndarray:
        """Whether there are enough places for latent scaling: feature, boolean."""
        return self.counts >= LEAST_PLACES

    @property
    def exclusive(self) -> np.ndarray:
        """Whether a feature is in some ends and not in all, by `latent_scaling.is_exclusive`: feature, boolean."""
        return is_exclusive(self.end_norms, self.refit, self.in_error, self.in_reconstruction)

    def table(self) -> pd.DataFrame:
        """One row for each feature, in their order: the columns of `FeatureBirths.table`, and

        - `born scaled`, `died scaled`: the steps by the norms after latent scaling.
        - `count`: the number of tokens at which it is active.
        - `exclusive`: whether it is in some ends and not in all, after latent scaling.
        - `twin`, `likeness`, `family`: see the attributes.
        - `density REVISION`, `mean REVISION`, `scaled REVISION`, and `need REVISION` if asked for: in each source.
        """
        scaled = self.after_scaling()
        found = super().table()
        norms = [name for name in found if str(name).startswith("norm ")]
        before = {
            "born scaled": scaled.born,
            "died scaled": scaled.died,
            "count": self.counts,
            "exclusive": self.exclusive,
            "twin": self.twin,
            "likeness": self.likeness,
            "family": self.family,
        }
        measures = {"density": self.density, "mean": self.mean, "scaled": self.scaled, "need": self.need}
        each = {
            f"{name} {revision_of(source)}": values[:, n]
            for name, values in measures.items()
            if values.size
            for n, source in enumerate(self.sources)
        }
        return pd.concat([found.drop(columns=norms), pd.DataFrame(before), found[norms], pd.DataFrame(each)], axis=1)

    def families(self) -> pd.DataFrame:
        """The families, largest first: features that are born at one checkpoint and are active at the same tokens.

        Within the features born at one checkpoint, clusters of average linkage over 1 − correlation of their
        activations, cut where the mean correlation of two clusters is below 0.3; those of two features and more are
        families.

        Columns: `family` its number, `born`, `size`, `density` the mean share of tokens at which a member is active,
        `features` their numbers, most active first.
        """
        rows = []
        for number in range(self.family.max(initial=-1) + 1):
            members = np.flatnonzero(self.family == number)
            members = members[np.argsort(-self.counts[members], kind="stable")]
            density = self.counts[members].mean() / self.tokens
            rows.append([number, self.born[members[0]], len(members), density, ", ".join(map(str, members))])
        return pd.DataFrame(rows, columns=["family", "born", "size", "density", "features"])


@torch.no_grad()
def births_on_texts(
    dictionary: Dictionary,
    models: Mapping[str, OlmoForCausalLM],
    texts: TextsLike,
    *,
    need: bool = False,
    sizes: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> MeasuredBirths:
    """When each feature of a crosscoder is born, with its firing at each checkpoint, latent scaling, and families.

    Memory: 8 · features · sources · d_model + 4 · features² bytes, beside the models.

    Args:
        dictionary: a crosscoder over checkpoints of one run, as for `births`.
        models: all of its sources by id.
        texts: the texts to measure on; with more tokens, more features get latent scaling.
        need: whether to estimate the rise of each model's loss without each feature. It takes a backward pass of each
            model, and several times as long.
        sizes: as for `births`.
        progress: called after each batch.

    Errors: those of `births`, and WorkbenchError if models are missing or do not fit.
    """
    born = births(dictionary, sizes=sizes)
    named = by_source(dictionary, models)
    first = next(iter(named.values()))
    texts, dictionary = texts_for(first, texts), dictionary.to(first.device)
    sums = BirthSums(dictionary, sizes_of(dictionary, sizes), [dictionary.source(name) for name in born.sources], born)
    sites = list(dict.fromkeys((dictionary.reads, dictionary.writes)))
    size = tokens_at_a_time(first, WHAT, _per_token(dictionary, named, sites, need), texts.longest)
    for rows, ids in steps(texts.padded_batches(size), progress, WHAT):
        there = texts.mask[rows, : ids.shape[1]].to(first.device)
        second = (torch.tensor(rows, device=first.device) % 2)[:, None].expand_as(there)[there]
        runs = [_run(model, ids, sites, there, need) for model in named.values()]
        read, written = (torch.stack([run[site][there] for run in runs], 1) for site in (sites[0], sites[-1]))
        slopes = torch.stack([run["slope"][there] for run in runs], 1) if need else None
        sums.add(read, written, slopes, second)
    return sums.result()


@work_of(births_on_texts)
def _work(
    dictionary: Dictionary,
    models: Mapping[str, OlmoForCausalLM],
    texts: TextsLike,
    *,
    need: bool = False,
    **_: object,
) -> Work:
    named = by_source(dictionary, models)
    first = next(iter(named.values()))
    texts, layer = texts_for(first.config, texts), layer_of(dictionary.writes)[0]
    passes = 2 * pass_flops(first, texts.tokens, logits=texts.tokens) if need else 0.0
    passes = passes or pass_flops(first, texts.tokens, 0 if layer is None else layer + 1)
    products = 2 * texts.tokens * len(dictionary) * (len(dictionary) + (3 + need) * len(dictionary.encoder))
    sites = list(dict.fromkeys((dictionary.reads, dictionary.writes)))
    peak = peak_bytes(first, WHAT, _per_token(dictionary, named, sites, need), texts.longest, texts.tokens)
    held = 8 * dictionary.decoder.numel() + 4 * len(dictionary) ** 2
    return Work(passes * len(named) + products, nbytes=peak + held)


def _per_token(dictionary: Dictionary, models: Mapping[str, OlmoForCausalLM], sites: list[str], need: bool) -> float:
    """Bytes for each token of a batch."""
    first, fitted = next(iter(models.values())), 4 * (dictionary.gate.k or 64) * dictionary.width  # `ScalingSums.add`
    return run_bytes(first, capture=sites, grad=need, logits=3 * need) * len(models) + 16 * len(dictionary) + fitted


@fast_products()
def _run(model: OlmoForCausalLM, ids: Tensor, sites: list[str], there: Tensor, need: bool) -> dict[str, Tensor]:
    """The activations at some sites: batch pos d_model, float32. With `need`, also the gradient of the summed loss by
    the last of them, as `slope`."""
    ids = ids.to(model.device)
    if not need:
        run = model.run(ids, capture=sites, captures_only=True)
        return {site: run[site].flatten(2).float().to(there.device) for site in sites}
    leaf = edits.apply(sites[-1], lambda x: x.detach().requires_grad_())
    run = model.run(ids, capture=sites, edits=leaf, grad=True)
    with torch.enable_grad():
        losses = F.cross_entropy(run.logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
        (slope,) = torch.autograd.grad(losses.where(there[:, 1:].to(losses.device), 0).sum(), run[sites[-1]])
    found = {site: run[site].detach() for site in sites} | {"slope": slope}
    return {name: one.flatten(2).float().to(there.device) for name, one in found.items()}


class BirthSums:
    """Sums over tokens from which all measures of births are computed; activations are in units of their sizes.

    `order` are the numbers of the sources of `born` in the dictionary.
    """

    def __init__(self, dictionary: Dictionary, sizes: Tensor, order: list[int], born: FeatureBirths) -> None:
        self.dictionary, self.born, self.order = dictionary, born, order
        self.sizes = sizes[order][:, None]  # source 1
        self.directions = dictionary.directions[:, order] / dictionary.scale / self.sizes  # feature source d_model
        self.norms = self.directions.norm(dim=-1)  # feature source
        self.units = self.directions / self.norms.clamp_min(1e-12)[..., None]
        self.ends = list(range(len(order) - len(born.ends), len(order)))
        at = self.norms[:, self.ends].argmax(1) + self.ends[0] if self.ends else self.norms.argmax(1)
        unit = self.units[torch.arange(len(dictionary), device=at.device), at]
        self.scaling = ScalingSums(self.directions[:, self.ends], unit)
        n, sources = self.norms.shape
        self.tokens, self.has_needs = 0, False
        zeros = partial(torch.zeros, device=dictionary.decoder.device)
        self.counts = zeros(n)
        self.total = zeros(n)  # Σ f
        self.squares = zeros(2, n)  # Σ f², by half of the texts
        self.alike = zeros(n, n)  # Σ f f'
        self.fires, self.amounts = zeros(n, sources), zeros(n, sources)
        self.errors = zeros(2, *self.directions.shape)  # Σ f · error, by half
        self.needs = zeros(n, sources)  # −Σ f ⟨slope, direction⟩

    def add(self, read: Tensor, written: Tensor, slopes: Tensor | None, second: Tensor) -> None:
        """Add tokens: the activations that are read, those of the site that is written, and the gradient of the loss
        with respect to the latter, each token source d_model; `second` marks the tokens of every second text."""
        firing = self.dictionary.encode(read)
        made = self.dictionary.decode(firing, read)[:, self.order] / self.sizes
        x = written[:, self.order] / self.sizes
        error, f = x - made, firing.dense()
        active = f > 0
        self.tokens += len(x)
        self.counts += active.sum(0)
        self.total += f.sum(0)
        self.alike += f.T @ f
        self.scaling.add(firing, made[:, self.ends], x[:, self.ends])
        for half in (0, 1):
            some = second == half
            firing_there, error_there = f[some], error[some]  # token feature; token source d_model
            self.squares[half] += firing_there.square().sum(0)
            self.errors[half] += (firing_there.T @ error_there.flatten(1)).unflatten(1, error_there.shape[1:])
        least = f * (SHARE * self.norms.max(1).values)  # token feature
        for source in range(len(self.order)):
            amount = f * self.norms[:, source] + error[:, source] @ self.units[:, source].T  # token feature
            self.fires[:, source] += (active & (amount >= least)).sum(0)
            self.amounts[:, source] += amount.where(active, 0.0).sum(0)
        if slopes is not None:
            self.has_needs = True
            slopes = slopes[:, self.order] * self.sizes
            for source in range(len(self.order)):
                self.needs[:, source] -= (f * (slopes[:, source] @ self.directions[:, source].T)).sum(0)

    def result(self) -> MeasuredBirths:
        """The measures."""
        for name, held in list(vars(self).items()):
            if isinstance(held, Tensor):
                setattr(self, name, held.cpu())
        enough = self.counts >= LEAST_PLACES
        likeness = self._likeness()
        best = likeness.clone().fill_diagonal_(-1).max(1)
        families = families_of(likeness.numpy(), self.born.born, enough.numpy())
        scaling, born = self.scaling.result(), self.born
        return MeasuredBirths(
            dictionary=born.dictionary,
            checkpoints=born.checkpoints,
            steps=born.steps,
            others=born.others,
            norms=born.norms,
            at_end=born.at_end,
            tokens=self.tokens,
            counts=self.counts.long().numpy(),
            density=(self.fires / self.tokens).numpy(),
            mean=(self.amounts / self.counts.clamp_min(1)[:, None]).numpy(),
            scaled=self._scaled().where(enough[:, None], torch.nan).numpy(),
            refit=scaling.refit,
            in_error=scaling.in_error,
            in_reconstruction=scaling.in_reconstruction,
            twin=best.indices.where(best.values > 0, -1).numpy(),
            likeness=best.values.numpy(),
            family=families,
            need=(self.needs / self.counts.clamp_min(1)[:, None]).numpy() if self.has_needs else NOTHING,
        )

    def _likeness(self) -> Tensor:
        """The correlation of the activations of two features: feature feature; 0 for one that is never active."""
        n = max(1, self.tokens)
        mean = (self.total / n).double()
        together = self.alike.double() / n - mean.outer(mean)
        spread = together.diag().clamp_min(1e-12).sqrt()
        return (together / spread.outer(spread)).float()

    def _scaled(self) -> Tensor:
        """The norms after latent scaling: feature source."""
        fits = self.errors / self.squares.clamp_min(1e-12)[..., None, None] + self.directions
        return (fits[0] * fits[1]).sum(-1).clamp_min(0).sqrt()
