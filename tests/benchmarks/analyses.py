"""What analyses cost, against forward passes of the same model."""

from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from hooks import OlmoForCausalLM, edits
from workbench.activations import record
from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.direct_logit_attribution import direct_logit_attribution
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.support.memory import TOKENS
from workbench.generation import stream

from . import model
from .timing import ratio

SITE, RECORDED = "blocks.4.resid_post", 2**14  # tokens that are recorded
PROMPT = 40  # tokens of the prompts of activation patching
SHARED = (0, 10)  # tokens that both prompts have at their beginning
PATCHING_ROUNDS = 1  # of some 320 forward passes


def time_analyses(family: str, length: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """Times of analyses as multiples of a forward pass; for patching, compared with one forward pass for each cell.

    The random texts of head_atlas' induction score are left out.
    """
    yield f"analyses, {length} tokens", "limit", "measured"
    (ours, theirs), ids = model.build(family), model.some_tokens(1, length)
    for what, limit, call in (
        ("head_atlas", "at most 1.50 ×", lambda: head_atlas(ours, ids, samples=0)),
        ("direct_logit_attribution", "", lambda: direct_logit_attribution(ours, ids, 5, 7)),
    ):
        found = ratio(call, lambda: ours.run(ids), rounds)
        yield f"{what}, as a multiple of a forward pass", limit, f"{found:.2f} ×"
    found = ratio(*_recordings(ours, length), rounds)
    yield "record, as a multiple of the forward passes that capture the same", "at most 1.30 ×", f"{found:.2f} ×"
    found = ratio(*_generations(ours, theirs), rounds)
    yield "workbench.generation, as a multiple of transformers' `generate`", "at most 0.80 ×", f"{found:.2f} ×"
    for shared in SHARED:
        prompts = _prompts(shared)
        found = ratio(_cell_by_cell(ours, *prompts), _patching(ours, *prompts), PATCHING_ROUNDS)
        what = f"one forward a cell, over activation_patching; {PROMPT} tokens, {shared} shared"
        yield what, "at least 10.0 ×", f"{found:.2f} ×"


def _recordings(ours: OlmoForCausalLM, length: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """The recording of one site over several texts, and the forward passes alone."""
    ids = model.some_tokens(RECORDED // length, length)

    def recorded() -> None:
        with TemporaryDirectory() as folder:
            record(ours, ids, SITE, folder)

    def forward() -> None:
        for some in ids.split(max(1, TOKENS // length)):
            ours.run(some, capture=SITE, captures_only=True)

    return recorded, forward


def _generations(ours: OlmoForCausalLM, theirs: nn.Module) -> tuple[Callable[[], object], Callable[[], object]]:
    """Our generation, which also returns the likely tokens at each step, and transformers', which does not."""
    prompt = model.some_tokens(1, model.PROMPT)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": model.NEW, "do_sample": False}
    return (
        lambda: list(stream(ours, prompt, max_new_tokens=model.NEW, temperature=0.0)),
        lambda: theirs.generate(prompt, **options),
    )


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
