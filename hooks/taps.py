"""What one call records and changes.

A `Taps` is made for one call and handed down to the layers. At each site the forward pass reads
`x = tap("attn.q", x)`: edits are applied in the order given, then what a `Capture` selects is recorded.
Without taps the layers hold `UNTAPPED`, whose call returns its argument.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import index

import torch
from torch import Tensor

from .shards import Shards
from .sites import Sites, canonical, head_axis, layer_of, position_axis

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
    heads: Where = None
    positions: Where = None
    queries: Where = None
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    reduce: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.queries is not None and self.positions is not None:
            raise ValueError("queries and positions both name the query rows: give one of them")
        object.__setattr__(self, "site", canonical(self.site))
        for name in ("heads", "positions", "queries"):
            object.__setattr__(self, name, _indices(getattr(self, name), name))


@dataclass(frozen=True, eq=False)
class Edit:
    """A change at a site (or glob): `function(selected)` takes the place of what heads and positions select.

    With a `value` the function is called with it as its second argument, brought to the dtype and device of the
    first and to the positions that are present in this forward pass. Build one with `hooks.edits`.
    """

    site: str
    function: Callable[..., Tensor]
    heads: Where = None
    positions: Where = None
    value: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", canonical(self.site))
        for name in ("heads", "positions"):
            object.__setattr__(self, name, _indices(getattr(self, name), name))


class Untapped:
    """The tap of a call that looks at nothing."""

    grad = False

    def at(self, layer: int) -> "Untapped":
        return self

    def __call__(self, name: str, x: Tensor) -> Tensor:
        return x

    def wants(self, *names: str) -> bool:
        return False

    changes = wants


UNTAPPED = Untapped()


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
    ) -> None:
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
        for edit in edits:
            for site in self._reached(edit.site):
                self.edits.setdefault(site, []).append(edit)
                self._check_selection(site, edit.heads, edit.positions)

    def begin(self, start: int, length: int) -> None:
        """A forward pass starts: `length` new positions after `start` cached ones."""
        self.recorded = {}
        if self.started is not None:
            self.started(self.recorded)
        self.present = range(start, start + length)
        if self.strict:
            for capture in self.captures.values():
                self.resolve(_rows(capture))
            for edit in (edit for edits in self.edits.values() for edit in edits):
                self.resolve(edit.positions)

    def at(self, layer: int) -> "Tap":
        return Tap(self, f"blocks.{layer}.")

    def resolve(self, positions: Indices) -> Sequence[int]:
        """Positions as absolute numbers in the sequence so far."""
        total = self.present.stop
        if positions is None:
            return self.present
        if isinstance(positions, slice):
            return range(*positions.indices(total))
        outside = [p for p in positions if not -total <= p < total]
        if outside and self.strict:
            raise IndexError(f"position {outside[0]} is outside this sequence of {total} positions")
        return [p + total if p < 0 else p for p in positions]

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
        self._check_selection(site, capture.heads, _rows(capture))

    def _check_selection(self, site: str, heads: Indices, positions: Indices) -> None:
        shape = self.sites[site]
        axis = head_axis(shape)
        if heads is not None and axis is None:
            raise ValueError(f"{site!r} has no heads: its shape is {shape}")
        if positions is not None and position_axis(shape) is None:
            raise ValueError(f"{site!r} has no positions: its shape is {shape}")
        if heads is not None and not isinstance(heads, slice):
            word = shape.split()[axis]
            outside = [head for head in heads if not 0 <= head < self.sites.sizes[word]]
            if outside:
                raise IndexError(f"no {word} {outside[0]} at {site!r}: they are 0 to {self.sites.sizes[word] - 1}")


def _rows(capture: Capture) -> Indices:
    return capture.positions if capture.queries is None else capture.queries


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

    def capture(self, name: str) -> Capture | None:
        return self.taps.captures.get(self.prefix + name)

    def rows(self, capture: Capture) -> list[int]:
        """The query rows a capture names, as indices into those of this forward pass."""
        present = self.taps.present
        return [present.index(position) for position in self.taps.resolve(_rows(capture)) if position in present]

    def heads(self, capture: Capture, n_heads: int, device: torch.device) -> Tensor:
        """The heads to compute for a capture: those it names, or all of this process's if they are sharded."""
        whole = capture.heads is None or self.shards is not None
        return _tensor(slice(None) if whole else capture.heads, n_heads, device)

    def reduced(self, capture: Capture, n_keys: int, pattern: Tensor, rows: Sequence[int]) -> Tensor:
        """A capture's reduction of a chunk of rows of a pattern that has `n_keys` in all: stat batch head query."""
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

    def _selected(self, site: str, x: Tensor, capture: Capture, present: Sequence[int]) -> Tensor:
        shape = self.taps.sites[site]
        if capture.heads is not None:
            axis = head_axis(shape)
            x = x.index_select(axis, _tensor(capture.heads, x.shape[axis], x.device))
        rows = _rows(capture)
        if rows is not None:
            here = [present.index(position) for position in self.taps.resolve(rows) if position in present]
            x = x.index_select(position_axis(shape), torch.tensor(here, dtype=torch.long, device=x.device))
        if capture.reduce is not None:
            return self.reduced(capture, x.shape[-1], x, self.rows(capture))
        return x

    def _edited(self, site: str, x: Tensor, edit: Edit, present: Sequence[int]) -> Tensor:
        """One edit at one site: select, call the function, check what came back, put it in its place."""
        shape = self.taps.sites[site]
        axis = position_axis(shape)
        value, positions = edit.value, None if edit.positions is None else self.taps.resolve(edit.positions)
        if value is not None:
            value = value.to(device=x.device, dtype=x.dtype)
            if value.dim() == x.dim() and value.shape[axis] != 1:
                positions = self._positions_of(site, value.shape[axis], positions)
                rows = [row for row, position in enumerate(positions) if position in present]
                value = value.index_select(axis, torch.tensor(rows, dtype=torch.long, device=x.device))
        here = None if positions is None else [present.index(p) for p in positions if p in present]
        if here == []:
            return x
        if here == list(range(len(present))):
            here = None
        chosen = _index(x, {head_axis(shape): edit.heads, axis: here})
        selected = x if chosen is None else x[chosen]
        new = _called(site, edit, selected, value)
        if chosen is None:
            return new
        x = x.clone()
        x[chosen] = new
        return x

    def _positions_of(self, site: str, n_rows: int, positions: Sequence[int] | None) -> Sequence[int]:
        """The positions that the rows of an edit's value belong to."""
        if positions is not None and len(positions) != n_rows:
            raise ValueError(f"the value for {site!r} holds {n_rows} positions, but {len(positions)} are named")
        if positions is None and self.taps.strict and n_rows != self.taps.present.stop:
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


def _index(x: Tensor, chosen: dict[int | None, Indices | list[int]]) -> tuple | None:
    """An index that selects the chosen entries of some axes, all of the others; None where all are chosen."""
    lists = {axis: _tensor(where, x.shape[axis], x.device) for axis, where in chosen.items() if where is not None}
    if not lists:
        return None
    axes = sorted(lists)
    grids = dict(zip(axes, torch.meshgrid(*(lists[axis] for axis in axes), indexing="ij"), strict=True))
    return tuple(grids.get(axis, slice(None)) for axis in range(x.dim()))


def _tensor(where: Indices | list[int], size: int, device: torch.device) -> Tensor:
    numbers = range(size)[where] if isinstance(where, slice) else where
    return torch.tensor(list(numbers), dtype=torch.long, device=device)
