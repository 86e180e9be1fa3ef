"""What a page shows of the training text: how often the tokens up to one token occur, where, what follows, and when
they were read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from workbench import corpus
from workbench.corpus.excerpts import plain_text
from workbench.corpus.replay import order_of
from workbench.corpus.row_map import distinct_rows
from workbench.corpus.training_text import RECIPES
from workbench.errors import WorkbenchError
from workbench.page.session.arguments import IdsOf, IndexOf, ModelOf, TokenizerOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import cached_value, result
from workbench.page.session.calls import Call
from workbench.page.session.edit_lines import canonical_edits, tapped
from workbench.page.session.menus import choice
from workbench.page.session.prompts import Prompt
from workbench.page.session.text_requests import checked_ids
from workbench.results import Curves
from workbench.tokens import counted, vocabulary_labels
from workbench.views.text_page import text_page

FOLLOWING = 8  # tokens that are listed as likeliest by the text, and as many by the model
NGRAMS = 5  # listed for a token
LONG = 12  # tokens of a verbatim piece that has full colour, if none is longer
SHORTEST = 2  # tokens of a verbatim piece that a strip underlines
BINS = 120  # of the steps of a run, on its time line
NAMED_STEPS = 12


@dataclass(frozen=True)
class SeenRequest:
    """A request for the occurrences of a token's n-grams in the training text: a checkpoint reads `ids`, and `token` is
    a position.

    `ngram` is (start, end) of the n-gram whose documents and steps are asked for; None means the longest one.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    checkpoint: str
    ids: tuple[int, ...]
    token: int
    edits: str = ""
    ngram: tuple[int, int] | None = None


