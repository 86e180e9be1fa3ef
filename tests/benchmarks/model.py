"""What looking costs: the hookable model against transformers' own, with the same weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor

from hooks import Capture, Olmo2Config, Olmo3Config, OlmoConfig, OlmoForCausalLM
from hooks.attention import HeadStatistics

from .timing import peak_bytes, ratio

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
    """One line of the table: what is measured, the most it may take, and what."""

    what: str
    limit: float
    call: Callable[[OlmoForCausalLM, Tensor], object]


ROWS = [
    Row("forward without taps", 1.02, lambda model, ids: model(ids, use_cache=False)),
    Row("run without taps", 1.02, lambda model, ids: model.run(ids)),
    Row("every resid_post", 1.03, lambda model, ids: model.run(ids, capture="blocks.*.resid_post")),
    Row("one layer's patterns", 1.2, lambda model, ids: model.run(ids, capture="blocks.4.attn.pattern")),
    Row("every layer's patterns", 2.0, lambda model, ids: model.run(ids, capture="blocks.*.attn.pattern")),
    Row(
        "last query row of every head and layer", 1.05,
        lambda model, ids: model.run(ids, capture=Capture("blocks.*.attn.pattern", queries=[-1])),
    ),
    Row(
        "streamed statistics of all heads", 1.7,
        lambda model, ids: model.run(ids, capture=Capture("blocks.*.attn.pattern", reduce=HeadStatistics(ids))),
    ),
]  # fmt: skip
MEMORY_LIMIT = 1.3
GENERATE_LIMIT = 1.0
MEMORY = {
    "transformers forward": None,
    "forward without taps": ROWS[0].call,
    "last query row of every head and layer": ROWS[5].call,
    "streamed statistics of all heads": ROWS[6].call,
    "every layer's patterns": ROWS[4].call,
}


def build(family: str) -> tuple[OlmoForCausalLM, torch.nn.Module]:
    """Our model and transformers' with the same random weights."""
    config_class, their_class = FAMILIES[family]
    torch.manual_seed(0)
    theirs = their_class(config_class(**SIZES)).eval()
    ours = OlmoForCausalLM(config_class(**SIZES)).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    return ours, theirs


def some_tokens(length: int) -> Tensor:
    return torch.randint(2, SIZES["vocab_size"], (1, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def time_forward(family: str, length: int, rounds: int) -> dict[str, float]:
    """Each row's time as a multiple of transformers' `sdpa` forward; transformers' own attentions beside them."""
    (ours, theirs), ids = build(family), some_tokens(length)
    config_class, their_class = FAMILIES[family]
    # A configuration of its own: `_from_config` writes the attention implementation into the one it is given.
    eager = their_class._from_config(config_class(**SIZES), attn_implementation="eager").eval()
    eager.load_state_dict(theirs.state_dict(), assign=True)
    assert ours.config._attn_implementation == theirs.config._attn_implementation == "sdpa"
    contenders = {row.what: lambda row=row: row.call(ours, ids) for row in ROWS}
    contenders["transformers with output_attentions"] = lambda: eager(ids, use_cache=False, output_attentions=True)
    return {what: ratio(call, lambda: theirs(ids, use_cache=False), rounds) for what, call in contenders.items()}


def time_generate(family: str, length: int, rounds: int) -> dict[str, float]:
    """Generating 32 tokens after a prompt, as a multiple of transformers' time."""
    (ours, theirs), ids = build(family), some_tokens(length)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 32, "do_sample": False}
    found = ratio(lambda: ours.generate(ids, **options), lambda: theirs.generate(ids, **options), rounds)
    return {"generate without edits": found}


@torch.no_grad()
def peak(family: str, length: int, what: str) -> int:
    """Bytes that a process holds at most that builds a model and makes one call."""
    (ours, theirs), ids = build(family), some_tokens(length)
    call = MEMORY[what]
    theirs(ids, use_cache=False) if call is None else call(ours, ids)
    return peak_bytes()
