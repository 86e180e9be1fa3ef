"""The captures and edits of one call, by site, and what its forward passes recorded."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .capture_and_edit import Capture, Edit
from .errors import WrongValue
from .resolved import Reach, captures_by_site, edits_by_site
from .shards import Shards
from .sites import Sites, layer_of
from .where import Chosen

IDS = "ids_of_positions"
"""The name of an attribute that is set on a cache: the token ids of its positions, if an edit needs them."""
Callbacks: TypeAlias = tuple[Callable[[dict[str, Tensor]], None] | None, Callable[[Tensor], None] | None]


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
        reach = Reach(sites, self.layers)
        self.captures = captures_by_site(reach, captures)
        self.edits = edits_by_site(reach, around, edits, strict, resumed)
        self.recorded: dict[str, Tensor] = {}
        changes = [change for at_site in self.edits.values() for change in at_site]
        self.read: dict[str, Tensor | None] = {change.reads: None for change in changes if change.reads is not None}
        self.present, self.texts, self.continues = range(0), 0, False
        self.ids: Tensor | None = None
        self.ids_of_resid: Tensor | None = None
        self.resid: Tensor | None = None
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

        Those of cached positions are kept with the cache, because a generation may open a `tapped()` block for each
        step.
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
