"""What a recording holds and how it is cut into batches and shards. It is `index.json` of the folder."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from workbench.activations.shards import TensorForms, open_shard
from workbench.errors import WorkbenchError, reason
from workbench.texts import Batch, Texts
from workbench.whole_files import output_file

FORMAT = 1
INDEX, TEXTS = "index.json", "texts.safetensors"
PLACES = ("text", "position")
"""The tensors of a shard besides the sites: the number of the text and the position of each row, int32."""


@dataclass(frozen=True)
class Site:
    """What is stored of one site.

    Attributes:
        shape: the shape of the site in words: "batch pos d_model".
        sizes: the lengths of the axes after the position: [256].
        dtype: the stored dtype: "float32".
        heads: the numbers of the stored heads; None for all, and for sites without heads.
    """

    shape: str
    sizes: tuple[int, ...]
    dtype: str
    heads: tuple[int, ...] | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        """The stored dtype."""
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return prod(self.sizes) * self.torch_dtype.itemsize


@dataclass(frozen=True)
class Plan:
    """The description of a recording.

    Attributes:
        checkpoint: the id of the checkpoint, for readers; "" if not given.
        weights: digest of the config and the weights of the model.
        texts: digest of the token ids.
        count, tokens: the number of texts, and of tokens of all texts.
        labels: a label for each text, or None.
        positions: the positions that are stored of each text, negative ones counted from its end; None for all.
        sites: what is stored, by site.
        rows: the number of stored tokens.
        batch_tokens, shard_rows, shard_tokens: what decides how texts are cut into batches and shards.
        shards: the number of rows of each shard.
        versions: the versions of packages, and the time at which the recording was begun.
    """

    checkpoint: str
    weights: str
    texts: str
    count: int
    tokens: int
    labels: tuple[str, ...] | None
    positions: tuple[int, ...] | None
    sites: Mapping[str, Site]
    rows: int
    batch_tokens: int
    shard_rows: int
    shard_tokens: int
    shards: tuple[int, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all sites, with its place."""
        return sum(site.nbytes for site in self.sites.values()) + 4 * len(PLACES)

    def shard_path(self, folder: Path, number: int) -> Path:
        """The file of a shard."""
        return folder / f"{number:05}.safetensors"

    def part_of(self, number: int) -> str:
        """The metadata in the file of a shard: the digests of weights and texts, and the number of the shard."""
        return f"{self.weights} {self.texts} {number}"

    @property
    def texts_part_of(self) -> str:
        """The metadata in the file of the texts."""
        return f"{self.texts} texts"

    def open_texts(self, folder: Path, check_digest: bool = False) -> dict[str, Tensor] | None:
        """The token ids of all texts, one after the other, and the length of each; None if missing or damaged."""
        shapes = {"ids": (torch.int32, (self.tokens,)), "lengths": (torch.int32, (self.count,))}
        return open_shard(folder / TEXTS, self.texts_part_of, shapes, check_digest=check_digest)

    def open_shard(self, folder: Path, number: int, check_digest: bool = False) -> dict[str, Tensor] | None:
        """The tensors of a shard as memory maps; None if it is missing or damaged (see `shards.open_shard`)."""
        path = self.shard_path(folder, number)
        return open_shard(path, self.part_of(number), self.shapes(number), check_digest=check_digest)

    def batches(self, texts: Texts) -> list[list[Batch]]:
        """The batches of each shard, shorter texts first.

        A shard ends when it has `shard_rows` rows, or `shard_tokens` tokens were run for it.
        """
        shards: list[list[Batch]] = [[]]
        rows = tokens = 0
        for batch in texts.batches(self.batch_tokens):
            if rows >= self.shard_rows or tokens >= self.shard_tokens:
                shards.append([])
                rows = tokens = 0
            shards[-1].append(batch)
            rows += rows_in(batch, self.positions)
            tokens += batch.ids.numel()
        return shards

    def shapes(self, number: int) -> TensorForms:
        """The dtype and the shape of each tensor of a shard."""
        rows = self.shards[number]
        places = {name: (torch.int32, (rows,)) for name in PLACES}
        return {name: (site.torch_dtype, (rows, *site.sizes)) for name, site in self.sites.items()} | places

    def differences(self, other: "Plan") -> list[str]:
        """What this recording holds and what `other` holds, where they differ, in words."""
        said = []
        if self.weights != other.weights:
            names = [f"{plan.checkpoint or 'a checkpoint'} (weights {plan.weights[:12]})" for plan in (self, other)]
            said.append(f"{names[0]}, not {names[1]}")
        if (self.texts, self.labels) != (other.texts, other.labels):
            what = ["other texts", "other labels"][self.texts == other.texts]
            digests = f" ({self.texts[:12]}, not {other.texts[:12]})" if self.texts != other.texts else ""
            said.append(f"{what}{digests}")
        if self.positions != other.positions:
            said.append(f"positions {_positions_in_words(self.positions)}, not {_positions_in_words(other.positions)}")
        if dict(self.sites) != dict(other.sites):
            said.append(f"{_sites_in_words(self.sites)}, not {_sites_in_words(other.sites)}")
        return said

    def write(self, folder: Path) -> None:
        """Write `index.json`. Errors: WorkbenchError if it cannot be written."""
        path = folder / INDEX
        with output_file(path) as file:
            file.write(json.dumps(dataclasses.asdict(self), indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The plan of a folder. Errors: WorkbenchError if there is none, or it is damaged or of a newer format."""
        path = folder / INDEX
        try:
            found = json.loads(path.read_bytes())
            number = found["format"]
            if isinstance(number, int) and number <= FORMAT:
                return cls._of(found)
        except FileNotFoundError as error:
            raise WorkbenchError(f"{folder} holds no recording of activations: there is no {INDEX}") from error
        except OSError as error:
            raise WorkbenchError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError) as error:
            raise WorkbenchError(f"{path} is not the index of a recording, or is damaged: {reason(error)}") from error
        raise WorkbenchError(f"{path} has the format {number!r}; this version of the workbench reads up to {FORMAT}")

    @classmethod
    def _of(cls, found: dict[str, Any]) -> Self:
        """The plan of the content of `index.json`."""
        sites = {name: Site(**_tuples(one)) for name, one in found["sites"].items()}
        plan = cls(**_tuples(found) | {"sites": sites})
        if sum(plan.shards) != plan.rows or not plan.sites or plan.row_bytes <= 0:
            raise ValueError(f"{plan.rows} rows in shards of {sum(plan.shards)}")
        return plan


def _tuples(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _positions_in_words(positions: Sequence[int] | None) -> str:
    return "of every token" if positions is None else str(list(positions))


def _sites_in_words(sites: Mapping[str, Site]) -> str:
    said = [
        f"{name} in {site.dtype}{'' if site.heads is None else f' of heads {site.heads}'}"
        for name, site in sites.items()
    ]
    return ", ".join(said if len(said) <= 4 else [*said[:2], "…", said[-1]])


def positions_of(positions: Sequence[int] | None, length: int) -> list[int]:
    """The stored positions of a text of a length, in order, each once.

    Errors: WorkbenchError for a position that such a text does not have.
    """
    if positions is None:
        return list(range(length))
    if outside := [position for position in positions if not -length <= position < length]:
        raise WorkbenchError(f"position {outside[0]} is outside a text of {length} tokens")
    return sorted({position % length for position in positions})


def rows_in(batch: Batch, positions: Sequence[int] | None) -> int:
    """The number of rows that are stored of a batch."""
    return len(batch.rows) * len(positions_of(positions, batch.ids.shape[1]))
