"""The output of each MLP of one run as a sum: features of its transcoder, bias, skip and error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hooks import OlmoForCausalLM, Run
from hooks.sites import layer_of
from workbench.errors import WorkbenchError
from workbench.features.cross_layer import CrossLayerTranscoder
from workbench.features.dictionary import EPSILON, Dictionary

READS, WRITES = ("mlp_in", "resid_mid"), ("mlp_out", "mlp_out_raw")
"""The sites that a transcoder of an MLP may read and write."""
Transcoders = Mapping[str, Dictionary | CrossLayerTranscoder]
"""Transcoders by name, at most one of each layer; a cross-layer transcoder is one of every layer."""


class LayerTranscoder(NamedTuple):
    """The transcoder of one layer.

    Attributes:
        name: its name; that of the whole for a cross-layer transcoder.
        dictionary: what it reads, its features, and what they write to the MLP of the layer.
        later: what they write to the MLPs of later layers: feature later_layer d_model; no layers for a transcoder that
            writes to one layer.
    """

    name: str
    dictionary: Dictionary
    later: Tensor


@dataclass(frozen=True, eq=False)
class ReplacedMLP:
    """What one MLP writes at the site `writes`.

    The sum of `written` over its features, of `later` over the features of earlier layers (of a cross-layer
    transcoder), `constant`, the skip and `error`.

    Attributes:
        layer: the layer.
        transcoder: its dictionary; None if there is none, and then all is error.
        writes: the site: `blocks.2.mlp_out`.
        positions, features, activations: of the active features, in order of their positions: feature.
        written: what each of them writes to this MLP: feature d_model.
        later: what each of them writes to the MLPs of later layers: feature later_layer d_model.
        slopes: the gradient of each pre-activation with respect to the site that the transcoder reads: feature d_read.
        biases: the part of each pre-activation that does not depend on this site: feature.
        constant: the decoder's bias: pos d_model.
        error: pos d_model.
    """

    layer: int
    transcoder: Dictionary | None
    writes: str
    positions: Tensor
    features: Tensor
    activations: Tensor
    written: Tensor
    later: Tensor
    slopes: Tensor
    biases: Tensor
    constant: Tensor
    error: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, layer: int) -> Tensor:
        """What each feature writes to the MLP of a layer: feature d_model; zero where it writes nothing."""
        if layer == self.layer:
            return self.written
        place = layer - self.layer - 1
        reached = 0 <= place < self.later.shape[1]
        return self.later[:, place] if reached else torch.zeros_like(self.written)

    def total(self, layer: int) -> Tensor:
        """What all features write to the MLP of a layer: pos d_model."""
        return torch.zeros_like(self.error).index_add_(0, self.positions, self.at(layer))

    @property
    def layers(self) -> range:
        """The layers to whose MLPs the features write."""
        return range(self.layer, self.layer + 1 + self.later.shape[1])

    def kept(self, which: Tensor) -> "ReplacedMLP":
        """The same MLP with some features only; which: boolean, feature."""
        names = ("positions", "features", "activations", "written", "later", "slopes", "biases")
        return replace(self, **{name: getattr(self, name)[which] for name in names})


def transcoders_by_layer(model: OlmoForCausalLM, transcoders: Transcoders) -> dict[int, LayerTranscoder]:
    """Transcoders by layer.

    Errors: WorkbenchError for a dictionary that is not a transcoder of an MLP, one that does not fit the model, and two
    for one layer.
    """
    found: dict[int, LayerTranscoder] = {}
    for one in (part for name, given in transcoders.items() for part in _layer_transcoders(model, name, given)):
        layer = layer_of_mlp(one.dictionary)
        if layer is None:
            raise WorkbenchError(
                f"{one.name} ({one.dictionary.reads} → {one.dictionary.writes}) is not a transcoder of one MLP: it "
                f"should read blocks.N.{' or '.join(READS)} and write blocks.N.{' or '.join(WRITES)}; one that writes "
                "to several layers is a CrossLayerTranscoder"
            )
        one.dictionary.check_fits(model)
        if layer in found:
            raise WorkbenchError(f"{found[layer].name} and {one.name} are both transcoders of layer {layer}; give one")
        found[layer] = one
    return found


def _layer_transcoders(
    model: OlmoForCausalLM, name: str, transcoder: Dictionary | CrossLayerTranscoder
) -> Sequence[LayerTranscoder]:
    """The transcoders of single layers that a transcoder is made of."""
    if isinstance(transcoder, CrossLayerTranscoder):
        transcoder.check_fits(model)
        pairs = zip(transcoder.layers, transcoder.later, strict=True)
        return [LayerTranscoder(name, dictionary, later) for dictionary, later in pairs]
    decoder = transcoder.decoder
    return [LayerTranscoder(name, transcoder, decoder.new_zeros(len(decoder), 0, decoder.shape[1]))]


def layer_of_mlp(dictionary: Dictionary) -> int | None:
    """The layer whose MLP a transcoder stands for; None for any other dictionary."""
    (layer, read), (other, written) = layer_of(dictionary.reads), layer_of(dictionary.writes)
    is_transcoder = layer == other and read in READS and written in WRITES and not dictionary.sources
    return layer if is_transcoder else None


def sites_of(transcoders: Mapping[int, LayerTranscoder], layers: Sequence[int]) -> list[str]:
    """The sites that a run must have captured for `replaced_mlps` of these layers."""
    read = [transcoders[layer].dictionary.reads for layer in layers if layer in transcoders]
    return [*read, *(writes(transcoders, layer) for layer in layers)]


def writes(transcoders: Mapping[int, LayerTranscoder], layer: int) -> str:
    """The site of a layer at which the output of its MLP is written as a sum."""
    return transcoders[layer].dictionary.writes if layer in transcoders else f"blocks.{layer}.mlp_out"


@torch.no_grad()
def replaced_mlps(
    model: OlmoForCausalLM, run: Run, transcoders: Mapping[int, LayerTranscoder], layers: range
) -> list[ReplacedMLP]:
    """The MLPs of these layers, 0 … n − 1, in a run of one text; positions are those that the run captured."""
    found = [_replaced(layer, transcoders.get(layer), writes(transcoders, layer), run, layers.stop) for layer in layers]
    return [
        replace(mlp, error=mlp.error - sum(earlier.total(mlp.layer) for earlier in found[: mlp.layer])) for mlp in found
    ]


def with_most(mlps: list[ReplacedMLP], most: int) -> list[ReplacedMLP]:
    """The same MLPs with at most `most` features in all: those that write the longest vectors.

    What the others write becomes part of the errors.
    """
    sizes = torch.cat([torch.cat([mlp.written[:, None], mlp.later], dim=1).flatten(1).norm(dim=-1) for mlp in mlps])
    if len(sizes) <= most:
        return mlps
    kept = torch.zeros_like(sizes, dtype=torch.bool)
    kept[sizes.argsort(descending=True, stable=True)[:most]] = True
    parts = list(zip(mlps, kept.split([len(mlp) for mlp in mlps]), strict=True))
    left = [mlp.kept(~which) for mlp, which in parts]
    return [
        replace(mlp.kept(which), error=mlp.error + sum(other.total(mlp.layer) for other in left[: mlp.layer + 1]))
        for mlp, which in parts
    ]


def _replaced(layer: int, given: LayerTranscoder | None, site: str, run: Run, layers: int) -> ReplacedMLP:
    """The MLP of a layer; its error includes what features of earlier layers write. layers: how many there are."""
    out = run[site][0].float()  # pos d_model
    if given is None:
        none, nothing = torch.zeros(0, dtype=torch.long, device=out.device), out.new_zeros(0)
        vectors, later = out.new_zeros(0, out.shape[-1]), out.new_zeros(0, 0, out.shape[-1])
        return ReplacedMLP(
            layer, None, site, none, none, nothing, vectors, later, vectors, nothing, torch.zeros_like(out), out
        )
    dictionary = given.dictionary.to(out.device)
    read = run[dictionary.reads][0].float()  # pos d_read
    firing = dictionary.encode(read)
    positions, slots = firing.values.nonzero(as_tuple=True)
    features, activations = firing.indices[positions, slots], firing.values[positions, slots]
    later = given.later[:, : layers - layer - 1].to(out.device)
    return ReplacedMLP(
        layer,
        dictionary,
        site,
        positions,
        features,
        activations,
        written=activations[:, None] * (dictionary.decoder / dictionary.scale)[features],
        later=activations[:, None, None] * later[features],
        slopes=encoder_slopes(dictionary, read[positions], features),
        biases=_biases(dictionary, features),
        constant=(dictionary.decoder_bias / dictionary.scale).expand_as(out),
        error=dictionary.error(read, out),
    )


def _biases(dictionary: Dictionary, features: Tensor) -> Tensor:
    """The part of each pre-activation that does not depend on what the dictionary reads: feature."""
    biases = dictionary.encoder_bias[features]
    return biases - dictionary.encoder.T[features] @ dictionary.decoder_bias if dictionary.centred else biases


def encoder_slopes(dictionary: Dictionary, rows: Tensor, features: Tensor) -> Tensor:
    """The gradient of a feature's pre-activation with respect to each row that it reads: row d_read.

    The number by which the dictionary divides activations (`norming`) is frozen at its value for this row, so that the
    pre-activation less its bias is the product of row and gradient.

    Args:
        rows: activations, row d_read.
        features: the feature of each row.
    """
    encoder = dictionary.encoder.T[features]
    if dictionary.norming == "layer_norm":
        return (encoder - encoder.mean(-1, keepdim=True)) / (rows.std(-1, keepdim=True) + EPSILON)
    if dictionary.norming == "unit_norm":
        return encoder * rows.shape[-1] ** 0.5 / rows.norm(dim=-1, keepdim=True)
    return encoder * dictionary.scale


def features_of(mlps: Sequence[ReplacedMLP]) -> int:
    """The number of active features of all MLPs."""
    return sum(len(mlp) for mlp in mlps)
