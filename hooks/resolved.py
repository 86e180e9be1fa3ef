"""Captures and edits by site: globs and heads resolved for one model, and checked before anything is computed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from .capture_and_edit import Capture, Edit
from .errors import UnknownSite, WrongValue
from .sites import HEADS, Sites, axis_of, layer_of
from .where import Chosen, Places

QUERY_KEY_SITES = ("attn.scores", "attn.pattern")
COMPUTED_IN_PARTS = (*QUERY_KEY_SITES, "attn.result")


@dataclass(frozen=True, eq=False)
class ResolvedEdit:
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


@dataclass(frozen=True)
class Reach:
    """The sites that a run of some blocks reaches."""

    sites: Sites
    layers: range

    def matches(self, pattern: str) -> list[str]:
        """The reached sites that a name or glob matches. A name outside them, or a glob without any, is an error."""
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

    def matches_of_around(self, pattern: str) -> list[str]:
        """The sites that an edit of an enclosing block matches and this call computes."""
        try:
            return self.matches(pattern)
        except (UnknownSite, WrongValue):  # the bare decoder and a run of some blocks have fewer sites
            return []


def captures_by_site(reach: Reach, captures: Sequence[Capture]) -> dict[str, Capture]:
    """The captures of a call, one for each site, after checking that their options fit the sites."""
    found: dict[str, Capture] = {}
    for capture in captures:
        for site in reach.matches(capture.site):
            wanted = _capture_at(reach.sites, site, capture)
            if found.setdefault(site, wanted) != wanted:
                raise WrongValue(f"{site!r} is captured twice, with different options")
    return found


def edits_by_site(
    reach: Reach, around: Sequence[Edit], edits: Sequence[Edit], strict: bool, resumed: bool
) -> dict[str, list[ResolvedEdit]]:
    """The edits of a call by site, in the order in which they are applied; the arguments are those of `Taps`."""
    done = {"embed", f"blocks.{reach.layers.start}.resid_pre"} if resumed else set()
    found: dict[str, list[ResolvedEdit]] = {}
    for edit in around:
        for site in reach.matches_of_around(edit.site):
            if site not in done:
                found.setdefault(site, []).append(_edit_at(reach, site, edit, strict=False))
    for edit in edits:
        for site in reach.matches(edit.site):
            found.setdefault(site, []).append(_edit_at(reach, site, edit, strict))
    return found


def _capture_at(sites: Sites, site: str, capture: Capture) -> Capture:
    """The capture resolved for one site, after checking that its options fit this site."""
    name = layer_of(site)[1]
    if capture.queries is not None and name not in QUERY_KEY_SITES:
        raise WrongValue(f"{site!r} has no query axis ({sites[site]}); use positions= instead")
    if capture.reduce is not None and name != "attn.pattern":
        raise WrongValue(f"reduce= works only on attn.pattern, not on {site!r}")
    return replace(capture, site=site, heads=_heads_at(sites, site, capture.heads))


def _edit_at(reach: Reach, site: str, edit: Edit, strict: bool) -> ResolvedEdit:
    """The edit resolved for one site."""
    heads, given = _heads_at(reach.sites, site, edit.heads), edit.value
    reads = None if edit.reads is None else _read_site(reach, site, edit.reads)
    if given is None or isinstance(given, Tensor):
        return ResolvedEdit(edit, heads, given, False, strict, reads)
    if isinstance(given, Mapping):
        return ResolvedEdit(edit, heads, _value_in_run(reach.sites, site, given), True, strict, reads)
    return ResolvedEdit(edit, heads, None, True, strict, reads, given)


def _read_site(reach: Reach, site: str, reads: str) -> str:
    """The name of the site that an edit of `site` reads."""
    names = reach.sites.match(reads)
    if len(names) > 1:
        raise WrongValue(f"an edit reads one site; {reads!r} matches {len(names)}")
    order = list(reach.sites)
    if order.index(names[0]) >= order.index(site):
        raise WrongValue(f"an edit of {site!r} cannot read {names[0]!r}, which is not reached before it")
    if layer_of(names[0])[1] in COMPUTED_IN_PARTS:
        raise WrongValue(f"an edit cannot read {names[0]!r}, because only its captured part is computed")
    [found] = reach.matches(names[0])
    return found


def _value_in_run(sites: Sites, site: str, run: Mapping[str, Tensor]) -> Tensor:
    """The tensor that another run captured at a site: of full size in all axes except batch and positions."""
    if site not in run:
        raise UnknownSite(f"{site!r} was not captured in the run to patch from: {run!r}")
    shape, found = sites[site], run[site]
    sizes = [sites.sizes.get(word) for word in shape.split()]
    if len(sizes) != found.dim() or any(size not in (None, n) for size, n in zip(sizes, found.shape, strict=True)):
        raise WrongValue(
            f"{site!r} has shape {tuple(found.shape)} in the run to patch from; capture the whole site, {shape}"
        )
    return found


def _heads_at(sites: Sites, site: str, heads: Chosen) -> Chosen:
    """The selected heads at a site, checked and with negative numbers resolved; a slice or None is unchanged."""
    if heads is None:
        return None
    axis = axis_of(sites[site], *HEADS)
    if axis is None:
        raise WrongValue(f"{site!r} has no heads: its shape is {sites[site]}")
    if isinstance(heads, slice):
        return heads
    if heads.by_text:
        raise WrongValue(
            f"heads must be the same for all texts: give one row of heads at {site!r}, not {len(heads.rows)}"
        )
    word = sites[site].split()[axis]
    size = sites.sizes[word]
    return Places(tuple(map(tuple, heads.within(size, word, f"the {size} {word}s of {site!r}"))))
