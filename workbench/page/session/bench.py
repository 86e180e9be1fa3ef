"""The checkpoints that the page may open, and their loaded models.

A `Bench` holds the checkpoints named at start. It checks the checkpoints and prompts that a browser sends: a checkpoint
must have been named at start, and a prompt must be neither empty nor too long. `map_requests` checks layers and heads.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hooks import OlmoForCausalLM
from workbench import features
from workbench.analyses.support.translators import TunedLens, embedded_lenses
from workbench.chat import Conversation
from workbench.checkpoints import (
    Checkpoint,
    Residents,
    finals,
    is_here,
    locate,
    main_run,
    open_weights,
    outline,
    pick,
    tokenizer_of,
)
from workbench.checkpoints.loading import suited_dtype
from workbench.checkpoints.names import split_id
from workbench.embedded_texts import pair_sets
from workbench.errors import WorkbenchError
from workbench.features import Dictionary
from workbench.page.options import ASKS_ABOVE
from workbench.page.session.checkpoint_labels import label
from workbench.page.session.model_lock import ModelLock
from workbench.page.session.opened_prompt import (
    MOST_TOKENS,
    OpenedPrompt,
    check_length,
    check_not_empty,
    ids_of_prompt,
    most_tokens,
)
from workbench.page.session.prompts import Prompt, prompt_ids
from workbench.page.session.result_cache import ResultCache
from workbench.page.session.series_roots import check_root, leads_out
from workbench.page.session.speed import Speed
from workbench.page.session.text_sets import TextSet, TextSets
from workbench.progress import Progress, report
from workbench.text_pairs import TextPairs
from workbench.texts import Texts

MOST_OF_A_RUN = 32  # checkpoints of a main run that the page shows
KEPT_RESULTS = 64
KEPT_PROMPTS = 8
KEPT_BYTES = 256_000_000
Value = TypeVar("Value")


class Bench:
    """The checkpoints that may be opened, by id and in order, and their loaded models.

    Args:
        known: the checkpoints that may be opened; at least one.
        budget: maximum total size of the loaded models that are kept, in bytes.
        default: id of the checkpoint that the page opens first; None means the last of `known`.
        asks_above: seconds from which a view is computed only after a click (see `prices`).
        texts: a set of texts that the page opens with; None means a built-in one.
        dictionaries: names of dictionaries of features to show (see `features.load`), besides the embedded ones, which
            are shown if the embedded series is.
        lenses: folders of tuned lenses (see `TunedLens.load`), besides the embedded ones, which are known if the
            embedded series is.
        saved: path of a saved result that the page shows in a tab of its own; "" for none.
        options: how checkpoints are loaded: `dtype`, `device`, `quantize`; None means the default.

    Errors: WorkbenchError if `known` is empty or `default` is not in it.
    """

    def __init__(
        self,
        known: Sequence[Checkpoint],
        budget: int,
        *,
        default: str | None = None,
        asks_above: float = ASKS_ABOVE,
        texts: TextSet | None = None,
        dictionaries: Sequence[str] = (),
        lenses: Sequence[str] = (),
        saved: str = "",
        **options: str | None,
    ) -> None:
        if not known:
            raise WorkbenchError("there are no checkpoints to show; give a series or a checkpoint")
        self.known = {checkpoint.id: checkpoint for checkpoint in known}
        self.default, self.asks_above = default or known[-1].id, asks_above
        self.options = {name: value for name, value in options.items() if value is not None}
        self.residents = Residents(budget, **options)
        self.offered: OrderedDict[str, Any] = OrderedDict()  # calls whose results can be downloaded, by key
        self.sets, self.saved = TextSets(texts), saved
        own = [name for name in features.embedded() if split_id(name)[0] in {checkpoint.name for checkpoint in known}]
        self.dictionaries = tuple(dict.fromkeys([*dictionaries, *own]))
        self.lenses = tuple(dict.fromkeys([*lenses, *embedded_lenses({one.name for one in known})]))
        self.results = ResultCache(KEPT_RESULTS, KEPT_BYTES)
        self._prompts = ResultCache(KEPT_PROMPTS, KEPT_BYTES)  # tokenised
        self._dictionaries: dict[str, Dictionary] = {}  # by name
        self._lenses: dict[str, TunedLens] = {}  # by name
        self._speeds: dict[str, Speed] = {}  # by series
        self._outlines: dict[str, OlmoForCausalLM] = {}  # by checkpoint
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}  # by checkpoint
        self.reading: tuple[str, float] | None = None  # id of the checkpoint being loaded, and fraction done
        self.lock = ModelLock()
        self.checkpoint(self.default)

    @property
    def dtype(self) -> str:
        """The dtype in which checkpoints are loaded: its name, or "auto" for the dtype of the files."""
        return self.options.get("dtype") or suited_dtype(self.options.get("device"), self.options.get("quantize"))

    def checkpoint(self, name: object) -> Checkpoint:
        """The checkpoint with an id. Raises WorkbenchError if it was not named at start."""
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
        """The main run of a checkpoint's series, as the page shows it: `pick` leaves at most `MOST_OF_A_RUN` of it."""
        whole = self.main_run(self.series_of(name))
        return pick(whole, MOST_OF_A_RUN) if len(whole) > MOST_OF_A_RUN else whole

    def run_here(self, name: object) -> list[Checkpoint]:
        """The checkpoints of `run_of` whose files are on this machine, so that showing a run downloads nothing."""
        return [checkpoint for checkpoint in self.run_of(name) if is_here(checkpoint)]

    def finals(self, series: str) -> list[Checkpoint]:
        """The last checkpoints of a series that are on this machine; they differ in data order only."""
        return [checkpoint for checkpoint in finals(self._of(series)) if is_here(checkpoint)]

    def dictionary(self, name: object) -> Dictionary:
        """A dictionary of features by its name; it stays loaded.

        Errors: WorkbenchError if it was not named at start; those of `features.load`.
        """
        if not isinstance(name, str) or name not in self.dictionaries:
            there = ", ".join(self.dictionaries) or "none; start the page with --dictionary FOLDER"
            raise WorkbenchError(f"no dictionary {name!r} on this page; there are {there}")
        if name not in self._dictionaries:
            self._dictionaries[name] = features.load(name)
        return self._dictionaries[name]

    def lens(self, name: str) -> TunedLens:
        """A tuned lens by its name, one of `lenses`; it stays loaded. Errors: those of `TunedLens.load`."""
        if name not in self._lenses:
            self._lenses[name] = TunedLens.load(name)
        return self._lenses[name]

    def _of(self, series: str) -> list[Checkpoint]:
        """All checkpoints of a series, except those whose folder lies outside the series' folder."""
        return [one for one in self.known.values() if one.name == series and leads_out(one) is None]

    def load(self, name: object, progress: Progress | None = None) -> tuple[OlmoForCausalLM, PreTrainedTokenizerBase]:
        """A checkpoint's model and tokenizer; the ones used last stay loaded, within the budget of `residents`.

        Errors: WorkbenchError if the checkpoint was not named at start, lies outside its series' folder, or has no
        tokenizer.
        """
        known = self.checkpoint(name).id
        check_root(self.known[known])
        began, was_loaded = time.monotonic(), known in self.residents.ids

        def tell(fraction: float, text: str) -> None:
            self.reading = known, fraction
            report(progress, fraction, text)

        try:
            model, tokenizer = self.residents.load(known, tell)
        finally:
            reading = self.reading
            if reading is not None and reading[0] == known:  # another request may be loading another checkpoint
                self.reading = None
        if not was_loaded:
            self.speed_of(known).loads.measured(self.file_bytes(known), time.monotonic() - began)
        return model, _required_tokenizer(tokenizer, known)

    def speed_of(self, name: object) -> Speed:
        """How fast the models of a checkpoint's series run and load here, from the runs and loads so far."""
        return self._speeds.setdefault(self.series_of(name), Speed())

    def file_bytes(self, name: object) -> int:
        """Bytes of a checkpoint's weights in its files."""
        return open_weights(locate(self.checkpoint(name))).nbytes

    def outline(self, name: object) -> OlmoForCausalLM:
        """A checkpoint's model, without weights if it is not loaded (see `checkpoints.outline`)."""
        known = self.checkpoint(name)
        if self.is_loaded(known.id):
            return self.load(known.id)[0]
        if known.id not in self._outlines:
            self._outlines[known.id] = outline(known, dtype=self.dtype)
        return self._outlines[known.id]

    def is_loaded(self, name: object) -> bool:
        """Whether a checkpoint's model is in memory."""
        return self.checkpoint(name).id in self.residents.ids

    def shape_of(self, name: object) -> tuple[int, int]:
        """(layers, heads of each layer) of a checkpoint."""
        config = self.outline(name).config
        return config.num_hidden_layers, config.num_attention_heads

    def tokens(self, name: object, prompt: Prompt) -> Tensor:
        """The token ids of a prompt, 1 pos, on the device of the checkpoint's model, or on the CPU if it is not loaded.

        Errors: those of `read`.
        """
        model = self.outline(name)
        ids = self._tokenised(name, model, self.tokenizer(name), prompt, MOST_TOKENS)[0]
        return ids if model.device.type == "meta" else ids.to(model.device)

    def texts(self, name: object, chosen: str) -> Texts:
        """The tokens of a set of texts (see `TextSets.get`), by a checkpoint's tokenizer.

        Errors: those of `TextSets.get`, and WorkbenchError for a text that is longer than the model takes.
        """
        found, key = self.sets.get(chosen), ("texts", self.checkpoint(name).id, chosen)
        texts = self.results.get(key)
        if texts is None:
            texts = Texts.of(self.tokenizer(name), found.strings, found.labels)
            most = most_tokens(self.outline(name), MOST_TOKENS)
            if texts.longest > most:
                which = texts.lengths.index(texts.longest) + 1
                raise WorkbenchError(
                    f"text {which:,} of {found.title} has {texts.longest:,} tokens; this model takes at most {most:,} "
                    "on this page: shorten it, or leave it out"
                )
            self.results.put(key, texts)
        return texts

    def pairs(self, name: object, chosen: str) -> TextPairs:
        """A built-in set of pairs of prompts (see `pair_sets`), by a checkpoint's tokenizer.

        Errors: WorkbenchError for another name; those of `TextPairs.read`, such as an answer that is not one token.
        """
        if chosen not in pair_sets():
            raise WorkbenchError(f"no set of pairs {chosen!r:.60}; choices: {', '.join(pair_sets())}")
        key = "pairs", self.checkpoint(name).id, chosen
        pairs = self.results.get(key)
        if pairs is None:
            longest = most_tokens(self.outline(name), MOST_TOKENS)
            pairs = TextPairs.read(chosen, self.tokenizer(name), longest=longest)
            self.results.put(key, pairs)
        return pairs

    def tokenizer(self, name: object) -> PreTrainedTokenizerBase:
        """A checkpoint's tokenizer; its model is not loaded."""
        known = self.checkpoint(name)
        if self.is_loaded(known.id):
            return self.load(known.id)[1]
        check_root(known)
        if known.id not in self._tokenizers:
            self._tokenizers[known.id] = _required_tokenizer(tokenizer_of(known), known.id)
        return self._tokenizers[known.id]

    def status(self) -> dict[str, Any]:
        """The server's state, for display on the page: loaded models, bytes, budget, device, the load in progress."""
        loading = self.reading and {"checkpoint": label(self.known[self.reading[0]]), "part": self.reading[1]}
        return {
            "models": [label(self.known[name]) for name in self.residents.ids],
            "bytes": self.residents.nbytes,
            "budget": self.residents.budget,
            "device": self.options.get("device", "cpu"),
            "loading": loading,
        }

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The cached result of a key. If there is none, run `make()` under the model's lock and cache its result."""
        found = self.results.get(key)
        if found is None:
            with self.lock.held():
                found = self.results.get(key)  # another request may have made it during the wait
                if found is None:
                    found = make()
                    self.results.put(key, found)
        return found

    def count(self, name: object, prompt: Prompt, progress: Progress | None = None) -> int:
        """The number of tokens of a prompt, by a checkpoint's tokenizer."""
        return len(prompt_ids(self.load(name, progress)[1], prompt))

    def read(
        self, name: object, prompt: Prompt, most: int = MOST_TOKENS, progress: Progress | None = None
    ) -> OpenedPrompt:
        """A loaded checkpoint and a tokenised prompt. Raises WorkbenchError for no text or more than `most` tokens."""
        check_not_empty(prompt)  # before the model is loaded
        model, tokenizer = self.load(name, progress)
        ids, conversation = self._tokenised(name, model, tokenizer, prompt, most)
        known, ids = self.checkpoint(name).id, ids.to(model.device)
        return OpenedPrompt(known, prompt, model, tokenizer, ids, self.speed_of(known), conversation)

    def same_tokens(self, one: str, other: str, prompt: Prompt) -> Tensor:
        """The token ids of a prompt, 1 pos. Raises WorkbenchError unless two checkpoints tokenise it equally."""
        ids = [self.tokens(name, prompt).cpu() for name in (one, other)]
        if not torch.equal(*ids):
            raise WorkbenchError(f"{one} and {other} tokenise this prompt differently and cannot be compared")
        return ids[0]

    def _tokenised(
        self, name: object, model: OlmoForCausalLM, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, most: int
    ) -> tuple[Tensor, Conversation | None]:
        """`ids_of_prompt`; the last few are kept, because each view of a prompt needs them.

        Errors: WorkbenchError for no text, or for more than `most` tokens or than the model's context.
        """
        key = self.checkpoint(name).id, prompt
        found = self._prompts.get(key)
        if found is None:
            found = ids_of_prompt(tokenizer, prompt)
            self._prompts.put(key, found)
        check_length(model, found[0], most)
        return found


def _required_tokenizer(tokenizer: PreTrainedTokenizerBase | None, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint. Raises WorkbenchError if it has none."""
    if tokenizer is None:
        raise WorkbenchError(f"{name} has no tokenizer, so the page cannot tokenise a prompt for it")
    return tokenizer
