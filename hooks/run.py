"""`Run`, the result of one call, and `Hookable`, the methods that make runs."""

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import Cache, PreTrainedModel

from .call_taps import Taps
from .capture_and_edit import Capture, Edit
from .errors import OutOfRange, UnknownSite, Unwritable, WrongType, WrongValue
from .shards import shards_of
from .sites import Sites, layer_of
from .taps import AllSeen

Captures = str | Capture | Sequence[str | Capture]
Edits = Edit | Sequence[Edit]


class Run(Mapping[str, Tensor]):
    """The result of one call: its logits, and every captured tensor by site name, in forward order.

        run["blocks.5.attn.pattern"]    # batch head query key
        run.stack("resid_post")         # layer batch pos d_model
        run.to("cpu").save("run.safetensors"); Run.load("run.safetensors")

    Attributes:
        logits: batch pos vocab; None if the run stopped before the logits.
        resid: the residual stream after the last computed block, batch pos d_model; None unless `stop_at_layer` left
            out blocks.
        past_key_values: the cache that was passed to the run, extended by it; None if there was none, or if a
            `captures_only` run stopped early.
    """

    def __init__(
        self,
        sites: Sites,
        recorded: dict[str, Tensor],
        logits: Tensor | None,
        resid: Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> None:
        self._sites, self._tensors = sites, recorded
        # "| Any" so that typed code can use these tensors without a check for None.
        self.logits: Tensor | Any = logits
        self.resid: Tensor | Any = resid
        self.past_key_values = past_key_values

    def __getitem__(self, site: str) -> Tensor:
        names = [site] if site in self._tensors else self._sites.match(site)
        if names[0] not in self._tensors:
            raise UnknownSite(f"{site!r} was not captured; this run holds {self._held()}")
        if len(names) > 1:
            raise UnknownSite(f"{site!r} matches {len(names)} sites; name one of them, or use run.stack for all blocks")
        return self._tensors[names[0]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Run({len(self)} sites, {self.nbytes / 1e6:.1f} MB: {self._held()})"

    @property
    def nbytes(self) -> int:
        """Size of the captured tensors in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def stack(self, name: str) -> Tensor:
        """The tensors of one site from every block in which it was captured, stacked: layer batch ….

        Args:
            name: the site's name within a block, such as "resid_post" or "attn.pattern".
        """
        name = self._sites.in_block(name)
        found = [site for site in self._tensors if layer_of(site)[1] == name]
        if not found:
            raise UnknownSite(f"no 'blocks.*.{name}' was captured; this run holds {self._held()}")
        first = self._tensors[found[0]]
        return torch.stack([self._tensors[site].to(first.device) for site in found])

    def to(self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None) -> "Run":
        """A copy of this run with all tensors on another device or in another dtype, as in `Tensor.to`; same cache."""
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        return self._with(lambda tensor: tensor.to(device=device or tensor.device, dtype=dtype or tensor.dtype))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything except the cache to a safetensors file, to be read by `Run.load`.

        The file is written under a temporary name and then renamed, so an interrupted save leaves no partial file.

        Raises:
            Unwritable: the file cannot be written, for example because the disk is full.
        """
        tensors = {**self._tensors, **{f"run.{name}": getattr(self, name) for name in _OWN}}
        # Copies, because the format does not allow two tensors that share memory.
        copies = {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
            if tensor is not None
        }
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            save_file(copies, unfinished, {"sites": json.dumps(self._sites.made_of)})
            unfinished.replace(path)
        except SafetensorError as error:
            raise Unwritable(f"{path} cannot be written: {error}") from error
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> "Run":
        """The run that `save` wrote to a file, without a cache.

        Raises:
            WrongValue: the file does not hold a saved run.
            FileNotFoundError: there is no such file.
        """
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                sites = Sites(**json.loads((file.metadata() or {})["sites"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, json.JSONDecodeError, TypeError) as error:
            raise WrongValue(f"{path} is not a file that Run.save wrote: {error}") from error
        own = {name: tensors.pop(f"run.{name}", None) for name in _OWN}
        return cls(sites, {name: tensors[name] for name in sites if name in tensors}, **own)

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Run":
        """A copy of this run with `change` applied to each tensor."""
        own = {name: None if (tensor := getattr(self, name)) is None else change(tensor) for name in _OWN}
        recorded = {name: change(tensor) for name, tensor in self._tensors.items()}
        return Run(self._sites, recorded, **own, past_key_values=self.past_key_values)

    def _held(self) -> str:
        names = list(self._tensors)
        shown = names if len(names) <= 6 else [*names[:3], "…", *names[-2:]]
        return ", ".join(shown) or "nothing"


_OWN = ("logits", "resid")  # the tensors of a run that are not captures


class _Laid(NamedTuple):
    """The captures and edits of an open `tapped()` block, together with those of the blocks around it."""

    captures: list[Capture]
    edits: list[Edit]
    lists: list[list[Run]]
    taps: Taps | None


NOTHING_LAID = _Laid([], [], [], None)
# The open `tapped()` blocks, by thread and model. Without an open block the dict is empty, and a plain forward pass
# (and torch.compile) only tests for that.
_laid: dict[tuple[int, int], list[_Laid]] = {}


def laid_around(model: PreTrainedModel) -> _Laid:
    """The captures and edits of the `tapped()` blocks open in this thread for this model."""
    laid = _laid.get((threading.get_ident(), id(model))) if _laid else None
    return laid[-1] if laid else NOTHING_LAID


def taps_of_this_thread(model: PreTrainedModel) -> Taps | None:
    """The taps of the `tapped()` blocks open in this thread for this model; None if there are none."""
    return laid_around(model).taps if _laid else None


class Hookable(PreTrainedModel):
    """Calls with captures and edits: `run` for one forward pass, `generate`, and `tapped` for calls in other code."""

    def run(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        capture: Captures = (),
        edits: Edits = (),
        stop_at_layer: int | None = None,
        start_at_layer: int = 0,
        resid: Tensor | None = None,
        grad: bool = False,
        past_key_values: Cache | None = None,
        logits_to_keep: int | Tensor = 0,
        captures_only: bool = False,
    ) -> Run:
        """Run one forward pass that records the sites in `capture` and applies `edits`.

        Edits of enclosing `tapped()` blocks are applied first. They are not applied again to a `resid` that is passed
        in.

        Args:
            input_ids: token ids, batch pos.
            attention_mask: batch pos, 0 at padding.
            position_ids: positions for RoPE, batch pos; by default they continue after the cached positions.
            capture: a site, a glob (`blocks.*.resid_post`), a `Capture`, or a list of these.
            edits: an `Edit` (see `hooks.edits`) or a list of them; they compose in the order given.
            stop_at_layer: compute only the blocks before this one; `run.resid` is the residual stream entering it.
            start_at_layer: start at this block, from `resid`.
            resid: the residual stream entering block `start_at_layer`, batch pos d_model.
            grad: keep the autograd graph: gradients can be computed through captured tensors and with respect to them,
                even if all weights are frozen. The captured tensors then lie on the path to the logits, which may
                change the last bits of the logits. Without `grad`, capturing changes no bit (but see `logits_to_keep`).
            past_key_values: a cache to continue from; it is extended in place.
            logits_to_keep: a number n: logits of the last n positions only, 0 for all positions; a tensor of indices:
                logits of these positions only. With 1, the last block also computes only what the last position needs,
                unless a capture or edit there needs the other positions; the two ways may differ in the last bits.
            captures_only: stop as soon as every captured site is recorded, even within a block; if patterns are
                recorded last, their attention is not applied. `logits` and `resid` are then None, and so is
                `past_key_values`, because the layers that were not reached have not extended the cache.

        Returns:
            the captured tensors, the logits or `resid`, and the cache.

        Raises:
            HooksError: an argument does not fit this model or text. Its subclasses are also built-in errors:
                `UnknownSite` a KeyError, `OutOfRange` (no such head, position or layer) an IndexError, `WrongType` a
                TypeError, and `WrongValue` (all other cases) a ValueError.
        """
        if resid is None:
            if start_at_layer:
                raise WrongValue(f"start_at_layer={start_at_layer} needs resid, the input of block {start_at_layer}")
            self._check_ids(input_ids)
        else:
            self._check_resid(resid, input_ids)
        layers = self._layers(start_at_layer, stop_at_layer)
        sites = self.sites
        captures, changes = _as_lists(capture, edits)
        if captures_only and not captures:
            raise WrongValue("captures_only=True, but nothing is captured")
        around, output = laid_around(self).edits, None
        taps = Taps(
            *(sites, captures, changes, layers, grad),
            shards=shards_of(self),
            captures_only=captures_only,
            around=around,
            resumed=resid is not None,
        )
        taps.ids_of_resid = None if resid is None else input_ids
        with torch.set_grad_enabled(grad), suppress(AllSeen):
            output = self(
                input_ids=input_ids if resid is None else None,
                inputs_embeds=resid,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=past_key_values is not None,
                return_dict=True,
                taps=taps,
                **({"logits_to_keep": logits_to_keep} if "logits" in sites else {}),
            )
        taps.captures_only = False  # a backward pass may compute blocks again
        cache = past_key_values if output is not None else None
        return Run(sites, dict(taps.recorded), getattr(output, "logits", None), taps.resid, cache)

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *args: object,
        capture: Captures = (),
        edits: Edits = (),
        **kwargs: object,
    ) -> Any:  # noqa: ANN401
        """transformers' `generate`, with edits that are applied in prefill and in every decoding step.

        Positions are counted in the whole sequence, so -1 is the last position of each forward pass. A forward pass
        skips positions that it does not compute, because they are cached or not generated yet.

        Returns:
            the output of transformers' `generate`. With `capture`, a pair: this output, and a list with a `Run` for
            each forward pass, the prompt first.
        """
        if not capture and not edits:
            return super().generate(inputs, *args, **kwargs)
        with self.tapped(capture=capture, edits=edits) as runs:
            output = super().generate(inputs, *args, **kwargs)
        return (output, runs) if capture else output

    @contextmanager
    def tapped(self, *, capture: Captures = (), edits: Edits = ()) -> Iterator[list[Run]]:
        """Apply captures and edits to every forward pass of this model in this thread while the `with` block is open.

        This includes forward passes in other code, for instance in a library. Blocks nest: the captures and edits of
        all open blocks apply. A call of `run` inside the block applies the edits of the block; it records only its own
        captures, and returns them itself.

        Yields:
            a list to which each forward pass appends a `Run`, if anything is captured. The logits of this run are those
            that the pass computed (of all positions, or of the last only); None if the bare decoder was called.
        """
        keys = [(threading.get_ident(), id(model)) for model in {self, self.base_model}]
        outer = laid_around(self)
        runs: list[Run] = []
        captures, changes = _as_lists(capture, edits)
        captures, changes, lists = outer.captures + captures, outer.edits + changes, [*outer.lists, runs]

        def started(recorded: dict[str, Tensor]) -> None:
            for each in lists:
                each.append(Run(self.sites, recorded, None))

        def ended(logits: Tensor) -> None:
            logits = logits.detach()
            for each in lists:
                each[-1].logits = logits

        callbacks = (started, ended) if captures else (None, None)
        taps = Taps(self.sites, captures, changes, strict=False, shards=shards_of(self), callbacks=callbacks)
        for key in keys:
            _laid.setdefault(key, []).append(_Laid(captures, changes, lists, taps))
        try:
            yield runs
        finally:
            for key in keys:
                _laid[key].pop()
                if not _laid[key]:
                    del _laid[key]

    @contextmanager
    def untapped(self) -> Iterator[None]:
        """Suspend the `tapped()` blocks that are open for this model in this thread while the `with` block is open."""
        keys = [(threading.get_ident(), id(model)) for model in {self, self.base_model}]
        for key in keys:
            _laid.setdefault(key, []).append(NOTHING_LAID)
        try:
            yield
        finally:
            for key in keys:
                _laid[key].pop()
                if not _laid[key]:
                    del _laid[key]

    @property
    def tapped_edits(self) -> list[Edit]:
        """The edits of the `tapped()` blocks that are open for this model in this thread, outermost block first.

        They do not hold for a copy of the model; `copy.tapped(edits=model.tapped_edits)` applies them to it.
        """
        return list(laid_around(self).edits)

    def _layers(self, start: int, stop: int | None) -> range:
        n_layers = self.config.num_hidden_layers
        try:
            layers = range(start, n_layers if stop is None else stop)
        except TypeError:
            raise WrongType(f"layers must be whole numbers, not {start!r} to {stop!r}") from None
        if not 0 <= layers.start <= layers.stop <= n_layers:
            raise OutOfRange(f"layers {layers.start} to {layers.stop} are not all in this model of {n_layers} layers")
        return layers

    def _check_ids(self, input_ids: Tensor | None) -> None:
        if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or input_ids.shape[1] == 0:
            shape = tuple(input_ids.shape) if isinstance(input_ids, Tensor) else repr(input_ids)
            raise WrongValue(f"input_ids must be token ids of shape batch pos, with at least one position; got {shape}")
        if input_ids.dtype not in (torch.int64, torch.int32):
            raise WrongValue(f"input_ids must be token ids of dtype int64 or int32, not {input_ids.dtype}")
        low, high = input_ids.aminmax()
        if low < 0 or high >= self.config.vocab_size:
            raise WrongValue(f"token id {int(low if low < 0 else high)} is not in 0 … {self.config.vocab_size - 1}")

    def _check_resid(self, resid: Tensor, input_ids: Tensor | None) -> None:
        width, dtype = self.config.hidden_size, self.dtype
        found = f"{tuple(resid.shape)} {resid.dtype}" if isinstance(resid, Tensor) else repr(resid)
        if not isinstance(resid, Tensor) or (resid.dim(), resid.shape[-1], resid.dtype) != (3, width, dtype):
            raise WrongValue(f"resid must be batch pos d_model, here (…, …, {width}) {dtype}; got {found}")
        if input_ids is not None and input_ids.shape != resid.shape[:2]:
            raise WrongValue(f"resid {tuple(resid.shape)} does not match input_ids {tuple(input_ids.shape)}")


def _as_lists(capture: Captures, edits: Edits) -> tuple[list[Capture], list[Edit]]:
    """Captures and edits as two lists, with the type of each item checked."""
    captures = [Capture(item) if isinstance(item, str) else item for item in _items(capture, str | Capture)]
    changes = list(_items(edits, Edit))
    for items, kind, source in ((captures, Capture, "sites or Captures"), (changes, Edit, "from hooks.edits")):
        if wrong := [item for item in items if not isinstance(item, kind)]:
            raise WrongType(f"{kind.__name__.lower()}s must be {source}, not {wrong[0]!r}")
    return captures, changes


def _items(given: Any, one: type | UnionType) -> list[Any]:  # noqa: ANN401
    """The items of an iterable as a list; a single item as a list of one. A wrong type is refused by the caller."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, one) else [given]
