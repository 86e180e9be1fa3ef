"""Which training rows between two checkpoints explain best how their predictions of a text differ."""

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
from torch import Tensor

from workbench import checkpoints
from workbench.analyses.support.arguments import one_text
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.trajectory import Loading
from workbench.checkpoints import Checkpoint
from workbench.corpus.chosen_rows import chosen_rows
from workbench.corpus.excerpts import plain_text
from workbench.corpus.influence import influence, quantiles, random_places
from workbench.corpus.replay import MAIN
from workbench.corpus.row_map import distinct_rows
from workbench.corpus.suffix_index import SuffixIndex
from workbench.corpus.training_text import RECIPES
from workbench.errors import WorkbenchError
from workbench.progress import Progress
from workbench.results import Measures, Scores
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer

BOTH = 3  # the work of a forward and a backward pass, in forward passes
MOST_SHOWN = 28  # characters of an n-gram in a name
BESIDE = 8  # characters of its row on either side
AROUND = 12  # tokens of its row on either side
SHORTEST = 2  # tokens of an n-gram that makes a row a candidate
RowPlace = tuple[int, int]
"""The step and the number of a row."""


def explaining_rows(
    run: Sequence[Checkpoint],
    tokens: TextsLike,
    index: SuffixIndex,
    *,
    most: int = 16,
    background: int = 32,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    loading: Loading = Loading(),
    progress: Progress | None = None,
) -> Measures:
    """The rows between two checkpoints that held the longest n-grams of one text, ranked by influence on its loss.

    Candidates are rows that the last checkpoint of `run` has read and the first has not, in the order of the longest
    n-gram of the text that they held. Their influence (see `influence`) on the mean loss of all predicted tokens of the
    text is summed over all checkpoints of `run` but the last.

    Returns two Scores, the most helpful row first. A name has a piece of the row with the n-gram in quotation marks
    (without a tokenizer: the token ids of the n-gram), step and row. The last two names are the highest and the median
    of `background` random rows of the same steps:

    - `score`: how much a training step on the row lowers the loss, to first order, in nats. Negative: it raises it.
    - `quantile`: the share of the random rows with a lower score, 0 to 1.

    A difference may also come from many rows that share no n-gram with the text; these are not candidates.

    Args:
        run: checkpoints of one run in order, from A to B.
        tokens: one text of at least two tokens.
        index: the index of the training text of their series.
        most: number of candidates.
        background: number of random rows.

    Errors: WorkbenchError if A and B are not on one run with a known recipe, or no row between them held an n-gram of
    at least `SHORTEST` tokens.
    """
    first, last = first_and_last_step(run)
    ids = one_text(tokens, at_least=2)[0].tolist()
    held = candidates(index, ids, range(first, last), run[-1].order or MAIN, most)
    if not held:
        raise WorkbenchError(
            f"no row of the steps {first:,} to {last - 1:,} held {SHORTEST} neighbouring tokens of this text"
        )
    random = random_between(run, background, seed)
    rows = chosen_rows(run[-1].id, [*held, *random])
    text = [one_text(tokens)[0]]
    found = influence(run[:-1], text, rows, predicted=None, loading=loading, progress=progress)["score"]
    scores, beside = found.values[: len(held)], found.values[len(held) :]
    order, labels = np.argsort(-scores, kind="stable"), (rows.labels or ())[: len(held)]
    names = [
        f"{piece_of_row(ids[start:end], row, index.end, tokenizer)} · {label}"
        for (start, end), row, label in zip(held.values(), [*rows][: len(held)], labels, strict=True)
    ]
    ends = np.array([beside.max(), np.median(beside)])
    ordered = [
        *(names[n] for n in order),
        f"highest of {len(random)} random rows",
        f"median of {len(random)} random rows",
    ]
    title = "Rows between the two checkpoints, by their influence on the text"

    def result(values: np.ndarray, name: str, unit: str, signed: bool) -> Scores:
        about = dict(found.provenance) | {"steps": f"{first} to {last - 1}"}
        return Scores(values, ordered, title=title, value_name=name, unit=unit, signed=signed, provenance=about)

    return Measures(
        score=result(np.concatenate([scores[order], ends]), "influence", "nats", True),
        quantile=result(
            np.concatenate([quantiles(scores[order], beside), quantiles(ends, beside)]), "quantile", "", False
        ),
    )


