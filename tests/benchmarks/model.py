"""Time of captures and edits: the hookable model compared with transformers' own, with the same weights."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor

from hooks import Capture, HeadStatistics, Olmo2Config, Olmo3Config, OlmoConfig, OlmoForCausalLM

from .timing import ratio

FAMILIES = {
    "olmo": (OlmoConfig, transformers.OlmoForCausalLM),
    "olmo2": (Olmo2Config, transformers.Olmo2ForCausalLM),
    "olmo3": (Olmo3Config, transformers.Olmo3ForCausalLM),
}
SIZES = {
    "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8,
    "max_position_embeddings": 8192, "eos_token_id": None,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row of the table: the time limit of one kind of call, and the call."""

    limit: float
    call: Callable[[OlmoForCausalLM, Tensor], object]


LOOKING = {
    "forward without taps": Row(1.02, lambda model, ids: model(ids, use_cache=False)),
    "run without taps": Row(1.02, lambda model, ids: model.run(ids)),
    "every `resid_post`": Row(1.03, lambda model, ids: model.run(ids, capture="blocks.*.resid_post")),
    "one layer's patterns": Row(1.1, lambda model, ids: model.run(ids, capture="blocks.4.attn.pattern")),
    "every layer's patterns": Row(1.45, lambda model, ids: model.run(ids, capture="blocks.*.attn.pattern")),
    "last query row of every head and layer": Row(
        1.03, lambda model, ids: model.run(ids, capture=Capture("blocks.*.attn.pattern", queries=[-1]))
    ),
    "streamed statistics of all heads": Row(
        1.5, lambda model, ids: model.run(ids, capture=Capture("blocks.*.attn.pattern", reduce=HeadStatistics(ids)))
    ),
}
GENERATE_LIMIT = 1.0
TRAINING_LIMIT = 1.03
PROMPT, NEW = 64, 32  # tokens
BATCH = (4, 256)  # texts and tokens of a training step


def build(family: str, attention: str = "sdpa") -> tuple[OlmoForCausalLM, torch.nn.Module]:
    """Our model and transformers' with the same random weights."""
    config_class, their_class = FAMILIES[family]
    torch.manual_seed(0)
    # A configuration for each: `_from_config` writes the attention implementation into the one it is given.
    theirs = their_class._from_config(config_class(**SIZES), attn_implementation=attention).eval()
    ours = OlmoForCausalLM._from_config(config_class(**SIZES), attn_implementation=attention).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    assert ours.config._attn_implementation == theirs.config._attn_implementation == attention
    return ours, theirs


def some_tokens(*shape: int) -> Tensor:
    return torch.randint(2, SIZES["vocab_size"], shape, generator=torch.Generator().manual_seed(0))


def time_looking(family: str, length: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """Each kind of call, and transformers' attentions and `generate`, compared with transformers' `sdpa` forward."""
    yield f"time, {length} tokens", "at most", "measured"
    (ours, theirs), ids = build(family), some_tokens(1, length)

    def forward() -> object:
        return theirs(ids, use_cache=False)

    with torch.no_grad():
        for what, row in LOOKING.items():
            found = ratio(lambda row=row: row.call(ours, ids), forward, rounds)
            yield what, f"{row.limit:.2f} ×", f"{found:.3f} ×"
        eager = build(family, "eager")[1]
        found = ratio(lambda: eager(ids, use_cache=False, output_attentions=True), forward, rounds)
        yield "transformers with `output_attentions`", "", f"{found:.3f} ×"
    prompt = some_tokens(1, PROMPT)
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": NEW, "do_sample": False}
    found = ratio(lambda: ours.generate(prompt, **options), lambda: theirs.generate(prompt, **options), rounds)
    yield f"`generate` without edits, {PROMPT} + {NEW} tokens", f"{GENERATE_LIMIT:.2f} ×", f"{found:.3f} ×"


def time_training(family: str, length: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """A forward and backward pass against transformers' with the same attention, on a few short texts."""
    yield f"training step, {BATCH[0]} texts of {BATCH[1]} tokens", "at most", "measured"
    ids = some_tokens(*BATCH)

    def step(model: torch.nn.Module) -> None:
        model.zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()

    for attention in ("sdpa", "eager"):
        ours, theirs = (model.train() for model in build(family, attention))
        found = ratio(lambda ours=ours: step(ours), lambda theirs=theirs: step(theirs), rounds)
        yield attention, f"{TRAINING_LIMIT:.2f} ×", f"{found:.3f} ×"