@dataclass(frozen=True)
class ShadeRequest:
    """A request for the numbers that shade a strip: a checkpoint reads `ids`, and `shade` is one of `SHADES`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    checkpoint: str
    ids: tuple[int, ...]
    shade: str
    edits: str = ""


SHADES = ("verbatim", "text", "difference")
"""The verbatim pieces of a text; the probability of its tokens by the ∞-gram; the probability by the model minus that.
"""


def shade_call(bench: Bench, request: ShadeRequest) -> Call:
    """The call whose result shades a strip. Errors: WorkbenchError for another shade than `SHADES`."""
    shade = choice(request.shade, dict.fromkeys(SHADES, request.shade), "shade")
    ids = IdsOf(request.checkpoint, tuple(checked_ids(bench, request.checkpoint, request.ids)))
    index, tokenizer = IndexOf(request.checkpoint), TokenizerOf(request.checkpoint)
    if shade == "verbatim":
        call = Call.quick(corpus.verbatim, ids, index, shortest=SHORTEST, tokenizer=tokenizer)["length"]
    else:
        edits = canonical_edits(bench, request.checkpoint, request.edits)
        call = Call.of(corpus.beside_model, ModelOf(request.checkpoint, edits), ids, index, tokenizer=tokenizer)[shade]
    return call.shown_by(text_page)


def shading(bench: Bench, request: ShadeRequest) -> dict[str, Any]:
    """The numbers that shade a strip, for training_text.js; without an index, `{"absent": a sentence}`.

    `values` has one number for each token, null for none. Of verbatim pieces, `spans` are their (start, end, count);
    else `text`, `model` and `suffix` are the numbers of `corpus.beside_model`.
    """
    call = shade_call(bench, request)
    try:
        index = corpus.open(request.checkpoint)
    except WorkbenchError as error:
        return {"absent": str(error)}
    whole = result(replace(call, measure=None), bench)
    found = whole[call.measure]
    about = {"unit": found.unit, "signed": found.signed, "values": defined_numbers(found)}
    if request.shade == "verbatim":
        spans = [(one.start, one.end, one.count) for one in index.spans(list(request.ids), SHORTEST)]
        return about | {"spans": spans, "high": max([LONG, *(end - start for start, end, _ in spans)])}
    return about | {name: defined_numbers(whole[name]) for name in ("text", "model", "suffix")} | {"high": 1.0}


def defined_numbers(found: Curves) -> list[float | None]:
    """The values of the only line of a result; None where undefined."""
    return [None if value != value else value for value in found.values[0].tolist()]


def seen(bench: Bench, request: SeenRequest) -> dict[str, Any]:
    """What training_text.js shows of a token; without an index, `{"absent": a sentence that says how to make one}`.

    Errors: WorkbenchError for token ids or positions that do not exist.
    """
    try:
        index = corpus.open(request.checkpoint)
    except WorkbenchError as error:
        return {"absent": str(error)}
    ids, ngrams = looked_up(bench, request, index)
    start, end = chosen_ngram(request, ids, ngrams)
    found = {"ngrams": ngrams, "chosen": [start, end], "follows": followed(bench, index, request, ids)}
    if not ngrams:
        return found | {"places": 0, "documents": [], "rows": None}
    return found | {
        "places": index.count(ids[start:end]),
        "documents": documents(cached_value(documents_call(request, ids, (start, end)), bench)),
        "rows": rows_that_held(bench, index, ids[start:end], request.checkpoint),
    }


def looked_up(
    bench: Bench, request: SeenRequest, index: corpus.SuffixIndex
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """The token ids of a request, and its n-grams (see `ngrams_at`).

    Errors: WorkbenchError for token ids or a position that do not exist.
    """
    ids = checked_ids(bench, request.checkpoint, request.ids)
    if not 0 <= request.token < len(ids):
        raise WorkbenchError(f"there is no token {request.token}; the text has {len(ids)} tokens")
    return ids, ngrams_at(index, ids, request.token)


def chosen_ngram(request: SeenRequest, ids: Sequence[int], ngrams: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """(start, end) of the n-gram that is asked for: the longest one if the request has none, the token if none occurs.

    Errors: WorkbenchError if it does not hold the token.
    """
    start, end = request.ngram or (ngrams[0][:2] if ngrams else (request.token, request.token + 1))
    if not 0 <= start <= request.token < end <= len(ids):
        raise WorkbenchError(f"tokens {start} to {end} are not an n-gram that contains token {request.token}")
    return start, end


def ngrams_at(index: corpus.SuffixIndex, ids: Sequence[int], token: int) -> list[tuple[int, int, int]]:
    """(start, end, count) of n-grams with a token, the longest first; empty if the token does not occur.

    They are the maximal verbatim span that goes beyond the token, if any; the longest n-gram that ends in it; and the
    shorter ones that are more frequent than the next longer one, at most `NGRAMS` in total and the token alone last.
    """
    around = [span for span in index.spans(ids) if span.start <= token and span.end > token + 1]
    longest = index.continuations(ids[: token + 1]).suffix
    ending = [
        (start, token + 1, index.count(ids[start : token + 1])) for start in range(token + 1 - longest, token + 1)
    ]
    kept = [one for place, one in enumerate(ending) if place == 0 or one[2] > ending[place - 1][2]]
    kept = [*kept[: NGRAMS - 1], *kept[NGRAMS - 1 :][-1:]]
    beyond = max(around, key=lambda span: span.length, default=None)
    if beyond is None or beyond.length <= longest:
        return kept
    return [(beyond.start, beyond.end, beyond.count), *kept]


def followed(bench: Bench, index: corpus.SuffixIndex, request: SeenRequest, ids: Sequence[int]) -> dict[str, Any]:
    """Which tokens follow the chosen one, in the text after the longest suffix that occurs, and by the model.

    `rows` are [label, id, probability in the text, probability by the model] of the likeliest tokens of both.
    """
    in_text = index.continuations(ids[: request.token + 1])
    by_model = next_probabilities(bench, request.checkpoint, request.edits, ids[: request.token + 1])
    share = in_text.probabilities if in_text.suffix else np.zeros(index.vocab)
    likely = [np.argsort(-values, kind="stable")[:FOLLOWING] for values in (by_model, share)]
    listed = dict.fromkeys([int(i) for i in likely[0]] + [int(i) for i in likely[1] if share[i] > 0])
    ordered = sorted(listed, key=lambda i: -max(by_model[i], share[i]))[:FOLLOWING]
    labels = vocabulary_labels(ordered, bench.tokenizer(request.checkpoint))
    rows = [[label, i, float(share[i]), float(by_model[i])] for label, i in zip(labels, ordered, strict=True)]
    return {"suffix": in_text.suffix, "total": in_text.total if in_text.suffix else 0, "rows": rows}


def next_probabilities(bench: Bench, checkpoint: str, edits: str, ids: Sequence[int]) -> np.ndarray:
    """The probability of each next token of a text by a checkpoint with interventions: float64, vocab."""
    model = bench.load(checkpoint)[0]
    lines = canonical_edits(bench, checkpoint, edits)

    def make() -> np.ndarray:
        with tapped(bench, (model, checkpoint, lines)), torch.no_grad():
            logits = model.run(torch.tensor([ids], device=model.device), logits_to_keep=1).logits[0, -1]
        return logits.double().softmax(-1).cpu().numpy()

    return bench.once(("next probabilities", checkpoint, lines, tuple(ids)), make)


def documents(whole: pd.DataFrame) -> list[dict[str, Any]]:
    """The places of `corpus.documents_with` for training_text.js, with the first `NAMED_STEPS` steps of each."""
    rows: list[dict[str, Any]] = whole.rename(columns={"document": "number"}).to_dict("records")
    return [row | {"steps": [*row["steps"][:NAMED_STEPS]], "times": len(row["steps"])} for row in rows]


def seen_call(bench: Bench, request: SeenRequest) -> Call:
    """The call whose table has the documents that `seen` shows. Errors: those of `seen`, and those of `corpus.open`."""
    ids, ngrams = looked_up(bench, request, corpus.open(request.checkpoint))
    return documents_call(request, ids, chosen_ngram(request, ids, ngrams))


def documents_call(request: SeenRequest, ids: Sequence[int], chosen: tuple[int, int]) -> Call:
    """The call of the places of the tokens `chosen`, (start, end)."""
    checkpoint, (start, end) = request.checkpoint, chosen
    ngram, index = IdsOf(checkpoint, tuple(ids[start:end])), IndexOf(checkpoint)
    order = order_of(checkpoint)
    return Call.quick(corpus.documents_with, ngram, index, order=order, tokenizer=TokenizerOf(checkpoint))


@dataclass(frozen=True)
class ReadNgram:
    """The longest n-gram that ends in a token of a prompt, and the rows of the main run that held it.

    Attributes:
        text: the n-gram, safe to show.
        length: number of its tokens; 0 if the token does not occur in the training text.
        places: (step, row) of the rows, by step, each once.
    """

    text: str
    length: int
    places: tuple[tuple[int, int], ...]

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps at which rows held it, each once, ascending."""
        return tuple(dict.fromkeys(step for step, _ in self.places))

    @property
    def told(self) -> str:
        """The steps at which rows with the n-gram were read, in a sentence."""
        if not self.length:
            return f"“{self.text}” does not occur in the training text."
        if not self.places:
            return f"No row of the main run held “{self.text}”."
        steps = self.steps
        when = f"step {steps[0]:,}" if len(steps) == 1 else f"{len(steps):,} steps, {steps[0]:,} to {steps[-1]:,}"
        return f"“{self.text}” ({counted(self.length)}) was read at {when}."


