"""How the loss changes when one head or one MLP is removed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from hooks import OlmoForCausalLM, Run
from workbench.analyses.support.arguments import chosen, texts_for
from workbench.analyses.support.batched_runs import PARTS, RESIDUALS, heads_and_mlp, repeated, run_cells
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.means import MeansOverTexts
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.analyses.support.undefined import refuse_undefined
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, steps
from workbench.results import Grid, Measures
from workbench.texts import Batch, Texts, TextsLike
from workbench.tokens import Tokenizer, token_id, vocabulary_labels

METHODS = ("zero", "mean", "resample")
Replacements = Callable[[Batch], Mapping[str, Tensor]]
"""A function that returns the replacement activations for a batch of texts, by site: (text or 1) (pos or 1) …"""


@torch.no_grad()
def ablation(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    token: int | str | None = None,
    *,
    method: str = "mean",
    reference: TextsLike | None = None,
    scored: Tensor | None = None,
    position: int = -1,
    draws: int = 4,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """How much worse the model predicts when one head or one MLP is removed. Each part is removed in a run of its own.

    Returns Grids of layer × (heads, MLP), in nats, with standard errors over texts:

    - `loss`: the change of the mean −log p of the tokens of the texts. Positive where the part helped.
    - `log_probability`, if a `token` is given: the change of its log-probability after `position`, mean over the texts.
      Negative where the part helped.
    - `surprisal`, if a `token` is given: the change of its −log p, which is `log_probability` with the opposite sign.

    The `method` decides what replaces the activation of the part:

    - "zero": zeros.
    - "mean": the part's mean over all texts and positions of `reference` (default: the texts themselves).
    - "resample": the part's activation at the same position of another text, drawn with `seed` from `reference`
      (default: the texts themselves; Wang et al. 2022, arXiv 2211.00593; Chan et al. 2022, "Causal scrubbing"). All
      texts must have one length. The result is the mean over `draws` draws. With two or more draws, its standard error
      over the draws is returned as `loss_error` and `log_probability_error`, `surprisal_error`.

    A head is replaced before the output projection, so in OLMo 2 and 3 the norm after attention is computed again. An
    MLP is replaced where its output is added to the residual stream.

    Every text needs at least two tokens. `scored` restricts the loss to some tokens, for example the second copy of a
    repeated span. It is a boolean mask, batch pos; position 0 is the first token of each text. The first token of a
    text never counts, because nothing predicts it. All tokens that count have the same weight.

    Errors: WorkbenchError for an unknown method, a single text to resample from, texts of different lengths to resample
    from, `draws` below 1, or a mask that leaves no token to score.
    """
    texts = texts_for(model, tokens, at_least=2)
    chosen([position], min(texts.lengths), "position")
    target = None if token is None else token_id(token, tokenizer, model.config.vocab_size)
    if scored is not None and isinstance(tokens, Mapping) and min(texts.lengths) < texts.longest:
        raise WorkbenchError(
            "scored counts from each text's first token; with padding, give the tokens as Texts, not as ids"
        )
    places = torch.tensor([position % length for length in texts.lengths])
    outcome = Outcome(_counts_in_loss(texts, scored), target, places)
    sources = _sources(model, texts, method, reference, draws, seed)
    found = []
    for n, source in enumerate(sources):
        stage = part(progress, n / len(sources), (n + 1) / len(sources))
        found.append(_all_changes(model, texts, outcome, source, stage, f"{method} ablation"))
    name = None if target is None else vocabulary_labels([target], tokenizer)[0]
    return _mean_grids(torch.stack(found), outcome.counts(), method, name)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The quantities measured in each run: the loss of the tokens that count, and the log-probability of the target."""

    counted: Tensor  # text pos-1: whether the loss of the next token counts
    target: int | None
    places: Tensor  # text: the position after which the target is measured, counted from the text's start

    def sums(self, batch: Batch, logits: Tensor) -> Tensor:
        """Loss and target log-probability, summed over each text of a batch: (cell text) pos vocab -> cell text 1|2."""
        cells, length = len(logits) // len(batch.ids), batch.ids.shape[1]
        counted = self.counted[batch.rows, : length - 1].to(logits.device)
        following = repeated(batch.ids[:, 1:], cells)
        losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), following, reduction="none")
        found = [losses.where(repeated(counted, cells), 0).sum(1)]  # (cell text) each
        if self.target is not None:
            places = self.places[batch.rows].to(logits.device)
            at = logits[torch.arange(len(logits), device=logits.device), repeated(places, cells)]
            found.append(at.float().log_softmax(-1)[:, self.target])
        return torch.stack(found, dim=1).double().unflatten(0, (cells, -1)).cpu()

    def counts(self) -> Tensor:
        """The number of losses and of target log-probabilities in each text: text 1|2."""
        losses = self.counted.sum(1).cpu()
        return torch.stack([losses, *([] if self.target is None else [torch.ones_like(losses)])], dim=1)


