"""Pairs of prompts with different next tokens, and measures of where a run lies between the two."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import chosen, texts_for
from workbench.analyses.support.means import MeansOverTexts
from workbench.analyses.support.memory import tokens_at_a_time
from workbench.analyses.support.undefined import refuse_undefined
from workbench.errors import WorkbenchError
from workbench.results import Grid, Measures
from workbench.text_files import named
from workbench.texts import Texts, TextsLike
from workbench.tokens import Tokenizer, token_id, vocabulary_labels

TokenLike = int | str | Sequence[int | str]
"""A token, given by its id or its text; or one token for each prompt."""


LogitsMetric = Callable[[Tensor], Tensor | float]
"""A function of logits (text 1 vocab) that returns one number, or one number for each text."""

MeasureValues = dict[str, Tensor]
"""Measures by name, one for each pair of prompts: … text. A `metric` that returns one number for a whole batch has one
column for the batch, which holds the sum over its pairs.
"""


@dataclass(frozen=True, eq=False)
class Pairs:
    """A batch of prompts in two versions, all of one length, and the next tokens in which the versions differ."""

    clean: Tensor  # text pos
    corrupted: Tensor  # text pos
    targets: Tensor  # text 1, or text 2 if the second is subtracted
    rows: list[int]  # the numbers of these pairs among all

    @property
    def first_difference(self) -> int:
        """The first position at which the two versions of any prompt differ; the length if none differ."""
        same = (self.clean == self.corrupted).all(0)
        return int(same.cumprod(0).sum())


@dataclass(frozen=True, eq=False)
class Contrast:
    """Prompts in two versions, each pair of equal length, and the next tokens in which the versions differ.

    Both versions end at the position whose next token is measured, because later tokens have no effect on it.
    """

    clean: Texts
    corrupted: Texts
    targets: Tensor  # text 1, or text 2 if the second is subtracted
    name: str  # of the targets, for titles
    metric: LogitsMetric | None = None  # an additional measure, or the only one if there are no targets

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures of a `Scale`."""
        targets = self.targets.shape[1]
        of_targets = ("logit" if targets == 1 else "logit_difference", "probability", "kl") if targets else ()
        return of_targets if self.metric is None else (*of_targets, "metric")

    def batches(self, tokens: int) -> list[Pairs]:
        """All pairs in batches of one length, each of at most `tokens` tokens (or of one pair)."""
        return [
            Pairs(batch.ids, self.corrupted.ids[batch.rows, : batch.ids.shape[1]], self.targets[batch.rows], batch.rows)
            for batch in self.clean.batches(tokens)
        ]


def contrast(
    model: OlmoForCausalLM,
    clean: TextsLike,
    corrupted: TextsLike,
    token: TokenLike | None,
    against: TokenLike | None,
    position: int,
    tokenizer: Tokenizer | None,
    metric: LogitsMetric | None = None,
) -> Contrast:
    """The checked contrast of two prompts, or of two sets of prompts, on the model's device.

    Errors: WorkbenchError if the two prompts of a pair differ in length, a target is not one token, or there is neither
    a `token` nor a `metric`.
    """
    both = of_equal_lengths(model, clean, corrupted, position)
    if token is None and (metric is None or against is not None):
        raise WorkbenchError("there is nothing to measure; give a token, or metric=, a function of the logits")
    wanted = [each for each in (token, against) if each is not None]
    columns = [_ids(model, each, len(both[0]), tokenizer) for each in wanted]
    names = [vocabulary_labels(ids[:1], tokenizer)[0] + (" …" if len(set(ids)) > 1 else "") for ids in columns]
    first, second = (up_to(texts, position).to(model.device) for texts in both)
    targets = torch.tensor(columns, dtype=torch.long, device=model.device).view(len(columns), len(first)).T
    return Contrast(first, second, targets, " over ".join(names) or "a function of the logits", metric)


