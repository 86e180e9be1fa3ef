"""A cache of loaded models with a limit in bytes."""

import threading
from collections import OrderedDict

import torch
from transformers import PreTrainedTokenizerBase

from hooks import OlmoForCausalLM
from workbench.checkpoints.catalog import CheckpointLike, id_of
from workbench.checkpoints.loading import device_of, estimate, load, readable
from workbench.errors import WorkbenchError
from workbench.progress import Progress

Loaded = tuple[OlmoForCausalLM, PreTrainedTokenizerBase | None]


class Residents:
    """A cache of loaded models by checkpoint, of at most `budget` bytes; the least recently used is dropped first.

        residents = Residents(4 * 10**9, dtype="bfloat16")
        model, tokenizer = residents.load("tiny-olmo@step400")

    Old models are dropped before a new one is read, so that the budget also holds during loading. A dropped model stays
    in memory while other code has a reference to it. The cache is thread-safe: one thread loads at a time, and other
    threads can get cached models meanwhile.

    Args:
        budget: limit in bytes.
        dtype, device, quantize: as in `checkpoints.load`.

    Errors: WorkbenchError if the device does not exist.
    """

    def __init__(
        self,
        budget: int,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        quantize: str | None = None,
    ) -> None:
        self.budget = budget
        self._dtype, self._device, self._quantize = dtype, device_of(device), quantize
        self._kept: OrderedDict[str, tuple[Loaded, int]] = OrderedDict()
        self._lock, self._loading = threading.Lock(), threading.Lock()

    def load(self, checkpoint: CheckpointLike, progress: Progress | None = None) -> Loaded:
        """The model and the tokenizer of a checkpoint, from the cache or loaded now.

        Errors: WorkbenchError with both sizes if the model is larger than the budget, and those of `checkpoints.load`.
        """
        name = id_of(checkpoint)
        found = self._known(name)
        if found is None:
            with self._loading:
                found = self._known(name) or self._load(name, progress)
        return found

    def _known(self, name: str) -> Loaded | None:
        """The cached model and tokenizer of a checkpoint, or None; marks them as most recently used."""
        with self._lock:
            if name not in self._kept:
                return None
            self._kept.move_to_end(name)
            return self._kept[name][0]

    def _load(self, name: str, progress: Progress | None) -> Loaded:
        """Make room, then load a checkpoint into the cache."""
        size = self._size(name)
        if size > self.budget:
            raise WorkbenchError(
                f"{name} needs {readable(size)}, but the budget for loaded models is {readable(self.budget)}"
            )
        self._make_room(size)
        loaded = load(name, dtype=self._dtype, device=self._device, quantize=self._quantize, progress=progress)
        with self._lock:
            self._kept[name] = loaded, size
        return loaded

    def make_room(self, checkpoint: CheckpointLike) -> None:
        """Drop models until the budget has room for a checkpoint that other code will load."""
        name = id_of(checkpoint)
        self._make_room(self._size(name))

    def _size(self, name: str) -> int:
        """Bytes of a checkpoint after loading."""
        return estimate(name, dtype=self._dtype, device=self._device, quantize=self._quantize).resident

    def _make_room(self, size: int) -> None:
        with self._lock:
            while self._kept and self.nbytes + size > self.budget:
                self._kept.popitem(last=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the cached models."""
        return sum(size for _, size in list(self._kept.values()))

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the cached checkpoints, least recently used first."""
        return tuple(self._kept)
