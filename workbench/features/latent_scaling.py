"""Latent scaling: whether a feature that a crosscoder writes in some sources only is really missing in the others.

A crosscoder is known to give a feature a direction near zero in a model that has it nevertheless. It leaves the feature
in its error there ("complete shrinkage"), or lets other features write it ("latent decoupling"). So a small direction
does not prove that a feature is missing. Latent scaling measures it in the activations (Minder et al., arXiv
2504.02922).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.features.births import held
from workbench.features.firing import Firing

LEAST_PLACES = 30
"""A feature that is active at fewer tokens gets no latent scaling."""
IN_ERROR, IN_RECONSTRUCTION = 0.2, 0.5
"""A feature is missing in a source only if both shares of latent scaling are below these (Minder et al.)."""
REFIT = 0.5
"""A feature is exclusive only if its refit, in the source of its largest norm, is at least this share of the norm."""


def is_exclusive(
    norms: np.ndarray, refit: np.ndarray, in_error: np.ndarray, in_reconstruction: np.ndarray
) -> np.ndarray:
    """Whether features are in some sources and not in all: feature, boolean.

    A feature is missing in a source if three numbers are small there: its norm is less than half of its largest,
    `in_error` is below `IN_ERROR`, and `in_reconstruction` is below `IN_RECONSTRUCTION`. It is exclusive if it is
    missing in at least one source, and in every source where its norm is less than half of its largest, and if its
    `refit` is at least `REFIT`. (With a smaller `refit`, the activations do not have the feature even where its norm is
    largest.)

    Args:
        norms: norms of its directions, in units that make sources comparable: feature source.
        refit, in_error, in_reconstruction: those of `LatentScaling`. NaN is never exclusive.
    """
    small = ~held(norms, 0.0)
    gone = (in_error < IN_ERROR) & (in_reconstruction < IN_RECONSTRUCTION)
    return small.any(1) & (gone | ~small).all(1) & (refit >= REFIT)


@dataclass(frozen=True, eq=False)
class LatentScaling:
    """How large each feature is in the activations of each source.

    With f the activations of the feature, u the unit vector along its direction in the source of its largest norm, and
    e_s and y_s the error and the reconstruction in source s:

    - `amount`: β of min Σ ‖f d_s + e_s − β f u‖², the least-squares amount along u if all other features stay:
      ⟨u, d_s⟩ + Σ f ⟨u, e_s⟩ / Σ f². Feature source, in the units of the norms.
    - `refit`: `amount` in the source of the largest norm, as a share of that norm: feature. Near 1: the feature is
      there, as large as it says.
    - `in_error`: `amount` as a share of that in the source of the largest norm: feature source.
    - `in_reconstruction`: β of min Σ ‖y_s − mean − β f u‖² as such a share. It also counts what other features write in
      place of this one: feature source.

    The shares are near 1 in a source that has the feature, and near 0 in one that does not. All but `amount` are NaN
    for a feature that is active at fewer than `LEAST_PLACES` tokens.
    """

    norms: np.ndarray
    amount: np.ndarray
    refit: np.ndarray
    in_error: np.ndarray
    in_reconstruction: np.ndarray

    @property
    def exclusive(self) -> np.ndarray:
        """Whether features are in some sources and not in all, by `is_exclusive`: feature, boolean."""
        return is_exclusive(self.norms, self.refit, self.in_error, self.in_reconstruction)


class ScalingSums:
    """Sums over tokens from which latent scaling is computed.

    `directions` are those of the sources to compare: feature source d_model. `unit` are the unit vectors along which
    amounts are fitted: feature d_model.
    """

    def __init__(self, directions: Tensor, unit: Tensor) -> None:
        n, sources, d_model = directions.shape
        self.unit, self.tokens = unit, 0
        self.norms = directions.norm(dim=-1).double().cpu()
        self.along = torch.einsum("fsd,fd->fs", directions, unit).double().cpu()
        self.total, self.squares, self.count = torch.zeros(3, n, dtype=torch.float64)  # Σ f, Σ f², places
        self.errors, self.rebuilt = torch.zeros(2, n, sources, dtype=torch.float64)  # Σ f ⟨u, e⟩, Σ f ⟨u, y⟩
        self.activation = torch.zeros(sources, d_model, dtype=torch.float64)  # Σ x

    def add(self, firing: Firing, made: Tensor, x: Tensor) -> None:
        """Add tokens: the active features, and the reconstruction and activations, each row source d_model."""
        indices, values = firing.indices.flatten().cpu(), firing.values.double().cpu()
        self.tokens += len(x)
        self.activation += x.double().sum(0).cpu()
        for sums, parts in ((self.total, values), (self.squares, values.square()), (self.count, values > 0)):
            sums.index_add_(0, indices, parts.flatten().double())
        units = self.unit[firing.indices]  # row slot d_model
        for sums, written in ((self.errors, x - made), (self.rebuilt, made)):
            dots = units @ written.transpose(1, 2)  # row slot source
            sums.index_add_(0, indices, (values[..., None] * dots.double().cpu()).flatten(0, 1))

    def result(self, sizes: Tensor | None = None) -> LatentScaling:
        """The latent scaling, in units of `sizes` of the sources: source; None for those of the directions."""
        unit = torch.ones(self.norms.shape[1], dtype=torch.float64) if sizes is None else sizes.double().cpu()
        norms = self.norms / unit
        amount = (self.along + self.errors / self.squares.clamp_min(1e-12)[:, None]) / unit
        means = (self.unit.double().cpu() @ self.activation.T) / max(1, self.tokens)  # feature source
        rebuilt = (self.rebuilt - self.total[:, None] * means) / unit
        if not norms.shape[1]:
            nothing = norms.numpy()
            return LatentScaling(nothing, nothing, np.full(len(nothing), np.nan), nothing, nothing)
        at = norms.argmax(1, keepdim=True)
        refit = (amount.gather(1, at) / norms.gather(1, at).clamp_min(1e-12))[:, 0]
        rare = self.count < LEAST_PLACES
        shares = [(part / part.gather(1, at)).masked_fill(rare[:, None], torch.nan) for part in (amount, rebuilt)]
        in_error, in_reconstruction = (share.numpy() for share in shares)
        return LatentScaling(
            norms.numpy(), amount.numpy(), refit.masked_fill(rare, torch.nan).numpy(), in_error, in_reconstruction
        )
