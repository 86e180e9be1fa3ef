"""The captures and edits of one call.

A `Taps` is made for one call and passed down to the layers. At each site the forward pass runs
`x = tap("attn.q", x)`, which applies the edits in the order given and then records what a `Capture` selects.
A layer without captures and edits uses an `Untapped`, whose call returns its argument.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .compat import changes_of
from .errors import UnknownSite, WrongType, WrongValue
from .shards import Shards
from .sites import HEADS, Sites, axis_of, layer_of, position_axis
from .where import Chosen, Field, Places, head_numbers, heads_of, index_into, is_by_text, put

QUERY_KEY_SITES = ("attn.scores", "attn.pattern")
IDS = "ids_of_positions"
"""The attribute of a cache that holds the token ids of its positions, if an edit needed them."""
COMPUTED_IN_PARTS = (*QUERY_KEY_SITES, "attn.result")
Callbacks: TypeAlias = tuple[Callable[[dict[str, Tensor]], None] | None, Callable[[Tensor], None] | None]


Value: TypeAlias = Tensor | Mapping[str, Tensor] | Callable[[Tensor], Tensor] | None


class AllSeen(Exception):
    """Ends a forward pass made with `captures_only` once every captured site is recorded."""


@dataclass(frozen=True)
class Capture:
    """A site (or glob) to record, and which part of it: only the selected part is kept.

    Scores, patterns and per-head results are also computed for this part only, unless they are edited or the run keeps
    gradients.

    Args:
        site: a site name or a glob.
        heads: heads to record, at sites with a head axis (key/value heads at `attn.k`, `.v` and `.rot_k`): numbers
            (negative ones count from the last head), a mask with one bool for each head, or a slice. None means all.
        positions: positions to record, counted in the whole sequence, in the same forms. Numbers [batch, n] select
            different positions for each text; the captured tensor is then batch n … None means all.
        queries: query rows to record at `attn.scores` and `attn.pattern`; the same as `positions` at these sites.
        dtype: dtype of the captured tensor; None keeps its dtype.
        device: device of the captured tensor; None keeps its device.
        reduce: for `attn.pattern` only: a function of (pattern: batch head query key, queries: query, keys: key) that
            returns stat batch head query, where queries and keys are positions in the whole sequence. It is called
            for one chunk of query rows at a time, so that the whole pattern is never in memory (unless the pattern is
            edited or the run keeps gradients); a chunk may leave out the keys after its last query. See
            `HeadStatistics`.

    Raises:
        WrongValue: both `queries` and `positions` are given, or the positions are a mask for each text.
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
            raise WrongValue("queries and positions both select query positions; give only one of them")
        if isinstance(self.rows, Places) and self.rows.mask and self.rows.by_text:
            raise WrongValue("a mask for each text may select unequal numbers of positions; use numbers, [batch, n]")

    @property
    def rows(self) -> Chosen:
        """The selected positions: `queries` if given, else `positions`."""
        return self.positions if self.queries is None else self.queries


@dataclass(frozen=True, eq=False)
class Edit:
    """A change at a site (or glob): the selected heads and positions are replaced by `function(selected)`.

    Edits are usually built with `hooks.edits`.

    Args:
        site: a site name or a glob.
        function: returns a new tensor of the same shape and dtype as its first argument, and must not change this
            argument in place. It is called as `function(selected)`, or as `function(selected, value)` with a `value`.
        heads: numbers (negative ones count from the last head), a mask with one bool for each head, or a slice. None
            means all.
        positions: positions in the whole sequence, in the same forms, or for each text: numbers [batch, n] or a mask
            [batch, pos]. With positions for each text, `selected` is batch n … If the masks select different numbers
            of positions, `selected` is padded to the largest number; the function's results for padding are discarded.
            None means all.
        value: the second argument of `function`. A tensor is converted to the dtype and device of `selected` and cut to
            the positions of this forward pass. A mapping from site names to captured tensors (for instance a `Run`)
            supplies the same site, heads and positions. A function gives the tensor of the whole site for the token
            ids of the sequence so far (batch pos); it is called in each forward pass.
        reads: another site, which the forward pass reaches before this one; not a glob. `function` is then called as
            `function(selected, read)`, with the activation of that site at the same positions, after its own edits.
            Such an edit has no heads and no value.

    Raises:
        WrongValue: `reads` is given with heads or a value.
    """

    site: str
    function: Callable[..., Tensor]
    heads: Field = Field()
    positions: Field = Field()
    value: Value = None
    reads: str | None = None

    def __post_init__(self) -> None:
        if self.reads is not None and (self.heads is not None or self.value is not None):
            raise WrongValue(f"an edit that reads {self.reads!r} selects no heads and has no value")


