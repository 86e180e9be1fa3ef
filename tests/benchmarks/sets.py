"""Throughput over a set of texts: `python -m tests.benchmarks.sets [--rounds 3] [--every 1]`.

Contenders, all in float32 on one thread of the CPU and over the same texts of mixed lengths:

  one at a time    transformers' forward, a text at a time
  best batches     transformers' forward, in the fastest of several ways to batch: texts of equal length, or sorted by
                   length and padded, with 1,024 to 8,192 tokens in a batch
  analyses         `token_losses` and `head_atlas` (without its random texts) of the workbench

The forward passes compute logits only; `token_losses` also turns them into losses, ranks and entropies, and
`head_atlas` computes no logits but all attention weights. Contenders take turns; figures are medians over rounds of
processor time, so that other programs on the machine change them little.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from time import process_time

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.token_losses import token_losses
from workbench.embedded_texts import SETS
from workbench.texts import Batch, Texts

from . import model
from .timing import ratio, seconds, show

BATCH_TOKENS = (1024, 2048, 4096, 8192)
RANDOM_TEXTS, RANDOM_LENGTHS = 200, (5, 60)
LIMITS = {"token_losses": 1.15, "head_atlas": 1.7}

Subject = tuple[str, OlmoForCausalLM, nn.Module, Texts]


def tiny() -> Subject:
    """The embedded model on all texts of the built-in sets."""
    ours, tokenizer = checkpoints.load("tiny-olmo")
    assert tokenizer is not None
    theirs = AutoModelForCausalLM.from_pretrained(checkpoints.locate("tiny-olmo"), dtype=torch.float32).eval()
    texts = [ids for name, found in SETS.items() if not found.pairs for ids in Texts.read(name, tokenizer)]
    return "tiny-olmo, built-in sets", ours, theirs, Texts(*_padded(texts))


def larger() -> Subject:
    """A random model of 8 layers on random texts, as many and as long as the prompts of a study."""
    (ours, theirs), generator = model.build("olmo"), torch.Generator().manual_seed(0)
    lengths = torch.randint(*RANDOM_LENGTHS, (RANDOM_TEXTS,), generator=generator).tolist()
    texts = [torch.randint(2, model.SIZES["vocab_size"], (n,), generator=generator) for n in lengths]
    return "8 layers, d_model 512, random texts", ours, theirs, Texts(*_padded(texts))


SUBJECTS = {"tiny": tiny, "larger": larger}


def _padded(texts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = nn.utils.rnn.pad_sequence(texts, batch_first=True)
    return ids, torch.arange(ids.shape[1]) < torch.tensor([len(text) for text in texts])[:, None]


def equal_length(texts: Texts, tokens: int) -> list[Batch]:
    """Batches without padding."""
    return texts.batches(tokens)


def sorted_by_length(texts: Texts, tokens: int) -> list[Batch]:
    """Batches of neighbours in length, padded on the right: in a causal model, padding there changes no logits."""
    order, lengths = torch.tensor(texts.lengths).sort().indices.tolist(), texts.lengths
    found: list[list[int]] = [[]]
    for row in order:
        if found[-1] and (len(found[-1]) + 1) * lengths[row] > tokens:
            found.append([])
        found[-1].append(row)
    return [Batch(rows, texts.ids[rows, : lengths[rows[-1]]]) for rows in found]


def forwards(theirs: nn.Module, batches: list[Batch]) -> None:
    with torch.no_grad():
        for batch in batches:
            theirs(input_ids=batch.ids, use_cache=False)


def best_batches(theirs: nn.Module, texts: Texts) -> tuple[str, Callable[[], None]]:
    """The fastest way to batch the forward passes, with its name."""
    ways = {
        f"{'equal length' if how is equal_length else 'padded'}, {tokens:,} tokens": partial(
            forwards, theirs, how(texts, tokens)
        )
        for how in (equal_length, sorted_by_length)
        for tokens in BATCH_TOKENS
    }
    taken = {name: min(seconds(call, process_time) for _ in range(2)) for name, call in ways.items()}
    name = min(taken, key=taken.__getitem__)
    return name, ways[name]


def measured(subject: Subject, rounds: int) -> Iterator[tuple[str, ...]]:
    title, ours, theirs, texts = subject
    yield f"{title}: {len(texts)} texts, {texts.tokens:,} tokens", "goal", "measured"
    alone = partial(forwards, theirs, [Batch([row], ids[None]) for row, ids in enumerate(texts)])
    how, best = best_batches(theirs, texts)
    taken = min(seconds(best, process_time) for _ in range(rounds))
    yield f"best batches ({how})", "", f"{texts.tokens / taken:,.0f} tokens a second of processor time"
    yield "one at a time, as a multiple of best batches", "", f"{ratio(alone, best, rounds, process_time):.2f} ×"
    calls = {
        "token_losses": partial(token_losses, ours, texts),
        "head_atlas": partial(head_atlas, ours, texts, samples=0),
    }
    for name, call in calls.items():
        yield (
            f"one at a time, over {name}",
            "at least 3.00 ×" if name == "token_losses" else "",
            f"{ratio(alone, call, rounds, process_time):.2f} ×",
        )
        yield (
            f"{name}, as a multiple of best batches",
            f"at most {LIMITS[name]:.2f} ×",
            f"{ratio(call, best, rounds, process_time):.2f} ×",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="take only every n-th text")
    parser.add_argument("--subject", choices=SUBJECTS, nargs="+", default=list(SUBJECTS))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the time of the processor is then that of the call
    for name in options.subject:
        title, ours, theirs, texts = SUBJECTS[name]()
        show(measured((title, ours, theirs, texts[:: options.every]), options.rounds))


if __name__ == "__main__":
    main()
