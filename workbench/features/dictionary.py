"""`Dictionary`: a sparse autoencoder, a transcoder or a crosscoder: directions that add up to an activation.

    sae = features.load("tiny-olmo@step6000/blocks.2.resid_post")
    firing = sae.encode(x)                    # … d_model -> the active features and how much
    sae.decode(firing) + sae.error(x)         # is x, up to rounding

All three are one type. A sparse autoencoder reads a site and writes the same one, a transcoder reads one site and
writes another, and a crosscoder reads and writes one site of several checkpoints at once: its activations are those of
all checkpoints side by side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hooks import OlmoForCausalLM
from hooks.sites import layer_of
from workbench.errors import WorkbenchError
from workbench.features.firing import Firing, Gate

Kind = Literal["SAE", "transcoder", "crosscoder"]
Norming = Literal["none", "layer_norm", "unit_norm"]
NORMINGS: tuple[Norming, ...] = ("none", "layer_norm", "unit_norm")
ENCODE_BYTES = 2**28
"""The most bytes of pre-activations in memory at a time."""
EPSILON = 1e-5


@dataclass(frozen=True, eq=False, repr=False)
class Dictionary:
    """A dictionary of features: f = gate((x − c) E + b), y = f D + d, with c = d if `centred`, else 0.

    In a crosscoder, x and y are the activations of its sources side by side: d_read is source · d_model.

    Attributes:
        encoder: E, d_read feature, float32.
        encoder_bias: b, feature.
        decoder: D, feature d_write: what each feature writes, for an activation of 1.
        decoder_bias: d, d_write.
        gate: which features are active.
        reads, writes: the sites, `blocks.2.resid_post`.
        centred: whether the decoder's bias is subtracted before encoding.
        scale: activations are multiplied by this number before encoding, and divided by it after decoding;
            `folded` puts it into the weights.
        norming: what is done to each activation before encoding, and undone after decoding unless it writes another
            site: nothing; `layer_norm`, to mean 0 and standard deviation 1; `unit_norm`, to the norm √d_read.
        skip: d_read d_write, a linear map that is added to the output of a transcoder; None if there is none.
        sources: the ids of the checkpoints of a crosscoder, in order; empty for the other kinds.
        model: the id of the model that it was trained on.
        family: its transformers `model_type`, "olmo2"; empty if unknown.
        provenance: how it was made.

    Errors: WorkbenchError for shapes that do not belong together, or numbers that are not finite.
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    gate: Gate
    reads: str
    writes: str
    centred: bool = False
    scale: float = 1.0
    norming: Norming = "none"
    skip: Tensor | None = None
    sources: tuple[str, ...] = ()
    model: str = ""
    family: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, tensor in self._tensors().items():
            object.__setattr__(self, name, tensor.detach().float())
        self._check_shapes()
        if bad := [name for name, tensor in self._tensors().items() if not tensor.isfinite().all()]:
            raise WorkbenchError(
                f"the {bad[0].replace('_', ' ')} of the dictionary has numbers that are NaN or infinite"
            )
        if self.norming not in NORMINGS:
            raise WorkbenchError(f"no normalisation {self.norming!r}; choose one of {', '.join(NORMINGS)}")
        if not 0 < self.scale < float("inf"):
            raise WorkbenchError(f"the scale of the activations is {self.scale}; it should be above 0")

    def _tensors(self) -> dict[str, Tensor]:
        names = ("encoder", "encoder_bias", "decoder", "decoder_bias", "skip")
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}

    def _check_shapes(self) -> None:
        found = {name: tuple(tensor.shape) for name, tensor in self._tensors().items()}
        d_read, n = found["encoder"] if self.encoder.ndim == 2 else (0, 0)
        d_write = found["decoder"][-1] if self.decoder.ndim == 2 else 0
        wanted = {"encoder": (d_read, n), "encoder_bias": (n,), "decoder": (n, d_write), "decoder_bias": (d_write,)}
        if self.skip is not None:
            wanted["skip"] = (d_read, d_write)
        if not n or found != wanted:
            raise WorkbenchError(
                "the parts of a dictionary are encoder (d_read, feature), encoder_bias (feature), decoder (feature, "
                f"d_write), decoder_bias (d_write); these are {', '.join(f'{k} {v}' for k, v in found.items())}"
            )
        if self.gate.threshold is not None and self.gate.threshold.shape not in ((), (n,)):
            raise WorkbenchError(f"the threshold has the shape {tuple(self.gate.threshold.shape)}, not ({n},)")
        if self.gate.k is not None and self.gate.k > n:
            raise WorkbenchError(f"k is {self.gate.k}, but the dictionary has {n} features; k is at most that number")
        if self.centred and d_read != d_write:
            raise WorkbenchError(f"a bias of {d_write} numbers cannot be subtracted from activations of {d_read}")
        if self.sources and (d_read % len(self.sources) or d_write % len(self.sources)):
            raise WorkbenchError(
                f"a crosscoder of {len(self.sources)} sources cannot read {d_read} numbers: that is not a multiple of "
                f"{len(self.sources)} sources"
            )

    def __repr__(self) -> str:
        place = self.reads if self.reads == self.writes else f"{self.reads} → {self.writes}"
        of = f" of {self.model}" if self.model else f" of {len(self.sources)} checkpoints" if self.sources else ""
        k = f", k = {self.gate.k}" if self.gate.k else ""
        state = "" if self.hidden_state is None else f" (hidden_states[{self.hidden_state}])"
        return f"<{self.kind} at {place}{state}{of}: {len(self):,} features, width {self.width}, {self.gate.name}{k}>"

    def __len__(self) -> int:
        return len(self.decoder)

    @property
    def kind(self) -> Kind:
        """The kind of dictionary in a word."""
        if self.sources:
            return "crosscoder"
        return "SAE" if self.reads == self.writes else "transcoder"

    @property
    def width(self) -> int:
        """The width of the site that it reads, in one checkpoint."""
        return len(self.encoder) // max(1, len(self.sources))

    @property
    def layer(self) -> int | None:
        """The layer whose site it reads; None for a site outside the blocks."""
        return layer_of(self.reads)[0]

    @property
    def hidden_state(self) -> int | None:
        """The index of the site that it reads in transformers' `hidden_states`; None if it is not among them.

        `hidden_states[0]` is the embedding, and `hidden_states[l + 1]` is `blocks.{l}.resid_post`, but for the last
        layer: there transformers gives the output of the final norm, which is `ln_final.normalized`.
        """
        layer, name = layer_of(self.reads)
        if name == "embed" or layer is None:
            return 0 if name == "embed" else None
        return {"resid_pre": layer, "resid_post": layer + 1}.get(name)

    @cached_property
    def directions(self) -> Tensor:
        """What each feature writes, by source: feature d_model; in a crosscoder feature source d_model."""
        return self.decoder.unflatten(1, (len(self.sources), -1)) if self.sources else self.decoder

    def source(self, name: str) -> int:
        """The number of a source of a crosscoder. Errors: WorkbenchError if it has no such source."""
        if name not in self.sources:
            raise WorkbenchError(f"no source {name!r} in this {self.kind}; it has {', '.join(self.sources) or 'none'}")
        return self.sources.index(name)

    def check_feature(self, feature: int) -> int:
        """The number of a feature. Errors: WorkbenchError if there is no such feature."""
        if isinstance(feature, bool) or not isinstance(feature, int) or not 0 <= feature < len(self):
            raise WorkbenchError(f"no feature {feature!r}; this {self.kind} has features 0 to {len(self) - 1:,}")
        return feature

    @torch.no_grad()
    def encode(self, x: Tensor) -> Firing:
        """The active features of activations: … d_model, in a crosscoder … source d_model.

        Computed in float32, some rows at a time, so that at most `ENCODE_BYTES` of pre-activations are in memory.
        """
        rows = self._rows(x)
        at_once = max(1, ENCODE_BYTES // (4 * len(self)))
        parts = [self.gate(self._pre(self._normed(some))) for some in rows.split(at_once)]
        slots = max(part.values.shape[-1] for part in parts)
        indices, values = (
            torch.cat([F.pad(getattr(part, name), (0, slots - part.values.shape[-1])) for part in parts])
            for name in ("indices", "values")
        )
        shape = x.shape[: -2 if self.sources else -1]
        return Firing(indices.reshape(*shape, slots), values.reshape(*shape, slots), len(self))

    @torch.no_grad()
    def decode(self, firing: Firing, x: Tensor | None = None) -> Tensor:
        """What the features write: … d_model, float32; in a crosscoder … source d_model.

        Args:
            firing: the active features.
            x: the activations that were encoded. Needed only if the dictionary has a `norming`, which is undone, or a
                `skip`.
        """
        slots = firing.values.shape[-1]
        flat = firing.indices.reshape(-1, slots), firing.values.reshape(-1, slots)
        written = F.embedding_bag(flat[0], self.decoder, per_sample_weights=flat[1], mode="sum") + self.decoder_bias
        if x is None and (self.norming != "none" or self.skip is not None):
            raise WorkbenchError(f"this {self.kind} needs the activations to decode: give decode(firing, x)")
        if x is not None:
            rows = self._rows(x)
            mean, size = self._undo(rows)
            written = written * size + mean
            if self.skip is not None:
                written = written + rows @ self.skip
        else:
            written = written / self.scale
        written = written.reshape(*firing.values.shape[:-1], written.shape[-1])
        return written.unflatten(-1, (len(self.sources), -1)) if self.sources else written

    def reconstruct(self, x: Tensor) -> Tensor:
        """The reconstruction of activations: decode(encode(x)), in float32."""
        return self.decode(self.encode(x), x)

    def error(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        """What the dictionary leaves out: target − reconstruct(x), in float32.

        Args:
            x: the activations that it reads.
            target: the activations of the site that it writes; x itself if None.
        """
        return (x if target is None else target).float() - self.reconstruct(x)

    def added(self, x: Tensor, amounts: Tensor, feature: int, source: int = 0) -> Tensor:
        """The change at the site that it writes if a feature is `amounts` (…) more active: … d_model, float32.

        Args:
            x: the activations that it reads; a crosscoder does not need them.
            amounts: by how much the feature is more active.
            feature: its number.
            source: for a crosscoder, the number of the source whose activation changes.
        """
        if self.sources:
            return amounts[..., None] * (self.directions[feature, source] / self.scale).to(amounts.device)
        direction = self.decoder[feature].to(amounts.device)
        size = self._undo(self._rows(x))[1]  # row 1, or a number
        written = amounts[..., None] * direction
        return written * (size.reshape(*amounts.shape, 1) if isinstance(size, Tensor) else size)

    def folded(self) -> "Dictionary":
        """The same dictionary with the `scale` of the activations put into its weights."""
        return replace(
            self,
            encoder=self.encoder * self.scale,
            decoder=self.decoder / self.scale,
            decoder_bias=self.decoder_bias / self.scale,
            scale=1.0,
        )

    def to(self, device: torch.device | str) -> "Dictionary":
        """The same dictionary on another device; itself if it is there."""
        if self.encoder.device == torch.device(device):
            return self
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self._tensors().items()}
        return replace(self, **moved, gate=self.gate.to(device))

    def check_fits(self, model: OlmoForCausalLM) -> None:
        """Errors: WorkbenchError if the model is of another family, or has no such site, or one of another width."""
        family = model.config.model_type
        if self.family and self.family != family:
            raise WorkbenchError(f"the {self.kind} is for a model of the family {self.family}, and this is {family}")
        for site, width in (
            (self.reads, self.width),
            (self.writes, self.decoder.shape[1] // max(1, len(self.sources))),
        ):
            layer, there = layer_of(site)[0], model.config.num_hidden_layers
            if layer is not None and layer >= there:
                raise WorkbenchError(f"the {self.kind} is for layer {layer} ({site}), and the model has {there} layers")
            if (found := site_width(model, site)) != width:
                raise WorkbenchError(
                    f"the {self.kind} is of width {width}, and {site} of the model is of width {found}"
                )

    def _rows(self, x: Tensor) -> Tensor:
        """Activations as rows: row d_read, float32."""
        rows = x.flatten(-2) if self.sources else x
        if rows.shape[-1] != len(self.encoder):
            wanted = f"… {len(self.sources)} {self.width}" if self.sources else f"… {self.width}"
            raise WorkbenchError(f"activations of the shape {tuple(x.shape)}; this {self.kind} reads {wanted}")
        return rows.reshape(-1, rows.shape[-1]).float()

    def _normed(self, rows: Tensor) -> Tensor:
        """What is encoded, for rows of activations: row d_read."""
        if self.norming == "layer_norm":
            centred = rows - rows.mean(-1, keepdim=True)
            return centred / (centred.std(-1, keepdim=True) + EPSILON)
        if self.norming == "unit_norm":
            return rows * (rows.shape[-1] ** 0.5 / rows.norm(dim=-1, keepdim=True))
        return rows if self.scale == 1.0 else rows * self.scale

    def _undo(self, rows: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """(mean, size) of rows of activations: decoded vectors are multiplied by size, then mean is added."""
        if self.norming == "none" or self.reads != self.writes:
            return 0.0, 1 / self.scale
        if self.norming == "layer_norm":
            return rows.mean(-1, keepdim=True), rows.std(-1, keepdim=True)
        return 0.0, rows.norm(dim=-1, keepdim=True) / rows.shape[-1] ** 0.5

    def _pre(self, normed: Tensor) -> Tensor:
        """Pre-activations of normed rows: row feature."""
        return torch.addmm(self.encoder_bias, normed - self.decoder_bias if self.centred else normed, self.encoder)


def site_width(model: OlmoForCausalLM, site: str) -> int:
    """How many numbers the activation of one token at a site has. Errors: those of hooks for an unknown site."""
    [name] = model.sites.match(site)
    sizes: Sequence[int] = [model.sites.sizes[word] for word in model.sites[name].split()[2:]]
    width = 1
    for size in sizes:
        width *= size
    return width
