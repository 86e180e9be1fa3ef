"""Two prompts that differ in what the model says next, and how far a run is from that of one to that of the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.analyses.common import as_batch, chosen
from workbench.errors import WorkbenchError
from workbench.results import Grid, Measures
from workbench.text import Tokenizer, token_id, vocabulary_labels

Target = int | str | Sequence[int | str]
"""A token by its id or its text; or one for each prompt."""
Metric = Callable[[Tensor], Tensor | float]
"""A number, or one for each text, of logits: text 1 vocab."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """Prompts in two versions of equal length, and the next tokens that tell them apart.

    Later tokens have no effect on what is asked, so both versions end at the position whose next token is meant.
    """

    clean: Tensor  # text pos
    corrupted: Tensor  # text pos
    targets: Tensor  # text 1, or text 2 if the second is subtracted
    name: str  # of the targets, for people
    metric: Metric | None = None  # measured besides, or instead where there are no targets

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what a `Scale` measures."""
        targets = self.targets.shape[1]
        of_targets = ("logit" if targets == 1 else "logit_difference", "probability", "kl") if targets else ()
        return of_targets if self.metric is None else (*of_targets, "metric")

    @property
    def first_difference(self) -> int:
        """The first position at which the two versions of any prompt differ; their number where none does."""
        same = (self.clean == self.corrupted).all(0)
        return int(same.cumprod(0).sum())


def contrast(
    model: OlmoForCausalLM,
    clean: Tensor,
    corrupted: Tensor,
    token: Target | None,
    against: Target | None,
    position: int,
    tokenizer: Tokenizer | None,
    metric: Metric | None = None,
) -> Contrast:
    """The checked contrast of two prompts, or of two batches of them, on the model's device.

    Raises WorkbenchError if the prompts are not of one length, a target is not one token, or nothing is to be measured.
    """
    clean, corrupted = as_batch(clean), as_batch(corrupted)
    if clean.shape != corrupted.shape:
        raise WorkbenchError(
            f"the clean prompt has {clean.shape[1]} tokens (in {clean.shape[0]} texts) and the corrupted one "
            f"{corrupted.shape[1]} (in {corrupted.shape[0]}); patching needs prompts of equal length, token for token"
        )
    (position,) = chosen([position], clean.shape[1], "position")
    if token is None and (metric is None or against is not None):
        raise WorkbenchError("nothing says what is measured; give a token, or metric=, a function of the logits")
    wanted = [each for each in (token, against) if each is not None]
    columns = [_ids(model, each, len(clean), tokenizer) for each in wanted]
    names = [vocabulary_labels(ids[:1], tokenizer)[0] + (" …" if len(set(ids)) > 1 else "") for ids in columns]
    clean, corrupted = (prompts[:, : position + 1].to(model.device) for prompts in (clean, corrupted))
    targets = torch.tensor(columns, dtype=torch.long, device=model.device).view(len(columns), len(clean)).T
    return Contrast(clean, corrupted, targets, " over ".join(names) or "a function of the logits", metric)


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
    clean: Tensor  # log-probabilities after the clean prompts: text vocab
    zero: dict[str, float]
    one: dict[str, float]

    def measured(self, logits: Tensor) -> dict[str, Tensor]:
        """The raw measures of runs over the prompts: cell text vocab -> cell each."""
        return measured(self.contrast, self.clean, logits)

    def normalised(self, logits: Tensor) -> dict[str, Tensor]:
        """The measures with 0 and 1 at the two ends; outside of 0…1 where a run goes further than they do."""
        raw = self.measured(logits)
        return {name: (value - self.zero[name]) / self.span(name) for name, value in raw.items()}

    def span(self, name: str) -> float:
        """The raw measure from 0 to 1."""
        return self.one[name] - self.zero[name]


def scale_between(contrast: Contrast, clean: Tensor, corrupted: Tensor, one: str) -> Scale:
    """The scale between the runs over clean and corrupted prompts, given their logits (text 1 vocab).

    `one` names the version that counts as 1: "clean" or "corrupted". Raises WorkbenchError where both agree.
    """
    log_clean = clean[:, -1].double().log_softmax(-1)
    ends = {
        version: {
            name: float(value) for name, value in measured(contrast, log_clean, logits[:, -1][None].detach()).items()
        }
        for version, logits in {"clean": clean, "corrupted": corrupted}.items()
    }
    for name, value in ends["clean"].items():
        if value == ends["corrupted"][name]:
            raise WorkbenchError(
                f"the {name.replace('_', ' ')} is {value:.4g} after both prompts: there is nothing to explain; "
                "the prompts should differ before the position that is asked about"
            )
    return Scale(contrast, log_clean, ends["corrupted" if one == "clean" else "clean"], ends[one])


def measured(contrast: Contrast, clean: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """What `Scale` measures, raw. clean: text vocab, log-probabilities; logits: cell text vocab; result: cell each."""
    logits = logits.double()
    found = (
        {} if contrast.metric is None else {"metric": torch.stack([_number(contrast.metric, one) for one in logits])}
    )
    if contrast.targets.shape[1] == 0:
        return found
    log_p = logits.log_softmax(-1)  # cell text vocab
    wanted = contrast.targets.expand(len(logits), -1, -1)  # cell text target
    logit = logits.gather(-1, wanted)
    difference = logit[..., 0] - logit[..., 1] if logit.shape[-1] == 2 else logit[..., 0]
    divergence = (clean.exp() * (clean - log_p)).sum(-1)
    values = (difference, log_p.gather(-1, wanted)[..., 0].exp(), divergence)
    return {name: value.mean(1) for name, value in zip(contrast.measures, values, strict=False)} | found


def _number(metric: Metric, logits: Tensor) -> Tensor:
    """A metric of one cell, the mean over its texts: text vocab -> a number."""
    value = torch.as_tensor(metric(logits[:, None]), dtype=torch.double, device=logits.device)
    if value.shape not in ((), logits.shape[:1]):
        raise WorkbenchError(
            f"metric returned {tuple(value.shape)} for logits {(len(logits), 1, logits.shape[-1])}; "
            "it should return a number, or one for each text"
        )
    return value.mean()


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
