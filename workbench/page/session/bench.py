"""What the page may open, and the one lock under which models run.

A `Bench` knows the checkpoints named at start. Everything that comes from a browser goes through it and is checked
here: a checkpoint that was not named, an empty or over-long prompt, a head that is not there.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hooks import OlmoForCausalLM
from workbench.checkpoints import Checkpoint, Residents, finals, is_here, main_run, pick
from workbench.checkpoints.loading import suited_dtype
from workbench.errors import WorkbenchError
from workbench.page.session.result_cache import ResultCache
from workbench.progress import Progress, report
from workbench.tokens import token_labels

MOST_TOKENS = 4096  # of a prompt, unless the model takes fewer
MOST_ATTENTION_TOKENS = 2048
MOST_OF_A_RUN = 32  # checkpoints
KEPT_RESULTS = 64
KEPT_BYTES = 256_000_000
Result = TypeVar("Result")
PATIENCE = 120.0  # seconds to wait for the model before giving up with a message


@dataclass(frozen=True)
class OpenedPrompt:
    """A checkpoint and a prompt, loaded and tokenised."""

    checkpoint: str
    prompt: str
    model: OlmoForCausalLM
    tokenizer: PreTrainedTokenizerBase
    ids: Tensor  # 1 pos

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The tokens as text."""
        return token_labels(self.ids[0].tolist(), self.tokenizer)


class Bench:
    """The checkpoints that may be opened, by id, in order, and the models of them that are loaded.

    `budget` is the most bytes of models to keep; `options` (dtype, device, quantize) say how they are loaded.
    """

    def __init__(
        self, known: Sequence[Checkpoint], budget: int, *, default: str | None = None, **options: str | None
    ) -> None:
        if not known:
            raise WorkbenchError("no checkpoints to show; name a series or a checkpoint")
        self.known = {checkpoint.id: checkpoint for checkpoint in known}
        self.default = default or known[-1].id
        self.options = {name: value for name, value in options.items() if value is not None}
        self.residents = Residents(budget, **options)
        self.offered: OrderedDict[str, Any] = OrderedDict()  # what can be downloaded, by key
        self.results = ResultCache(KEPT_RESULTS, KEPT_BYTES)
        self.reading: tuple[str, float] | None = None  # the checkpoint that is being loaded, and how far it is
        self._lock = threading.Lock()
        self._waiting = 0
        self.checkpoint(self.default)

    @property
    def dtype(self) -> str:
        """What checkpoints are loaded in: a dtype's name, or "auto" for the files' own."""
        return self.options.get("dtype") or suited_dtype(self.options.get("device"), self.options.get("quantize"))

    def checkpoint(self, name: object) -> Checkpoint:
        """The checkpoint of this id. Raises WorkbenchError for one that was not named at start."""
        if not isinstance(name, str) or name not in self.known:
            some = ", ".join(list(self.known)[:6])
            raise WorkbenchError(f"no checkpoint {name!r} on this page; there are {len(self.known)}: {some} …")
        return self.known[name]

    def choices(self) -> list[tuple[str, str]]:
        """(label, id) of every checkpoint, for a menu."""
        return [(label(checkpoint), name) for name, checkpoint in self.known.items()]

    def series_of(self, name: object) -> str:
        """The name of the series that a checkpoint belongs to."""
        return self.checkpoint(name).name

    def main_run(self, series: str) -> list[Checkpoint]:
        """The checkpoints of a series' main run, in order."""
        return main_run(self._of(series))

    def run_of(self, name: object) -> list[Checkpoint]:
        """What the page shows of a checkpoint's series: its main run, or `MOST_OF_A_RUN` of it where it is longer."""
        whole = self.main_run(self.series_of(name))
        return pick(whole, MOST_OF_A_RUN) if len(whole) > MOST_OF_A_RUN else whole

    def run_here(self, name: object) -> list[Checkpoint]:
        """Those of `run_of` whose files are on this machine: nothing is downloaded that nobody asked for."""
        return [checkpoint for checkpoint in self.run_of(name) if is_here(checkpoint)]

    def finals(self, series: str) -> list[Checkpoint]:
        """The last checkpoints of a series, which differ by data order only, as far as they are on this machine."""
        return [checkpoint for checkpoint in finals(self._of(series)) if is_here(checkpoint)]

    def _of(self, series: str) -> list[Checkpoint]:
        """All checkpoints of a series, but those that lead out of it."""
        return [one for one in self.known.values() if one.name == series and leads_out(one) is None]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The model's lock: one run at a time. Raises WorkbenchError when others keep it too long."""
        self._waiting += 1
        try:
            if not self._lock.acquire(timeout=PATIENCE):
                raise WorkbenchError(f"busy: {self._waiting - 1} before you; try again in a moment")
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._lock.release()

    def give_way(self) -> None:
        """Between two steps of a long run, let whoever waits have a turn."""
        if self._waiting:
            self._lock.release()
            time.sleep(0.002)
            self._lock.acquire()

    def load(self, name: object, progress: Progress | None = None) -> tuple[OlmoForCausalLM, PreTrainedTokenizerBase]:
        """A named checkpoint's model and tokenizer; the last ones used are kept, within the budget of `residents`."""
        known = self.checkpoint(name).id
        check_root(self.known[known])

        def tell(fraction: float, text: str) -> None:
            self.reading = known, fraction
            report(progress, fraction, text)

        try:
            model, tokenizer = self.residents.load(known, tell)
        finally:
            reading = self.reading
            if reading is not None and reading[0] == known:  # others may be reading something else
                self.reading = None
        if tokenizer is None:
            raise WorkbenchError(f"{known} comes without a tokenizer; the page cannot read a prompt for it")
        return model, tokenizer

    def status(self) -> dict[str, Any]:
        """What people may want to know while they wait: models and their bytes, and what is being loaded."""
        loading = self.reading and {"checkpoint": label(self.known[self.reading[0]]), "part": self.reading[1]}
        return {
            "models": [label(self.known[name]) for name in self.residents.ids],
            "bytes": self.residents.nbytes,
            "budget": self.residents.budget,
            "device": self.options.get("device", "cpu"),
            "loading": loading,
        }

    def once(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """`make()` under the model's lock, or at once what it returned for this key lately."""
        found = self.results.get(key)
        if found is None:
            with self.turn():
                found = self.results.get(key)  # somebody may have made it in the meantime
                if found is None:
                    found = make()
                    self.results.put(key, found)
        return found

    def count(self, name: object, prompt: object, progress: Progress | None = None) -> int:
        """How many tokens a prompt has for a checkpoint."""
        return len(self.load(name, progress)[1](str(prompt or ""))["input_ids"])

    def read(
        self, name: object, prompt: object, most: int = MOST_TOKENS, progress: Progress | None = None
    ) -> OpenedPrompt:
        """A checkpoint with a prompt. Raises WorkbenchError if the prompt is empty or longer than can be shown."""
        if not isinstance(prompt, str) or not prompt.strip():
            raise WorkbenchError("the prompt is empty; write a text, or choose an example")
        model, tokenizer = self.load(name, progress)
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])  # 1 pos
        most = most_tokens(model, most)
        if ids.shape[1] > most:
            raise WorkbenchError(f"the prompt has {ids.shape[1]:,} tokens; this view takes at most {most:,}")
        return OpenedPrompt(self.checkpoint(name).id, prompt, model, tokenizer, ids.to(model.device))

    def same_tokens(self, one: OpenedPrompt, other: OpenedPrompt) -> None:
        """Raise WorkbenchError unless two checkpoints read the prompt as the same tokens."""
        if one.ids.shape != other.ids.shape or not torch.equal(one.ids.cpu(), other.ids.cpu()):
            raise WorkbenchError(f"{one.checkpoint} and {other.checkpoint} tokenise differently and cannot be compared")


