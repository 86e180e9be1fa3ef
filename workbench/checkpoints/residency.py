"""Loaded models kept within a byte budget, so that going back to one costs nothing."""

import threading
from collections import OrderedDict

import torch
from transformers import PreTrainedTokenizerBase

from hooks import OlmoForCausalLM
from workbench.checkpoints.catalog import Checkpoint
from workbench.checkpoints.loading import device_of, estimate, load, readable
from workbench.errors import WorkbenchError
from workbench.progress import Progress

Loaded = tuple[OlmoForCausalLM, PreTrainedTokenizerBase | None]


class Residents:
    """Models by checkpoint, at most `budget` bytes of them; the least recently used goes first.

        residents = Residents(4 * 10**9, dtype="bfloat16")
        model, tokenizer = residents.load("tiny-olmo@step400")

    Room is made before a model is read, so that the budget holds while it loads. All threads may use it; one loads at
    a time, while the others go on with what is there. A model that was dropped lives on in the hands of whoever still
    uses it.
    Errors: WorkbenchError if there is no such device.
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

    def load(self, checkpoint: str | Checkpoint, progress: Progress | None = None) -> Loaded:
        """The model and the tokenizer of a checkpoint, loaded unless they are kept.

        Errors: WorkbenchError with both numbers if it is larger than the budget, and those of `checkpoints.load`.
        """
        name = checkpoint if isinstance(checkpoint, str) else checkpoint.id
        found = self._known(name)
        if found is None:
            with self._loading:
                found = self._known(name) or self._load(name, progress)
        return found

    def _known(self, name: str) -> Loaded | None:
        """What is kept of a checkpoint."""
        with self._lock:
            if name not in self._kept:
                return None
            self._kept.move_to_end(name)
            return self._kept[name][0]

    def _load(self, name: str, progress: Progress | None) -> Loaded:
        """Make room, then read a checkpoint."""
        size = self._size(name)
        if size > self.budget:
            raise WorkbenchError(
                f"{name} takes {readable(size)} and the budget for loaded models is {readable(self.budget)}"
            )
        self._make_room(size)
        loaded = load(name, dtype=self._dtype, device=self._device, quantize=self._quantize, progress=progress)
        with self._lock:
            self._kept[name] = loaded, size
        return loaded

    def make_room(self, checkpoint: str | Checkpoint) -> None:
        """Let go of models until another one, which somebody else loads, fits beside those that stay."""
        name = checkpoint if isinstance(checkpoint, str) else checkpoint.id
        self._make_room(self._size(name))

    def _size(self, name: str) -> int:
        """The bytes that a checkpoint takes once it is loaded."""
        return estimate(name, dtype=self._dtype, device=self._device, quantize=self._quantize).resident

    def _make_room(self, size: int) -> None:
        with self._lock:
            while self._kept and self.nbytes + size > self.budget:
                self._kept.popitem(last=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the models that are kept."""
        return sum(size for _, size in list(self._kept.values()))

    @property
    def ids(self) -> tuple[str, ...]:
        """The checkpoints that are kept, least recently used first."""
        return tuple(self._kept)
