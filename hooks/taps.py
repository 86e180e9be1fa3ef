"""What one call records and changes.

A `Taps` is made for one call and handed down to the layers. At each site the forward pass reads
`x = tap("attn.q", x)`: edits are applied in the order given, then what a `Capture` selects is recorded.
Without taps they hold an `Untapped`, whose call returns its argument.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any

import torch
from torch import Tensor

from .shards import Shards
from .sites import HEADS, POSITIONS, Sites, UnknownSite, canonical, layer_of, position_axis

Where = int | slice | Sequence[int] | Tensor | None
Indices = tuple[int, ...] | slice | None
ATTENTION_SITES = ("attn.scores", "attn.pattern")


def _indices(where: Where, what: str) -> Indices:
    """`where` as a tuple of ints or a slice; a boolean tensor stands for the places where it is true."""
    if where is None or isinstance(where, slice):
        return where
    if isinstance(where, Tensor):
        where = (where.nonzero().flatten() if where.dtype == torch.bool else where).tolist()
    wheres = where if isinstance(where, Iterable) else (where,)
    try:
        return tuple(index(number) for number in wheres)
    except TypeError:
        raise TypeError(f"{what} are whole numbers, a slice or None, not {where!r}") from None


class _Places:
    """A field of a dataclass that takes any `Where` and holds it as `Indices`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object | None, owner: type) -> Indices:
        return None if instance is None else vars(instance)[self.name]  # of the class: the default

    def __set__(self, instance: object, where: Where) -> None:
        vars(instance)[self.name] = _indices(where, self.name)


class AllSeen(Exception):
    """Ends a forward pass of which nothing is wanted but what it captures, once all of that is recorded."""


@dataclass(frozen=True)
class Capture:
    """A site (or glob) to record, and how much of it: only what is named is computed and kept.

    Args:
        heads: which heads, at sites with a head axis (key/value heads at `attn.k`, `.v` and `.rot_k`).
        positions: which positions in the whole sequence, at sites with a position axis; negative from its end.
        queries: the query rows of `attn.scores` and `attn.pattern`; there, `positions` means the same.
        dtype, device: what to keep it as, and where.
        reduce: for `attn.pattern` alone: a function of (pattern: batch head query key, queries: query, keys: key) that
            returns stat batch head query; queries and keys are positions in the whole sequence. It is called on one
            chunk of query rows after the other, so that no whole pattern is ever held; a chunk may leave out keys
            behind its last query. See `HeadStatistics`.
    """

    site: str
    heads: _Places = _Places()
    positions: _Places = _Places()
    queries: _Places = _Places()
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    reduce: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.queries is not None and self.positions is not None:
            raise ValueError("queries and positions both name the query rows: give one of them")
        object.__setattr__(self, "site", canonical(self.site))

    @property
    def rows(self) -> Indices:
        """The positions it names, by either name."""
        return self.positions if self.queries is None else self.queries


@dataclass(frozen=True, eq=False)
class Edit:
    """A change at a site (or glob): `function(selected)` takes the place of what heads and positions select.

    With a `value` the function is called with it as its second argument, brought to the dtype and device of the
    first and to the positions that are present in this forward pass. Build one with `hooks.edits`.
    """

    site: str
    function: Callable[..., Tensor]
    heads: _Places = _Places()
    positions: _Places = _Places()
    value: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", canonical(self.site))


class Untapped:
    """The tap of a call that looks at nothing."""

    grad = False

    def __call__(self, name: str, x: Tensor) -> Tensor:
        return x

    def wants(self, *names: str) -> bool:
        """Nobody looks at any site."""
        return False

    changes = wants


