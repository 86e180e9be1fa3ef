"""What analyses cost, against forward passes of the same model."""

from collections.abc import Callable

import torch
from torch import Tensor

from hooks import OlmoForCausalLM, edits
from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.direct_logit_attribution import direct_logit_attribution
from workbench.analyses.head_atlas import head_atlas

from . import model
from .timing import ratio

PROMPT = 40  # tokens of the prompts of activation patching
SHARED = (0, 10)  # tokens at their beginning that both have
LIMITS = {
    "head_atlas, as a multiple of a forward pass": "at most 1.70 ×",
    "direct_logit_attribution, as a multiple of a forward pass": "",
    **{f"one forward a cell, over activation_patching; {PROMPT} tokens, {n} shared": "at least 5.00 ×" for n in SHARED},
}


def time_analyses(family: str, length: int, rounds: int) -> dict[str, float]:
    """The measured ratios, in the order of `LIMITS`. Random texts of head_atlas' induction score are left out."""
    ours, ids = model.build(family)[0], model.some_tokens(length)
    calls = (
        (lambda: head_atlas(ours, ids, samples=0), lambda: ours.run(ids)),
        (lambda: direct_logit_attribution(ours, ids, 5, 7), lambda: ours.run(ids)),
        *((_cell_by_cell(ours, *_prompts(shared)), _patching(ours, *_prompts(shared))) for shared in SHARED),
    )
    return {what: ratio(call, baseline, rounds) for what, (call, baseline) in zip(LIMITS, calls, strict=True)}


def _prompts(shared: int) -> tuple[Tensor, Tensor]:
    """A clean and a corrupted prompt with a shared beginning: 1 pos each."""
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randint(2, model.SIZES["vocab_size"], (2, 1, PROMPT), generator=generator)
    return clean, torch.cat([clean[:, :shared], corrupted[:, shared:]], dim=1)


def _patching(ours: OlmoForCausalLM, clean: Tensor, corrupted: Tensor) -> Callable[[], object]:
    return lambda: activation_patching(ours, clean, corrupted, 5, 7)


def _cell_by_cell(ours: OlmoForCausalLM, clean: Tensor, corrupted: Tensor) -> Callable[[], None]:
    sites = ours.sites.match("blocks.*.resid_pre")

    def run() -> None:
        source = ours.run(clean, capture=sites)
        for site in sites:
            for position in range(PROMPT):
                value = source[site][:, [position]]
                ours.run(corrupted, edits=edits.replace(site, value, positions=[position]))

    return run
