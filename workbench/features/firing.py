"""`Firing`: the active features of some activations, sparse; and `Gate`, which decides which features are active."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.errors import WorkbenchError

GateName = Literal["relu", "topk", "batchtopk", "jumprelu"]
GATES: tuple[GateName, ...] = ("relu", "topk", "batchtopk", "jumprelu")


@dataclass(frozen=True, eq=False)
class Firing:
    """The active features of each activation, strongest first.

    Attributes:
        indices: numbers of the active features: … slot, int64. A row that has fewer than `slot` active features is
            filled up with feature 0.
        values: their activations, … slot, float32; 0 where a slot is filled up.
        features: the number of features of the dictionary.
    """

    indices: Tensor
    values: Tensor
    features: int

    def __repr__(self) -> str:
        rows = " × ".join(map(str, self.values.shape[:-1])) or "1"
        return f"<Firing of {rows} activations: {self.l0:.1f} of {self.features:,} features active>"

    @property
    def l0(self) -> float:
        """The mean number of active features."""
        return float((self.values > 0).sum(-1).float().mean())

    def dense(self) -> Tensor:
        """The activations of all features, 0 for those that are not active: a tensor of the shape … feature."""
        whole = self.values.new_zeros(*self.values.shape[:-1], self.features)
        return whole.scatter_add_(-1, self.indices, self.values)

    def of(self, feature: int) -> Tensor:
        """The activation of one feature: …; 0 where it is not active."""
        return self.values.where(self.indices == feature, 0.0).sum(-1)

    @classmethod
    def from_dense(cls, values: Tensor, at_most: int | None = None) -> "Firing":
        """The positive values of … feature; at most the `at_most` largest of each row."""
        most = int((values > 0).sum(-1).max()) if values.numel() else 0
        slots = max(1, most if at_most is None else min(most, at_most))
        top = values.topk(slots, dim=-1)
        active = top.values > 0
        return cls(top.indices.where(active, 0), top.values.where(active, 0.0), values.shape[-1])


@dataclass(frozen=True, eq=False)
class Gate:
    """Which features are active, and how much, given their pre-activations p.

    - `relu`: max(p, 0).
    - `topk`: max(p, 0) of the k largest p of an activation, 0 of the others (Gao et al. 2024).
    - `batchtopk`: p where p > threshold, one number for all features. In training, the k · n largest of a batch of n
      activations are kept, and the threshold is a running mean of the smallest (Bussmann et al. 2024). So the
      features of an activation in a trained dictionary do not depend on its batch.
    - `jumprelu`: max(p, 0) where p > threshold, one number for each feature (Rajamanoharan et al. 2024).

    Attributes:
        name: one of `GATES`.
        k: for `topk` and `batchtopk`, the number of active features of an activation; for `batchtopk`, their mean.
        threshold: for `batchtopk` a single number, for `jumprelu` one for each feature: feature, float32.

    Errors: WorkbenchError for an unknown name, a missing or superfluous k or threshold.
    """

    name: GateName
    k: int | None = None
    threshold: Tensor | None = None

    def __post_init__(self) -> None:
        if self.name not in GATES:
            raise WorkbenchError(f"no activation {self.name!r}; choose one of {', '.join(GATES)}")
        if (self.k is None) == (self.name in ("topk", "batchtopk")):
            raise WorkbenchError(f"{self.name} with k={self.k}; only topk and batchtopk have a k, and they need one")
        if self.k is not None and self.k < 1:
            raise WorkbenchError(f"k is {self.k}; at least one feature should be active")
        if (self.threshold is None) == (self.name in ("batchtopk", "jumprelu")):
            given = "without" if self.threshold is None else "with"
            raise WorkbenchError(
                f"{self.name} {given} a threshold; only batchtopk and jumprelu have a threshold, and they need one"
            )

    def __call__(self, pre: Tensor) -> Firing:
        """The active features of pre-activations: … feature."""
        if self.threshold is not None:
            threshold = self.threshold.to(pre.device)
            return Firing.from_dense(F.relu(pre).where(pre > threshold, 0.0))
        return Firing.from_dense(pre, self.k)

    def to(self, device: torch.device | str) -> "Gate":
        """The same gate on another device."""
        return self if self.threshold is None else Gate(self.name, self.k, self.threshold.to(device))
