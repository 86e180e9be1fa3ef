"""`of`: where each feature of a dictionary is active in a set of texts, as a sparse table on disk.

    scan = features.of(model, texts, sae, "scan/")
    text, position, value = scan.places(417)     # strongest first
    scan.density, scan.peak                      # of each feature

The texts run in batches, and the result of each batch is a file. An interrupted scan resumes at the first batch without
a file. At the end the files are merged into one table, ordered by feature, so that one feature is read without the
others.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hooks.sites import layer_of
from workbench.activations.recording import weights_digest
from workbench.activations.shards import digest, open_shard, write_shard
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.errors import WorkbenchError
from workbench.features.dictionary import Dictionary
from workbench.features.firing import Firing
from workbench.features.reading import Models, by_source, read_by
from workbench.progress import Progress, report
from workbench.texts import Texts, TextsLike
from workbench.whole_files import cannot_write

WHAT = "a scan of features"
TABLE = "by_feature.safetensors"
BATCH_TOKENS = 2**14
"""Tokens of one file. An interrupted scan loses at most the work on one file."""
COLUMNS = {"feature": torch.int32, "text": torch.int32, "position": torch.int32, "value": torch.float32}


class FiringPlaces(NamedTuple):
    """Where a feature is active, strongest first: text, position and value, one entry for each place."""

    text: Tensor
    position: Tensor
    value: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class FeatureScan:
    """Where each feature is active in a set of texts.

    Attributes:
        texts: the texts.
        starts: feature+1, int64: the places of feature f are the entries starts[f] to starts[f + 1].
        text, position, value: of each place, by feature, strongest first; then by text and position.
    """

    texts: Texts
    starts: Tensor
    text: Tensor
    position: Tensor
    value: Tensor

    def __repr__(self) -> str:
        return f"<FeatureScan of {len(self):,} features in {len(self.texts):,} texts, {self.texts.tokens:,} tokens>"

    def __len__(self) -> int:
        return len(self.starts) - 1

    def places(self, feature: int) -> FiringPlaces:
        """Where a feature is active, strongest first. Errors: WorkbenchError for an unknown feature."""
        if isinstance(feature, bool) or not isinstance(feature, int) or not 0 <= feature < len(self):
            raise WorkbenchError(f"no feature {feature!r}; there are features 0 to {len(self) - 1:,}")
        here = slice(int(self.starts[feature]), int(self.starts[feature + 1]))
        return FiringPlaces(self.text[here].long(), self.position[here].long(), self.value[here].clone())

    @property
    def counts(self) -> Tensor:
        """The number of tokens at which each feature is active: feature."""
        return self.starts.diff()

    @property
    def density(self) -> Tensor:
        """The share of tokens at which each feature is active: feature."""
        return self.counts / self.texts.tokens

    @property
    def total(self) -> Tensor:
        """The sum of the activations of each feature: feature, float64."""
        owner = torch.arange(len(self)).repeat_interleave(self.counts)
        return torch.zeros(len(self), dtype=torch.float64).index_add_(0, owner, self.value.double())

    @property
    def peak(self) -> Tensor:
        """The largest activation of each feature: feature; 0 for one that is never active."""
        first = self.starts[:-1].clamp_max(max(0, len(self.value) - 1))
        largest = self.value[first] if len(self.value) else torch.zeros(len(self))
        return largest.where(self.counts > 0, 0.0)


@torch.no_grad()
def of(
    models: Models,
    tokens: TextsLike,
    dictionary: Dictionary,
    folder: str | Path | None = None,
    *,
    progress: Progress | None = None,
) -> FeatureScan:
    """Where each feature of a dictionary is active in texts.

    Args:
        models: the model; for a crosscoder all of its sources by id.
        tokens: the texts.
        dictionary: any of the three kinds.
        folder: where the table is kept; None for a folder in the cache (`$XDG_CACHE_HOME/olmo-workbench`, else
            `~/.cache/olmo-workbench`). If it holds a scan of the same model, texts and dictionary, that scan is read,
            or resumed.
        progress: called after each batch.

    Errors: WorkbenchError if the folder holds another scan or cannot be written; those of `by_source`.
    """
    named = by_source(dictionary, models)
    first = next(iter(named.values()))
    texts, dictionary = texts_for(first, tokens), dictionary.to(first.device)
    mark = _scan_digest(dictionary, [weights_digest(model) for model in named.values()], texts)
    place = _cached(mark) if folder is None else Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        _claim(place, mark)
    except OSError as error:
        raise cannot_write(place, error) from error
    if (table := _tensors_in(place / TABLE, mark)) is not None:
        report(progress, 1.0, "scanning")
        return FeatureScan(texts.to("cpu"), **table)
    per_token = run_bytes(first, capture=[dictionary.reads]) * len(named) + 12 * len(dictionary)
    size = tokens_at_a_time(first, WHAT, per_token, texts.longest)
    batches = texts.batches(BATCH_TOKENS)
    parts = []
    for number, batch in enumerate(batches):
        report(progress, number / len(batches), "scanning")
        path, part_of = place / f"part-{number:06d}.safetensors", f"{mark} {number}"
        found = _tensors_in(path, part_of)
        if found is None:
            rows = max(1, size // batch.ids.shape[1])
            pieces = [
                _active(
                    dictionary.encode(read_by(dictionary, named, batch.ids[start : start + rows])), batch.rows, start
                )
                for start in range(0, len(batch.rows), rows)
            ]
            found = {name: torch.cat([piece[name] for piece in pieces]) for name in COLUMNS}
            write_shard(path, found, part_of)
        parts.append(found)
    scan = _by_feature({name: torch.cat([part[name] for part in parts]) for name in COLUMNS}, len(dictionary))
    write_shard(place / TABLE, scan, mark)
    for path in place.glob("part-*.safetensors"):
        path.unlink(missing_ok=True)
    report(progress, 1.0, "scanning")
    return FeatureScan(texts.to("cpu"), **scan)


@work_of(of)
def _work(models: Models, tokens: TextsLike, dictionary: Dictionary, *_: object, **__: object) -> Work:
    first = next(iter(by_source(dictionary, models).values()))
    texts = texts_for(first.config, tokens)
    layer, models_of = layer_of(dictionary.reads)[0], max(1, len(dictionary.sources))
    per_token = run_bytes(first, capture=[dictionary.reads]) * models_of + 12 * len(dictionary)
    passes = pass_flops(first, texts.tokens, 0 if layer is None else layer + 1) * models_of
    nbytes = peak_bytes(first, WHAT, per_token, texts.longest, texts.tokens)
    return Work(passes + 2 * texts.tokens * dictionary.encoder.numel(), nbytes=nbytes)


def is_stored(models: Models, tokens: TextsLike, dictionary: Dictionary) -> bool:
    """Whether the cache holds the whole scan of these texts, so that `of` only reads it."""
    named = by_source(dictionary, models)
    texts = texts_for(next(iter(named.values())), tokens)
    return (
        _cached(_scan_digest(dictionary, [weights_digest(model) for model in named.values()], texts)) / TABLE
    ).exists()


def _active(firing: Firing, rows: list[int], start: int) -> dict[str, Tensor]:
    """The active features of a batch of texts, which are the rows from `start` on."""
    text, position, slot = (firing.values > 0).nonzero(as_tuple=True)
    values = {
        "feature": firing.indices[text, position, slot],
        "text": torch.tensor(rows)[start + text.cpu()],
        "position": position,
        "value": firing.values[text, position, slot],
    }
    return {name: values[name].cpu().to(dtype).contiguous() for name, dtype in COLUMNS.items()}


def _by_feature(found: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    """The table in the order of the features, of their values from the largest on, of texts and of positions."""
    order = torch.arange(len(found["feature"]))
    for key in (found["position"], found["text"], -found["value"], found["feature"]):  # stable: the last decides first
        order = order[key[order].argsort(stable=True)]
    counts = torch.bincount(found["feature"].long(), minlength=n)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    return {"starts": starts, **{name: found[name][order].contiguous() for name in ("text", "position", "value")}}


def _scan_digest(dictionary: Dictionary, weights: list[str], texts: Texts) -> str:
    """A digest of what is scanned: dictionary, weights and texts."""
    gate = dictionary.gate
    tensors = {"encoder": dictionary.encoder, "bias": dictionary.encoder_bias, "decoder_bias": dictionary.decoder_bias}
    if gate.threshold is not None:
        tensors["threshold"] = gate.threshold
    how = [gate.name, gate.k, dictionary.reads, dictionary.centred, dictionary.scale, dictionary.norming]
    of_texts = digest({"ids": texts.ids.cpu(), "mask": texts.mask.cpu()})
    return sha256(json.dumps([how, digest(tensors), weights, of_texts, BATCH_TOKENS]).encode()).hexdigest()


def _claim(folder: Path, mark: str) -> None:
    """Mark a folder as that of a scan. Errors: WorkbenchError if it is that of another one."""
    path = folder / "scan.txt"
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != mark:
        raise WorkbenchError(f"{folder} holds a scan of another dictionary, model or set of texts; give another folder")
    path.write_text(mark, encoding="utf-8")


def _tensors_in(path: Path, part_of: str) -> dict[str, Tensor] | None:
    """The tensors of a file of this scan; None if there is no such file, or it is damaged."""
    return open_shard(path, part_of, None, check_digest=True)


def _cached(mark: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "olmo-workbench" / "features" / mark[:24]