@dataclass(frozen=True, eq=False)
class _Change:
    """An edit resolved for one site.

    Attributes:
        edit: the edit as it was given.
        heads: the heads of this site that it selects.
        value: the second argument of the edit's function, if any.
        whole: whether the value is that of the whole site, of which heads and positions are still to be selected.
        of_ids: the function that gives the second argument for the token ids, if any.
        strict: whether positions outside the sequence are an error.
        reads: the site whose activation is the second argument of the edit's function, if any.
    """

    edit: Edit
    heads: Chosen
    value: Tensor | None
    whole: bool
    strict: bool
    reads: str | None = None
    of_ids: Callable[[Tensor], Tensor] | None = None


class Untapped:
    """The tap where nothing is captured or edited."""

    grad = False

    def __call__(self, name: str, x: Tensor) -> Tensor:
        return x

    def wants(self, *names: str) -> bool:
        """False: no site is captured or edited."""
        return False

    changes = wants


class Taps:
    """The captures and edits of one call, by site.

    Args:
        sites: the sites of the model.
        captures: what to record. Unknown sites and heads raise here, before anything is computed.
        edits: what to change; checked here in the same way.
        layers: the blocks that will run; None means all. Globs match only the sites that these blocks reach; a name
            outside them is an error.
        grad: captured tensors keep their autograd graph and lie on the path to the logits.
        strict: True (one run): positions outside the sequence are an error. False (a generation): such positions are
            skipped, because a later forward pass may reach them.
        shards: how heads and neurons are split across processes; None if they are not.
        callbacks: a pair; each is a function or None. The first is called with `recorded` when a forward pass starts,
            the second with the logits of the pass.
        captures_only: raise `AllSeen` once every captured site is recorded.
        around: edits of enclosing `tapped()` blocks: applied first, skipped at sites that this call does not compute.
        resumed: whether the call starts from a given residual stream. The edits `around` were applied at the site of
            this stream in the run that produced it, and are not applied there again.

    Attributes:
        present: the positions of this forward pass in the whole sequence.
        texts: the number of texts in the batch of this forward pass.
        ids: the token ids of the sequence so far, batch pos; None if they are not known or no edit needs them.
        ids_of_resid: the token ids of the residual stream that the call starts from, if the caller gave them.
        continues: whether this forward pass continues the sequence of the previous one.
        recorded: the captured tensors by site.
        read: the sites that edits of other sites read: their tensors, once this forward pass has reached them.
        resid: what the first block that is not computed would have read, batch pos d_model; None unless the run stopped
            before a block.
        looked_at: the blocks with a capture or an edit; None in this set stands for the sites outside the blocks.
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
        self.read: dict[str, Tensor | None] = {}
        self.present, self.texts, self.continues = range(0), 0, False
        self.ids: Tensor | None = None
        self.ids_of_resid: Tensor | None = None
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
        self.looked_at = {layer_of(site)[0] for site in (*self.captures, *self.edits, *self.read)}

    def begin(
        self,
        start: int,
        texts: int,
        length: int,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
        cache: object = None,
    ) -> None:
        """Prepare for a forward pass over `texts` texts, with `length` new positions after `start` cached positions.

        `ids` are the token ids of the new positions, `mask` is the attention mask and `cache` is what the pass extends;
        None if they were not given.
        """
        self.recorded = {}
        self.read = dict.fromkeys(self.read)
        if self.started is not None:
            self.started(self.recorded)
        self.continues = 0 < start == self.present.stop
        self.present, self.texts = range(start, start + length), texts
        if any(change.of_ids is not None for changes in self.edits.values() for change in changes):
            self.ids = self._ids_so_far(start, self.ids_of_resid if ids is None else ids, mask, cache)
        for capture in self.captures.values():
            self.numbers(capture.rows, self.strict)
        for change in (change for changes in self.edits.values() for change in changes):
            self.numbers(change.edit.positions, change.strict)

    def _ids_so_far(self, start: int, new: Tensor | None, mask: Tensor | None, cache: object) -> Tensor | None:
        """The token ids of the sequence so far. None if they are not known, if a text has padding before a token, or if
        several texts go on from a cache, whose rows a beam search may have exchanged.

        Those of cached positions are kept with the cache, because a generation may open a `tapped()` block a step.
        """
        padded = mask is not None and (mask.dim() != 2 or bool((mask[:, 1:] > mask[:, :-1]).any()))
        known: Any = None if cache is None else vars(cache).get(IDS)
        found = None if padded else new
        if found is not None and start:
            one_text = known is not None and len(known) == len(found) == 1
            found = torch.cat([known[:, :start], found], 1) if one_text and known.shape[1] >= start else None
        if cache is not None:
            vars(cache)[IDS] = found
        return found

    def numbers(self, positions: Chosen, strict: bool) -> list[Sequence[int]]:
        """Positions as indices into the sequence so far: one row for all texts, or one row for each text."""
        total = self.present.stop
        if positions is None:
            return [self.present]
        if isinstance(positions, slice):
            return [range(*positions.indices(total))]
        if positions.by_text and len(positions.rows) != self.texts:
            raise WrongValue(f"positions are given for {len(positions.rows)} texts, but the batch has {self.texts}")
        # In a generation, a mask covers the sequence of the first pass only, so its length is checked only there.
        strict = strict or (positions.mask and not self.continues)
        return list(positions.within(total, "position", f"this sequence of {total} positions", strict))

    def _reached_from_around(self, pattern: str, done: set[str]) -> list[str]:
        """The sites that an edit of an enclosing block matches and this call computes, except those in `done`."""
        try:
            return [site for site in self._reached(pattern) if site not in done]
        except (UnknownSite, WrongValue):  # the bare decoder and a run of some blocks have fewer sites
            return []

    def _reached(self, pattern: str) -> list[str]:
        names = self.sites.match(pattern)
        # A run that stops before a block still computes the residual stream entering this block.
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
        """Add a capture at one site, after checking that its options fit this site."""
        name = layer_of(site)[1]
        if capture.queries is not None and name not in QUERY_KEY_SITES:
            raise WrongValue(f"{site!r} has no query axis ({self.sites[site]}); use positions= instead")
        if capture.reduce is not None and name != "attn.pattern":
            raise WrongValue(f"reduce= works only on attn.pattern, not on {site!r}")
        wanted = replace(capture, site=site, heads=self._heads(site, capture.heads))
        if self.captures.setdefault(site, wanted) != wanted:
            raise WrongValue(f"{site!r} is captured twice, with different options")

    def _change(self, edit: Edit, site: str, strict: bool) -> _Change:
        """The edit resolved for one site."""
        heads, given = self._heads(site, edit.heads), edit.value
        reads = None if edit.reads is None else self._read_site(site, edit.reads)
        if given is None or isinstance(given, Tensor):
            return _Change(edit, heads, given, False, strict, reads)
        if isinstance(given, Mapping):
            return _Change(edit, heads, self._source(site, given), True, strict, reads)
        return _Change(edit, heads, None, True, strict, reads, given)

    def _read_site(self, site: str, reads: str) -> str:
        """The name of the site that an edit of `site` reads; its tensor is kept for the edit."""
        names = self.sites.match(reads)
        if len(names) > 1:
            raise WrongValue(f"an edit reads one site; {reads!r} matches {len(names)}")
        order = list(self.sites)
        if order.index(names[0]) >= order.index(site):
            raise WrongValue(f"an edit of {site!r} cannot read {names[0]!r}, which is not reached before it")
        if layer_of(names[0])[1] in COMPUTED_IN_PARTS:
            raise WrongValue(f"an edit cannot read {names[0]!r}, of which only what is captured is computed")
        [found] = self._reached(names[0])
        self.read[found] = None
        return found

    def _source(self, site: str, run: Mapping[str, Tensor]) -> Tensor:
        """The tensor that another run captured at a site: of full size in all axes except batch and positions."""
        if site not in run:
            raise UnknownSite(f"{site!r} was not captured in the run to patch from: {run!r}")
        shape, found = self.sites[site], run[site]
        sizes = [self.sites.sizes.get(word) for word in shape.split()]
        if len(sizes) != found.dim() or any(size not in (None, n) for size, n in zip(sizes, found.shape, strict=True)):
            raise WrongValue(
                f"{site!r} has shape {tuple(found.shape)} in the run to patch from; capture the whole site, {shape}"
            )
        return found

    def _heads(self, site: str, heads: Chosen) -> Chosen:
        """The selected heads at a site, checked and with negative numbers resolved; a slice or None is unchanged."""
        if heads is None:
            return None
        axis = axis_of(self.sites[site], *HEADS)
        if axis is None:
            raise WrongValue(f"{site!r} has no heads: its shape is {self.sites[site]}")
        if isinstance(heads, slice):
            return heads
        if heads.by_text:
            raise WrongValue(
                f"heads must be the same for all texts: give one row of heads at {site!r}, not {len(heads.rows)}"
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
        kept = (self.taps.captures, self.taps.read)
        return self.changes(*names) or any(self.prefix + name in sites for name in names for sites in kept)

    def changes(self, *names: str) -> bool:
        """Whether any of these sites is edited."""
        return any(self.prefix + name in self.taps.edits for name in names)

    def __call__(self, name: str, x: Tensor, present: Sequence[int] | None = None) -> Tensor:
        """`x`, the tensor at site `name`, after its edits; the capture of this site, if any, is recorded.

        Args:
            present: the positions that x holds; None means all new positions.
        """
        site = self.prefix + name
        changes, capture = self.taps.edits.get(site), self.taps.captures.get(site)
        if changes is None and capture is None and site not in self.taps.read:
            return x
        present = self.taps.present if present is None else present
        whole = x if self.shards is None else self.shards.whole(x, self.taps.sites[site])
        for change in changes or ():
            whole = self._edited(site, whole, change, present)
        starts_graph = self.grad and capture is not None and not whole.requires_grad  # only frozen weights before it
        if starts_graph:
            whole = whole.detach().requires_grad_()
        if starts_graph or changes is not None:
            x = whole if self.shards is None else self.shards.share(whole, like=x)
        if site in self.taps.read:
            self.taps.read[site] = whole
        if capture is not None:
            self._keep(site, self._selected(site, whole, capture, present), capture)
        return x

    def capture(self, name: str) -> Capture:
        """The capture at site `name`, which must be captured."""
        return self.taps.captures[self.prefix + name]

    def rows(self, capture: Capture, present: Sequence[int] | None = None) -> list[int]:
        """Indices into `present` (None: all new positions) of the positions that a capture selects in any text."""
        present = self.taps.present if present is None else present
        rows = self.taps.numbers(capture.rows, self.taps.strict)
        named = sorted({position for row in rows for position in row}) if is_by_text(capture.rows) else rows[0]
        return [present.index(position) for position in named if position in present]

    def heads(self, capture: Capture, n_heads: int, device: torch.device) -> Tensor:
        """The heads to compute for a capture: the selected heads, or all heads of this process if heads are sharded."""
        numbers = None if self.shards is not None else head_numbers(capture.heads, n_heads, device)
        return torch.arange(n_heads, device=device) if numbers is None else numbers

    def reduced(self, capture: Capture, n_keys: int, pattern: Tensor, rows: Sequence[int]) -> Tensor:
        """`capture.reduce` of one chunk of pattern rows: stat batch head query. The whole pattern has `n_keys` keys."""
        assert capture.reduce is not None
        present = self.taps.present
        # A sliding-window cache may have dropped its first keys; a static cache has unused entries at its end.
        first_key = max(0, present.stop - n_keys)
        keys = torch.arange(first_key, first_key + pattern.shape[-1], device=pattern.device)
        queries = torch.tensor([present[row] for row in rows], dtype=torch.long, device=pattern.device)
        return capture.reduce(pattern, queries, keys)

    def record(self, name: str, x: Tensor, head_axis: int) -> None:
        """Keep `x`, which holds only the captured rows and heads; if heads are sharded, all heads of this process."""
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
        """The selected heads and positions of x, the whole tensor at a site, reduced if the capture has `reduce`."""
        shape = self.taps.sites[site]
        rows = None if capture.rows is None else torch.tensor(self.rows(capture, present), device=x.device).long()
        index = index_into(x, shape, heads_of(x, shape, capture.heads), rows)
        x = x if index is None else x[index]
        if capture.reduce is not None:
            x = self.reduced(capture, x.shape[-1], x, self.rows(capture))
        return self._of_each_text(site, x, capture, present)

    def _of_each_text(self, site: str, x: Tensor, capture: Capture, present: Sequence[int]) -> Tensor:
        """The positions that a capture selects in each text, out of x, which holds those of all texts together."""
        if not is_by_text(capture.rows):
            return x
        shape = self.taps.sites[site] if capture.reduce is None else "stat batch head query"
        held = {present[row]: n for n, row in enumerate(self.rows(capture, present))}
        rows = self.taps.numbers(capture.rows, self.taps.strict)
        found = [[held[position] for position in row if position in held] for row in rows]
        if len({len(row) for row in found}) > 1:
            raise WrongValue(
                f"at {site!r} this forward pass contains more of the selected positions for some texts than for others"
            )
        spread = [1] * x.dim()
        axis = position_axis(shape)
        spread[shape.split().index("batch")], spread[axis] = len(found), len(found[0])
        return x.take_along_dim(torch.tensor(found, dtype=torch.long, device=x.device).view(spread), axis)

    def _edited(self, site: str, x: Tensor, change: _Change, present: Sequence[int]) -> Tensor:
        """x after one edit at one site: select, call the function, check its result, write it back."""
        shape = self.taps.sites[site]
        axis = position_axis(shape)
        value = change.value if change.of_ids is None else self._of_ids(site, change.of_ids)
        value = None if value is None else value.to(device=x.device, dtype=x.dtype)
        n_rows = None  # length of the position axis of the value; None if there is no such axis, or its length is 1
        if value is not None and value.dim() == x.dim() and (change.whole or value.shape[axis] != 1):
            n_rows = value.shape[axis]
        heads, rows = heads_of(x, shape, change.heads), None
        if n_rows is not None or change.edit.positions is not None:
            table = self._table(site, change, present, n_rows)
            if table.shape[-2] == 0:
                return x
            rows, of_value = table.to(x.device).unbind(-1)  # each n, or text n
            if value is not None and n_rows is not None:
                value = _rows_of(site, value, shape, heads if change.whole else None, of_value)
            if rows.dim() == 1 and table[:, 0].tolist() == list(range(len(present))):
                rows = None
        index = index_into(x, shape, heads, rows)
        selected = x if index is None else x[index]
        if change.reads is not None:
            value = self._read(change.reads, rows)
        new = _called(site, change.edit, selected, value)
        if index is None:
            return new
        return put(x, index, new, index[axis] >= 0 if rows is not None and rows.dim() == 2 else None)

    def _of_ids(self, site: str, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The tensor of a whole site that an edit computes from the token ids."""
        if self.taps.ids is None:
            raise WrongValue(
                f"an edit of {site!r} needs the token ids of the whole sequence, and this forward pass does not know "
                "them: it starts from a stored residual stream, or its texts are padded on the left"
            )
        return function(self.taps.ids)

    def _read(self, site: str, rows: Tensor | None) -> Tensor:
        """What this forward pass has at another site, at rows n, or text n; None for all rows."""
        found = self.taps.read[site]
        assert found is not None, f"{site} is reached first"
        index = index_into(found, self.taps.sites[site], None, rows)
        return found if index is None else found[index]

    def _table(self, site: str, change: _Change, present: Sequence[int], n_rows: int | None) -> Tensor:
        """The positions that an edit changes in this forward pass: n 2, or text n 2 (padded with -1) if texts differ.

        The last axis holds an index into `present` and the matching row of the edit's value, which has `n_rows` rows.
        Row i belongs to the i-th selected position. If no positions are given, if they are a mask for each text, or if
        the value is the whole site of another run, row i belongs to position i of the sequence.
        """
        positions, total = change.edit.positions, self.taps.present.stop
        by_text = is_by_text(positions)
        masks = by_text and isinstance(positions, Places) and positions.mask
        in_order = not (change.whole or positions is None or masks)
        rows = self.taps.numbers(positions, change.strict)
        if n_rows is not None and in_order and n_rows != len(rows[0]):
            raise WrongValue(
                f"the value for {site!r} has {n_rows} positions, but {len(rows[0])} are selected; "
                "edits.patch takes the selected positions from a whole run"
            )
        if n_rows is not None and not in_order and change.strict and n_rows != total:
            hint = "; select the positions with positions=" if positions is None and not change.whole else ""
            raise WrongValue(f"the value for {site!r} has {n_rows} positions, but the sequence has {total}{hint}")
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
    """Selected heads and rows of an edit's value, which is shaped like its site; rows: n, or text n if texts differ."""
    if rows.dim() == 2:
        if value.shape[0] not in (1, len(rows)):
            raise WrongValue(
                f"the value for {site!r} has {value.shape[0]} texts, but there are positions for {len(rows)}"
            )
        value = value.expand(len(rows), *value.shape[1:])
    return value[index_into(value, shape, heads, rows)]


def _called(site: str, edit: Edit, selected: Tensor, value: Tensor | None) -> Tensor:
    """The result of the edit's function for `selected`, after checking its type, shape and dtype."""
    # Inference tensors have no version counter: the function gets a copy, which is compared with the original.
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
            f"an edit of {site!r} returned {tuple(new.shape)} {new.dtype} instead of "
            f"{tuple(selected.shape)} {selected.dtype}, the shape and dtype of its argument"
        )
    return new


def tap_at(taps: Taps | None, layer: int | None = None) -> Tap | Untapped:
    """The tap at one block, or outside the blocks (None); `UNTAPPED` if nothing is captured or edited there."""
    if taps is None or layer not in taps.looked_at:
        return UNTAPPED
    return Tap(taps, "" if layer is None else f"blocks.{layer}.")


UNTAPPED = Untapped()
