"""What one call records and changes.

A `Taps` is made for one call and handed down to the layers. At each site the forward pass reads
`x = tap("attn.q", x)`: edits are applied in the order given, then what a `Capture` selects is recorded.
Without taps they hold an `Untapped`, whose call returns its argument.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from .compat import changes_of
from .errors import UnknownSite, WrongType, WrongValue
from .shards import Shards
from .sites import HEADS, Sites, axis_of, layer_of, position_axis
from .where import Chosen, Field, Places, head_numbers, heads_of, index_into, is_by_text, put

ATTENTION_SITES = ("attn.scores", "attn.pattern")
Callbacks: TypeAlias = tuple[Callable[[dict[str, Tensor]], None] | None, Callable[[Tensor], None] | None]


class AllSeen(Exception):
    """Ends a forward pass of which nothing is wanted but what it captures, once all of that is recorded."""


@dataclass(frozen=True)
class Capture:
    """A site (or glob) to record, and how much of it: only what is named is computed and kept.

    Args:
        heads: which heads, at sites with a head axis (key/value heads at `attn.k`, `.v` and `.rot_k`): numbers,
            negative ones from the last; a mask with a bool for each; or a slice.
        positions: which positions in the whole sequence, at sites with a position axis, likewise. Numbers [batch, n]
            are those of each text, and what is captured is batch n …
        queries: the query rows of `attn.scores` and `attn.pattern`; there, `positions` means the same.
        dtype, device: what to keep it as, and where.
        reduce: for `attn.pattern` alone: a function of (pattern: batch head query key, queries: query, keys: key) that
            returns stat batch head query; queries and keys are positions in the whole sequence. It is called on one
            chunk of query rows after the other, so that no whole pattern is ever held; a chunk may leave out keys
            behind its last query. See `HeadStatistics`.
    """

    site: str
    heads: Field = Field()
    positions: Field = Field()
    queries: Field = Field()
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    reduce: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.queries is not None and self.positions is not None:
            raise WrongValue("queries and positions both name the query rows: give one of them")
        if isinstance(self.rows, Places) and self.rows.mask and self.rows.by_text:
            raise WrongValue("a mask for each text may select more in one than in another; capture numbers, [batch, n]")

    @property
    def rows(self) -> Chosen:
        """The positions it names, by either name."""
        return self.positions if self.queries is None else self.queries


@dataclass(frozen=True, eq=False)
class Edit:
    """A change at a site (or glob): `function(selected)` takes the place of what heads and positions select.

    Args:
        heads: numbers, negative ones from the last; a mask with a bool for each; or a slice.
        positions: likewise, of the whole sequence; and numbers [batch, n] or a mask [batch, pos] for each text. What is
            selected is then batch n …; where masks differ in their number it is filled up with positions that stay as
            they are, whatever the function makes of them.
        value: the function's second argument, brought to the dtype and device of the first and to the positions that
            are present in this forward pass; or what another run captured, by site, of which the same heads and
            positions are taken.

    Build one with `hooks.edits`.
    """

    site: str
    function: Callable[..., Tensor]
    heads: Field = Field()
    positions: Field = Field()
    value: Tensor | Mapping[str, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class _Change:
    """An edit at one site, with the numbers of its heads.

    Attributes:
        whole: its value is all of the site in another run.
        strict: positions outside the sequence are an error.
    """

    edit: Edit
    heads: Chosen
    value: Tensor | None
    whole: bool
    strict: bool


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
        callbacks: called with the record of each forward pass when it starts, and with its logits.
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
        callbacks: Callbacks = (None, None),
        captures_only: bool = False,
        around: Sequence[Edit] = (),
        resumed: bool = False,
    ) -> None:
        self.sites, self.grad, self.strict, self.shards = sites, grad, strict, shards
        (self.started, self.ended), self.captures_only = callbacks, captures_only
        self.layers = range(sites.n_layers) if layers is None else layers
        self.captures: dict[str, Capture] = {}
        self.edits: dict[str, list[_Change]] = {}
        self.recorded: dict[str, Tensor] = {}
        self.present, self.texts, self.continues = range(0), 0, False
        self.resid: Tensor | None = None
        for capture in captures:
            for site in self._reached(capture.site):
                self._capture(capture, site)
        done = {"embed", f"blocks.{self.layers.start}.resid_pre"} if resumed else set()
        for edit in around:
            for site in self._reached_from_around(edit.site, done):
                self.edits.setdefault(site, []).append(self._change(edit, site, strict=False))
        for edit in edits:
            for site in self._reached(edit.site):
                self.edits.setdefault(site, []).append(self._change(edit, site, strict))
        self.looked_at = {layer_of(site)[0] for site in (*self.captures, *self.edits)}

    def begin(self, start: int, texts: int, length: int) -> None:
        """A forward pass over so many texts starts: `length` new positions after `start` cached ones."""
        self.recorded = {}
        if self.started is not None:
            self.started(self.recorded)
        self.continues = 0 < start == self.present.stop
        self.present, self.texts = range(start, start + length), texts
        for capture in self.captures.values():
            self.numbers(capture.rows, self.strict)
        for change in (change for changes in self.edits.values() for change in changes):
            self.numbers(change.edit.positions, change.strict)

    def numbers(self, positions: Chosen, strict: bool) -> list[Sequence[int]]:
        """Positions as numbers in the sequence so far: one row for all texts, or one for each."""
        total = self.present.stop
        if positions is None:
            return [self.present]
        if isinstance(positions, slice):
            return [range(*positions.indices(total))]
        if positions.by_text and len(positions.rows) != self.texts:
            raise WrongValue(f"there are positions for {len(positions.rows)} texts, but the batch has {self.texts}")
        # What a generation adds to a sequence is not in a mask of the sequence that it began with.
        strict = strict or (positions.mask and not self.continues)
        return list(positions.within(total, "position", f"this sequence of {total} positions", strict))

    def _reached_from_around(self, pattern: str, done: set[str]) -> list[str]:
        """Of what an edit of a block around names, the sites that this call passes and that it was not applied at."""
        try:
            return [site for site in self._reached(pattern) if site not in done]
        except (UnknownSite, WrongValue):  # the model inside another one has fewer, and so has a part of a run
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
            raise WrongValue(
                f"{pattern!r} is not reached: this run computes blocks {self.layers.start} to {self.layers.stop - 1}"
            )
        return kept

    def _capture(self, capture: Capture, site: str) -> None:
        """Capture one site."""
        name = layer_of(site)[1]
        if capture.queries is not None and name not in ATTENTION_SITES:
            raise WrongValue(f"{site!r} has no query axis ({self.sites[site]}); name its positions")
        if capture.reduce is not None and name != "attn.pattern":
            raise WrongValue(f"reduce= works on attn.pattern, not on {site!r}")
        wanted = replace(capture, site=site, heads=self._heads(site, capture.heads))
        if self.captures.setdefault(site, wanted) != wanted:
            raise WrongValue(f"{site!r} is captured twice, with different options")

    def _change(self, edit: Edit, site: str, strict: bool) -> _Change:
        """An edit at one site."""
        whole = isinstance(edit.value, Mapping)
        value = self._source(site, edit.value) if isinstance(edit.value, Mapping) else edit.value
        return _Change(edit, self._heads(site, edit.heads), value, whole, strict)

    def _source(self, site: str, run: Mapping[str, Tensor]) -> Tensor:
        """What another run captured at a site, all of it but for its batch and positions."""
        if site not in run:
            raise UnknownSite(f"{site!r} was not captured in the run that it is to be taken from: {run!r}")
        shape, found = self.sites[site], run[site]
        sizes = [self.sites.sizes.get(word) for word in shape.split()]
        if len(sizes) != found.dim() or any(size not in (None, n) for size, n in zip(sizes, found.shape, strict=True)):
            raise WrongValue(
                f"{site!r} is {tuple(found.shape)} in the run that it is to be taken from; capture all of it, {shape}"
            )
        return found

    def _heads(self, site: str, heads: Chosen) -> Chosen:
        """The numbers of heads at a site."""
        if heads is None:
            return None
        axis = axis_of(self.sites[site], *HEADS)
        if axis is None:
            raise WrongValue(f"{site!r} has no heads: its shape is {self.sites[site]}")
        if isinstance(heads, slice):
            return heads
        if heads.by_text:
            raise WrongValue(
                f"heads are the same for all texts: give one row of them at {site!r}, not {len(heads.rows)}"
            )
        word = self.sites[site].split()[axis]
        size = self.sites.sizes[word]
        return Places(tuple(map(tuple, heads.within(size, word, f"the {size} {word}s of {site!r}"))))


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
        changes, capture = self.taps.edits.get(site), self.taps.captures.get(site)
        if changes is None and capture is None:
            return x
        present = self.taps.present if present is None else present
        whole = x if self.shards is None else self.shards.whole(x, self.taps.sites[site])
        for change in changes or ():
            whole = self._edited(site, whole, change, present)
        starts_graph = self.grad and capture is not None and not whole.requires_grad  # nothing before it is trained
        if starts_graph:
            whole = whole.detach().requires_grad_()
        if starts_graph or changes is not None:
            x = whole if self.shards is None else self.shards.share(whole, like=x)
        if capture is not None:
            self._keep(site, self._selected(site, whole, capture, present), capture)
        return x

    def capture(self, name: str) -> Capture:
        """The capture of a site that is captured."""
        return self.taps.captures[self.prefix + name]

    def rows(self, capture: Capture, present: Sequence[int] | None = None) -> list[int]:
        """The positions a capture names for any text, as indices into those that are present (all new ones if None)."""
        present = self.taps.present if present is None else present
        rows = self.taps.numbers(capture.rows, self.taps.strict)
        named = sorted({position for row in rows for position in row}) if is_by_text(capture.rows) else rows[0]
        return [present.index(position) for position in named if position in present]

    def heads(self, capture: Capture, n_heads: int, device: torch.device) -> Tensor:
        """The heads to compute for a capture: those it names, or all of this process's if they are sharded."""
        numbers = None if self.shards is not None else head_numbers(capture.heads, n_heads, device)
        return torch.arange(n_heads, device=device) if numbers is None else numbers

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
        capture, site = self.capture(name), self.prefix + name
        if self.shards is not None:
            n_heads = self.taps.sites.sizes["head"]
            x = self.shards.gathered(x, head_axis, n_heads)
            if (heads := head_numbers(capture.heads, n_heads, x.device)) is not None:
                x = x.index_select(head_axis, heads)
        self._keep(site, self._of_each_text(site, x, capture, self.taps.present), capture)

    def _keep(self, site: str, x: Tensor, capture: Capture) -> None:
        x = x if self.grad else x.detach()
        self.taps.recorded[site] = x.to(device=capture.device or x.device, dtype=capture.dtype or x.dtype)
        if self.taps.captures_only and len(self.taps.recorded) == len(self.taps.captures):
            raise AllSeen

    def _selected(self, site: str, x: Tensor, capture: Capture, present: Sequence[int]) -> Tensor:
        """What a capture names of x, the whole tensor at a site."""
        shape = self.taps.sites[site]
        rows = None if capture.rows is None else torch.tensor(self.rows(capture, present), device=x.device).long()
        index = index_into(x, shape, heads_of(x, shape, capture.heads), rows)
        x = x if index is None else x[index]
        if capture.reduce is not None:
            x = self.reduced(capture, x.shape[-1], x, self.rows(capture))
        return self._of_each_text(site, x, capture, present)

    def _of_each_text(self, site: str, x: Tensor, capture: Capture, present: Sequence[int]) -> Tensor:
        """Of x, which holds the positions that a capture names for any text, those that it names for each."""
        if not is_by_text(capture.rows):
            return x
        shape = self.taps.sites[site] if capture.reduce is None else "stat batch head query"
        held = {present[row]: n for n, row in enumerate(self.rows(capture, present))}
        rows = self.taps.numbers(capture.rows, self.taps.strict)
        found = [[held[position] for position in row if position in held] for row in rows]
        if len({len(row) for row in found}) > 1:
            raise WrongValue(
                f"at {site!r} this forward pass holds more of the named positions for some texts than others"
            )
        spread = [1] * x.dim()
        axis = position_axis(shape)
        spread[shape.split().index("batch")], spread[axis] = len(found), len(found[0])
        return x.take_along_dim(torch.tensor(found, dtype=torch.long, device=x.device).view(spread), axis)

    def _edited(self, site: str, x: Tensor, change: _Change, present: Sequence[int]) -> Tensor:
        """One edit at one site: select, call the function, check what came back, put it in its place."""
        shape = self.taps.sites[site]
        axis = position_axis(shape)
        value = None if change.value is None else change.value.to(device=x.device, dtype=x.dtype)
        n_rows = None  # of the value, where it has some for positions
        if value is not None and value.dim() == x.dim() and (change.whole or value.shape[axis] != 1):
            n_rows = value.shape[axis]
        heads, rows = heads_of(x, shape, change.heads), None
        if n_rows is not None or change.edit.positions is not None:
            table = self._table(site, change, present, n_rows)
            if table.shape[-2] == 0:
                return x
            rows, of_value = table.to(x.device).unbind(-1)  # n each, or text n
            if value is not None and n_rows is not None:
                value = _rows_of(site, value, shape, heads if change.whole else None, of_value)
            if rows.dim() == 1 and table[:, 0].tolist() == list(range(len(present))):
                rows = None
        index = index_into(x, shape, heads, rows)
        selected = x if index is None else x[index]
        new = _called(site, change.edit, selected, value)
        if index is None:
            return new
        return put(x, index, new, index[axis] >= 0 if rows is not None and rows.dim() == 2 else None)

    def _table(self, site: str, change: _Change, present: Sequence[int], n_rows: int | None) -> Tensor:
        """Where an edit applies in this forward pass: n 2, or text n 2 where texts differ, filled up with -1.

        First come indices into `present`, then those of rows of the edit's value, which has `n_rows`: in the order in
        which positions are named, or, where none or masks for each text are, the positions themselves.
        """
        positions, total = change.edit.positions, self.taps.present.stop
        by_text = is_by_text(positions)
        masks = by_text and isinstance(positions, Places) and positions.mask
        in_order = not (change.whole or positions is None or masks)
        rows = self.taps.numbers(positions, change.strict)
        if n_rows is not None and in_order and n_rows != len(rows[0]):
            raise WrongValue(
                f"the value for {site!r} holds {n_rows} positions, but {len(rows[0])} are named; "
                "edits.patch takes those that are named from a whole run"
            )
        if n_rows is not None and not in_order and change.strict and n_rows != total:
            hint = "; name the positions they belong to" if positions is None and not change.whole else ""
            raise WrongValue(f"the value for {site!r} holds {n_rows} positions, but the sequence has {total}{hint}")
        end = total if n_rows is None or in_order else n_rows
        found = [
            [(present.index(p), n if in_order else p) for n, p in enumerate(row) if p in present and p < end]
            for row in rows
        ]
        width = max(map(len, found))
        filled = [row + [(-1, -1)] * (width - len(row)) for row in found]
        table = torch.tensor(filled, dtype=torch.long).view(len(rows), width, 2)
        return table if by_text else table[0]