def _all_changes(
    model: OlmoForCausalLM, texts: Texts, outcome: Outcome, source: Replacements, progress: Progress | None, text: str
) -> Tensor:
    """The change of the sums over each text by each ablation: text layer part 1|2."""
    own, of_cell = _bytes(model)
    batches = texts.padded_batches(tokens_at_a_time(model, text, own + of_cell, texts.longest))
    found: list[Tensor] = []
    done, tokens = 0, sum(batch.ids.numel() for batch in batches)
    for batch in batches:
        stage = part(progress, done / tokens, (done + batch.ids.numel()) / tokens)
        found.append(_batch_changes(model, batch, outcome, source(batch), stage, text))
        done += batch.ids.numel()
    rows = torch.tensor([row for batch in batches for row in batch.rows])
    changes = torch.cat(found)[rows.argsort()]
    refuse_undefined(changes, "loss with one part ablated", texts)
    return changes


def _bytes(model: OlmoForCausalLM) -> tuple[float, float]:
    """Returns two numbers of bytes: for each token of a batch of texts, the stored activations of the unchanged run and
    their replacements; and for each token of a run with one part ablated.
    """
    logits = 3 * 4 * model.config.vocab_size  # float32 copies, for the losses
    return run_bytes(model, capture=[RESIDUALS, *PARTS, *PARTS]), run_bytes(model, logits=2) + logits


@work_of(ablation)
def _work(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    *_: object,
    method: str = "mean",
    reference: TextsLike | None = None,
    draws: int = 4,
    **__: object,
) -> Work:
    texts = texts_for(model.config, tokens, at_least=2)
    layers, parts = model.config.num_hidden_layers, model.config.num_attention_heads + 1
    own, of_cell = _bytes(model)
    batch = min(texts.tokens, tokens_at_a_time(model, f"{method} ablation", own + of_cell, texts.longest))
    peak = peak_bytes(model, f"{method} ablation", of_cell, batch, parts * batch, fixed=own * batch)
    blocks = layers + parts * layers * (layers + 1) // 2  # of the unchanged run, and of the runs from each layer on
    flops = pass_flops(model, texts.tokens, blocks, logits=texts.tokens * (1 + parts * layers))
    if method == "resample":
        return Work(draws * (flops + pass_flops(model, texts.tokens)), nbytes=peak)
    donors = texts if reference is None else texts_for(model.config, reference)
    return Work(flops + (pass_flops(model, donors.tokens) if method == "mean" else 0), nbytes=peak)


def _batch_changes(
    model: OlmoForCausalLM,
    batch: Batch,
    outcome: Outcome,
    source: Mapping[str, Tensor],
    progress: Progress | None,
    text: str,
) -> Tensor:
    """The change of the sums over each text of a batch by each ablation: text layer part 1|2."""
    base = model.run(batch.ids, capture=RESIDUALS)
    before, size = outcome.sums(batch, base.logits), batch.ids.numel()
    own, of_cell = _bytes(model)
    at_most = tokens_at_a_time(model, text, of_cell, size, fixed=own * size) // size
    rows = []
    for layer in steps(range(model.config.num_hidden_layers), progress, text):
        swaps = heads_and_mlp(model, source, layer, at_most)
        cells = [outcome.sums(batch, run_cells(model, base, swap).logits) for swap in swaps]
        rows.append(torch.cat(cells) - before)  # part text 1|2
    return rearrange(torch.stack(rows), "layer part text outcome -> text layer part outcome")


def _counts_in_loss(texts: Texts, scored: Tensor | None) -> Tensor:
    """Whether the loss of each next token counts: text pos-1."""
    mask = texts.mask.cpu()
    counted = mask if scored is None else scored.cpu()
    if counted.shape != mask.shape or counted.dtype != torch.bool:
        raise WorkbenchError(
            f"scored is {counted.dtype} {tuple(counted.shape)}; it should be a boolean mask of the tokens, "
            f"{tuple(mask.shape)}"
        )
    counted = (counted & mask)[:, 1:]
    if not counted.any():
        raise WorkbenchError("scored selects no token to score: it is False everywhere after the first position")
    return counted


