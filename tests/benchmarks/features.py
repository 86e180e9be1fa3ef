"""Our dictionaries beside those of SAELens and sparsify on the same files: `OTHER_PYTHON -m tests.benchmarks.features`.

Both packages need environments of their own (`pip install sae-lens`, `pip install eai-sparsify`); run this there, from
the root of this project. It prints the largest difference of the activations and of the reconstruction, relative to the
largest activation, for each architecture. Of a package that is not installed, nothing is printed. The last line is the
time to encode the activations of one layer, as a multiple of the forward that reads them.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from workbench import features

from .model import build, some_tokens
from .timing import ratio, show

WIDTH, FEATURES, K, ROWS = 128, 1024, 16, 512
SITE = "blocks.3.hook_resid_post"


def random_parts(seed: int = 0) -> dict[str, Tensor]:
    """Random weights by SAELens's names, for all architectures."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "W_enc": normal(WIDTH, FEATURES) / WIDTH**0.5,
        "b_enc": 0.1 * normal(FEATURES),
        "W_dec": normal(FEATURES, WIDTH) / WIDTH**0.5,
        "b_dec": 0.3 * normal(WIDTH),
        "threshold": normal(FEATURES).abs(),
        "b_gate": 0.3 * normal(FEATURES) - 1,
        "b_mag": 0.3 * normal(FEATURES),
        "r_mag": 0.3 * normal(FEATURES),
        "W_skip": normal(WIDTH, WIDTH) / WIDTH**0.5,
    }


SAE_LENS = {  # architecture -> the tensors of its file, its settings
    "standard": (("W_enc", "b_enc", "W_dec", "b_dec"), {}),
    "gated": (("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec"), {}),
    "jumprelu": (("W_enc", "b_enc", "W_dec", "b_dec", "threshold"), {}),
    "topk": (("W_enc", "b_enc", "W_dec", "b_dec"), {"k": K}),
    "topk, rescaled": (("W_enc", "b_enc", "W_dec", "b_dec"), {"k": K, "rescale_acts_by_decoder_norm": True}),
    "standard, layer norm": (("W_enc", "b_enc", "W_dec", "b_dec"), {"normalize_activations": "layer_norm"}),
    "jumprelu, unit norm": (
        ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
        {"normalize_activations": "constant_norm_rescale", "apply_b_dec_to_input": False},
    ),
    "transcoder": (("W_enc", "b_enc", "W_dec", "b_dec"), {}),
    "skip_transcoder": (("W_enc", "b_enc", "W_dec", "b_dec", "W_skip"), {}),
    "jumprelu_transcoder": (("W_enc", "b_enc", "W_dec", "b_dec", "threshold"), {}),
    "jumprelu_skip_transcoder": (("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip"), {}),
}


def sae_lens_file(name: str, folder: Path) -> Path:
    """A folder in SAELens's format."""
    tensors, settings = SAE_LENS[name]
    parts, architecture = random_parts(), name.partition(",")[0]
    is_transcoder = "transcoder" in architecture
    config = {
        "architecture": architecture,
        "d_in": WIDTH,
        "d_sae": FEATURES,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not is_transcoder,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", "hook_name": SITE, "hook_name_out": "blocks.3.hook_mlp_out"},
        **({"d_out": WIDTH} if is_transcoder else {}),
        **settings,
    }
    folder.mkdir()
    save_file({tensor: parts[tensor] for tensor in tensors}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def against_sae_lens(folder: Path) -> Iterator[tuple[str, ...]]:
    """A row for each architecture: theirs reads our files too, where it has such an architecture."""
    from sae_lens import SAE

    x = 2 * torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1)) + 0.5
    for name in SAE_LENS:
        place = sae_lens_file(name, folder / name.replace(", ", "-"))
        ours = features.load(place)
        written = features.save(ours, folder / f"{place.name}-ours")
        for label, path in (("their file", place), ("our file", written)):
            theirs = SAE.load_from_disk(path)
            yield f"SAELens {name}, {label}", *differences(ours, x, theirs.encode(x), theirs(x))


def against_sparsify(folder: Path) -> Iterator[tuple[str, ...]]:
    """A row for an SAE, a transcoder and one with a skip connection."""
    from sparsify import SparseCoder, SparseCoderConfig

    x = 2 * torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1)) + 0.5
    for number, options in enumerate(({}, {"transcode": True}, {"transcode": True, "skip_connection": True})):
        config = SparseCoderConfig(num_latents=FEATURES, k=K, **options)
        theirs = SparseCoder(WIDTH, config)
        parts = random_parts(number)
        with torch.no_grad():
            theirs.encoder.weight.copy_(parts["W_enc"].T)
            theirs.encoder.bias.copy_(parts["b_enc"])
            theirs.W_dec.copy_(parts["W_dec"])
            theirs.b_dec.copy_(parts["b_dec"])
            if theirs.W_skip is not None:
                theirs.W_skip.copy_(parts["W_skip"])
        place = folder / str(number) / "layers.3.mlp"
        theirs.save_to_disk(place)
        ours = features.load(place)
        written = features.save(ours, folder / f"{number}-ours" / "layers.3.mlp", "sparsify")
        for label, path in (("their file", place), ("our file", written)):
            again = SparseCoder.load_from_disk(path)
            found = again.encode(x)
            dense = torch.zeros(ROWS, FEATURES).scatter(1, found.top_indices, found.top_acts)
            yield f"sparsify {options or 'SAE'}, {label}", *differences(ours, x, dense, again(x).sae_out)


@torch.no_grad()
def differences(ours: features.Dictionary, x: Tensor, dense: Tensor, made: Tensor) -> tuple[str, ...]:
    """The largest difference of activations and of reconstructions, relative to the largest of theirs."""
    pairs = ((ours.encode(x).dense(), dense), (ours.reconstruct(x), made))
    return tuple(f"{float((mine - other).abs().max() / other.abs().max()):.1e}" for mine, other in pairs)


@torch.no_grad()
def encoding(rounds: int = 5) -> tuple[str, ...]:
    """The time of a forward that also encodes one layer's activations, as a multiple of the forward that reads them."""
    (model, _), ids = build("olmo"), some_tokens(1, 2048)
    site, width = "blocks.3.resid_post", model.config.hidden_size
    generator = torch.Generator().manual_seed(0)
    encoder = torch.randn(width, 16 * width, generator=generator) / width**0.5
    zeros = torch.zeros(16 * width), torch.zeros(width)
    sae = features.Dictionary(
        encoder, zeros[0], encoder.T.contiguous(), zeros[1], features.Gate("topk", 32), site, site
    )
    took = ratio(
        lambda: sae.encode(model.run(ids, capture=site)[site]),
        lambda: model.run(ids, capture=site),
        rounds,
        time.process_time,
    )
    return "encode a layer, 16 features a dimension", f"{took:.2f} ×"


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        for package, rows in (("sae_lens", against_sae_lens), ("sparsify", against_sparsify)):
            if find_spec(package) is not None:
                folder = Path(place) / package
                folder.mkdir()
                show([("", "activations", "reconstruction"), *rows(folder)])
    show([("", "time"), encoding()])


if __name__ == "__main__":
    main()
