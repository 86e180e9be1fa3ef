"""The format of SAELens: `cfg.json` and `sae_weights.safetensors`. Source: sae-lens 6, `sae_lens/saes/`.

A gated dictionary (Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders") becomes a
JumpReLU one, which is the same function: with p = x W exp(r) + b_mag, its gate x W + b_gate > 0 is the threshold
p > b_mag − b_gate exp(r).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.checkpoints.files import read_json
from workbench.errors import WorkbenchError, shown
from workbench.features.dictionary import Dictionary, Norming
from workbench.features.firing import Gate
from workbench.features.formats import own
from workbench.features.formats.places import family_of_name, hook_of_site, site_of_hook
from workbench.features.formats.tensors import (
    integer_setting,
    named_tensor,
    read_safetensors,
    setting,
    write_json,
    write_tensors,
)

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
VERSION = "6.0.0"  # of the layout that is written
SAES = ("standard", "gated", "jumprelu", "topk", "batchtopk", "matryoshka_batchtopk")
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
OWN = ("topk_transcoder", "topk_skip_transcoder")
"""Architectures that SAELens does not have; it refuses to read them."""
NORMINGS: dict[str, Norming] = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "unit_norm"}
OLDER = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}  # names of settings before version 6


def read(folder: Path) -> Dictionary:
    """The dictionary of a folder. Errors: WorkbenchError for files of another form, or an unknown architecture."""
    path, weights = folder / CONFIG, folder / WEIGHTS
    config = {OLDER.get(name, name): value for name, value in read_json(path).items()}
    metadata = config.get("metadata", config)
    if not isinstance(metadata, Mapping):
        raise WorkbenchError(f"{path}: 'metadata' is {shown(metadata)}; it should be a JSON object")
    tensors = read_safetensors(weights)
    kind = _architecture(config, path)
    reads = site_of_hook(setting(metadata, "hook_name", "", path))
    writes = site_of_hook(setting(metadata, "hook_name_out", "", path)) if kind.endswith("transcoder") else reads
    encoder, bias, gate = _encoder(kind, config, tensors, path)
    decoder = named_tensor(tensors, "W_dec", weights)
    norms = decoder.norm(dim=-1).clamp_min(1e-8)
    if setting(config, "rescale_acts_by_decoder_norm", False, path) and len(bias) == len(norms):
        encoder, bias, decoder = encoder * norms, bias * norms, decoder / norms[:, None]
    factor = tensors.get("scaling_factor", tensors.get("finetuning_scaling_factor"))
    model = setting(metadata, "model_name", "", path)
    skip = named_tensor(tensors, "W_skip", weights).T if "skip" in kind else None
    dictionary = Dictionary(
        encoder,
        bias,
        decoder if factor is None else decoder * factor.reshape(-1, 1),
        named_tensor(tensors, "b_dec", weights),
        gate,
        reads,
        writes,
        centred=not kind.endswith("transcoder") and setting(config, "apply_b_dec_to_input", True, path),
        norming=_norming(config, path),
        skip=skip,
        model=model,
        family=family_of_name(model),
        provenance={"format": "SAELens", "architecture": kind},
    )
    return own.with_own(dictionary, metadata.get(own.NAME), path)


def _architecture(config: Mapping[str, Any], path: Path) -> str:
    kind = setting(config, "architecture", "standard", path)
    if kind == "standard" and config.get("activation_fn") == "topk":
        kind = "topk"
    if kind not in SAES + TRANSCODERS + OWN:
        raise WorkbenchError(
            f"{path}: architecture {shown(kind)} is not supported; supported: {', '.join(SAES + TRANSCODERS)}"
        )
    return kind


def _norming(config: Mapping[str, Any], path: Path) -> Norming:
    name = config.get("normalize_activations")
    if name is None or name is False:
        return "none"
    if not isinstance(name, str) or name not in NORMINGS:
        raise WorkbenchError(
            f"{path}: normalize_activations {shown(name)} is not supported; supported: {', '.join(NORMINGS)}. Fold "
            "other normalisations into the weights with SAELens first"
        )
    return NORMINGS[name]


def _encoder(
    kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> tuple[Tensor, Tensor, Gate]:
    """The encoder, its bias and the gate of an architecture."""
    weights = path.with_name(WEIGHTS)
    encoder = named_tensor(tensors, "W_enc", weights)
    if kind == "gated":
        b_gate, b_mag, r_mag = (named_tensor(tensors, name, weights) for name in ("b_gate", "b_mag", "r_mag"))
        if not encoder.shape[-1:] == b_gate.shape == b_mag.shape == r_mag.shape:
            raise WorkbenchError(
                f"{weights}: b_gate, b_mag and r_mag should have the shape [{encoder.shape[-1]}], one number for each "
                "feature of W_enc"
            )
        return encoder * r_mag.exp(), b_mag, Gate("jumprelu", threshold=b_mag - b_gate * r_mag.exp())
    bias = named_tensor(tensors, "b_enc", weights)
    if kind in ("topk", *OWN):
        options = config.get("activation_fn_kwargs")
        k = integer_setting(options if "k" not in config and isinstance(options, dict) else config, "k", path)
        return encoder, bias, Gate("topk", k)
    if kind.endswith("batchtopk"):  # as in training
        threshold = named_tensor(tensors, "topk_threshold", weights).flatten()[0]
        return encoder, bias, Gate("batchtopk", integer_setting(config, "k", path), threshold)
    if kind.startswith("jumprelu"):
        return encoder, bias, Gate("jumprelu", threshold=named_tensor(tensors, "threshold", weights))
    activation = setting(config, "activation_fn", "relu", path)
    if activation != "relu":
        raise WorkbenchError(
            f"{path}: activation_fn {shown(activation)} is not supported for the architecture {kind!r}; supported: relu"
        )
    return encoder, bias, Gate("relu")


def write(dictionary: Dictionary, folder: Path, dtype: torch.dtype) -> None:
    """Write a dictionary. The threshold of BatchTopK becomes one for each feature, as SAELens writes it.

    Errors: WorkbenchError if the folder cannot be written.
    """
    d, gate = dictionary.folded(), dictionary.gate
    transcoder = d.kind == "transcoder"
    base = {"relu": "standard", "topk": "topk"}.get(gate.name, "jumprelu")
    kind = base
    if transcoder:
        words = [base] if base != "standard" else []
        kind = "_".join([*words, *(["skip"] if d.skip is not None else []), "transcoder"])
    tensors = {"W_enc": d.encoder, "b_enc": d.encoder_bias, "W_dec": d.decoder, "b_dec": d.decoder_bias}
    if gate.threshold is not None:
        tensors["threshold"] = gate.threshold.expand(len(d))
    if d.skip is not None:
        tensors["W_skip"] = d.skip.T
    metadata = {
        "sae_lens_version": VERSION,
        "model_name": d.model,
        "hook_name": hook_of_site(d.reads),
        own.NAME: own.said_of(d),
    }
    config: dict[str, Any] = {
        "architecture": kind,
        "d_in": len(d.encoder),
        "d_sae": len(d),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": d.centred,
        "normalize_activations": next(name for name, norming in NORMINGS.items() if norming == d.norming),
        "reshape_activations": "none",
        "metadata": metadata,
    }
    if transcoder:
        config["d_out"] = d.decoder.shape[1]
        metadata["hook_name_out"] = hook_of_site(d.writes)
    if gate.name == "topk":
        config["k"] = gate.k
    write_tensors(folder / WEIGHTS, tensors, dtype)
    write_json(folder / CONFIG, config)
