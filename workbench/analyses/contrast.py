"""Two prompts that differ in what the model says next, and how far a run is from that of one to that of the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.common import chosen, texts_for
from workbench.errors import WorkbenchError
from workbench.results import Grid, Measures
from workbench.text import Tokenizer, token_id, vocabulary_labels
from workbench.texts import Texts, TextsLike

Target = int | str | Sequence[int | str]
"""A token by its id or its text; or one for each prompt."""


Sums = dict[str, Tensor]
"""Measures added up over pairs of prompts, by name."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Some prompts in two versions, all of one length, and the next tokens that tell the versions apart."""

    clean: Tensor  # text pos
    corrupted: Tensor  # text pos
    targets: Tensor  # text 1, or text 2 if the second is subtracted

    @property
    def first_difference(self) -> int:
        """The first position at which the two versions of any prompt differ; their number where none does."""
        same = (self.clean == self.corrupted).all(0)
        return int(same.cumprod(0).sum())


@dataclass(frozen=True, eq=False)
class Contrast:
    """Prompts in two versions, of equal length pair by pair, and the next tokens that tell them apart.

    Later tokens have no effect on what is asked, so both versions end at the position whose next token is meant.
    """

    clean: Texts
    corrupted: Texts
    targets: Tensor  # text 1, or text 2 if the second is subtracted
    name: str  # of the targets, for people

    @property
    def measures(self) -> tuple[str, str, str]:
        """The names of what a `Scale` measures."""
        return "logit" if self.targets.shape[1] == 1 else "logit_difference", "probability", "kl"

    def batches(self, tokens: int) -> list[Pairs]:
        """All pairs in batches of one length, of at most so many tokens (or one pair) each."""
        return [
            Pairs(batch.ids, self.corrupted.ids[batch.rows, : batch.ids.shape[1]], self.targets[batch.rows])
            for batch in self.clean.batches(tokens)
        ]


def contrast(
    model: OlmoForCausalLM,
    clean: TextsLike,
    corrupted: TextsLike,
    token: Target,
    against: Target | None,
    position: int,
    tokenizer: Tokenizer | None,
) -> Contrast:
    """The checked contrast of two prompts, or of two sets of them, on the model's device.

    Errors: WorkbenchError if a prompt and its other version differ in length, or a target is not one token.
    """
    both = texts_for(model.config, clean), texts_for(model.config, corrupted)
    lengths = [texts.lengths for texts in both]
    if lengths[0] != lengths[1]:
        raise WorkbenchError(
            f"the clean prompts have {_some(lengths[0])} tokens (in {len(lengths[0])} texts) and the corrupted ones "
            f"{_some(lengths[1])} (in {len(lengths[1])}); patching needs prompts of equal length, token for token"
        )
    chosen([position], min(lengths[0]), "position")
    wanted = [token] if against is None else [token, against]
    columns = [_ids(model, each, len(both[0]), tokenizer) for each in wanted]
    names = [vocabulary_labels(ids[:1], tokenizer)[0] + (" …" if len(set(ids)) > 1 else "") for ids in columns]
    ends = torch.tensor(lengths[0]) + position + 1 if position < 0 else torch.full((len(both[0]),), position + 1)
    asked = torch.arange(both[0].longest) < ends[:, None]  # text pos
    first, second = (Texts(texts.ids, texts.mask & asked.to(texts.ids.device)).to(model.device) for texts in both)
    return Contrast(first, second, torch.tensor(columns, device=model.device).T, " over ".join(names))


def _some(lengths: list[int]) -> str:
    """Lengths of prompts for people."""
    return (
        ", ".join(map(str, lengths[:6])) + (", …" if len(lengths) > 6 else "")
        if len(set(lengths)) > 1
        else str(lengths[0])
    )


def _ids(model: OlmoForCausalLM, target: Target, texts: int, tokenizer: Tokenizer | None) -> list[int]:
    """The id of the target of each text."""
    each = [target] * texts if isinstance(target, int | str) else list(target)
    if len(each) != texts:
        raise WorkbenchError(f"{len(each)} target tokens for {texts} prompts; give one token, or one for each prompt")
    return [token_id(one, tokenizer, model.config.vocab_size) for one in each]


