"""Time of captures in TransformerLens, compared with ours: `OTHER_PYTHON -m tests.benchmarks.transformer_lens`.

TransformerLens needs its own environment. Run this there, from the root of this project; nothing else needs to be
installed. Each figure is a multiple of transformers' own `sdpa` forward of the same random OLMo in the same process.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from hooks import OlmoForCausalLM

from .model import FAMILIES, SIZES, build, some_tokens
from .timing import ratio, show

PATTERN = "blocks.4.attn.hook_pattern"


def bridge_to(model: nn.Module) -> TransformerBridge:
    """TransformerLens's version of a model; it reads the model and a tokenizer from files."""
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(SIZES["vocab_size"])}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="w0", pad_token="w0", bos_token="w1", eos_token="w2"
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder))
        tokenizer.save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, device="cpu")


def ways_of_looking(
    bridge: TransformerBridge, ours: OlmoForCausalLM, ids: Tensor
) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Each task with TransformerLens's call and ours. Neither computes the heads' results by default."""
    everything = [site for site in ours.sites if not site.endswith("attn.result")]
    return {
        "forward without taps": (lambda: bridge(ids), lambda: ours.run(ids)),
        "one layer's patterns": (
            lambda: bridge.run_with_cache(ids, names_filter=PATTERN),
            lambda: ours.run(ids, capture=PATTERN),
        ),
        "every layer's patterns": (
            lambda: bridge.run_with_cache(ids, names_filter=lambda name: name.endswith("hook_pattern")),
            lambda: ours.run(ids, capture="blocks.*.attn.hook_pattern"),
        ),
        "everything": (lambda: bridge.run_with_cache(ids), lambda: ours.run(ids, capture=everything)),
    }


@torch.no_grad()
def rows(family: str, length: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """The rows of the table, as they are measured."""
    yield f"{family}, {length} tokens", "TransformerLens", "ours"
    ours, theirs = build(family)
    ids = some_tokens(1, length)
    for what, calls in ways_of_looking(bridge_to(theirs), ours, ids).items():
        found = [ratio(call, lambda: theirs(ids, use_cache=False), rounds) for call in calls]
        yield what, *(f"{times:.2f} ×" for times in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, default="olmo")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    show(rows(options.family, options.tokens, options.rounds))


if __name__ == "__main__":
    main()