def most_tokens(model: OlmoForCausalLM, most: int) -> int:
    """How many tokens a text may have: `most`, or as many as the model takes."""
    return min(most, model.config.max_position_embeddings)


def leads_out(checkpoint: Checkpoint) -> Path | None:
    """The real folder of a checkpoint of a local series, where that lies outside the series' folder."""
    root = Path(checkpoint.name)
    real = (root / (checkpoint.revision or "")).resolve()
    return real if root.is_dir() and not real.is_relative_to(root.resolve()) else None


def check_root(checkpoint: Checkpoint) -> None:
    """Raise WorkbenchError for a checkpoint that leads out of its series."""
    real = leads_out(checkpoint)
    if real is not None:
        raise WorkbenchError(f"{checkpoint.id} leads out of its series, to {real}; to open it, name that with --series")


def label(checkpoint: Checkpoint) -> str:
    """How a checkpoint is called on the page: `tiny-olmo · step 4,000 · 16 M tokens`."""
    name, _, revision = checkpoint.id.partition("@")
    parts = [name.rstrip("/").rsplit("/", 1)[-1]]
    if checkpoint.step is not None:
        parts.append(f"step {checkpoint.step:,}")
        extra = revision.removeprefix(f"step{checkpoint.step}").strip("-")
        parts += [extra] if extra and not extra.startswith("tokens") and "step" not in extra else []
    elif revision:
        parts.append(revision)
    if checkpoint.tokens:
        parts.append(f"{amount(checkpoint.tokens)} tokens")
    return " · ".join(parts)


def amount(number: int) -> str:
    """A large count in three digits: 16 M, 4.03 T."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