@dataclass(frozen=True, eq=False)
class Scale:
    """What is measured of a run's next token, from the run where it counts as 0 to the one where it counts as 1.

    Measures, each a mean over the prompts: the `logit` of the target, or its `logit_difference` from the other target;
    the target's `probability`; and `kl`, the divergence KL(clean ‖ run) in nats.
    """

    contrast: Contrast
    zero: dict[str, float]
    one: dict[str, float]

    def normalised(self, sums: Sums) -> dict[str, Tensor]:
        """The means with 0 and 1 at the two ends, from sums over all pairs; outside of 0…1 where a run goes further."""
        pairs = len(self.contrast.clean)
        return {name: (total / pairs - self.zero[name]) / self.span(name) for name, total in sums.items()}

    def span(self, name: str) -> float:
        """The raw measure from 0 to 1."""
        return self.one[name] - self.zero[name]


def scale_between(contrast: Contrast, ends: Sequence[tuple[Sums, Sums]], one: str) -> Scale:
    """The scale between the runs over clean and corrupted prompts, given the `end_sums` of every batch.

    `one` names the version that counts as 1: "clean" or "corrupted". Errors: WorkbenchError where both agree.
    """
    totals = [
        {name: float(sum(sums[name] for sums in version) / len(contrast.clean)) for name in contrast.measures}
        for version in zip(*ends, strict=True)
    ]
    for name, value in totals[0].items():
        if value == totals[1][name]:
            raise WorkbenchError(
                f"the {name.replace('_', ' ')} is {value:.4g} after both prompts: there is nothing to explain; "
                "the prompts should differ before the position that is asked about"
            )
    clean, corrupted = totals
    return Scale(contrast, corrupted, clean) if one == "clean" else Scale(contrast, clean, corrupted)


def log_probabilities(logits: Tensor) -> Tensor:
    """Those of the next token after each text, float64: text pos vocab -> text vocab."""
    return logits[:, -1].double().log_softmax(-1)


def end_sums(contrast: Contrast, pairs: Pairs, clean: Tensor, corrupted: Tensor) -> tuple[Sums, Sums]:
    """The measures of the runs over clean and over corrupted prompts, given their logits, text pos vocab."""
    log_clean = log_probabilities(clean)
    found = (summed(contrast, pairs, log_clean, logits[:, -1][None].detach()) for logits in (clean, corrupted))
    of_clean, of_corrupted = ({name: values[0] for name, values in sums.items()} for sums in found)
    return of_clean, of_corrupted


def ends_of_others(model: OlmoForCausalLM, contrast: Contrast, batches: Sequence[Pairs]) -> list[tuple[Sums, Sums]]:
    """The `end_sums` of the batches after the first, whose runs are at hand."""
    return [
        end_sums(contrast, pairs, *(model.run(ids, logits_to_keep=1).logits for ids in (pairs.clean, pairs.corrupted)))
        for pairs in batches[1:]
    ]


def summed(contrast: Contrast, pairs: Pairs, clean: Tensor, logits: Tensor) -> Sums:
    """What `Scale` measures, raw, added up over some pairs: cell each.

    clean: text vocab, log-probabilities after the clean prompts; logits: cell text vocab.
    """
    logits = logits.double()
    log_p = logits.log_softmax(-1)  # cell text vocab
    wanted = pairs.targets.expand(len(logits), -1, -1)  # cell text target
    logit = logits.gather(-1, wanted)
    difference = logit[..., 0] - logit[..., 1] if logit.shape[-1] == 2 else logit[..., 0]
    divergence = (clean.exp() * (clean - log_p)).sum(-1)
    values = (difference, log_p.gather(-1, wanted)[..., 0].exp(), divergence)
    return {name: value.sum(1) for name, value in zip(contrast.measures, values, strict=True)}


def last_logits_bytes(model: OlmoForCausalLM) -> float:
    """Bytes of the last logits of one text, and of what `summed` makes of them in float64."""
    return model.config.vocab_size * (2 * model.dtype.itemsize + 5 * 8)


def grids(
    scale: Scale,
    values: dict[str, Tensor],
    rows: Sequence[object],
    columns: Sequence[object],
    column_name: str,
    title: str,
) -> Measures:
    """Normalised measures (row column) as Grids that say what 0 and 1 stand for."""
    found = {}
    for name, value in values.items():
        ends = {"at 0": scale.zero[name], "at 1": scale.one[name]}
        label = name.replace("_", " ").replace("kl", "KL from the clean run")
        found[name] = Grid(
            value.detach().cpu().numpy().astype(np.float32),
            rows,
            columns,
            column_name=column_name,
            title=f"{title}: {scale.contrast.name} ({label}, 0 is {ends['at 0']:.3g}, 1 is {ends['at 1']:.3g})",
            value_name=f"{label}, normalised",
            signed=True,
            provenance=ends,
        )
    return Measures(**found)
