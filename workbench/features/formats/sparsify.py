"""The format of sparsify: `cfg.json` and `sae.safetensors`. Source: eai-sparsify 1.3, `sparsify/sparse_coder.py`.

The folder is named after a module of transformers, `layers.5` or `layers.5.mlp`: an SAE reads the output of the module,
a transcoder reads its input and writes its output.
"""

from pathlib import Path

import torch

from workbench.checkpoints.files import is_there, read_json
from workbench.errors import WorkbenchError, shown
from workbench.features.dictionary import Dictionary
from workbench.features.firing import Gate
from workbench.features.formats import own
from workbench.features.formats.places import family_of_name, sites_of_module
from workbench.features.formats.tensors import (
    integer_setting,
    named_tensor,
    read_safetensors,
    setting,
    write_json,
    write_tensors,
)

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
RUN_CONFIG = "config.json"  # in the folder above: the model and site of the training


def read(folder: Path) -> Dictionary:
    """The dictionary of a folder. Errors: WorkbenchError for files of another form, or an unknown activation."""
    path, weights = folder / CONFIG, folder / WEIGHTS
    config, tensors = read_json(path), read_safetensors(weights)
    activation = setting(config, "activation", "topk", path)
    if activation != "topk" or setting(config, "signed", False, path):
        raise WorkbenchError(
            f"{path}: activation {shown(activation)} is not supported; supported: 'topk' without 'signed'"
        )
    transcode = setting(config, "transcode", False, path)
    reads, writes = sites_of_module(folder.name) or ("", "")
    run = read_json(folder.parent / RUN_CONFIG) if is_there(folder.parent / RUN_CONFIG) else {}
    model = setting(run, "model", "", folder.parent / RUN_CONFIG)
    dictionary = Dictionary(
        named_tensor(tensors, "encoder.weight", weights).T,
        named_tensor(tensors, "encoder.bias", weights),
        named_tensor(tensors, "W_dec", weights),
        named_tensor(tensors, "b_dec", weights),
        Gate("topk", integer_setting(config, "k", path)),
        reads if transcode else writes,
        writes,
        centred=not transcode,
        skip=tensors["W_skip"].T if "W_skip" in tensors else None,
        model=model,
        family=family_of_name(model),
        provenance={"format": "sparsify"},
    )
    return own.with_own(dictionary, config.get(own.NAME), path)


def write(dictionary: Dictionary, folder: Path, dtype: torch.dtype) -> None:
    """Write a dictionary. Errors: WorkbenchError for one that sparsify does not have, or an unwritable folder."""
    d = dictionary.folded()
    transcode = d.kind == "transcoder"
    if d.gate.name != "topk" or d.norming != "none" or d.centred == transcode:
        raise WorkbenchError(
            f"sparsify's format holds TopK dictionaries without normalisation, whose SAEs subtract the decoder's bias "
            f"and whose transcoders do not; this is {d!r}"
        )
    tensors = {
        "encoder.weight": d.encoder.T,
        "encoder.bias": d.encoder_bias,
        "W_dec": d.decoder,
        "b_dec": d.decoder_bias,
    }
    if d.skip is not None:
        tensors["W_skip"] = d.skip.T
    config = {
        "activation": "topk",
        "expansion_factor": max(1, len(d) // len(d.encoder)),
        "normalize_decoder": True,
        "num_latents": len(d),
        "k": d.gate.k,
        "multi_topk": False,
        "skip_connection": d.skip is not None,
        "transcode": transcode,
        "d_in": len(d.encoder),
        own.NAME: own.said_of(d),
    }
    write_tensors(folder / WEIGHTS, tensors, dtype)
    write_json(folder / CONFIG, config)
