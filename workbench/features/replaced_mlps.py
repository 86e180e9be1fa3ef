"""The output of each MLP of one run as a sum: features of its transcoder, bias, skip and error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hooks import OlmoForCausalLM, Run
from hooks.sites import layer_of
from workbench.errors import WorkbenchError
from workbench.features.dictionary import EPSILON, Dictionary

READS, WRITES = ("mlp_in", "resid_mid"), ("mlp_out", "mlp_out_raw")
"""The sites that a transcoder of an MLP may read and write."""


@dataclass(frozen=True, eq=False)
class ReplacedMLP:
    """What one MLP writes at the site `writes`: written (summed over features) + constant + skip + error.

    Attributes:
        layer: the layer.
        transcoder: its dictionary; None if there is none, and then all is error.
        writes: the site: `blocks.2.mlp_out`.
        positions, features, activations: of the active features, in order of their positions: feature.
        written: what each of them writes: feature d_model.
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
    slopes: Tensor
    biases: Tensor
    constant: Tensor
    error: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def kept(self, which: Tensor) -> "ReplacedMLP":
        """The same MLP with some features only (boolean: feature); what the others write becomes part of the error."""
        left = torch.zeros_like(self.error).index_add_(0, self.positions[~which], self.written[~which])
        names = ("positions", "features", "activations", "written", "slopes", "biases")
        return replace(self, **{name: getattr(self, name)[which] for name in names}, error=self.error + left)


def transcoders_by_layer(
    model: OlmoForCausalLM, transcoders: Mapping[str, Dictionary]
) -> dict[int, tuple[str, Dictionary]]:
    """Transcoders with their names by layer.

    Errors: WorkbenchError for a dictionary that is not a transcoder of an MLP, one that does not fit the model, and two
    for one layer.
    """
    found: dict[int, tuple[str, Dictionary]] = {}
    for name, dictionary in transcoders.items():
        layer = layer_of_mlp(dictionary)
        if layer is None:
            raise WorkbenchError(
                f"{name} ({dictionary.reads} → {dictionary.writes}) is not a transcoder of one MLP: it should read "
                f"blocks.N.{' or '.join(READS)} and write blocks.N.{' or '.join(WRITES)}"
            )
        dictionary.check_fits(model)
        if layer in found:
            raise WorkbenchError(f"{found[layer][0]} and {name} are both transcoders of layer {layer}; give one")
        found[layer] = (name, dictionary)
    return found


def layer_of_mlp(dictionary: Dictionary) -> int | None:
    """The layer whose MLP a transcoder stands for; None for any other dictionary."""
    (layer, read), (other, written) = layer_of(dictionary.reads), layer_of(dictionary.writes)
    is_transcoder = layer == other and read in READS and written in WRITES and not dictionary.sources
    return layer if is_transcoder else None


def sites_of(transcoders: Mapping[int, tuple[str, Dictionary]], layers: Sequence[int]) -> list[str]:
    """The sites that a run must have captured for `replaced_mlps` of these layers."""
    read = [transcoders[layer][1].reads for layer in layers if layer in transcoders]
    return [*read, *(writes(transcoders, layer) for layer in layers)]


def writes(transcoders: Mapping[int, tuple[str, Dictionary]], layer: int) -> str:
    """The site of a layer at which the output of its MLP is written as a sum."""
    return transcoders[layer][1].writes if layer in transcoders else f"blocks.{layer}.mlp_out"


@torch.no_grad()
def replaced_mlps(
    model: OlmoForCausalLM, run: Run, transcoders: Mapping[int, tuple[str, Dictionary]], layers: Sequence[int]
) -> list[ReplacedMLP]:
    """The MLPs of these layers in a run of one text; positions are those that the run captured."""
    return [
        _replaced(
            layer,
            transcoders[layer][1].to(model.device) if layer in transcoders else None,
            writes(transcoders, layer),
            run,
        )
        for layer in layers
    ]


def with_most(mlps: list[ReplacedMLP], most: int) -> list[ReplacedMLP]:
    """The same MLPs with at most `most` features in all: those that write the longest vectors."""
    sizes = torch.cat([mlp.written.norm(dim=-1) for mlp in mlps])
    if len(sizes) <= most:
        return mlps
    kept = torch.zeros_like(sizes, dtype=torch.bool)
    kept[sizes.argsort(descending=True, stable=True)[:most]] = True
    parts = kept.split([len(mlp) for mlp in mlps])
    return [mlp.kept(which) for mlp, which in zip(mlps, parts, strict=True)]


def _replaced(layer: int, dictionary: Dictionary | None, site: str, run: Run) -> ReplacedMLP:
    out = run[site][0].float()  # pos d_model
    if dictionary is None:
        none, nothing = torch.zeros(0, dtype=torch.long, device=out.device), out.new_zeros(0)
        vectors = out.new_zeros(0, out.shape[-1])
        return ReplacedMLP(
            layer, None, site, none, none, nothing, vectors, vectors, nothing, torch.zeros_like(out), out
        )
    read = run[dictionary.reads][0].float()  # pos d_read
    firing = dictionary.encode(read)
    positions, slots = firing.values.nonzero(as_tuple=True)
    features, activations = firing.indices[positions, slots], firing.values[positions, slots]
    decoder = dictionary.decoder / dictionary.scale
    slopes = encoder_slopes(dictionary, read[positions], features)
    biases = dictionary.encoder_bias[features]
    if dictionary.centred:
        biases = biases - dictionary.encoder.T[features] @ dictionary.decoder_bias
    return ReplacedMLP(
        layer,
        dictionary,
        site,
        positions,
        features,
        activations,
        activations[:, None] * decoder[features],
        slopes,
        biases,
        (dictionary.decoder_bias / dictionary.scale).expand_as(out),
        dictionary.error(read, out),
    )


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
