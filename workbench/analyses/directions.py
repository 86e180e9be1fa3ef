"""Directions for steering: from two labels, from the output of a head, or from a token's row of the unembedding.

`probe_layer(...).direction(...)` makes a direction from a probe. `steering` measures the effect of a direction.
"""

from collections.abc import Sequence

from torch import Tensor

from hooks import Capture, OlmoForCausalLM
from workbench.analyses.support.arguments import chosen, texts_for
from workbench.analyses.support.cost import Work, work_of
from workbench.analyses.support.direction import Direction
from workbench.analyses.support.labels import labels_of, two_groups
from workbench.analyses.support.residual_stream import residual_site
from workbench.analyses.support.text_states import Position, states_work, text_states
from workbench.errors import WorkbenchError
from workbench.progress import Progress
from workbench.texts import TextsLike

FINAL = "ln_final.normalized"


def label_direction(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    toward: object,
    against: object | None = None,
    *,
    labels: Sequence[object] | None = None,
    layer: int | str,
    position: Position = -1,
    progress: Progress | None = None,
) -> Direction:
    """The mean state of the texts with one label minus that of the texts with another: a Direction after a layer.

    This is contrastive activation addition (Rimsky et al. 2024, "Steering Llama 2 via contrastive activation
    addition"); with one text for each label it is activation addition (Turner et al. 2023, "Steering language models
    with activation engineering"); it is also the simplest reading vector of Zou et al. (2023, "Representation
    engineering"). The vector is not normalised: strength 1 moves the mean state of `against` to that of `toward`.

    `layer` is the number of a block, after which the state is read and later changed, or "embed". `position` is the
    token that is read: one number for all texts (−1 is the last), one for each text, or "mean" over tokens. Without
    `against`, the other mean is over all other texts. `labels` are those of the `Texts` if not given.

    Errors: WorkbenchError for a label that no text has, missing labels, a position outside a text, or a layer that the
    model does not have.
    """
    texts, site = texts_for(model, tokens), residual_site(model, layer)
    states = text_states(model, texts, [Capture(site)], position, "label direction", progress)[0]  # text d_model
    return _difference_of_means(site, states, labels_of(texts, labels), toward, against, position, "mean states")


def head_direction(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    layer: int,
    head: int,
    toward: object | None = None,
    against: object | None = None,
    *,
    labels: Sequence[object] | None = None,
    position: Position = -1,
    progress: Progress | None = None,
) -> Direction:
    """What one head adds to the residual stream, mean over texts, as a Direction at `attn_out` of the head's layer.

    With `toward`, it is the mean over the texts with this label minus that over the texts with `against` (or all
    others). Without `toward`, it is the mean over all texts, as in a function vector of one head (Todd et al. 2024,
    "Function vectors in large language models"); strength −1 removes this mean. `position` is as in `label_direction`.

    Errors: WorkbenchError for a head that the model does not have, and those of `label_direction`.
    """
    texts = texts_for(model, tokens)
    (layer,) = chosen([layer], model.config.num_hidden_layers, "layer")
    (head,) = chosen([head], model.sites.sizes["head"], f"head in layer {layer}")
    capture = Capture(f"blocks.{layer}.attn.result", heads=[head])
    states = text_states(model, texts, [capture], position, "head direction", progress)[0]  # text d_model
    site, what = f"blocks.{layer}.attn_out", f"mean outputs of L{layer}H{head}"
    if toward is None:
        if against is not None:
            raise WorkbenchError(
                f"against is {str(against)!r}, but toward is not given; give both labels, or toward alone"
            )
        return Direction(
            site, states.mean(0), f"{what}, {len(texts)} texts", {"position": _position_in_words(position)}
        )
    return _difference_of_means(site, states, labels_of(texts, labels), toward, against, position, what)


@work_of(label_direction)
def _work(model: OlmoForCausalLM, tokens: TextsLike, *_: object, layer: int | str, **__: object) -> Work:
    captures = [Capture(residual_site(model, layer))]
    return states_work(model, texts_for(model.config, tokens), captures, "label direction")


@work_of(head_direction)
def _work_of_head(model: OlmoForCausalLM, tokens: TextsLike, layer: int, head: int, *_: object, **__: object) -> Work:
    captures = [Capture(f"blocks.{layer % model.config.num_hidden_layers}.attn.result", heads=[head])]
    return states_work(model, texts_for(model.config, tokens), captures, "head direction")


def token_direction(model: OlmoForCausalLM, token: int, *, layer: int | str | None = None) -> Direction:
    """A token's row of the unembedding, as a Direction after a layer, or before the unembedding (`layer=None`).

    Before the unembedding (at `ln_final.normalized`) an edit raises the logit of every token u by exactly strength ·
    row(u) · row(token): for the token itself, strength · ‖row‖². After a layer, the row is multiplied by the weight of
    the final norm (OLMo 2 and 3), which makes it the direction that the token's logit reads from the residual stream.

    Errors: WorkbenchError for a token that is not in the vocabulary, or a layer that the model does not have.
    """
    rows = model.get_output_embeddings().weight
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < len(rows):
        raise WorkbenchError(f"token is {token!r}; it should be a token id from 0 to {len(rows) - 1}")
    row, made = rows[token].detach().float(), f"unembedding row of token {token}"
    if layer is None:
        return Direction(FINAL, row, made, {"token": token})
    weight = getattr(model.model.norm, "weight", None)  # none in OLMo 1
    through = row if weight is None else row * weight.detach().float()
    return Direction(residual_site(model, layer), through, made, {"token": token})


def _difference_of_means(
    site: str,
    states: Tensor,
    labels: tuple[str, ...],
    toward: object,
    against: object | None,
    position: Position,
    what: str,
) -> Direction:
    """The mean of the states (text d_model) of one label minus that of another."""
    ours, theirs = two_groups(labels, toward, against)
    other = "all other labels" if against is None else repr(str(against))
    made = f"{what}: {str(toward)!r} ({int(ours.sum())} texts) minus {other} ({int(theirs.sum())})"
    origin = {"toward": str(toward), "against": other.strip("'"), "position": _position_in_words(position)}
    return Direction(site, states[ours].mean(0) - states[theirs].mean(0), made, origin)


def _position_in_words(position: Position) -> int | str:
    return position if isinstance(position, int | str) else "one for each text"
