"""Which hidden states and logits a call returns: `output_hidden_states` and `logits_to_keep` of transformers."""

from torch import Tensor

from .errors import WrongValue


def kept(positions: range, logits_to_keep: int | Tensor) -> list[int] | range:
    """The positions whose logits are computed: the last n (a number n), all (0), or those of a tensor of indices."""
    if isinstance(logits_to_keep, int):
        return positions[-logits_to_keep:] if logits_to_keep else positions
    if logits_to_keep.dim() != 1:
        raise WrongValue("with captures or edits, logits_to_keep must be a number or one index for the whole batch")
    return [positions[index] for index in logits_to_keep.tolist()]


def hidden_states_shown(asked: bool | int | list[int], n_states: int) -> range | set[int]:
    """The indices of the hidden states to return: all (True), none (False), or the given ones.

    Negative indices count from the end. As in transformers, indices out of range are ignored, and the number 0 means
    none.
    """
    if not asked or asked is True:
        return range(n_states if asked else 0)
    indices = [asked] if isinstance(asked, int) else asked
    return {index % n_states for index in indices if -n_states <= index < n_states}