class Taps:
    """The captures and edits of one call, by site.

    Args:
        sites: the sites of the model.
        captures, edits: checked here: unknown sites and heads raise before anything is computed.
        layers: the blocks that will run; globs stand for their sites only, and naming another's is an error.
        grad: captured tensors keep their graph, and what is captured lies on the path to the logits.
        strict: positions outside the sequence are an error (in one run), not yet to come (in a generation).
        shards: how heads and neurons are spread over processes, if they are.
        started: told of the record of each forward pass as it starts.
        captures_only: raise `AllSeen` once everything is recorded.
        around: edits of `tapped()` blocks around the call, which come first, and hold as far as they are reached.
        resumed: the call goes on from a residual stream, to which these were applied when it was made.

    Attributes:
        present: the positions of this forward pass in the whole sequence.
        recorded: what was captured, by site.
        resid: what the first block that does not run would have read, once the run has stopped before it.
        looked_at: the blocks at which anything is captured or edited; None among them stands for outside the blocks.
    """

    def __init__(
        self,
        sites: Sites,
        captures: Sequence[Capture] = (),
        edits: Sequence[Edit] = (),
        layers: range | None = None,
        grad: bool = False,
        strict: bool = True,
        shards: Shards | None = None,
        started: Callable[[dict[str, Tensor]], None] | None = None,
        captures_only: bool = False,
        around: Sequence[Edit] = (),
        resumed: bool = False,
    ) -> None:
        self.captures_only, self.around = captures_only, frozenset(around)
        self.sites, self.grad, self.strict, self.shards, self.started = sites, grad, strict, shards, started
        self.layers = range(sites.n_layers) if layers is None else layers
        self.captures: dict[str, Capture] = {}
        self.edits: dict[str, list[Edit]] = {}
        self.recorded: dict[str, Tensor] = {}
        self.present = range(0)
        self.resid: Tensor | None = None
        for capture in captures:
            for site in self._reached(capture.site):
                wanted = replace(capture, site=site)
                self._check_capture(wanted)
                if self.captures.setdefault(site, wanted) != wanted:
                    raise ValueError(f"{site!r} is captured twice, with different options")
        done = {"embed", f"blocks.{self.layers.start}.resid_pre"} if resumed else set()
        for edit in (*around, *edits):
            reached = self._reached_from_around(edit.site, done) if edit in self.around else self._reached(edit.site)
            for site in reached:
                self.edits.setdefault(site, []).append(edit)
                self._check_heads(site, edit.heads)
        self.looked_at = {layer_of(site)[0] for site in (*self.captures, *self.edits)}

    def begin(self, start: int, length: int) -> None:
        """A forward pass starts: `length` new positions after `start` cached ones."""
        self.recorded = {}
        if self.started is not None:
            self.started(self.recorded)
        self.present = range(start, start + length)
        if self.strict:
            for capture in self.captures.values():
                self.resolve(capture.rows)
            for edit in (edit for edits in self.edits.values() for edit in edits):
                self.resolve(edit.positions, self.is_strict(edit))

    def is_strict(self, edit: Edit) -> bool:
        """Whether positions of an edit outside the sequence are an error."""
        return self.strict and edit not in self.around

    def resolve(self, positions: Indices, strict: bool = True) -> Sequence[int]:
        """Positions as absolute numbers in the sequence so far."""
        total = self.present.stop
        if positions is None:
            return self.present
        if isinstance(positions, slice):
            return range(*positions.indices(total))
        outside = [p for p in positions if not -total <= p < total]
        if outside and self.strict and strict:
            raise IndexError(f"position {outside[0]} is outside this sequence of {total} positions")
        return [p + total if p < 0 else p for p in positions]

    def _reached_from_around(self, pattern: str, done: set[str]) -> list[str]:
        """Of what an edit of a block around names, the sites that this call passes and that it was not applied at."""
        try:
            return [site for site in self._reached(pattern) if site not in done]
        except (UnknownSite, ValueError):  # the model inside another one has fewer, and so has a part of a run
            return []

    def _reached(self, pattern: str) -> list[str]:
        names = self.sites.match(pattern)
        # What block 6 reads is known when the run stops before it.
        entry = f"blocks.{self.layers.stop}.resid_pre"
        whole = self.layers.stop == self.sites.n_layers

        def reached(site: str) -> bool:
            layer, _ = layer_of(site)
            if layer is not None:
                return layer in self.layers or site == entry
            return self.layers.start == 0 if site == "embed" else whole

        kept = [name for name in names if reached(name)]
        if not kept:
            raise ValueError(
                f"{pattern!r} is not reached: this run computes blocks {self.layers.start} to {self.layers.stop - 1}"
            )
        return kept

    def _check_capture(self, capture: Capture) -> None:
        site, name = capture.site, layer_of(capture.site)[1]
        if capture.queries is not None and name not in ATTENTION_SITES:
            raise ValueError(f"{site!r} has no query axis ({self.sites[site]}); name its positions")
        if capture.reduce is not None and name != "attn.pattern":
            raise ValueError(f"reduce= works on attn.pattern, not on {site!r}")
        self._check_heads(site, capture.heads)

    def _check_heads(self, site: str, heads: Indices) -> None:
        if heads is None:
            return
        word = next((word for word in self.sites[site].split() if word in HEADS), None)
        if word is None:
            raise ValueError(f"{site!r} has no heads: its shape is {self.sites[site]}")
        size = self.sites.sizes[word]
        named = () if isinstance(heads, slice) else heads
        if outside := [head for head in named if not 0 <= head < size]:
            raise IndexError(f"no {word} {outside[0]} at {site!r}: they are 0 to {size - 1}")


