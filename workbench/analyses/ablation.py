"""What a text loses with each head and each MLP."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hooks import OlmoForCausalLM, Run
from workbench.analyses.cells import PARTS, RESIDUALS, TOKENS, heads_and_mlp, repeated, run_cells
from workbench.analyses.common import CHUNK, as_batch, chosen
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, steps
from workbench.results import Grid, Measures
from workbench.text import Tokenizer, token_id, vocabulary_labels

METHODS = ("zero", "mean", "resample")
Source = Callable[[slice], Mapping[str, Tensor]]
"""What some of the texts get at each site in the place of their own: (text or 1) (pos or 1) …"""


@torch.no_grad()
def ablation(
    model: OlmoForCausalLM,
    tokens: Tensor,
    token: int | str | None = None,
    *,
    method: str = "mean",
    reference: Tensor | None = None,
    scored: Tensor | None = None,
    position: int = -1,
    draws: int = 4,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """Take each head and each MLP away, one at a time: how much worse does the model predict?

    Grids layer × (heads, MLP): the change of `loss`, the mean −log p of the tokens of the texts in nats, positive where
    the part helped; and with a `token`, that of its `log_probability` after `position`, a mean over the texts, negative
    where the part helped.

    Methods: "zero" writes zeros; "mean" writes the part's mean over all texts and positions of `reference` (the texts
    themselves unless given); "resample" writes what the part does at the same position of another text, drawn with
    `seed` from `reference`, which then has the texts' length (Wang et al. 2022, arXiv 2211.00593; Chan et al. 2022,
    "Causal scrubbing"): the mean over so many `draws`, and, where they are several, its standard error as `loss_error`
    and `log_probability_error`. A head is replaced before the output projection, so in OLMo 2 and 3 the norm after
    attention is computed anew; an MLP is replaced in what it adds to the residual stream.

    `tokens` batch pos, two positions or more. `scored`, a boolean mask batch pos, restricts the loss to the tokens
    where it is true (say, a span's second copy); nothing predicts a text's first token, so that never counts.

    Errors: WorkbenchError for an unknown method, a single text to resample from, no draw, a mask that leaves nothing to
    score.
    """
    batch = as_batch(tokens, at_least=2).to(model.device)
    (position,) = chosen([position], batch.shape[1], "position")
    target = None if token is None else token_id(token, tokenizer, model.config.vocab_size)
    texts = Texts(batch, _counted(batch, scored), target, position)
    sources = _sources(model, batch, method, reference, draws, seed)
    found = []
    for n, source in enumerate(sources):
        stage = part(progress, n / len(sources), (n + 1) / len(sources))
        found.append(_changes(model, texts, source, stage, f"{method} ablation"))
    return _grids(torch.stack(found), method, None if target is None else vocabulary_labels([target], tokenizer)[0])


@dataclass(frozen=True, eq=False)
class Texts:
    """Some of the texts, and what is added up of runs over them."""

    ids: Tensor  # text pos
    counted: Tensor  # text pos-1: whether the loss of the next token counts
    target: int | None
    position: int

    def sums(self, logits: Tensor) -> Tensor:
        """The loss of the tokens that count, and the target's log-probability: (cell text) pos vocab -> cell 1|2."""
        cells = len(logits) // len(self.ids)
        following = repeated(self.ids[:, 1:], cells)
        losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), following, reduction="none")
        found = [(losses * repeated(self.counted, cells)).sum(1)]  # (cell text) each
        if self.target is not None:
            found.append(logits[:, self.position].float().log_softmax(-1)[:, self.target])
        return torch.stack(found, dim=1).double().unflatten(0, (cells, -1)).sum(1).cpu()

    def means(self, sums: Tensor) -> Tensor:
        """The mean loss of a token that counts, and the target's mean log-probability, from sums over all texts."""
        return sums / torch.tensor([int(self.counted.sum()), len(self.ids)])[: sums.shape[-1]]

    def some(self, chunk: slice) -> "Texts":
        """Some of the texts."""
        return replace(self, ids=self.ids[chunk], counted=self.counted[chunk])


