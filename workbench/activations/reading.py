"""`Activations`: a recording on disk, read as memory maps."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from workbench.activations.plan import Plan
from workbench.checkpoints.loading import readable
from workbench.errors import WorkbenchError
from workbench.texts import Texts

RowIndex = int | slice | Sequence[int] | Tensor
"""Numbers of rows, a mask of rows, or a slice."""


class Minibatch(Mapping[str, Tensor]):
    """Some rows of a recording: `batch["blocks.2.resid_post"]` is row d_model; `batch.rows` are the rows' numbers."""

    def __init__(self, rows: Tensor, tensors: Mapping[str, Tensor]) -> None:
        self.rows, self._tensors = rows, tensors

    def __getitem__(self, site: str) -> Tensor:
        return self._tensors[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class StoredSite:
    """The activations of one site, row …, of which only what is indexed is read from the disk.

        site.shape, site.dtype, len(site)
        site[7]; site[100:200]; site[[5, 3]]; site[mask]      # tensors in memory: d_model; row d_model

    Rows are in the order of the texts and their positions.
    """

    def __init__(self, shards: Sequence[Tensor], stored_at: Tensor) -> None:
        self._shards, self._stored_at = shards, stored_at
        self._starts = torch.tensor([0, *(len(shard) for shard in shards)]).cumsum(0)
        self.shape = (len(stored_at), *shards[0].shape[1:])
        self.dtype = shards[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{' × '.join(map(str, self.shape))} {self.dtype} on disk>"

    def __getitem__(self, rows: RowIndex) -> Tensor:
        if isinstance(rows, int):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"row {rows} is outside {len(self)} rows")
            return self[[rows % len(self)]][0]
        return self.stored(self._stored_at[rows].contiguous())

    def stored(self, places: Tensor) -> Tensor:
        """The rows at some places in the order of storage, which is that of the shards."""
        found = torch.empty(len(places), *self.shape[1:], dtype=self.dtype)
        shard_of = torch.bucketize(places, self._starts, right=True) - 1
        for number in shard_of.unique().tolist():
            here = torch.where(shard_of == number)[0]
            found[here] = self._shards[number][places[here] - self._starts[number]]
        return found


class Activations(Mapping[str, StoredSite]):
    """A recording, by site. The activations stay on the disk until they are indexed.

        stored = Activations.open("activations/")
        stored["blocks.2.resid_post"][:10]      # row d_model
        stored.text, stored.position, stored.token      # of each row
        stored.rows_of(3)                       # the rows of text 3
        stored.labels                           # of each text, or None

    Rows are in the order of the texts, and of the positions in a text.

    Attributes:
        folder: where it is.
        plan: what was recorded: checkpoint, digests, sites, positions, versions.
        text, position: the number of the text and the position of each row: row.
    """

    def __init__(self, folder: Path, plan: Plan, shards: Sequence[Mapping[str, Tensor]]) -> None:
        self.folder, self.plan = folder, plan
        text, position = (torch.cat([shard[name] for shard in shards]).long() for name in ("text", "position"))
        # Texts are stored in the order of their lengths, but the rows of one text lie together, in their order.
        self._stored_at = text.argsort(stable=True)
        self.text, self.position = text[self._stored_at], position[self._stored_at]
        self._sites = {name: StoredSite([shard[name] for shard in shards], self._stored_at) for name in plan.sites}

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """The recording of a folder. Reads the index, the headers of the files, and where each row comes from.

        Errors: WorkbenchError if the folder holds no recording, or an incomplete one.
        """
        folder = Path(folder)
        plan = Plan.read(folder)
        shards = [plan.open_shard(folder, number) for number in range(len(plan.shards))]
        whole = [shard for shard in shards if shard is not None]
        if len(whole) < len(shards) or plan.open_texts(folder) is None:
            raise WorkbenchError(
                f"{folder} holds {len(whole)} of {len(shards)} shards of a recording; call `record` with the same "
                "arguments to make the rest"
            )
        return cls(folder, plan, whole)

    def __getitem__(self, site: str) -> StoredSite:
        if site not in self._sites:
            raise KeyError(f"{site!r} was not recorded; {self.folder} holds {', '.join(self._sites)}")
        return self._sites[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        of = f" of {self.plan.checkpoint}" if self.plan.checkpoint else ""
        return (
            f"Activations({self.folder}{of}: {self.rows:,} rows of {self.plan.count:,} texts, {readable(self.nbytes)}: "
            f"{', '.join(self)})"
        )

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.plan.rows

    @property
    def nbytes(self) -> int:
        """Bytes of all activations."""
        return self.rows * sum(site.nbytes for site in self.plan.sites.values())

    @property
    def labels(self) -> tuple[str, ...] | None:
        """A label for each text, or None."""
        return self.plan.labels

    @cached_property
    def texts(self) -> Texts:
        """The texts that were recorded."""
        ids, lengths = self._ids()
        rows = torch.nn.utils.rnn.pad_sequence(ids.split(lengths.tolist()), batch_first=True)
        return Texts(rows, torch.arange(rows.shape[1]) < lengths[:, None], self.labels)

    @cached_property
    def token(self) -> Tensor:
        """The token id of each row: row."""
        ids, lengths = self._ids()
        return ids[(lengths.cumsum(0) - lengths)[self.text] + self.position]

    def rows_of(self, text: int) -> range:
        """The rows of one text, in the order of their positions. Errors: WorkbenchError if there is no such text."""
        if not 0 <= text < self.plan.count:
            raise WorkbenchError(f"no text {text}; there are {self.plan.count}, numbered from 0")
        start, end = torch.searchsorted(self.text, torch.tensor([text, text + 1])).tolist()
        return range(start, end)

    def batches(self, size: int, *, sites: Sequence[str] | None = None, seed: int | None = None) -> Iterator[Minibatch]:
        """All rows, once each, in batches of `size` rows; the last may be smaller.

        Args:
            size: rows of a batch.
            sites: the sites to read; None for all.
            seed: rows are in a random order, which the seed decides. None: in the order of storage, which is the
                fastest to read.

        Errors: WorkbenchError for a size below 1; KeyError for a site that was not recorded.
        """
        if size < 1:
            raise WorkbenchError(f"size is {size}; a batch needs at least 1 row")
        wanted = {name: self[name] for name in (self if sites is None else sites)}
        if seed is None:
            order = self._stored_at.argsort()
        else:
            order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(seed))
        for rows in order.split(size):
            yield Minibatch(rows, {name: site[rows] for name, site in wanted.items()})

    def check(self) -> None:
        """Read everything and compare it with the digests.

        Errors: WorkbenchError with the name of a damaged file; `record` with the same arguments makes it again.
        """
        plan = self.plan
        for number in range(len(plan.shards)):
            if plan.open_shard(self.folder, number, check_digest=True) is None:
                raise WorkbenchError(f"{plan.shard_path(self.folder, number)} is damaged; `record` makes it again")
        if plan.open_texts(self.folder, check_digest=True) is None:
            raise WorkbenchError(f"the token ids in {self.folder} are damaged; `record` makes them again")

    def to_arrow(self, path: str | Path) -> None:
        """Write the recording to an Arrow stream: `text`, `position`, `token`, `label` (if there are any), the sites.

            datasets.Dataset.from_file("activations.arrow")     # of Hugging Face, memory-mapped
            pyarrow.ipc.open_stream(pyarrow.memory_map("activations.arrow")).read_all()

        A site is a column of lists of fixed length; its metadata says the shape of an activation and the dtype.
        bfloat16, which Arrow does not have, becomes float32, which represents it exactly.

        Errors: WorkbenchError if the file cannot be written; an existing file is then unchanged.
        """
        from workbench.activations.arrow import to_arrow  # which imports this module

        to_arrow(self, path)

    def _ids(self) -> tuple[Tensor, Tensor]:
        """The token ids of all texts, one after the other, and the length of each text."""
        found = self.plan.open_texts(self.folder)
        if found is None:
            raise WorkbenchError(f"the token ids in {self.folder} are missing or damaged; `record` makes them again")
        return found["ids"].long(), found["lengths"].long()
