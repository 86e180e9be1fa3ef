"""Edits that change features during a run: `model.run(ids, edits=[features.steer(sae, 417, 8.0)])`.

All of them keep the error term: only what the changed feature writes is added or removed, and the part of the
activation that the dictionary does not explain stays. So a change of 0 changes no bit. Only `replace` can leave the
error out.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor

from hooks import Edit, OlmoForCausalLM, edits
from hooks.where import Where
from workbench.errors import WorkbenchError
from workbench.features.dictionary import Dictionary
from workbench.features.firing import Firing
from workbench.features.reading import Models, by_source, in_shape, read_by


def steer(
    dictionary: Dictionary, feature: int, strength: float, positions: Where = None, *, source: str | None = None
) -> Edit:
    """The edit that adds `strength` to the activation of a feature: x + strength · direction.

    Args:
        dictionary: where the feature is from.
        feature: its number.
        strength: in the unit of the feature's activation; negative ones subtract the direction.
        positions: the positions to change, as in `hooks.edits`; None for all.
        source: for a crosscoder, the source whose model runs: what is added is the feature's direction there.

    Errors: WorkbenchError for an unknown feature or source.
    """
    dictionary.check_feature(feature)
    if not math.isfinite(strength):
        raise WorkbenchError(f"the strength is {strength}; it should be a finite number")
    if dictionary.sources:
        direction = dictionary.directions[feature, dictionary.source(source or "")] / dictionary.scale
        return edits.apply(dictionary.writes, _adding(lambda _: strength * direction, strength), positions=positions)

    def written(x: Tensor) -> Tensor:
        return dictionary.to(x.device).added(x, torch.full(x.shape[:-1], strength, device=x.device), feature)

    return _edit(dictionary, _adding(written, strength), positions)


def switch_off(dictionary: Dictionary, feature: int, positions: Where = None) -> Edit:
    """The edit that removes what a feature writes, where it is active; other positions do not change a bit.

    The dictionary reads the activations of the same run, after earlier edits.

    Errors: WorkbenchError for an unknown feature, and for a crosscoder, which reads several models at once.
    """
    return set_to(dictionary, feature, 0.0, positions)


def switch_off_in(
    dictionary: Dictionary,
    feature: int,
    models: Models,
    tokens: Tensor | None = None,
    positions: Where = None,
    *,
    source: str | None = None,
    factor: float = 0.0,
) -> Edit:
    """The edit that removes what a feature writes in the unchanged models, for all three kinds of dictionaries.

    The activation of the feature is computed from runs without any edit, so this also works for a crosscoder, which
    reads several models at once. The edit subtracts this activation times the feature's direction in `source`.
    Positions where the feature is not active do not change a bit.

    Args:
        dictionary: where the feature is from.
        feature: its number.
        models: the model; for a crosscoder all of its sources by id.
        tokens: the token ids that the edited model reads, batch pos, without padding on the left. None takes those of
            each forward pass: what the feature writes is then computed again for each new text, which costs a pass of
            all `models` to the site that is read. A pass that does not know its token ids raises `hooks.HooksError`:
            one that starts from a stored residual stream, texts padded on the left, or several texts from a cache.
        positions: the positions to change, as in `hooks.edits`; None for all.
        source: for a crosscoder, the source whose model runs.
        factor: the share of what the feature writes that stays.

    Errors: WorkbenchError for an unknown feature or source, models that are not those of the dictionary, or a factor
    that is not finite.
    """
    dictionary.check_feature(feature)
    _check_finite(factor)
    number = dictionary.source(source or "") if dictionary.sources else 0
    written = _WrittenByIds(dictionary, feature, by_source(dictionary, models), number, factor - 1)
    value = written if tokens is None else {dictionary.writes: written(tokens)}
    return Edit(dictionary.writes, torch.add, positions=positions, value=value)


class _WrittenByIds:
    """What a feature writes in texts, times a factor. The texts of the last call are kept."""

    def __init__(
        self, dictionary: Dictionary, feature: int, models: Mapping[str, OlmoForCausalLM], number: int, factor: float
    ) -> None:
        self.model = list(models.values())[number]
        self.dictionary = dictionary.to(self.model.device)
        self.feature, self.models, self.number, self.factor = feature, models, number, factor
        self.last: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        """ids: batch pos; returns batch pos and the shape of the site. Equal texts are computed once."""
        texts, rows = ids.to(self.model.device).unique(dim=0, return_inverse=True)
        if self.last is None or not torch.equal(self.last[0], texts):
            written = written_in(self.dictionary, self.feature, self.models, texts, self.number)
            self.last = texts, in_shape(self.model, self.dictionary.writes, written)
        return self.factor * self.last[1][rows]


def written_in(
    dictionary: Dictionary, feature: int, models: Mapping[str, OlmoForCausalLM], ids: Tensor, source: int = 0
) -> Tensor:
    """What a feature writes in given texts, computed from the unchanged models: batch pos d_model, float32.

    Args:
        dictionary: any of the three kinds.
        feature: its number.
        models: the models that the dictionary reads, in the order of its sources (`by_source`).
        ids: batch pos, on the device of the dictionary.
        source: for a crosscoder, the number of the source in which it writes.
    """
    with ExitStack() as untapped:
        for model in models.values():
            untapped.enter_context(model.untapped())
        read = read_by(dictionary, models, ids)
    return dictionary.added(read, dictionary.encode(read).of(feature), feature, source)


def add_flat(model: OlmoForCausalLM, site: str, change: Tensor) -> Edit:
    """The edit that adds a change, batch pos d, at a site whose last dimensions together have d numbers."""
    return edits.add(site, in_shape(model, site, change))


def set_to(dictionary: Dictionary, feature: int, value: float, positions: Where = None) -> Edit:
    """The edit that sets the activation of a feature to a value; positions where it has this value do not change.

    Errors: those of `switch_off`.
    """
    dictionary.check_feature(feature)
    _check_reads_one(dictionary)

    def written(x: Tensor) -> Tensor:
        d = dictionary.to(x.device)
        return d.added(x, value - d.encode(x).of(feature), feature)

    return _edit(dictionary, _adding(written, 1.0), positions)


def scale(dictionary: Dictionary, feature: int, factor: float, positions: Where = None) -> Edit:
    """The edit that multiplies the activation of a feature; positions where it is not active do not change a bit.

    Errors: those of `switch_off`, and WorkbenchError for a factor that is not finite.
    """
    dictionary.check_feature(feature)
    _check_reads_one(dictionary)
    _check_finite(factor)

    def written(x: Tensor) -> Tensor:
        d = dictionary.to(x.device)
        return d.added(x, (factor - 1) * d.encode(x).of(feature), feature)

    return _edit(dictionary, _adding(written, factor - 1), positions)


def replace(
    dictionary: Dictionary,
    change: Callable[[Firing], Firing] | None = None,
    positions: Where = None,
    *,
    keep_error: bool = False,
) -> Edit:
    """The edit that puts the reconstruction in place of the activation.

    Args:
        dictionary: reads the activations of the same run.
        change: what to do to the active features before decoding.
        positions: the positions to change, as in `hooks.edits`; None for all.
        keep_error: whether the error of the unchanged reconstruction is added. Without `change`, the activation is then
            the same up to rounding.

    Errors: WorkbenchError for a crosscoder, which reads several models at once.
    """
    _check_reads_one(dictionary)

    def replaced(x: Tensor, read: Tensor) -> Tensor:
        d, rows, flat = dictionary.to(x.device), read.flatten(2), x.flatten(2)
        firing = d.encode(rows)
        new = d.decode(firing if change is None else change(firing), rows)
        if keep_error:
            new = new + d.error(rows, flat)
        return new.to(x.dtype).view_as(x)

    if dictionary.reads == dictionary.writes:
        return edits.apply(dictionary.writes, lambda x: replaced(x, x), positions=positions)
    return edits.apply(dictionary.writes, replaced, positions=positions, reads=dictionary.reads)


def _edit(dictionary: Dictionary, function: Callable[..., Tensor], positions: Where) -> Edit:
    """An edit of the site that a dictionary writes, whose function also gets the site that it reads."""
    if dictionary.reads == dictionary.writes:
        return edits.apply(dictionary.writes, function, positions=positions)
    return edits.apply(dictionary.writes, function, positions=positions, reads=dictionary.reads)


def _adding(written: Callable[[Tensor], Tensor], strength: float) -> Callable[..., Tensor]:
    """The function of an edit that adds `written(read)` to x in float32; x itself where this is 0."""

    def function(x: Tensor, read: Tensor | None = None) -> Tensor:
        if strength == 0:
            return x
        added = written((x if read is None else read).flatten(2)).to(x.device).expand(x.flatten(2).shape).view_as(x)
        return torch.where(added == 0, x, (x.float() + added).to(x.dtype))

    return function


def _check_finite(factor: float) -> None:
    if not math.isfinite(factor):
        raise WorkbenchError(f"the factor is {factor}; it should be a finite number")


def _check_reads_one(dictionary: Dictionary) -> None:
    if dictionary.sources:
        raise WorkbenchError(
            f"a crosscoder reads {len(dictionary.sources)} models at once, so an edit of one run cannot tell where its "
            "features are active; steer with a feature of it, or remove the feature with features.switch_off_in"
        )