def _changes(model: OlmoForCausalLM, texts: Texts, source: Source, progress: Progress | None, text: str) -> Tensor:
    """By how much each ablation changes the means: layer part 1|2."""
    totals, n_texts, size = torch.tensor(0.0), len(texts.ids), max(1, TOKENS // texts.ids.shape[1])
    for first in range(0, n_texts, size):
        chunk = slice(first, first + size)
        stage = part(progress, first / n_texts, min(1.0, (first + size) / n_texts))
        totals = totals + _sums(model, texts.some(chunk), source(chunk), stage, text)
    return texts.means(totals)


def _sums(
    model: OlmoForCausalLM, texts: Texts, source: Mapping[str, Tensor], progress: Progress | None, text: str
) -> Tensor:
    """By how much each ablation changes the sums over texts that fit at a time: layer part 1|2."""
    base = model.run(texts.ids, capture=RESIDUALS)
    before = texts.sums(base.logits)
    at_most = max(1, CHUNK // (texts.ids.numel() * model.config.vocab_size))
    rows = []
    for layer in steps(range(model.config.num_hidden_layers), progress, text):
        swaps = heads_and_mlp(model, source, layer, texts.ids.numel(), at_most)
        rows.append(torch.cat([texts.sums(run_cells(model, base, swap).logits) for swap in swaps]) - before)
    return torch.stack(rows)


def _counted(batch: Tensor, scored: Tensor | None) -> Tensor:
    """Whether the loss of each next token counts: text pos-1."""
    counted = torch.ones_like(batch, dtype=torch.bool) if scored is None else scored.to(batch.device)
    if counted.shape != batch.shape or counted.dtype != torch.bool:
        raise WorkbenchError(
            f"scored is {counted.dtype} {tuple(counted.shape)}; it should be a boolean mask of the tokens, "
            f"{tuple(batch.shape)}"
        )
    if not counted[:, 1:].any():
        raise WorkbenchError("scored leaves nothing to score: it is false everywhere after the first position")
    return counted[:, 1:]


def _sources(
    model: OlmoForCausalLM, batch: Tensor, method: str, reference: Tensor | None, draws: int, seed: int
) -> list[Source]:
    """What takes the place of the parts of some texts: one answer, or one a draw."""
    reference = None if reference is None else as_batch(reference).to(model.device)
    if method == "zero":
        sizes, sites = model.sites.sizes, [site for pattern in PARTS for site in model.sites.match(pattern)]
        zeros = {site: torch.zeros(1, 1, *(sizes[word] for word in model.sites[site].split()[2:])) for site in sites}
        return [lambda chunk: zeros]
    if method == "mean":
        means = _means(model, batch if reference is None else reference)
        return [lambda chunk: means]
    if method == "resample":
        return [partial(_resampled, model, donors) for donors in _donors(batch, reference, draws, seed)]
    raise WorkbenchError(f"no method {method!r}; choices: {', '.join(METHODS)}")


def _resampled(model: OlmoForCausalLM, donors: Tensor, chunk: slice) -> Run:
    """What the parts do after some of the donors."""
    return model.run(donors[chunk], capture=PARTS, captures_only=True)


def _means(model: OlmoForCausalLM, texts: Tensor) -> dict[str, Tensor]:
    """The mean of every part over texts and positions, by site: 1 1 …"""
    sums: dict[str, Tensor] = {}
    for some in texts.split(max(1, TOKENS // texts.shape[1])):
        run = model.run(some, capture=PARTS, captures_only=True)
        for site, x in run.items():
            sums[site] = sums.get(site, 0.0) + x.double().sum((0, 1), keepdim=True)
    return {site: total / texts.numel() for site, total in sums.items()}


def _donors(batch: Tensor, reference: Tensor | None, draws: int, seed: int) -> list[Tensor]:
    """For each text another one, drawn so many times: text pos each."""
    if draws < 1:
        raise WorkbenchError(f"draws is {draws}; resampling needs at least 1, and several for a standard error")
    if reference is None and len(batch) < 2:
        raise WorkbenchError("one text has no other to resample from; give more texts, or reference=")
    if reference is not None and reference.shape[1] != batch.shape[1]:
        raise WorkbenchError(
            f"texts of {batch.shape[1]} tokens cannot be resampled from a reference of {reference.shape[1]}; "
            "cut them to one length"
        )
    generator = torch.Generator().manual_seed(seed)
    return [
        _others(batch, generator) if reference is None else _any(reference, len(batch), generator) for _ in range(draws)
    ]


def _others(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Every text in the place of another one."""
    order = torch.randperm(len(batch), generator=generator)
    others = torch.empty_like(batch)
    others[order] = batch[order.roll(1)]
    return others


def _any(reference: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """So many texts of the reference, with replacement."""
    return reference[torch.randint(len(reference), (n,), generator=generator)]


def _grids(changes: Tensor, method: str, target: str | None) -> Measures:
    """The means over draws, and their standard errors where there are several, of draw layer part 1|2."""
    draws = len(changes)
    how = f"{method} ablation" + (f", {draws} draws" if draws > 1 else "")
    grids: dict[str, Grid] = {}
    for key, values in zip(("loss", "log_probability"), changes.unbind(-1), strict=False):
        name = "loss" if key == "loss" else f"log-probability of {target}"
        columns = [*range(values.shape[2] - 1), "MLP"]
        grid = partial(Grid, rows=range(values.shape[1]), columns=columns, column_name="part", unit="nats")
        title = f"Change of the {name} without a head or an MLP ({how})"
        grids[key] = grid(values.mean(0), title=title, value_name=f"change of {name}", signed=True)
        if draws > 1:
            title, error = f"Standard error of the change of the {name} ({how})", values.std(0) / draws**0.5
            grids[f"{key}_error"] = grid(error, title=title, value_name="standard error")
    return Measures(**grids)
