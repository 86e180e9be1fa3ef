"""`Direction`: a vector at a site that an edit adds to the activation."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from hooks import Edit, edits
from hooks.where import Where
from workbench.errors import WorkbenchError
from workbench.result_files import Storable


@dataclass(frozen=True, eq=False, repr=False)
class Direction(Storable):
    """A vector at one site of a model. Strengths are multiples of it: an edit of strength s adds s · vector.

    Attributes:
        site: the site to which the vector is added; its shape ends in d_model.
        vector: d_model, float32 on the CPU; finite and not zero.
        made: how the vector was made, in words.
        provenance: what it was made from: texts, labels, position, seed.

    Errors: WorkbenchError for a vector of another shape, with numbers that are not finite, or of norm 0.
    """

    site: str
    vector: Tensor
    made: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        vector = torch.as_tensor(self.vector).detach().to("cpu", torch.float32)
        if vector.ndim != 1:
            raise WorkbenchError(f"a direction is one vector, d_model; this one has the shape {tuple(vector.shape)}")
        if not vector.isfinite().all() or not vector.any():
            raise WorkbenchError(f"the direction ({self.made or 'given'}) is zero or not finite")
        object.__setattr__(self, "vector", vector)

    @property
    def norm(self) -> float:
        """The Euclidean norm of the vector."""
        return float(self.vector.norm())

    def edit(self, strength: float = 1.0, positions: Where = None) -> Edit:
        """The edit that adds `strength` times the vector at the site, at all positions or those given."""
        return edits.add(self.site, strength * self.vector, positions=positions)

    def scaled(self, norm: float) -> "Direction":
        """The same direction with another norm."""
        return replace(self, vector=self.vector * (norm / self.norm))

    def random(self, seed: int = 0) -> "Direction":
        """A control: a direction of the same norm at the same site, drawn uniformly."""
        vector = torch.randn(len(self.vector), generator=torch.Generator().manual_seed(seed))
        made = f"random direction (seed {seed}) of the norm of: {self.made}"
        return replace(self, vector=vector * (self.norm / vector.norm()), made=made, provenance={"seed": seed})

    def cosine(self, other: "Direction") -> float:
        """The cosine of the angle to another direction, −1 to 1."""
        return float(self.vector @ other.vector) / (self.norm * other.norm)

    def table(self) -> pd.DataFrame:
        """One row for each component of the vector."""
        return pd.DataFrame({"component": range(len(self.vector)), "value": self.vector.numpy()})

    def __repr__(self) -> str:
        return f"<Direction at {self.site}, norm {self.norm:.3g}: {self.made}>"
