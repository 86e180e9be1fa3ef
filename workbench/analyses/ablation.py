"""What a text loses with each head and each MLP."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hooks import OlmoForCausalLM
from workbench.analyses.cells import RESIDUALS, TOKENS, Swap, groups, one_each, repeated, run_cells
from workbench.analyses.common import CHUNK, as_batch, chosen
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, steps
from workbench.results import Grid, Measures
from workbench.text import Tokenizer, token_id, vocabulary_labels

METHODS = ("zero", "mean", "resample")
CAPTURED = ("blocks.*.attn.z", "blocks.*.mlp_out")
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
    "Causal scrubbing"). A head is replaced before the output projection, so in OLMo 2 and 3 the norm after attention is
    computed anew; an MLP is replaced in what it adds to the residual stream.

    `tokens` batch pos, two positions or more. `scored`, a boolean mask batch pos, restricts the loss to the tokens
    where it is true (say, a span's second copy); nothing predicts a text's first token, so that never counts.

    Errors: WorkbenchError for an unknown method, a single text to resample from, a mask that leaves nothing to score.
    """
    batch = as_batch(tokens, at_least=2).to(model.device)
    (position,) = chosen([position], batch.shape[1], "position")
    target = None if token is None else token_id(token, tokenizer, model.config.vocab_size)
    counted = _counted(batch, scored)
    source = _source(model, batch, method, reference, seed)
    totals, size = 0.0, max(1, TOKENS // batch.shape[1])
    for first in range(0, len(batch), size):
        chunk = slice(first, first + size)
        stage = part(progress, first / len(batch), min(1.0, (first + size) / len(batch)))
        texts = Texts(batch[chunk], counted[chunk], target, position)
        totals = totals + _changes(model, texts, source(chunk), stage, f"{method} ablation")
    values = {"loss": totals[..., 0] / counted.sum().cpu()}
    if target is not None:
        values["log_probability"] = totals[..., 1] / len(batch)
    return _grids(model, values, method, None if target is None else vocabulary_labels([target], tokenizer)[0])


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


def _changes(
    model: OlmoForCausalLM, texts: Texts, source: Mapping[str, Tensor], progress: Progress | None, text: str
) -> Tensor:
    """By how much each ablation changes the sums: layer head+1 1|2."""
    base = model.run(texts.ids, capture=RESIDUALS)
    before = texts.sums(base.logits)
    n_heads = model.config.num_attention_heads
    at_most = max(1, CHUNK // (texts.ids.numel() * model.config.vocab_size))
    rows = []
    for layer in steps(range(model.config.num_hidden_layers), progress, text):
        heads, mlp = f"blocks.{layer}.attn.z", f"blocks.{layer}.mlp_out"
        swaps = [
            Swap(heads, source[heads], one_each(model.sites[heads], "head", some, n_heads))
            for some in groups(range(n_heads), texts.ids.numel(), at_most)
        ]
        swaps.append(Swap(mlp, source[mlp], torch.ones(1, 1, 1, dtype=torch.bool)))
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


def _source(model: OlmoForCausalLM, batch: Tensor, method: str, reference: Tensor | None, seed: int) -> Source:
    """What takes the place of the parts of some texts."""
    reference = None if reference is None else as_batch(reference).to(model.device)
    if method == "zero":
        sizes, sites = model.sites.sizes, [site for pattern in CAPTURED for site in model.sites.match(pattern)]
        zeros = {site: torch.zeros(1, 1, *(sizes[word] for word in model.sites[site].split()[2:])) for site in sites}
        return lambda chunk: zeros
    if method == "mean":
        means = _means(model, batch if reference is None else reference)
        return lambda chunk: means
    if method == "resample":
        donors = _donors(batch, reference, seed)
        return lambda chunk: model.run(donors[chunk], capture=CAPTURED, stop_at_layer=model.config.num_hidden_layers)
    raise WorkbenchError(f"no method {method!r}; choices: {', '.join(METHODS)}")


def _means(model: OlmoForCausalLM, texts: Tensor) -> dict[str, Tensor]:
    """The mean of every part over texts and positions, by site: 1 1 …"""
    sums: dict[str, Tensor] = {}
    for some in texts.split(max(1, TOKENS // texts.shape[1])):
        run = model.run(some, capture=CAPTURED, stop_at_layer=model.config.num_hidden_layers)
        for site, x in run.items():
            sums[site] = sums.get(site, 0.0) + x.double().sum((0, 1), keepdim=True)
    return {site: total / texts.numel() for site, total in sums.items()}


def _donors(batch: Tensor, reference: Tensor | None, seed: int) -> Tensor:
    """For each text another one: text pos."""
    generator = torch.Generator().manual_seed(seed)
    if reference is None:
        if len(batch) < 2:
            raise WorkbenchError("one text has no other to resample from; give more texts, or reference=")
        order = torch.randperm(len(batch), generator=generator)
        donors = torch.empty_like(batch)
        donors[order] = batch[order.roll(1)]
        return donors
    if reference.shape[1] != batch.shape[1]:
        raise WorkbenchError(
            f"texts of {batch.shape[1]} tokens cannot be resampled from a reference of {reference.shape[1]}; "
            "cut them to one length"
        )
    return reference[torch.randint(len(reference), (len(batch),), generator=generator)]


def _grids(model: OlmoForCausalLM, values: dict[str, Tensor], method: str, target: str | None) -> Measures:
    names = {"loss": "loss", "log_probability": f"log-probability of {target}"}
    return Measures(
        **{
            name: Grid(
                value,
                range(len(value)),
                [*range(model.config.num_attention_heads), "MLP"],
                column_name="part",
                title=f"Change of the {names[name]} without a head or an MLP ({method} ablation)",
                value_name=f"change of {names[name]}",
                unit="nats",
                signed=True,
            )
            for name, value in values.items()
        }
    )