def of_equal_lengths(
    model: OlmoForCausalLM, clean: TextsLike, corrupted: TextsLike, position: int
) -> tuple[Texts, Texts]:
    """Two sets of prompts, on their own device. Errors: WorkbenchError if the prompts of a pair differ in length."""
    both = texts_for(model.config, clean), texts_for(model.config, corrupted)
    lengths = [texts.lengths for texts in both]
    if lengths[0] != lengths[1]:
        wrong = [pair for pair, (first, second) in enumerate(zip(*lengths, strict=False)) if first != second]
        which = "" if len(wrong) == len(lengths[0]) or not wrong else f": {named(wrong, both[0].places, 'pair')}"
        raise WorkbenchError(
            f"the clean prompts have {_some(lengths[0])} tokens (in {len(lengths[0])} texts) and the corrupted ones "
            f"{_some(lengths[1])} (in {len(lengths[1])}){which}; patching needs pairs of prompts of equal length in "
            "tokens"
        )
    chosen([position], min(lengths[0]), "position")
    return both


def up_to(texts: Texts, position: int) -> Texts:
    """The texts up to a position, which is included; a negative one counts from the end of each text."""
    lengths = torch.tensor(texts.lengths)
    ends = lengths + position + 1 if position < 0 else torch.full_like(lengths, position + 1)
    asked = torch.arange(texts.longest) < ends[:, None]  # text pos
    return Texts(texts.ids, texts.mask & asked.to(texts.ids.device), places=texts.places)


def outlined(model: OlmoForCausalLM, clean: TextsLike, corrupted: TextsLike, position: int) -> Contrast:
    """A contrast without targets, to plan the work on it: the model may be on the meta device."""
    both = of_equal_lengths(model, clean, corrupted, position)
    first, second = (up_to(texts, position) for texts in both)
    return Contrast(first, second, torch.empty(len(first), 0), "")


def _some(lengths: list[int]) -> str:
    """Lengths of prompts as text for messages: the first few of them, or one number if all are equal."""
    if len(set(lengths)) == 1:
        return str(lengths[0])
    return ", ".join(map(str, lengths[:6])) + (", …" if len(lengths) > 6 else "")


def _ids(model: OlmoForCausalLM, target: TokenLike, texts: int, tokenizer: Tokenizer | None) -> list[int]:
    """The target id of each text."""
    each = [target] * texts if isinstance(target, int | str) else list(target)
    if len(each) != texts:
        raise WorkbenchError(f"{len(each)} target tokens for {texts} prompts; give one token, or one for each prompt")
    return [token_id(one, tokenizer, model.config.vocab_size) for one in each]


@dataclass(frozen=True, eq=False)
class Scale:
    """The measures of a run's next token, with the values that count as 0 and as 1.

    Measures, each a mean over the prompts: the `logit` of the target, or its `logit_difference` from the other target;
    the `probability` of the target; `kl`, the divergence KL(clean ‖ run) in nats; and `metric`, if the contrast has
    one.
    """

    contrast: Contrast
    zero: dict[str, float]
    one: dict[str, float]


class Ends(NamedTuple):
    """The measures of a batch of pairs after the clean and after the corrupted prompts, and their rounding errors.

    `noise` is the square of the rounding error, summed over the pairs, the larger of the two versions; see `rounding`.
    """

    clean: MeasureValues
    corrupted: MeasureValues
    noise: dict[str, Tensor]


class NormalisedMeans:
    """Means of measures over pairs on a scale on which one end of each measure is 0 and the other is 1.

    The mean is Σ (run − end at 0) / Σ (end at 1 − end at 0) over the pairs: 0 and 1 at the two ends, and outside 0…1
    for a run beyond an end. Its standard error is that of a ratio of sums over pairs, as in `MeansOverTexts`.
    """

    def __init__(self, measures: Sequence[str], one: str) -> None:
        """`one` is the version of the prompts that counts as 1: "clean" or "corrupted"."""
        self.means = {name: MeansOverTexts() for name in measures}
        self._one = one

    def add(self, values: MeasureValues, ends: Ends) -> None:
        """Add the measures of the runs over a batch of pairs: … text each."""
        zero, _ = self._ends(ends)
        self.add_changes({name: value - zero[name].to(value.device) for name, value in values.items()}, ends)

    def add_changes(self, changes: MeasureValues, ends: Ends) -> None:
        """Add how much the measures differ from the end at 0: … text each."""
        zero, one = self._ends(ends)
        for name, change in changes.items():
            rest = (1,) * (change.ndim - 1)
            self.means[name].add(change.movedim(-1, 0), (one[name] - zero[name]).view(-1, *rest))

    def _ends(self, ends: Ends) -> tuple[MeasureValues, MeasureValues]:
        return (ends.corrupted, ends.clean) if self._one == "clean" else (ends.clean, ends.corrupted)