class Tap:
    """The taps of one call at one block (or, with an empty prefix, outside the blocks)."""

    def __init__(self, taps: Taps, prefix: str = "") -> None:
        self.taps, self.prefix = taps, prefix
        self.grad, self.shards = taps.grad, taps.shards

    def wants(self, *names: str) -> bool:
        """Whether any of these sites is captured or edited."""
        return self.changes(*names) or any(self.prefix + name in self.taps.captures for name in names)

    def changes(self, *names: str) -> bool:
        """Whether any of these sites is edited."""
        return any(self.prefix + name in self.taps.edits for name in names)

    def __call__(self, name: str, x: Tensor, present: Sequence[int] | None = None) -> Tensor:
        """Edit and record `x`, the tensor at site `name`; `present` are the positions it holds, if not all new ones."""
        site = self.prefix + name
        edits, capture = self.taps.edits.get(site), self.taps.captures.get(site)
        if edits is None and capture is None:
            return x
        present = self.taps.present if present is None else present
        whole = x if self.shards is None else self.shards.whole(x, self.taps.sites[site])
        if edits is not None:
            for edit in edits:
                whole = self._edited(site, whole, edit, present)
            x = whole if self.shards is None else self.shards.share(whole, like=x)
        if capture is not None:
            self._keep(site, self._selected(site, whole, capture, present), capture)
        return x

    def capture(self, name: str) -> Capture:
        """The capture of a site that is captured."""
        return self.taps.captures[self.prefix + name]

    def rows(self, capture: Capture, present: Sequence[int] | None = None) -> list[int]:
        """The positions a capture names, as indices into those that are present: all new ones by default."""
        present = self.taps.present if present is None else present
        return [present.index(position) for position in self.taps.resolve(capture.rows) if position in present]

    def heads(self, capture: Capture, n_heads: int, device: torch.device) -> Tensor:
        """The heads to compute for a capture: those it names, or all of this process's if they are sharded."""
        if capture.heads is None or self.shards is not None:
            return torch.arange(n_heads, device=device)
        return _tensor(capture.heads, n_heads, device)

    def reduced(self, capture: Capture, n_keys: int, pattern: Tensor, rows: Sequence[int]) -> Tensor:
        """A capture's reduction of a chunk of rows of a pattern that has `n_keys` in all: stat batch head query."""
        assert capture.reduce is not None
        present = self.taps.present
        # A cache may have dropped keys that left the window; a static one has places that are not taken yet.
        first_key = max(0, present.stop - n_keys)
        keys = torch.arange(first_key, first_key + pattern.shape[-1], device=pattern.device)
        queries = torch.tensor([present[row] for row in rows], dtype=torch.long, device=pattern.device)
        return capture.reduce(pattern, queries, keys)

    def record(self, name: str, x: Tensor, head_axis: int) -> None:
        """Keep `x`, computed for just the rows (and, unless they are sharded, the heads) that are captured."""
        capture = self.capture(name)
        if self.shards is not None:
            n_heads = self.taps.sites.sizes["head"]
            x = self.shards.gathered(x, head_axis, n_heads)
            if capture.heads is not None:
                x = x.index_select(head_axis, _tensor(capture.heads, n_heads, x.device))
        self._keep(self.prefix + name, x, capture)

    def _keep(self, site: str, x: Tensor, capture: Capture) -> None:
        x = x if self.grad else x.detach()
        self.taps.recorded[site] = x.to(device=capture.device or x.device, dtype=capture.dtype or x.dtype)
        if self.taps.captures_only and len(self.taps.recorded) == len(self.taps.captures):
            raise AllSeen

    def _selected(self, site: str, x: Tensor, capture: Capture, present: Sequence[int]) -> Tensor:
        rows = None if capture.rows is None else self.rows(capture, present)
        chosen = _index(x, self.taps.sites[site], capture.heads, rows)
        x = x if chosen is None else x[chosen]
        return x if capture.reduce is None else self.reduced(capture, x.shape[-1], x, self.rows(capture))

    def _edited(self, site: str, x: Tensor, edit: Edit, present: Sequence[int]) -> Tensor:
        """One edit at one site: select, call the function, check what came back, put it in its place."""
        shape = self.taps.sites[site]
        axis = position_axis(shape)
        value, strict = edit.value, self.taps.is_strict(edit)
        positions = None if edit.positions is None else self.taps.resolve(edit.positions, strict)
        if value is not None:
            value = value.to(device=x.device, dtype=x.dtype)
            if value.dim() == x.dim() and value.shape[axis] != 1:
                positions = self._positions_of(site, value.shape[axis], positions, strict)
                rows = [row for row, position in enumerate(positions) if position in present]
                value = value.index_select(axis, torch.tensor(rows, dtype=torch.long, device=x.device))
        here = None if positions is None else [present.index(p) for p in positions if p in present]
        if here == []:
            return x
        if here == list(range(len(present))):
            here = None
        chosen = _index(x, shape, edit.heads, here)
        selected = x if chosen is None else x[chosen]
        new = _called(site, edit, selected, value)
        if chosen is None:
            return new
        x = x.clone()
        x[chosen] = new
        return x

    def _positions_of(self, site: str, n_rows: int, positions: Sequence[int] | None, strict: bool) -> Sequence[int]:
        """The positions that the rows of an edit's value belong to."""
        if positions is not None and len(positions) != n_rows:
            raise ValueError(f"the value for {site!r} holds {n_rows} positions, but {len(positions)} are named")
        if positions is None and strict and n_rows != self.taps.present.stop:
            raise ValueError(
                f"the value for {site!r} holds {n_rows} positions, but the sequence has {self.taps.present.stop}; "
                "name the positions they belong to"
            )
        return range(n_rows) if positions is None else positions


