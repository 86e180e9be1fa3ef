"""`TunedLens`: an affine map for each layer, from its residual stream to an estimate of the last layer's."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from workbench.errors import WorkbenchError
from workbench.whole_files import whole_file, write_whole

CONFIG, PARAMETERS = "config.json", "params.pt"
KIND = "linear_tuned_lens"
EMBEDDED_SERIES, SHARED_LENS = "tiny-olmo", "shared"
EMBEDDED_LENSES = Path(__file__).parents[2] / "tiny_olmo" / "lenses"


@dataclass(frozen=True, eq=False, repr=False)
class TunedLens:
    """Translators of the residual stream (Belrose et al. 2023, "Eliciting latent predictions from transformers with the
    tuned lens").

    The state h before block l becomes h + h Wₗᵀ + bₗ. The last block's output is not translated. Files are those of the
    package tuned-lens: `config.json`, and `params.pt`, which is read with `weights_only=True`.

    Attributes:
        weight: layer d_model d_model, float32; layer 0 translates the embedding, layer l the output of block l − 1.
        bias: layer d_model, float32.
        model: id of the model that it was made for, `name@revision`; the name of a series whose checkpoints share it.
        provenance: how it was made.

    Errors: WorkbenchError for shapes that do not belong together, or numbers that are not finite.
    """

    weight: Tensor
    bias: Tensor
    model: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = tuple(self.weight.shape)
        if len(shape) != 3 or shape[1] != shape[2] or tuple(self.bias.shape) != shape[:2]:
            raise WorkbenchError(
                f"a tuned lens has weights layer d_model d_model and biases layer d_model; these are {shape} and "
                f"{tuple(self.bias.shape)}"
            )
        if not (self.weight.isfinite().all() and self.bias.isfinite().all()):
            raise WorkbenchError("the tuned lens has numbers that are NaN or infinite")

    def __repr__(self) -> str:
        layers, width = self.bias.shape
        return f"<TunedLens of {self.model or 'a model'}: {layers} layers, d_model {width}>"

    @property
    def title(self) -> str:
        """What it is, in words: `the tuned lens of tiny-olmo@step6000`."""
        if not self.model:
            return "a tuned lens"
        shared = "" if "@" in self.model else ", shared by its checkpoints"
        return f"the tuned lens of {self.model}{shared}"

    def check_fits(self, model: OlmoForCausalLM) -> None:
        """Errors: WorkbenchError if the model has another number of layers or another width."""
        own, there = tuple(self.bias.shape), (model.config.num_hidden_layers, model.config.hidden_size)
        if own != there:
            raise WorkbenchError(
                f"the tuned lens is for {own[0]} layers of width {own[1]}, and the model has {there[0]} of {there[1]}"
            )

    def translated(self, resid: Tensor, row: int) -> Tensor:
        """The residual stream (… d_model) of row 0 (the embedding), 1, 2, …, as the last layer would hold it."""
        if row == len(self.bias):
            return resid  # the last layer's own
        x = resid.float()
        weight, bias = self.weight[row].to(x.device), self.bias[row].to(x.device)
        return (x + x @ weight.T + bias).to(resid.dtype)

    def save(self, folder: str | Path) -> Path:
        """Write the lens in the format of the package tuned-lens; returns the folder. Each file appears whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        name, _, revision = self.model.partition("@")
        config = {
            "base_model_name_or_path": name,
            "d_model": self.bias.shape[1],
            "num_hidden_layers": self.bias.shape[0],
            "bias": True,
            "base_model_revision": revision or None,
            "unembed_hash": None,
            "lens_type": KIND,
        }
        state = {f"{layer}.weight": weight.clone() for layer, weight in enumerate(self.weight)}
        state |= {f"{layer}.bias": bias.clone() for layer, bias in enumerate(self.bias)}
        with whole_file(folder / PARAMETERS) as file:
            torch.save(state, file)
        write_whole(folder / CONFIG, json.dumps(config, indent=1).encode())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "TunedLens":
        """Read a lens from a folder, or an embedded one by a checkpoint's id.

        `tiny-olmo@step6000` has one of its own. The other checkpoints share one, which is also that of `tiny-olmo`.

        Errors: WorkbenchError for missing, broken or other files.
        """
        given = str(folder)
        found = _embedded(given) if given.partition("@")[0] == EMBEDDED_SERIES else Path(folder)
        if not (found / CONFIG).is_file() or not (found / PARAMETERS).is_file():
            raise WorkbenchError(
                f"no tuned lens in {given}: {CONFIG} and {PARAMETERS} are needed; embedded ones are for "
                f"{EMBEDDED_SERIES} and its checkpoints"
            )
        try:
            config = json.loads((found / CONFIG).read_text(encoding="utf-8"))
            state = torch.load(found / PARAMETERS, map_location="cpu", weights_only=True)
            layers = range(int(config["num_hidden_layers"]))
            weight = torch.stack([state[f"{layer}.weight"].float() for layer in layers])
            bias = torch.stack([state.get(f"{layer}.bias", torch.zeros(len(weight[0]))).float() for layer in layers])
        except Exception as error:  # the reader of pickles raises errors of any kind for other content
            raise WorkbenchError(f"{found} holds no tuned lens: {type(error).__name__}: {error}") from error
        if config.get("lens_type", KIND) != KIND:
            raise WorkbenchError(f"{found} is a lens of type {config['lens_type']!r}; supported: {KIND!r}")
        revision = config.get("base_model_revision")
        name = str(config.get("base_model_name_or_path", ""))
        return cls(weight, bias, f"{name}@{revision}" if revision else name, {"lens": given})


def embedded_lenses(series: Collection[str]) -> list[str]:
    """The names of the lenses that come with the workbench for some of these series, as `TunedLens.load` takes them."""
    names = (
        sorted(path.parent.name for path in EMBEDDED_LENSES.glob(f"*/{CONFIG}")) if EMBEDDED_SERIES in series else []
    )
    return [EMBEDDED_SERIES if name == SHARED_LENS else f"{EMBEDDED_SERIES}@{name}" for name in names]


def _embedded(name: str) -> Path:
    """The folder of the embedded lens of a checkpoint, or of the one that all of them share."""
    own = EMBEDDED_LENSES / (name.partition("@")[2] or SHARED_LENS)
    return own if own.is_dir() else EMBEDDED_LENSES / SHARED_LENS