def scale_between(contrast: Contrast, ends: Sequence[Ends], one: str, dtype: torch.dtype) -> Scale:
    """The scale between the runs over clean and corrupted prompts, from the ends of all batches.

    `one` is the version that counts as 1: "clean" or "corrupted". `dtype` is that of the logits.

    Errors: WorkbenchError if the two ends of a measure differ by no more than rounding.
    """
    pairs = len(contrast.clean)
    clean, corrupted, noise = (
        {name: float(torch.stack([values[name].sum() for values in kind]).sum()) for name in contrast.measures}
        for kind in zip(*ends, strict=True)
    )
    for name in contrast.measures:
        clean[name], corrupted[name] = clean[name] / pairs, corrupted[name] / pairs
        limit = 2 * noise[name] ** 0.5 / pairs
        if abs(clean[name] - corrupted[name]) <= limit:
            raise WorkbenchError(
                f"the {_said(name)} is {clean[name]:.9g} after the clean and {corrupted[name]:.9g} after the corrupted "
                "prompt; this difference is too small to explain, because rounding in "
                f"{str(dtype).removeprefix('torch.')} alone may cause a difference of {limit:.2g}; use prompts that "
                "differ before the measured position in something that changes the next token"
            )
    return Scale(contrast, corrupted, clean) if one == "clean" else Scale(contrast, clean, corrupted)


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-probabilities of the next token after each text, float64: text pos vocab -> text vocab."""
    return logits[:, -1].double().log_softmax(-1)


def ends_of(contrast: Contrast, pairs: Pairs, clean: Tensor, corrupted: Tensor) -> Ends:
    """The ends of a batch, from the logits after its clean and its corrupted prompts, each text pos vocab."""
    log_clean = log_probabilities(clean)
    lasts = [logits[:, -1].detach() for logits in (clean, corrupted)]  # text vocab
    for last, version in zip(lasts, ("clean", "corrupted"), strict=True):
        refuse_undefined(last, f"prediction after the {version} prompt", contrast.clean, pairs.rows, kind="pair")
    first, second = ({name: x[0] for name, x in measured(contrast, pairs, log_clean, z[None]).items()} for z in lasts)
    noises = [rounding(contrast, pairs, log_clean, last) for last in lasts]
    return Ends(first, second, {name: torch.maximum(*(noise[name] for noise in noises)) for name in contrast.measures})


def ends_of_others(model: OlmoForCausalLM, contrast: Contrast, batches: Sequence[Pairs]) -> list[Ends]:
    """The ends of all batches except the first. (The caller already has the runs of the first batch.)"""
    return [
        ends_of(contrast, pairs, *(model.run(ids, logits_to_keep=1).logits for ids in (pairs.clean, pairs.corrupted)))
        for pairs in batches[1:]
    ]


def rounding(contrast: Contrast, pairs: Pairs, clean: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """The square of the possible rounding error of each measure, summed over pairs.

    Two runs count as different only if they are more than twice the error apart.

    The error of a logit is taken as u times the largest absolute logit of its row. u is ε/2 of the logits' dtype, the
    error of one rounding, plus 16 ε of float32, the bound for sums, norms and softmaxes in float32. (Compared with
    float64, the root mean square error is 0.4 to 2 u in bfloat16 and float16 and 0.1 to 0.2 u in float32, for the
    embedded series and random models of 2 to 4 layers.) The error of a measure m of the logits z is at most Σ |∂m/∂z|
    times that: errors within a row may all have the same sign. Errors of different prompts are independent, so their
    squares are added. A metric without a gradient counts as exact.

    clean: text vocab, log-probabilities; logits: text vocab.
    """
    u = torch.finfo(logits.dtype).eps / 2 + 16 * torch.finfo(torch.float32).eps
    errors, found = u * logits.abs().amax(-1).double(), {}  # text
    with torch.enable_grad():
        leaf = logits.double().requires_grad_()
        for name, value in measured(contrast, pairs, clean, leaf[None]).items():
            slope = torch.autograd.grad(value.sum(), leaf, retain_graph=True)[0] if value.requires_grad else leaf * 0
            found[name] = (errors * slope.detach().abs().sum(-1)).square().sum()
    return found


def measured(contrast: Contrast, pairs: Pairs, clean: Tensor, logits: Tensor) -> MeasureValues:
    """The raw measures of `Scale` of some pairs: cell text each.

    clean: text vocab, log-probabilities after the clean prompts; logits: cell text vocab.
    """
    logits, metric = logits.double(), contrast.metric
    found = {} if metric is None else {"metric": torch.stack([_metric_values(metric, one) for one in logits])}
    if pairs.targets.shape[1] == 0:
        return found
    log_p = logits.log_softmax(-1)  # cell text vocab
    wanted = pairs.targets.expand(len(logits), -1, -1)  # cell text target
    logit = logits.gather(-1, wanted)
    difference = logit[..., 0] - logit[..., 1] if logit.shape[-1] == 2 else logit[..., 0]
    divergence = (clean.exp() * (clean - log_p)).sum(-1)
    values = (difference, log_p.gather(-1, wanted)[..., 0].exp(), divergence)
    return dict(zip(contrast.measures, values, strict=False)) | found


def _metric_values(metric: LogitsMetric, logits: Tensor) -> Tensor:
    """The metric of one cell: text vocab -> text. If the metric returns one number, it is taken as the mean over the
    texts, and their sum is returned: 1.
    """
    value = torch.as_tensor(metric(logits[:, None]), dtype=torch.double, device=logits.device)
    if value.shape not in ((), logits.shape[:1]):
        raise WorkbenchError(
            f"metric returned {tuple(value.shape)} for logits {(len(logits), 1, logits.shape[-1])}; "
            "it should return a number, or one for each text"
        )
    return value if value.ndim else (value * len(logits))[None]


def batches_in_memory(
    model: OlmoForCausalLM, pair: Contrast, what: str, kept: float, of_cell: float
) -> tuple[list[Pairs], int]:
    """The pairs in batches that fit into memory, and the number of tokens of patched runs that fit beside one batch.

    Args:
        model: the model.
        pair: the pairs of prompts.
        what: the name of the analysis, for messages.
        kept: bytes for each token of a batch, held while its patched runs are computed.
        of_cell: bytes for each token of a patched run.

    Errors: WorkbenchError if one pair does not fit; the message gives both numbers.
    """
    batches = pair.batches(tokens_at_a_time(model, what, kept + of_cell, pair.clean.longest))
    largest = max(pairs.clean.numel() for pairs in batches)
    return batches, tokens_at_a_time(model, what, of_cell, largest, fixed=kept * largest)


def last_logits_bytes(model: OlmoForCausalLM) -> float:
    """Bytes of the last logits of one text, and of the float64 copies that `measured` makes."""
    return model.config.vocab_size * (2 * model.dtype.itemsize + 5 * 8)


def grids(
    scale: Scale,
    means: NormalisedMeans,
    rows: Sequence[object],
    columns: Sequence[object],
    column_name: str,
    title: str,
) -> Measures:
    """Normalised measures (row column) as Grids, with the raw values at 0 and 1 in titles and provenance.

    Their standard errors are over pairs, of which there must be two or more.
    """
    found, pairs = {}, len(scale.contrast.clean)
    for name, mean in means.means.items():
        ends = {"at 0": scale.zero[name], "at 1": scale.one[name]}
        label, (zero, one) = _said(name), _apart(*ends.values())
        found[name] = Grid(
            mean.values,
            rows,
            columns,
            column_name=column_name,
            title=f"{title}: {scale.contrast.name} ({label}, 0 is {zero}, 1 is {one})",
            value_name=f"{label}, normalised",
            signed=True,
            provenance=ends,
            errors=mean.errors,
            texts=pairs,
        )
    return Measures(**found)


def _said(measure: str) -> str:
    """The name of a measure for use in a sentence."""
    return measure.replace("_", " ").replace("kl", "KL from the clean run")


def _apart(a: float, b: float) -> tuple[str, str]:
    """Two different numbers as text, with as many digits as needed to be different, at least three."""
    both = ((f"{a:.{digits}g}", f"{b:.{digits}g}") for digits in range(3, 18))
    return next((one, other) for one, other in both if one != other)
