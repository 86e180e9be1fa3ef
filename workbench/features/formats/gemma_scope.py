"""The format of Gemma Scope: `params.npz`, JumpReLU, in folders such as `layer_20/width_16k/average_l0_71`.

Source: Lieberum et al. 2024, "Gemma Scope", and its tutorial. The name of the repository tells the site: `-res` is
`resid_post`, `-mlp` is `mlp_out`, `-att` is `attn.z`, and `-transcoders` read the MLP's input. A `cfg.json` beside it,
which Gemma Scope does not have, may name the site too.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.checkpoints.files import is_there, read_json
from workbench.errors import WorkbenchError
from workbench.features.dictionary import Dictionary
from workbench.features.firing import Gate
from workbench.features.formats import own
from workbench.features.formats.places import family_of_name
from workbench.features.formats.tensors import named_tensor, read_npz, write_json
from workbench.whole_files import output_file

CONFIG, WEIGHTS = "cfg.json", "params.npz"
PLACES = {
    "res": ("resid_post", "resid_post"),
    "mlp": ("mlp_out", "mlp_out"),
    "att": ("attn.z", "attn.z"),
    "transcoders": ("ln2.hook_normalized", "mlp_out"),
}


def read(folder: Path, repository: str = "") -> Dictionary:
    """The dictionary of a folder. Errors: WorkbenchError for files of another form."""
    path = folder / WEIGHTS
    tensors = read_npz(path)
    model, reads, writes = _model_and_sites(f"{repository}/{folder}")
    dictionary = Dictionary(
        named_tensor(tensors, "W_enc", path),
        named_tensor(tensors, "b_enc", path),
        named_tensor(tensors, "W_dec", path),
        named_tensor(tensors, "b_dec", path),
        Gate("jumprelu", threshold=named_tensor(tensors, "threshold", path)),
        reads,
        writes,
        model=model,
        family=family_of_name(model),
        provenance={"format": "Gemma Scope"},
    )
    said = read_json(folder / CONFIG).get(own.NAME) if is_there(folder / CONFIG) else None
    return own.with_own(dictionary, said, folder / CONFIG)


def _model_and_sites(path: str) -> tuple[str, str, str]:
    """(model, reads, writes) from the names of the repository and of the folders; "" for those that they do not
    contain.
    """
    layer = re.search(r"layer_(\d+)", path)
    scope = re.search(r"gemma-scope-(\w+(?:-it|-pt)*)-(res|mlp|att|transcoders)", path)
    if not layer or not scope:
        return "", "", ""
    reads, writes = (f"blocks.{layer[1]}.{name}" for name in PLACES[scope[2]])
    return f"google/gemma-2-{scope[1].removesuffix('-pt')}", reads, writes


def write(dictionary: Dictionary, folder: Path, dtype: torch.dtype) -> None:
    """Write a dictionary. Errors: WorkbenchError for one that Gemma Scope does not have, or an unwritable folder."""
    d = dictionary.folded()
    if d.gate.threshold is None or d.norming != "none" or d.centred or d.skip is not None:
        raise WorkbenchError(
            f"Gemma Scope's format holds JumpReLU dictionaries that subtract no bias from what they read; this is {d!r}"
        )
    arrays = {
        "W_enc": d.encoder,
        "b_enc": d.encoder_bias,
        "W_dec": d.decoder,
        "b_dec": d.decoder_bias,
        "threshold": d.gate.threshold.expand(len(d)),
    }
    path = folder / WEIGHTS
    kind = np.float16 if dtype == torch.float16 else np.float32
    stored: dict[str, Any] = {name: tensor.cpu().numpy().astype(kind) for name, tensor in arrays.items()}
    with output_file(path, make_folder=True) as file:
        np.savez(file, **stored)
    write_json(folder / CONFIG, {own.NAME: own.said_of(d)})