def _rows_of(site: str, value: Tensor, shape: str, heads: Tensor | None, rows: Tensor) -> Tensor:
    """Some heads and rows of an edit's value, which is shaped like its site; rows: n, or text n where texts differ."""
    if rows.dim() == 2:
        if value.shape[0] not in (1, len(rows)):
            raise WrongValue(f"the value for {site!r} holds {value.shape[0]} texts, but positions are for {len(rows)}")
        value = value.expand(len(rows), *value.shape[1:])
    return value[index_into(value, shape, heads, rows)]


def _called(site: str, edit: Edit, selected: Tensor, value: Tensor | None) -> Tensor:
    """The edit's function called on `selected`, its result checked."""
    # Inference tensors count no versions, so there the function gets a copy, which is compared afterwards.
    argument = selected.clone() if selected.is_inference() else selected
    before = changes_of(argument)
    try:
        new = edit.function(argument) if value is None else edit.function(argument, value)
    except RuntimeError as error:
        if value is None or isinstance(error, torch.OutOfMemoryError):
            raise
        raise WrongValue(f"a value of shape {tuple(value.shape)} does not fit {site!r}: {error}") from error
    changed = not torch.equal(argument, selected) if before is None else changes_of(argument) != before
    if changed:
        raise WrongValue(f"an edit of {site!r} changed its argument in place; return a new tensor")
    if not isinstance(new, Tensor):
        raise WrongType(f"an edit of {site!r} returned {type(new).__name__}, not a tensor")
    if new.shape != selected.shape or new.dtype != selected.dtype:
        raise WrongValue(
            f"an edit of {site!r} returned {tuple(new.shape)} {new.dtype} for {tuple(selected.shape)} {selected.dtype}"
        )
    return new


def tap_at(taps: Taps | None, layer: int | None = None) -> Tap | Untapped:
    """What taps there are at one block, or outside the blocks; none where nobody looks."""
    if taps is None or layer not in taps.looked_at:
        return UNTAPPED
    return Tap(taps, "" if layer is None else f"blocks.{layer}.")


UNTAPPED = Untapped()
