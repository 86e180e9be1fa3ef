"""A table of a set of texts, with what a model predicts for each, and the mean losses of the set."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from hooks import OlmoForCausalLM
from hooks.products import fast_products
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.by_label import ALL
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.means import MeansOverTexts, means_of, means_over_texts
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.analyses.support.next_tokens import CHUNK_BYTES, next_token_statistics, tokens_at_most
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.results import Scores
from workbench.texts import Texts, TextsLike
from workbench.tokens import Tokenizer, vocabulary_labels

WHAT = "losses of texts"


def text_overview(
    model: OlmoForCausalLM, tokens: TextsLike, *, tokenizer: Tokenizer | None = None, progress: Progress | None = None
) -> pd.DataFrame:
    """A table of what a model predicts for each text of a set: its loss, and the likeliest token after it.

    It has one row for each text, in the order of the texts:

    - `text`: the number of the text, from 0; `tokens`: its number of tokens; `label`, if the texts have labels.
    - `loss`: the mean of −log p over its tokens except the first, in nats; undefined (NaN) for a text of one token.
    - `answer`, `probability`: the likeliest next token after the text, and its probability.
    - `content`, with a tokenizer: the text itself.

    `mean_losses` gives the means of this table.
    """
    texts = texts_for(model, tokens)
    size = tokens_at_a_time(model, WHAT, **_sizes(model, texts))
    losses, probabilities = np.empty(len(texts)), np.empty(len(texts))
    answers = torch.empty(len(texts), dtype=torch.long)
    for rows, ids in steps(texts.padded_batches(size), progress, WHAT):
        with fast_products():
            logits = model.run(ids).logits  # batch pos vocab
        there = texts.mask[rows, : ids.shape[1]].to(ids.device)  # batch pos
        each = next_token_statistics(logits[:, :-1], ids[:, 1:])["loss"].double()  # batch pos-1
        losses[rows] = (each.where(there[:, 1:], 0).sum(1) / there[:, 1:].sum(1)).cpu()
        best = logits[range(len(rows)), there.sum(1) - 1].float().softmax(-1).max(-1)
        probabilities[rows], answers[rows] = best.values.cpu(), best.indices.cpu()
    table = pd.DataFrame({"text": range(len(texts)), "tokens": texts.lengths})
    if texts.labels is not None:
        table["label"] = texts.labels
    table["loss"], table["answer"] = losses, vocabulary_labels(answers, tokenizer)
    table["probability"] = probabilities
    if tokenizer is not None:
        table["content"] = [tokenizer.decode(ids.tolist()) for ids in texts]
    return table


@work_of(text_overview)
def _work(model: OlmoForCausalLM, tokens: TextsLike, **_: object) -> Work:
    texts = texts_for(model.config, tokens)
    peak = peak_bytes(model, WHAT, total=texts.tokens, **_sizes(model, texts))
    return Work(pass_flops(model, texts.tokens, logits=texts.tokens), nbytes=peak)


def _sizes(model: OlmoForCausalLM, texts: Texts) -> dict[str, Any]:
    """The sizes that limit a batch, as arguments of `tokens_at_a_time`."""
    per_token, most = run_bytes(model, logits=2), tokens_at_most(model)
    return {"per_token": per_token, "length": texts.longest, "fixed": CHUNK_BYTES, "at_most": most}


def mean_losses(overview: pd.DataFrame) -> Scores:
    """The mean loss per token of all texts of a `text_overview`, and of the texts of each label, as Scores in nats.

    Every token has the same weight; the standard errors are over texts. Texts without a loss are left out: those of one
    token, and those whose loss is not a number (`without_loss` lists them).

    Errors: WorkbenchError if no text has a loss.
    """
    there = overview[np.isfinite(overview["loss"])]
    if there.empty:
        raise WorkbenchError("no text has a loss: each has one token, or the model's logits are not numbers")
    groups = {ALL: there} | ({} if "label" not in there else dict(iter(there.groupby("label", sort=False))))
    means = [_mean(group) for group in groups.values()]
    values, errors = means_of(means)
    return Scores(
        values,
        list(groups),
        title="Mean loss per token",
        value_name="loss",
        unit="nats",
        errors=errors,
        texts=[len(group) for group in groups.values()],
    )


def without_loss(overview: pd.DataFrame) -> list[int]:
    """The numbers of the texts of two tokens or more whose loss is not a number, because a logit is not finite."""
    return overview["text"][(overview["tokens"] > 1) & ~np.isfinite(overview["loss"])].tolist()


def _mean(group: pd.DataFrame) -> MeansOverTexts:
    counts = group["tokens"].to_numpy() - 1
    return means_over_texts(group["loss"].to_numpy() * counts, counts)