@work_of(explaining_rows)
def _work(
    run: Sequence[Checkpoint],
    tokens: TextsLike,
    index: SuffixIndex,
    *,
    most: int = 16,
    background: int = 32,
    loading: Loading = Loading(),
    **_: object,
) -> Work:
    first, last = first_and_last_step(run)
    recipe, model = RECIPES[run[-1].name], checkpoints.outline(run[0], dtype=loading.dtype)
    longest = max(recipe.stage(step).length for step in (first, last - 1))
    length = one_text(tokens, at_least=2).shape[1]
    rows = BOTH * pass_flops(model, (most + background) * longest, logits=(most + background) * longest)
    each = Work(rows + BOTH * pass_flops(model, length, logits=length))
    files = sum(checkpoints.open_weights(checkpoints.locate(one)).nbytes for one in run[:-1])
    return each.times(len(run) - 1) + Work(0, read=files)


def first_and_last_step(run: Sequence[Checkpoint]) -> tuple[int, int]:
    """The steps of the first and the last checkpoint of a run: the rows of the steps from the first to the last less
    one lie between them.

    Errors: WorkbenchError if they are not on one run with a known recipe, in order.
    """
    a, b = run[0], run[-1]
    if a.name != b.name or b.name not in RECIPES or a.step is None or b.step is None:
        raise WorkbenchError(
            f"the rows between {a.id} and {b.id} are not known; choose two steps of one of: {', '.join(RECIPES)}"
        )
    if a.step >= b.step:
        raise WorkbenchError(f"no row lies between {a.id} and {b.id}; choose a checkpoint of a later step")
    same = (a.order or MAIN) == (b.order or MAIN)
    if not same and (a.step > RECIPES[b.name].branch or (a.order or MAIN) != MAIN):
        raise WorkbenchError(f"{a.id} and {b.id} are on runs of different data order; choose two steps of one run")
    return a.step, b.step


def candidates(
    index: SuffixIndex, ids: Sequence[int], between: range, order: int, most: int
) -> dict[RowPlace, tuple[int, int]]:
    """At most `most` rows of the steps `between` that held an n-gram of a text: its start and end, by row.

    Rows with longer n-grams come first; each row has its longest one.
    """
    found: dict[RowPlace, tuple[int, int]] = {}
    spans = index.spans(ids, SHORTEST)
    for length in range(max((span.length for span in spans), default=0), SHORTEST - 1, -1):
        starts = {start for span in spans for start in range(span.start, span.end - length + 1)}
        for start in sorted(starts):
            table = index.rows_with(ids[start : start + length], order)
            table = table[(table["step"] >= between.start) & (table["step"] < between.stop)]
            for row in distinct_rows(table).itertuples(index=False):
                found.setdefault((int(row.step), int(row.row)), (start, start + length))
                if len(found) == most:
                    return found
    return found


def random_between(run: Sequence[Checkpoint], count: int, seed: int) -> list[RowPlace]:
    """Random rows that the last checkpoint of a run has read and the first has not, at most `count`; no row twice."""
    first, last = first_and_last_step(run)
    rows = [RECIPES[run[-1].name].stage(step).rows for step in range(first, last)]
    return [(first + step, row) for step, row in random_places(rows, min(count, sum(rows)), seed)]


def piece_of_row(ngram: Sequence[int], row: Tensor, end: int, tokenizer: Tokenizer | None) -> str:
    """The piece of a row around an n-gram, which is in quotation marks: …d sells “lemons, which” nobody…

    Safe to show. A long n-gram is cut to its end. On either side there are at most `BESIDE` characters of the row, from
    the same document. Without a tokenizer: the token ids of the n-gram.

    Args:
        row: token ids of the row, pos.
        end: the id of the token that ends a document.
    """
    if tokenizer is None:
        return repr(list(ngram))
    ids, length = row.tolist(), len(ngram)
    at = next((n for n in range(len(ids) - length + 1) if ids[n : n + length] == [*ngram]), None)
    sides: tuple[list[int], list[int]] = ([], [])
    if at is not None:
        sides = ids[max(0, at - AROUND) : at], ids[at + length : at + length + AROUND]
    before, after = sides[0][::-1], sides[1]
    before, after = ([*takewhile(lambda token: token != end, side)] for side in (before, after))
    left, match, right = (plain_text(part, tokenizer) for part in (before[::-1], ngram, after))
    left = left if len(left) <= BESIDE else f"…{left[1 - BESIDE :]}"
    right = right if len(right) <= BESIDE else f"{right[: BESIDE - 1]}…"
    text = match.strip()
    begin, stop = match[: len(match) - len(match.lstrip())], match[len(match.rstrip()) :]
    text = text if len(text) <= MOST_SHOWN else f"…{text[1 - MOST_SHOWN :]}"
    return f"{left}{begin}“{text}”{stop}{right}".strip()
