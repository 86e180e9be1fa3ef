"""Measures how long `compare_weights` takes and how much memory: `python -m tests.benchmarks.weights [--rounds 5]`.

Two checkpoints of 2.4 GB each are written to a temporary folder (`TMPDIR`) and removed afterwards.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hooks import Olmo2Config, OlmoForCausalLM
from workbench import checkpoints, metrics
from workbench.analyses.compare_weights import BLOCK, _workers, compare_weights
from workbench.analyses.support.sample_text import SAMPLE_TEXT
from workbench.analyses.trajectory import trajectory

from .timing import ratio, seconds, show

SIZES = {
    "vocab_size": 100_352, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 12,
    "num_attention_heads": 16,
}  # fmt: skip
LARGEST = SIZES["vocab_size"] * SIZES["hidden_size"] * torch.bfloat16.itemsize


def measure(rounds: int) -> Iterator[tuple[str, str, str]]:
    """The rows of the table, as they are measured."""
    yield "comparing checkpoints", "at most", "measured"
    with tempfile.TemporaryDirectory(prefix="olmo-weights-") as folder:
        pair = [write(Path(folder) / name, seed) for seed, name in enumerate("ab")]
        for how, (baseline, limit) in BASELINES.items():
            took = ratio(
                lambda: compare_weights(*map(str, pair)),
                lambda baseline=baseline: [baseline(one) for one in pair],
                rounds,
            )
            yield f"compare_weights, over reading both files and summing them {how}", limit, f"{took:.2f} ×"
        peak = peak_in_own_process(pair)
        yield "its peak memory beyond the interpreter, MB", f"{4 * LARGEST / 1e6:.0f} (4 tensors)", f"{peak / 1e6:.0f}"
    yield "trajectory over the embedded series with a warm cache, s", "1.00", f"{warm_trajectory():.2f}"


def write(folder: Path, seed: int) -> Path:
    """A random checkpoint of an OLMo 2 of 1.2 billion parameters in bfloat16."""
    folder.mkdir()
    config = Olmo2Config(**SIZES, tie_word_embeddings=False, eos_token_id=None, pad_token_id=None)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in OlmoForCausalLM(config).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.empty(shape, dtype=torch.bfloat16).normal_(generator=generator) for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    config.save_pretrained(folder)
    return folder


def summed_whole(folder: Path, dtype: torch.dtype) -> float:
    """Time to read every number of a file, tensor by tensor."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return sum(file.get_tensor(name).to(dtype).sum().item() for name in file.keys())  # noqa: SIM118


def summed_in_blocks(folder: Path) -> float:
    """The same in float32, with the reader, threads and memory limit of `compare_weights`."""
    weights = checkpoints.open_weights(folder)

    def total(piece: tuple[str, int, int]) -> float:
        return weights.rows(*piece).float().sum().item()

    with _workers() as pool:
        return sum(pool.map(total, _pieces(weights)))


def _pieces(weights: checkpoints.Weights) -> Iterator[tuple[str, int, int]]:
    for name in weights:
        rows, *inner = weights.shape(name)
        most = max(1, BLOCK // math.prod(inner))
        yield from ((name, start, min(start + most, rows)) for start in range(0, rows, most))


BASELINES = {
    "in float32, block by block": (summed_in_blocks, "1.20 ×"),
    "in float32, tensor by tensor": (partial(summed_whole, dtype=torch.float32), ""),
    "in bfloat16, as they are": (partial(summed_whole, dtype=torch.bfloat16), ""),
}
"""What the comparison is measured by, and at most how many times it."""


def peak_in_own_process(pair: list[Path]) -> int:
    """Bytes that comparing two checkpoints adds to a process that has imported everything."""
    command = [sys.executable, "-m", "tests.benchmarks.weights", "--peak", *map(str, pair)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_added(a: str, b: str) -> int:
    """Peak resident bytes while two checkpoints are compared, minus those before."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak, which comes from the imports
    before = psutil.Process().memory_info().rss
    compare_weights(a, b)
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) - before


def warm_trajectory() -> float:
    """Seconds of a second run over the same checkpoints."""
    series = checkpoints.series("tiny-olmo")
    ids = checkpoints.tokenizer_of(series[-1])(SAMPLE_TEXT, return_tensors="pt")["input_ids"]
    with tempfile.TemporaryDirectory(prefix="olmo-trajectory-") as cache:
        metric = metrics.held_out_loss(ids[:, :256])
        trajectory(series, metric, cache=cache)
        return seconds(lambda: trajectory(series, metric, cache=cache))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.weights", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", nargs=2, metavar=("A", "B"), help="print the bytes that comparing two adds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(json.dumps(peak_added(*options.peak)))
    else:
        show(measure(options.rounds))


if __name__ == "__main__":
    main()
