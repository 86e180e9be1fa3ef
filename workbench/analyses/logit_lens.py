"""The next-token prediction read from each layer as if it were the last."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hooks import Capture, OlmoForCausalLM
from workbench.analyses.support.arguments import one_text, texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.means import MeansOverTexts
from workbench.analyses.support.memory import peak_bytes
from workbench.analyses.support.next_tokens import CHUNK, next_token_statistics
from workbench.analyses.support.residual_stream import residual_names, residual_sites, residuals, residuals_bytes
from workbench.analyses.support.text_states import states_work, text_states
from workbench.analyses.support.translators import TunedLens
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.results import Grid, Measures, Scores
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels, vocabulary_labels

UNITS = {"entropy": "nats", "kl": "nats"}
TITLES = {
    "probability": "Probability of the likeliest next token",
    "entropy": "Entropy of the next token",
    "kl": "Divergence of the final distribution from this one",
    "rank": "Rank of the true next token",
}
MEANS = {
    "probability": "Mean probability of the likeliest next token",
    "agreement": "Share of texts with the model's likeliest token",
    "entropy": "Mean entropy of the next token",
    "kl": "Mean divergence of the final distribution from this one",
}
"""The titles of the measures of `mean_lens`."""


def logit_lens(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    *,
    top_k: int = 5,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """The logits of every layer: its residual stream through the final norm and the unembedding (nostalgebraist 2020).

    Returns Grids of (`embed` and every layer) × position of one text:

    - `probability`: the probability of the likeliest next token, 0 to 1; the cells show the token.
    - `entropy`: the entropy of the next-token distribution, in nats: 0 if one token has all the probability, log(number
      of tokens in the vocabulary) if all tokens are equally likely.
    - `kl`: KL(final ‖ layer) = Σ p_final log(p_final / p_layer), in nats: 0 if the two distributions are equal.
    - `rank`: the rank of the true next token (1 is the likeliest); undefined (NaN) at the last position.
    - `top_2` … `top_k`: the probabilities of the second to the k-th likeliest token; the cells show the tokens.

    The last row is the model's own output, with a `kl` of 0.

    Errors: WorkbenchError for several texts, or if `top_k` is not between 1 and the size of the vocabulary.
    """
    return layer_predictions(model, tokens, _as_it_is, top_k=top_k, tokenizer=tokenizer, progress=progress)


def _as_it_is(resid: Tensor, row: int) -> Tensor:
    return resid


@torch.no_grad()
def layer_predictions(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    translated: Callable[[Tensor, int], Tensor],
    *,
    top_k: int = 5,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """The measures of `logit_lens`, computed from `translated(resid, row)` instead of the residual stream itself.

    Row 0 is the embedding, row l + 1 is layer l. `resid` is the residual stream of the row, pos d_model.
    """
    batch = one_text(tokens, model)
    if not 1 <= top_k <= model.config.vocab_size:
        raise WorkbenchError(
            f"top_k is {top_k}; choose from 1 to {model.config.vocab_size}, the size of the vocabulary"
        )
    _peak(model, batch.shape[1])
    resid = residuals(model, batch)[:, 0]  # layer pos d_model
    following = torch.cat([batch[0, 1:], batch[0, :1]]).to(resid.device)  # last: a placeholder, NaN below
    size = max(1, CHUNK // model.config.vocab_size)
    rows: list[dict[str, Tensor]] = []
    for layer in steps(range(len(resid)), progress, "logit lens"):
        chunks = [
            _lens_measures(model, *chunk, top_k)
            for chunk in zip(
                translated(resid[layer], layer).split(size), resid[-1].split(size), following.split(size), strict=True
            )
        ]
        rows.append({name: torch.cat([chunk[name] for chunk in chunks]).cpu() for name in chunks[0]})
    measures = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}  # layer pos, or layer pos k
    measures["rank"][:, -1] = float("nan")
    return _as_grids(model, batch[0], measures, tokenizer)


@torch.no_grad()
def mean_lens(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    *,
    position: int = -1,
    lens: TunedLens | None = None,
    progress: Progress | None = None,
) -> Measures:
    """Means over texts of the logit lens at one position of each text, or of the tuned lens if `lens` is given.

    Returns Scores of `embed` and every layer, with standard errors over texts:

    - `probability`: the mean probability of the layer's likeliest next token.
    - `agreement`: the share of texts in which this token is also the model's likeliest token; 1 for the last layer.
    - `entropy` and `kl`: means of the measures of `logit_lens`, in nats; `kl` is 0 for the last layer.

    A negative position counts from the end of each text.

    Errors: WorkbenchError for a position outside of a text, or if the lens is for a model of other sizes.
    """
    if lens is not None:
        lens.check_fits(model)
    texts, translated = texts_for(model, tokens), _as_it_is if lens is None else lens.translated
    captures = [Capture(site) for site in residual_sites(model)]
    states = text_states(model, texts, captures, position, "logit lens", progress)  # layer text d_model
    size, means = max(1, CHUNK // model.config.vocab_size), {name: MeansOverTexts() for name in MEANS}
    for some in states.to(model.device, model.dtype).split(size, dim=1):
        final = unembed(model, some[-1]).argmax(-1)  # text
        rows = [_lens_measures(model, translated(layer, row), some[-1], final, 1) for row, layer in enumerate(some)]
        agrees = [(row["ids"][:, 0] == final).float() for row in rows]
        found = {"probability": [row["top"][:, 0] for row in rows], "agreement": agrees}
        found |= {name: [row[name] for row in rows] for name in ("entropy", "kl")}
        for name, values in found.items():
            means[name].add(torch.stack(values, dim=1))  # text layer
    return Measures(
        **{
            name: Scores(
                mean.values,
                residual_names(model),
                title=MEANS[name],
                value_name=name,
                as_percent=name == "probability",
                unit=UNITS.get(name, ""),
                errors=mean.errors,
                texts=mean.texts,
            )
            for name, mean in means.items()
        }
    )


@work_of(mean_lens)
def _work_of_means(model: OlmoForCausalLM, tokens: TextsLike, **_: object) -> Work:
    texts = texts_for(model.config, tokens)
    states = states_work(model, texts, [Capture(site) for site in residual_sites(model)], "logit lens")
    logits = 2 * (model.config.num_hidden_layers + 1) * len(texts)
    return states + Work(pass_flops(model, texts.tokens, logits=logits) - pass_flops(model, texts.tokens))


@work_of(logit_lens)
def work_of_lens(model: OlmoForCausalLM, tokens: TextsLike, **_: object) -> Work:
    """The work of `logit_lens`."""
    length, rows = one_text(tokens).shape[1], model.config.num_hidden_layers + 1
    return Work(pass_flops(model, length, logits=2 * rows * length), nbytes=_peak(model, length))


def _peak(model: OlmoForCausalLM, length: int) -> float:
    """Bytes besides the model: the residual streams, one chunk of logits and its measures in float32."""
    logits = 16 * 4 * min(CHUNK, length * model.config.vocab_size)
    return peak_bytes(model, "logit lens", residuals_bytes(model), length, fixed=logits)


def _lens_measures(
    model: OlmoForCausalLM, resid: Tensor, final: Tensor, following: Tensor, top_k: int
) -> dict[str, Tensor]:
    """The measures at some positions of one layer. resid, final: pos d_model."""
    logits = unembed(model, resid).float()  # pos vocab
    log_p, log_final = logits.log_softmax(-1), unembed(model, final).float().log_softmax(-1)
    top = log_p.topk(top_k, dim=-1)
    statistics = next_token_statistics(logits, following)
    return {
        "top": top.values.exp(),
        "ids": top.indices,
        "entropy": statistics["entropy"],
        "kl": torch.nn.functional.kl_div(log_p, log_final, reduction="none", log_target=True).sum(-1),
        "rank": statistics["rank"],
    }


def unembed(model: OlmoForCausalLM, resid: Tensor) -> Tensor:
    """The logits of a residual stream: final norm, then unembedding. … d_model -> … vocab"""
    return model.lm_head(model.model.norm(resid))


def _as_grids(
    model: OlmoForCausalLM, ids: Tensor, measures: dict[str, Tensor], tokenizer: Tokenizer | None
) -> Measures:
    """The measures of all layers as Grids. Cells show the candidate token in `top_k` grids, and the likeliest token in
    all others.
    """
    top, top_ids = measures.pop("top"), measures.pop("ids")  # layer pos k
    texts = np.array(vocabulary_labels(top_ids.flatten().tolist(), tokenizer), dtype=object).reshape(top.shape)
    measures = {"probability": top[..., 0]} | measures
    runners_up = {f"top_{k + 1}": top[..., k] for k in range(1, top.shape[-1])}
    return Measures(
        **{
            name: Grid(
                values,
                residual_names(model),
                token_labels(ids, tokenizer),
                text=texts[..., int(name[4:]) - 1 if name in runners_up else 0],
                title=TITLES.get(name, f"Probability of candidate {name[4:]} for the next token"),
                value_name="probability" if name in runners_up else name,
                unit=UNITS.get(name, ""),
                log=name == "rank",
                as_percent=name == "probability" or name in runners_up,
            )
            for name, values in (measures | runners_up).items()
        }
    )
