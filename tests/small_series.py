"""A series of tiny random checkpoints on disk, for tests that read checkpoints by name."""

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.page.session.bench import Bench

PROMPT = "w5 w17 w3 w42 w8 w5 w17 w3"


def small_bench(
    folder: Path,
    make_model: Callable[..., OlmoForCausalLM],
    tokenizer: PreTrainedTokenizerBase,
    orders: Sequence[str] = (),
    **options: str,
) -> Bench:
    """A bench over `step0` and `step10` of an OLMo 2 with 4 layers of 4 heads, and those of other data `orders`.

    `options` are the loading options of the bench.
    """
    for seed, step in enumerate(("step0", "step10", *orders)):
        make_model("olmo2", seed=seed, max_position_embeddings=4096).save_pretrained(folder / step)
    tokenizer.save_pretrained(folder)
    return Bench(checkpoints.series(str(folder)), 10**9, **options)