def read_ngram(bench: Bench, checkpoint: str, prompt: Prompt, token: int | None) -> ReadNgram:
    """The longest n-gram that ends in a token of a prompt (None: the last one) and occurs in the training text.

    Errors: WorkbenchError with the command that makes an index if there is none.
    """
    series = bench.series_of(checkpoint)
    index, ids = corpus.open(series), bench.tokens(checkpoint, prompt)[0].tolist()
    end = len(ids) if token is None or token >= len(ids) else token + 1
    length = index.continuations(ids[:end]).suffix
    ngram = ids[end - max(length, 1) : end]
    rows = distinct_rows(index.rows_with(ngram))
    places = tuple((int(step), int(row)) for step, row in rows.itertuples(index=False))
    return ReadNgram(plain_text(ngram, bench.tokenizer(checkpoint)).strip(), length, places)


def rows_that_held(bench: Bench, index: corpus.SuffixIndex, ngram: Sequence[int], checkpoint: str) -> dict[str, Any]:
    """The steps at which rows held an n-gram, as a time line of the run.

    `bins` has the number of rows in each of `BINS` equal parts of the run; `stages` are the last steps of its stages.
    `before` counts the rows that the checkpoint has read: those of steps below its own.
    """
    opened, recipe = bench.checkpoint(checkpoint), RECIPES[bench.series_of(checkpoint)]
    steps = distinct_rows(index.rows_with(ngram, order_of(checkpoint)))["step"].to_numpy()
    unique = np.unique(steps)
    counts, _ = np.histogram(steps, BINS, (0, recipe.steps))
    at = recipe.steps if opened.step is None else opened.step
    return {
        "count": len(steps),
        "steps": len(unique),
        "named": unique[:NAMED_STEPS].tolist(),
        "last": int(unique[-1]) if len(unique) else None,
        "before": int((steps < at).sum()),
        "at": at,
        "end": recipe.steps,
        "stages": [stage.until for stage in recipe.stages],
        "bins": counts.tolist(),
    }