def _sources(
    model: OlmoForCausalLM, texts: Texts, method: str, reference: TextsLike | None, draws: int, seed: int
) -> list[Replacements]:
    """Functions that return the replacement activations: one, or for "resample" one for each draw."""
    others = None if reference is None else texts_for(model, reference)
    if method == "zero":
        sizes, sites = model.sites.sizes, [site for pattern in PARTS for site in model.sites.match(pattern)]
        zeros = {site: torch.zeros(1, 1, *(sizes[word] for word in model.sites[site].split()[2:])) for site in sites}
        return [lambda batch: zeros]
    if method == "mean":
        means = _part_means(model, texts if others is None else others)
        return [lambda batch: means]
    if method == "resample":
        return [partial(_resampled, model, donors) for donors in _donors(texts, others, draws, seed)]
    raise WorkbenchError(f"no method {method!r}; choices: {', '.join(METHODS)}")


def _resampled(model: OlmoForCausalLM, donors: Tensor, batch: Batch) -> Run:
    """The activations of all parts in a run over the donor texts of a batch."""
    return model.run(donors[batch.rows], capture=PARTS, captures_only=True)


def _part_means(model: OlmoForCausalLM, texts: Texts) -> dict[str, Tensor]:
    """The mean of every part over all tokens of all texts, by site: 1 1 …"""
    sums: dict[str, Tensor] = {}
    per_token = run_bytes(model, capture=PARTS) + 8 * 2 * model.config.hidden_size
    for rows, ids in texts.padded_batches(tokens_at_a_time(model, "means of parts", per_token, texts.longest)):
        run = model.run(ids, capture=PARTS, captures_only=True)
        there = texts.mask[rows, : ids.shape[1]]
        for site, x in run.items():
            total = x[there.to(x.device)].double().sum(0)  # of all tokens: …
            sums[site] = sums.get(site, 0.0) + total[None, None]
    return {site: total / texts.tokens for site, total in sums.items()}


def _donors(texts: Texts, reference: Texts | None, draws: int, seed: int) -> list[Tensor]:
    """For each draw, one donor text for each text: text pos each."""
    if draws < 1:
        raise WorkbenchError(f"draws is {draws}; resampling needs at least 1, and at least 2 for a standard error")
    if reference is None and len(texts) < 2:
        raise WorkbenchError(
            "with a single text, there is no other text to resample from; give more texts, or reference="
        )
    lengths = {*texts.lengths, *(() if reference is None else reference.lengths)}
    if len(lengths) > 1:
        raise WorkbenchError(
            f"texts of {min(lengths)} to {max(lengths)} tokens cannot be resampled from one another, position by "
            "position; cut them to equal length, or use method='mean'"
        )
    generator = torch.Generator().manual_seed(seed)
    return [
        _others(texts.ids, generator) if reference is None else _any(reference.ids, len(texts), generator)
        for _ in range(draws)
    ]


def _others(batch: Tensor, generator: torch.Generator) -> Tensor:
    """The texts in an order in which each text is replaced by another one."""
    order = torch.randperm(len(batch), generator=generator)
    others = torch.empty_like(batch)
    others[order] = batch[order.roll(1)]
    return others


def _any(reference: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` texts of the reference, drawn with replacement."""
    return reference[torch.randint(len(reference), (n,), generator=generator)]


def _mean_grids(changes: Tensor, counts: Tensor, method: str, target: str | None) -> Measures:
    """The mean over draws as Grids, and with several draws its standard error.

    changes: draw text layer part 1|2, sums over each text; counts: text 1|2, the numbers that were summed.
    """
    changes = torch.cat([changes, -changes[..., 1:]], -1)  # loss, log-probability, surprisal
    counts = torch.cat([counts, counts[..., 1:]], -1)
    draws, texts = changes.shape[:2]
    over_texts = MeansOverTexts()
    over_texts.add(changes.mean(0), counts[:, None, None])
    by_draw = changes.sum(1) / counts.sum(0)  # draw layer part 1|2
    how = f"{method} ablation" + (f", {draws} draws" if draws > 1 else "")
    grids: dict[str, Grid] = {}
    names = {
        "loss": "loss",
        "log_probability": f"log-probability of {target}",
        "surprisal": f"surprisal of {target}",
    }
    for number, ((key, name), values) in enumerate(zip(names.items(), by_draw.unbind(-1), strict=False)):
        columns = [*range(values.shape[2] - 1), "MLP"]
        grid = partial(Grid, rows=range(values.shape[1]), columns=columns, column_name="part", unit="nats")
        title = f"Change of the {name} without a head or an MLP ({how})"
        errors = None if over_texts.errors is None else over_texts.errors[..., number]
        change = f"change of {name}"
        grids[key] = grid(values.mean(0), title=title, value_name=change, signed=True, errors=errors, texts=texts)
        if draws > 1:
            title, error = f"Standard error of the change of the {name} ({how})", values.std(0) / draws**0.5
            grids[f"{key}_error"] = grid(error, title=title, value_name="standard error")
    return Measures(**grids)
