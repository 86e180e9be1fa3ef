"""Two prompts that differ in what the model says next, and how far a run is from that of one to that of the other."""

from collections.abc import Sequence
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


@dataclass(frozen=True, eq=False)
class Contrast:
    """Prompts in two versions of equal length, and the next tokens that tell them apart.

    Later tokens have no effect on what is asked, so both versions end at the position whose next token is meant.
    """

    clean: Tensor  # text pos
    corrupted: Tensor  # text pos
    targets: Tensor  # text 1, or text 2 if the second is subtracted
    name: str  # of the targets, for people

    @property
    def measures(self) -> tuple[str, str, str]:
        """The names of what a `Scale` measures."""
        return "logit" if self.targets.shape[1] == 1 else "logit_difference", "probability", "kl"

    @property
    def first_difference(self) -> int:
        """The first position at which the two versions of any prompt differ; their number where none does."""
        same = (self.clean == self.corrupted).all(0)
        return int(same.cumprod(0).sum())


def contrast(
    model: OlmoForCausalLM,
    clean: Tensor,
    corrupted: Tensor,
    token: Target,
    against: Target | None,
    position: int,
    tokenizer: Tokenizer | None,
) -> Contrast:
    """The checked contrast of two prompts, or of two batches of them, on the model's device.

    Raises WorkbenchError if the prompts are not of one length, or a target is not one token.
    """
    clean, corrupted = as_batch(clean), as_batch(corrupted)
    if clean.shape != corrupted.shape:
        raise WorkbenchError(
            f"the clean prompt has {clean.shape[1]} tokens (in {clean.shape[0]} texts) and the corrupted one "
            f"{corrupted.shape[1]} (in {corrupted.shape[0]}); patching needs prompts of equal length, token for token"
        )
    (position,) = chosen([position], clean.shape[1], "position")
    wanted = [token] if against is None else [token, against]
    columns = [_ids(model, each, len(clean), tokenizer) for each in wanted]
    names = [vocabulary_labels(ids[:1], tokenizer)[0] + (" …" if len(set(ids)) > 1 else "") for ids in columns]
    clean, corrupted = (prompts[:, : position + 1].to(model.device) for prompts in (clean, corrupted))
    return Contrast(clean, corrupted, torch.tensor(columns, device=model.device).T, " over ".join(names))


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

    `one` names the version that counts as 1: "clean" or "corrupted". Raises WorkbenchError where a measure of the two
    differs by no more than rounding.
    """
    log_clean = clean[:, -1].double().log_softmax(-1)
    ends, noise = {}, {}
    for version, logits in {"clean": clean[:, -1].detach(), "corrupted": corrupted[:, -1].detach()}.items():
        ends[version] = {name: float(value) for name, value in measured(contrast, log_clean, logits[None]).items()}
        noise[version] = rounding(contrast, log_clean, logits)
    for name in contrast.measures:
        values, limit = [ends[version][name] for version in ends], 2 * max(noise[version][name] for version in noise)
        if abs(values[0] - values[1]) <= limit:
            raise WorkbenchError(
                f"the {_said(name)} is {values[0]:.9g} after the clean and {values[1]:.9g} after the corrupted prompt: "
                f"there is nothing to explain, since rounding in {str(clean.dtype).removeprefix('torch.')} alone may "
                f"put them {limit:.2g} apart; the prompts should differ, before the position that is asked about, in "
                "something that changes the next token"
            )
    return Scale(contrast, log_clean, ends["corrupted" if one == "clean" else "clean"], ends[one])


def rounding(contrast: Contrast, clean: Tensor, logits: Tensor) -> dict[str, float]:
    """How far off each measure of a run may be because numbers are rounded: half of what two runs must be apart.

    The error of a logit is taken to be u times the largest logit of its row: u is ε/2 of its dtype, the error of one
    rounding, and besides 16 ε of float32, in which sums, norms and softmaxes are computed at most. (Against float64 the
    root mean square error is 0.4 to 2 u in bfloat16 and float16 and 0.1 to 0.2 u in float32, for the embedded series
    and random models of 2 to 4 layers.) A measure m of the logits z is then off by up to Σ |∂m/∂z| times that: errors
    within a row may all add up; those of different prompts are independent, so it is their squares that add up.

    clean: text vocab, log-probabilities; logits: text vocab.
    """
    u = torch.finfo(logits.dtype).eps / 2 + 16 * torch.finfo(torch.float32).eps
    errors = u * logits.abs().amax(-1).double()  # text
    with torch.enable_grad():
        leaf = logits.double().requires_grad_()
        values = measured(contrast, clean, leaf[None])
        slopes = {name: torch.autograd.grad(m.sum(), leaf, retain_graph=True)[0] for name, m in values.items()}
    return {name: float((errors * slope.abs().sum(-1)).norm()) for name, slope in slopes.items()}


def measured(contrast: Contrast, clean: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """What `Scale` measures, raw. clean: text vocab, log-probabilities; logits: cell text vocab; result: cell each."""
    logits = logits.double()
    log_p = logits.log_softmax(-1)  # cell text vocab
    wanted = contrast.targets.expand(len(logits), -1, -1)  # cell text target
    logit = logits.gather(-1, wanted)
    difference = logit[..., 0] - logit[..., 1] if logit.shape[-1] == 2 else logit[..., 0]
    divergence = (clean.exp() * (clean - log_p)).sum(-1)
    values = (difference, log_p.gather(-1, wanted)[..., 0].exp(), divergence)
    return {name: value.mean(1) for name, value in zip(contrast.measures, values, strict=True)}


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
        label, (zero, one) = _said(name), _apart(*ends.values())
        found[name] = Grid(
            value.detach().cpu().numpy().astype(np.float32),
            rows,
            columns,
            column_name=column_name,
            title=f"{title}: {scale.contrast.name} ({label}, 0 is {zero}, 1 is {one})",
            value_name=f"{label}, normalised",
            signed=True,
            provenance=ends,
        )
    return Measures(**found)


def _said(measure: str) -> str:
    """A measure's name in a sentence."""
    return measure.replace("_", " ").replace("kl", "KL from the clean run")


def _apart(a: float, b: float) -> tuple[str, str]:
    """Two different numbers in as many digits, at least three, as it takes to tell them apart."""
    both = ((f"{a:.{digits}g}", f"{b:.{digits}g}") for digits in range(3, 18))
    return next((one, other) for one, other in both if one != other)