def _called(site: str, edit: Edit, selected: Tensor, value: Tensor | None) -> Tensor:
    """The edit's function called on `selected`, its result checked."""
    # Inference tensors count no versions, so there the function gets a copy, which is compared afterwards.
    argument = selected.clone() if selected.is_inference() else selected
    before = None if argument.is_inference() else argument._version
    try:
        new = edit.function(argument) if value is None else edit.function(argument, value)
    except RuntimeError as error:
        if value is None:
            raise
        raise ValueError(f"a value of shape {tuple(value.shape)} does not fit {site!r}: {error}") from error
    changed = not torch.equal(argument, selected) if before is None else argument._version != before
    if changed:
        raise ValueError(f"an edit of {site!r} changed its argument in place; return a new tensor")
    if not isinstance(new, Tensor):
        raise TypeError(f"an edit of {site!r} returned {type(new).__name__}, not a tensor")
    if new.shape != selected.shape or new.dtype != selected.dtype:
        raise ValueError(
            f"an edit of {site!r} returned {tuple(new.shape)} {new.dtype} for {tuple(selected.shape)} {selected.dtype}"
        )
    return new


def _index(x: Tensor, shape: str, heads: Indices, rows: list[int] | None) -> tuple[Any, ...] | None:
    """An index that selects some heads and rows of x, of a shape in words; None where all are selected."""
    wheres = [heads if word in HEADS else rows if word in POSITIONS else None for word in shape.split()]
    lists = {axis: _tensor(where, x.shape[axis], x.device) for axis, where in enumerate(wheres) if where is not None}
    if not lists:
        return None
    grids = dict(zip(lists, torch.meshgrid(*lists.values(), indexing="ij"), strict=True))
    return tuple(grids.get(axis, slice(None)) for axis in range(x.dim()))


def _tensor(where: Sequence[int] | slice, size: int, device: torch.device) -> Tensor:
    numbers = range(size)[where] if isinstance(where, slice) else where
    return torch.tensor(list(numbers), dtype=torch.long, device=device)


def tap_at(taps: Taps | None, layer: int | None = None) -> Tap | Untapped:
    """What taps there are at one block, or outside the blocks; none where nobody looks."""
    if taps is None or layer not in taps.looked_at:
        return UNTAPPED
    return Tap(taps, "" if layer is None else f"blocks.{layer}.")


UNTAPPED = Untapped()
