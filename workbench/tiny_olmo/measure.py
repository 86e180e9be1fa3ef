"""Measure what checkpoints of tiny-olmo can do, and write the table of the data card.

    python -m workbench.tiny_olmo.measure                     # the committed series: series.json and README.md
    python -m workbench.tiny_olmo.measure --series runs/tiny/checkpoints     # another folder: its series.json

Text that is not in the cache is fetched first.
"""

import argparse
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hooks import OlmoForCausalLM
from workbench.tiny_olmo.build_files import SERIES
from workbench.tiny_olmo.card import with_tables
from workbench.tiny_olmo.data import default_cache, held_out_source, prepare
from workbench.tiny_olmo.probes import LONG_LENGTH, Probes, Repeats, make_probes, natural_rows
from workbench.tiny_olmo.recipe import RECIPE

FOLDER = Path(__file__).parent
ROWS = 256  # rows of each probe, for the data card
LONG_ROWS = 24
POSITIONS = ((1, 128), (128, 512), (512, 1024), (1024, LONG_LENGTH))


@dataclass(frozen=True)
class Measurement:
    """Measured values of one checkpoint.

    Losses are in nats per token. A score is the mean attention weight, 0 to 1, of the best head, whose name is in the
    field `…_head`.
    """

    heldout_english: float
    heldout_code: float
    first_copy_loss: float
    second_copy_loss: float
    previous_head: str
    previous_score: float
    induction_head: str
    induction_score: float


def batches(rows: np.ndarray, size: int = 32) -> tuple[torch.Tensor, ...]:
    """Rows as tensors of token ids, `size` rows each."""
    return torch.from_numpy(rows.astype(np.int64)).split(size)


def losses_of_tokens(model: OlmoForCausalLM, rows: np.ndarray, size: int = 32) -> torch.Tensor:
    """Cross-entropy in nats of each token given the tokens before it: row pos-1."""
    return torch.cat(
        [
            F.cross_entropy(model(input_ids=ids).logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
            for ids in batches(rows, size)
        ]
    )


def patterns(model: OlmoForCausalLM, rows: np.ndarray) -> torch.Tensor:
    """Attention patterns of all heads: layer row head query key."""
    runs = [model.run(ids, capture="blocks.*.attn.pattern", captures_only=True) for ids in batches(rows)]
    return torch.cat([run.stack("attn.pattern") for run in runs], dim=1)


def previous_token_scores(pattern: torch.Tensor) -> torch.Tensor:
    """Mean attention weight of each head on the token before the query: layer head."""
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=(1, 3))


def second_copy_weights(pattern: torch.Tensor, repeats: Repeats) -> torch.Tensor:
    """Mean attention weight of each head from a token's second copy to the token after its first copy: layer head.

    Source: Olsson et al. 2022, "In-context learning and induction heads"; here with random gaps between the copies. The
    last token of the span is left out, because the token after it is not part of the span.
    """
    offset = np.arange(repeats.span - 1)
    row = np.arange(len(repeats.rows))[:, None]
    query, key = repeats.second[:, None] + offset, repeats.first[:, None] + offset + 1
    return pattern[:, row, :, query, key].mean(dim=(0, 1))  # indexing puts [row offset] before [layer head]


def best_head(scores: torch.Tensor) -> tuple[str, float]:
    """(name, score) of the head with the highest score; `scores` are layer head."""
    layer, head = divmod(int(scores.argmax()), scores.shape[1])
    return f"L{layer}H{head}", float(scores.max())


def copy_losses(losses: torch.Tensor, repeats: Repeats) -> tuple[float, float]:
    """Mean loss on the first and on the second copy, without the first token of each, which is not predictable.

    `losses` are row pos-1, as from `losses_of_tokens`.
    """
    offset = np.arange(1, repeats.span)
    row = np.arange(len(repeats.rows))[:, None]
    first, second = (losses[row, start[:, None] + offset - 1].mean() for start in (repeats.first, repeats.second))
    return float(first), float(second)


@torch.inference_mode()
def measure(model: OlmoForCausalLM, probes: Probes) -> Measurement:
    """The losses and head scores of a model on the probes."""
    english, code = (float(losses_of_tokens(model, probes.natural[name]).mean()) for name in ("english", "code"))
    copies = copy_losses(losses_of_tokens(model, probes.text.rows), probes.text)
    previous = best_head(previous_token_scores(patterns(model, probes.natural["english"])))
    induction = best_head(second_copy_weights(patterns(model, probes.random.rows), probes.random))
    return Measurement(english, code, *copies, *previous, *induction)


@torch.inference_mode()
def loss_by_position(model: OlmoForCausalLM, rows: np.ndarray) -> dict[str, float]:
    """Mean loss on each range of `POSITIONS`, for English rows of 2,048 tokens (row pos)."""
    losses = losses_of_tokens(model, rows, size=4)
    return {f"{begin}-{end}": round(float(losses[:, begin - 1 : end - 1].mean()), 3) for begin, end in POSITIONS}


def as_record(measurement: Measurement) -> dict[str, Any]:
    """A measurement as a dictionary, with numbers rounded to three decimals."""
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(measurement).items()}


def checkpoint_folders(series: Path) -> list[tuple[str, int, int]]:
    """(folder name, step, data order) of a series' checkpoints, the main run first."""
    found = [(path.name, re.fullmatch(r"step(\d+)(?:-order(\d+))?", path.name)) for path in series.glob("step*")]
    return sorted(((name, int(m[1]), int(m[2] or 1)) for name, m in found if m), key=lambda entry: (entry[2], entry[1]))


def load_float32(folder: Path) -> OlmoForCausalLM:
    """The model of a checkpoint in float32, so that the only rounding of bfloat16 is that of the stored weights."""
    model: OlmoForCausalLM = OlmoForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def measure_series(series: Path, cache: Path) -> list[dict[str, Any]]:
    """One record for each checkpoint of a folder; the folder also has the tokenizer."""
    held_out = held_out_source(prepare(cache, series))
    probes = make_probes(held_out, ROWS)
    long_rows = natural_rows(held_out.tokens["english"], LONG_LENGTH, LONG_ROWS, np.random.default_rng(0))
    records = []
    for name, step, order in checkpoint_folders(series):
        model = load_float32(series / name)
        numbers = as_record(measure(model, probes)) | {"loss_by_position": loss_by_position(model, long_rows)}
        records.append({"revision": name, "step": step, "order": order, "tokens": RECIPE.tokens(step)} | numbers)
        print(json.dumps(records[-1]), flush=True)
    return records


def main() -> None:
    """Measure a series; writes its `series.json` and, for the committed series, the data card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=Path, default=SERIES, help="folder of checkpoints and tokenizer")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for fetched and prepared text")
    options = parser.parse_args()
    records = measure_series(options.series, options.cache)
    (options.series / "series.json").write_text(json.dumps({"checkpoints": records}, indent=1) + "\n")
    if options.series == SERIES:
        card = FOLDER / "README.md"
        card.write_text(with_tables(card.read_text(), records))


if __name__ == "__main__":
    main()
