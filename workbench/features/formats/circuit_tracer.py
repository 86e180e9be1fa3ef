"""The format of circuit-tracer's cross-layer transcoders.

Source: circuit-tracer, `circuit_tracer/transcoder/cross_layer_transcoder.py`.

A folder with `config.yaml` and for each layer l two files: `W_enc_l.safetensors` with `W_enc_l` (feature d_model),
`b_enc_l`, `b_dec_l`, for JumpReLU `threshold_l`, and with a skip (Paulo et al. 2025) `W_skip_l` (d_model d_model),
which adds x @ W_skip_l; and `W_dec_l.safetensors` with `W_dec_l` (feature, layer from l on, d_model). SAELens and
sparsify have no format for cross-layer transcoders.
"""

from pathlib import Path

import torch
import yaml
from torch import Tensor

from workbench.checkpoints.files import is_there
from workbench.errors import WorkbenchError, reason, shown
from workbench.features.cross_layer import CrossLayerTranscoder
from workbench.features.dictionary import Dictionary
from workbench.features.firing import Gate
from workbench.features.formats.places import family_of_name
from workbench.features.formats.tensors import named_tensor, read_safetensors, setting, write_tensors, write_text

CONFIG, KIND = "config.yaml", "cross_layer_transcoder"
ENCODER, DECODER = "W_enc_{}.safetensors", "W_dec_{}.safetensors"
PATTERNS = (CONFIG, ENCODER.format("*"), DECODER.format("*"))
HOOKS = {
    "hook_resid_mid": "resid_mid",
    "mlp.hook_in": "mlp_in",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_out": "mlp_out_raw",
}
"""Names of hooks in a block -> our sites. The first two are what a transcoder reads, the others what it writes."""


def is_cross_layer(folder: Path) -> bool:
    """Whether a folder holds a cross-layer transcoder."""
    return is_there(folder / ENCODER.format(0)) and is_there(folder / DECODER.format(0))


def read(folder: Path) -> CrossLayerTranscoder:
    """The cross-layer transcoder of a folder. Errors: WorkbenchError for files of another form."""
    reads, writes, model = _config(folder / CONFIG)
    count = sum(1 for _ in folder.glob(ENCODER.format("*")))
    layers, later = zip(*(_layer(folder, layer, count, reads, writes, model) for layer in range(count)), strict=True)
    without = [layer for layer, one in enumerate(layers) if one.skip is None]
    if 0 < len(without) < count:
        raise WorkbenchError(f"{folder}: W_skip is missing in layer {without[0]}; all layers or none have a skip")
    return CrossLayerTranscoder(layers, later)


def _config(path: Path) -> tuple[str, str, str]:
    """(the site it reads, the site it writes, the model), as `config.yaml` says them; circuit-tracer's defaults."""
    try:
        config = yaml.safe_load(path.read_text("utf-8")) if is_there(path) else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise WorkbenchError(f"{path} is damaged: {reason(error)}") from error
    if not isinstance(config, dict):
        raise WorkbenchError(f"{path} holds {shown(config)}; it should hold settings by name")
    if (kind := setting(config, "model_kind", KIND, path)) != KIND:
        raise WorkbenchError(f"{path}: model_kind {shown(kind)} is not supported; supported: {KIND}")
    defaults = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    hooks = [setting(config, name, default, path) for name, default in defaults.items()]
    if unknown := [hook for hook in hooks if hook not in HOOKS]:
        raise WorkbenchError(f"{path}: the hook {shown(unknown[0])} is not supported; supported: {', '.join(HOOKS)}")
    return HOOKS[hooks[0]], HOOKS[hooks[1]], setting(config, "model_name", "", path)


def _layer(folder: Path, layer: int, layers: int, reads: str, writes: str, model: str) -> tuple[Dictionary, Tensor]:
    """(the transcoder of a layer, its decoders to later layers)."""
    path, of_decoder = folder / ENCODER.format(layer), folder / DECODER.format(layer)
    for file in (path, of_decoder):
        if not is_there(file):
            raise WorkbenchError(f"{folder} has {layers} files {ENCODER.format('N')}, but {file.name} is missing")
    tensors = read_safetensors(path)
    decoder = named_tensor(read_safetensors(of_decoder), f"W_dec_{layer}", of_decoder)
    if decoder.ndim != 3 or decoder.shape[1] != layers - layer:
        raise WorkbenchError(
            f"{of_decoder}: W_dec_{layer} has the shape {list(decoder.shape)}; with {layers} layers it should be "
            f"feature × {layers - layer} × d_model"
        )
    threshold = tensors.get(f"threshold_{layer}")
    dictionary = Dictionary(
        named_tensor(tensors, f"W_enc_{layer}", path).T,
        named_tensor(tensors, f"b_enc_{layer}", path),
        decoder[:, 0],
        named_tensor(tensors, f"b_dec_{layer}", path),
        Gate("relu") if threshold is None else Gate("jumprelu", threshold=threshold.flatten()),
        f"blocks.{layer}.{reads}",
        f"blocks.{layer}.{writes}",
        skip=tensors.get(f"W_skip_{layer}"),
        model=model,
        family=family_of_name(model),
        provenance={"format": "circuit-tracer"},
    )
    return dictionary, decoder[:, 1:]


def write(transcoder: CrossLayerTranscoder, folder: Path, dtype: torch.dtype) -> None:
    """Write a transcoder. Errors: WorkbenchError for one that circuit-tracer does not have, or an unwritable folder."""
    first = transcoder.layers[0]
    hooks = {site: hook for hook, site in HOOKS.items()}
    reads, writes = (hooks.get(site.removeprefix("blocks.0.")) for site in (first.reads, first.writes))
    plain = all(one.norming == "none" and not one.centred for one in transcoder.layers)
    plain = plain and len({one.skip is None for one in transcoder.layers}) == 1
    gates = {one.gate.name for one in transcoder.layers}
    if not (plain and reads and writes and len(gates) == 1 and gates <= {"relu", "jumprelu"}):
        raise WorkbenchError(
            "circuit-tracer's format holds cross-layer transcoders with the gate relu or jumprelu in all layers, "
            f"without normalisation, with skips in all layers or none, at the sites "
            f"{', '.join(HOOKS.values())}; this is {transcoder!r}"
        )
    for layer, (one, later) in enumerate(zip(transcoder.layers, transcoder.later, strict=True)):
        tensors = {f"W_enc_{layer}": one.encoder.T, f"b_enc_{layer}": one.encoder_bias}
        tensors[f"b_dec_{layer}"] = one.decoder_bias
        if one.gate.threshold is not None:
            tensors[f"threshold_{layer}"] = one.gate.threshold.expand(len(one))
        if one.skip is not None:
            tensors[f"W_skip_{layer}"] = one.skip
        write_tensors(folder / ENCODER.format(layer), tensors, dtype)
        decoders = torch.cat([one.decoder[:, None], later], dim=1)
        write_tensors(folder / DECODER.format(layer), {f"W_dec_{layer}": decoders}, dtype)
    config = {"model_kind": KIND, "model_name": first.model, "feature_input_hook": reads, "feature_output_hook": writes}
    write_text(folder / CONFIG, yaml.safe_dump(config, sort_keys=False))
