"""`CrossLayerTranscoder`: transcoders of all MLPs, whose features also write to the MLPs of later layers.

clt = features.load_cross_layer("owner/repository")
firings = clt.encode(run.stack("resid_mid"))                 # one for each layer
clt.decode(firings) + clt.error(run.stack("resid_mid"), run.stack("mlp_out"))    # is mlp_out, up to rounding
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hooks import OlmoForCausalLM
from hooks.sites import layer_of
from workbench.errors import WorkbenchError
from workbench.features.dictionary import Dictionary
from workbench.features.firing import Firing


@dataclass(frozen=True, eq=False, repr=False)
class CrossLayerTranscoder:
    """A cross-layer transcoder (Ameisen et al. 2025, "Circuit Tracing"):

        f_l = gate_l(x_l E_l + b_l)        y_l = Σ_{m ≤ l} f_m D_{m → l} + d_l + x_l S_l

    where x_l is what layer l reads, y_l the reconstruction of what its MLP writes, and S_l a skip, if there is one.

    Attributes:
        layers: one transcoder for each layer of a model, in order: E_l, b_l, the gate, D_{l → l}, d_l and S_l. Their
            `scale` is folded into the weights.
        later: for each layer l its decoders to later layers, D_{l → l + 1} first: feature later_layer d_model, float32,
            for activations of the folded layers.

    Errors: WorkbenchError for layers that are not transcoders of the MLPs of layers 0, 1, … at the same sites, and for
    decoders of other shapes.
    """

    layers: tuple[Dictionary, ...]
    later: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(one.folded() for one in self.layers))
        object.__setattr__(self, "later", tuple(one.detach().float() for one in self.later))
        self._check_places()
        wanted = [(len(one), len(self) - 1 - layer, one.decoder.shape[1]) for layer, one in enumerate(self.layers)]
        if (found := [tuple(one.shape) for one in self.later]) != wanted:
            raise WorkbenchError(
                f"the decoders to later layers have the shapes {found}; they should be (feature, later layer, "
                f"d_model): {wanted}"
            )
        if not all(one.isfinite().all() for one in self.later):
            raise WorkbenchError("the decoders to later layers have numbers that are NaN or infinite")

    def _check_places(self) -> None:
        if not self.layers:
            raise WorkbenchError(
                "a cross-layer transcoder has no layers; give one transcoder for each layer of a model"
            )
        for sites in ([one.reads for one in self.layers], [one.writes for one in self.layers]):
            found = [layer_of(site) for site in sites]
            if found != [(layer, found[0][1]) for layer in range(len(self))]:
                raise WorkbenchError(
                    f"a cross-layer transcoder reads and writes the same sites of layers 0, 1, …; these are "
                    f"{', '.join(sites)}"
                )

    def __repr__(self) -> str:
        first = self.layers[0]
        return (
            f"<cross-layer transcoder of {len(self)} layers at {first.reads} → {first.writes} and so on: "
            f"{sum(map(len, self.layers)):,} features, width {first.width}, {first.gate.name}>"
        )

    def __len__(self) -> int:
        return len(self.layers)

    def encode(self, x: Tensor) -> list[Firing]:
        """The active features of each layer. x: what the layers read, layer … d_model."""
        return [one.encode(rows) for one, rows in zip(self.layers, self._by_layer(x), strict=True)]

    @torch.no_grad()
    def decode(self, firings: Sequence[Firing], x: Tensor | None = None) -> Tensor:
        """What the features write to each MLP: layer … d_model, float32.

        Args:
            firings: the active features of each layer.
            x: what the layers read, layer … d_model. Needed only if they have skips.
        """
        reads = [None] * len(self) if x is None else self._by_layer(x)
        own = [one.decode(firing, read) for one, firing, read in zip(self.layers, firings, reads, strict=True)]
        found = torch.stack(own)
        for layer, (firing, decoders) in enumerate(zip(firings, self.later, strict=True)):
            found[layer + 1 :] += _written_later(firing, decoders)
        return found

    def reconstruct(self, x: Tensor) -> Tensor:
        """What the transcoder makes of what the layers read: decode(encode(x), x)."""
        return self.decode(self.encode(x), x)

    def error(self, x: Tensor, target: Tensor) -> Tensor:
        """What the transcoder leaves out of the MLPs' outputs: target − reconstruct(x), layer … d_model, float32."""
        return target.float() - self.reconstruct(x)

    def to(self, device: torch.device | str) -> "CrossLayerTranscoder":
        """The same transcoder on another device."""
        return CrossLayerTranscoder(
            tuple(one.to(device) for one in self.layers), tuple(one.to(device) for one in self.later)
        )

    def check_fits(self, model: OlmoForCausalLM) -> None:
        """Errors: WorkbenchError if the model has another number of layers, and as in `Dictionary.check_fits`."""
        if len(self) != model.config.num_hidden_layers:
            raise WorkbenchError(
                f"the cross-layer transcoder has {len(self)} layers, and the model has {model.config.num_hidden_layers}"
            )
        for one in self.layers:
            one.check_fits(model)

    def _by_layer(self, x: Tensor) -> list[Tensor]:
        if len(x) != len(self):
            raise WorkbenchError(
                f"activations of the shape {tuple(x.shape)}; this transcoder reads {len(self)} layers: layer … d_model"
            )
        return list(x)


def _written_later(firing: Firing, decoders: Tensor) -> Tensor:
    """What features write to later layers: layer … d_model. decoders: feature layer d_model."""
    layers, d_model = decoders.shape[1:]
    if not layers:
        return firing.values.new_zeros(0, *firing.values.shape[:-1], d_model)
    slots = firing.values.shape[-1]
    indices, values = firing.indices.reshape(-1, slots), firing.values.reshape(-1, slots)
    rows = F.embedding_bag(indices, decoders.flatten(1), per_sample_weights=values, mode="sum")
    return rows.view(*firing.values.shape[:-1], layers, d_model).movedim(-2, 0)
