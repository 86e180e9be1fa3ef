"""A checkpoint folder as named tensors in transformers' layout, whichever layout and files it is in.

Opening reads headers only: the files are whole, the family is OLMo, and every tensor that the config asks for is
there with its shape. Tensors are then read one at a time, or a few rows of one.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import Olmo2Config, Olmo3Config, OlmoConfig, PreTrainedConfig

from hooks import OlmoForCausalLM
from workbench.checkpoints import original
from workbench.checkpoints.files import Entry, TensorFile, read_json, tensor_files
from workbench.errors import WorkbenchError

FAMILIES: dict[str, tuple[str, type[PreTrainedConfig]]] = {
    "olmo": ("OLMo", OlmoConfig),
    "olmo2": ("OLMo 2", Olmo2Config),
    "olmo3": ("OLMo 3", Olmo3Config),
}
FORMER_NAMES = {"olmo_1124": "olmo2", "olmo1124": "olmo2"}
"""Model types that published configs carry from before transformers settled on a name."""

BROKEN = (
    AssertionError,
    AttributeError,
    KeyError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
    ZeroDivisionError,
)
"""What configuration and model classes raise for settings that make no sense."""

HASHED_WHOLE = 64 * 2**20
SAMPLES = 64
SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class Place(Entry):
    """Where one tensor lies: rows from `first` on of the tensor `key` of a file."""

    file: TensorFile
    key: str
    first: int


@dataclass(frozen=True)
class Weights:
    """The tensors of one checkpoint, by transformers' names; none is in memory."""

    folder: Path
    config: PreTrainedConfig
    places: Mapping[str, Place]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(place.nbytes for place in self.places.values())

    @property
    def parameters(self) -> int:
        """How many numbers there are."""
        return sum(self.size(name) for name in self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor."""
        return self._place(name).shape

    def size(self, name: str) -> int:
        """How many numbers one tensor holds."""
        return math.prod(self._place(name).shape)

    def tensor(self, name: str) -> Tensor:
        """One whole tensor, in the file's dtype."""
        place = self._place(name)
        return self.rows(name, 0, place.shape[0] if place.shape else 1)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start:stop` of one tensor, in the file's dtype."""
        place = self._place(name)
        return place.file.rows(place.key, place.first + start, place.first + stop)

    def _place(self, name: str) -> Place:
        if name not in self.places:
            raise KeyError(f"no tensor {name!r} in {self.folder}; there are {', '.join(list(self.places)[:4])}, …")
        return self.places[name]


def open_weights(folder: str | Path) -> Weights:
    """Open a checkpoint folder of either layout and check it against its config, reading headers only.

    Errors: WorkbenchError naming the file and what is wrong: half-written, cut short, code in a pickle, not an OLMo,
    tensors missing, left over or of the wrong shape.
    """
    folder = Path(folder)
    settings, said_in = read_settings(folder)
    files = tensor_files(folder)
    found = {key: file for file in files for key in file.entries}
    config = _config(settings, said_in, set(found))
    plan = original.plan(set(found), config) if original.is_original(set(found)) else {k: (k, 0, -1) for k in found}
    places = {name: _place(found[key], key, start, stop) for name, (key, start, stop) in sorted(plan.items())}
    places = {name: place for name, place in places.items() if not name.endswith("rotary_emb.inv_freq")}
    if config.tie_word_embeddings:
        places.pop("lm_head.weight", None)
    _check(places, config, folder)
    return Weights(folder, config, places)


def read_settings(folder: Path) -> tuple[dict[str, Any], Path]:
    """What a folder's `config.json` or `config.yaml` says about the model, and which of the two it was.

    Errors: WorkbenchError if there is neither, or it cannot be read.
    """
    if (folder / "config.json").is_file():
        return read_json(folder / "config.json"), folder / "config.json"
    path = folder / "config.yaml"
    if not path.is_file():
        raise WorkbenchError(f"{folder} is no checkpoint: it has neither config.json nor config.yaml")
    try:
        run = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WorkbenchError(f"{path} cannot be read as YAML: {error}") from error
    settings = run.get("model", run) if isinstance(run, dict) else None
    if not isinstance(settings, dict):
        raise WorkbenchError(f"{path} has no `model` section")
    return settings, path


def family_of(settings: Mapping[str, Any]) -> str | None:
    """The family that a config names, as people call it; None if it is not a dense OLMo."""
    if original.is_settings(dict(settings)):
        return "OLMo 2" if settings.get("norm_after") else "OLMo"
    model_type = _model_type(settings)
    return FAMILIES[model_type][0] if model_type in FAMILIES else None


def _model_type(settings: Mapping[str, Any]) -> str:
    """What a config says its `model_type` is, in transformers' spelling of today."""
    said = str(settings.get("model_type"))
    return FORMER_NAMES.get(said, said)


def fingerprint(weights: Weights) -> str:
    """A short name for the contents of a checkpoint: equal folders have equal ones wherever they lie.

    It covers the config and every file's bytes; of a file above 64 MiB the header's end, 64 samples and the time of
    the last change, since reading all of it would cost more than most of what is cached under the name.
    """
    digest = hashlib.blake2b(weights.config.to_json_string().encode(), digest_size=16)
    for path in sorted({place.file.path for place in weights.places.values()}):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            if size <= HASHED_WHOLE:
                digest.update(file.read())
                continue
            digest.update(str(path.stat().st_mtime_ns).encode())
            for sample in range(SAMPLES):
                file.seek(sample * (size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _config(settings: dict[str, Any], said_in: Path, keys: set[str]) -> PreTrainedConfig:
    try:
        if original.is_settings(settings):
            return original.config_of(settings, keys)
        family = _model_type(settings)
        if family not in FAMILIES:
            raise WorkbenchError(
                f"model_type {settings.get('model_type')!r} is not an OLMo that this workbench reads "
                f"({', '.join(FAMILIES)}, or the old hf_olmo)"
            )
        return FAMILIES[family][1].from_dict(settings | {"model_type": family})
    except WorkbenchError as error:
        raise WorkbenchError(f"{said_in}: {error}") from error
    except BROKEN as error:
        raise WorkbenchError(f"{said_in} is broken: {type(error).__name__}: {error}") from error


def _place(file: TensorFile, key: str, start: int, stop: int) -> Place:
    entry = file.entries[key]
    if (start, stop) == (0, -1):
        return Place(entry.shape, entry.dtype, file, key, 0)
    stop = entry.shape[0] if stop == -1 else min(stop, entry.shape[0])
    return Place((max(stop - start, 0), *entry.shape[1:]), entry.dtype, file, key, start)


def _check(places: Mapping[str, Place], config: PreTrainedConfig, folder: Path) -> None:
    """Refuse a checkpoint whose tensors are not those of the model that its config describes."""
    try:
        with torch.device("meta"):
            model = OlmoForCausalLM(config)
    except BROKEN as error:
        raise WorkbenchError(f"the config of {folder} makes no model: {error}") from error
    expected = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    family = FAMILIES[config.model_type][0]
    missing = [name for name in expected if name not in places]
    extra = [name for name in places if name not in expected]
    wrong = [name for name in expected if name in places and places[name].shape != expected[name]]
    if missing:
        raise WorkbenchError(
            f"{folder} lacks {len(missing)} of {len(expected)} tensors of this {family}: {', '.join(missing[:4])}"
        )
    if wrong:
        name = wrong[0]
        raise WorkbenchError(
            f"{places[name].file.path}: {name} has shape {places[name].shape} where the config says {expected[name]} "
            f"({len(wrong)} such tensors)"
        )
    if extra:
        raise WorkbenchError(
            f"{places[extra[0]].file.path} holds {len(extra)} tensors that have no place in this {family}: "
            f"{', '.join(extra[:4])}"
        )
    unreal = [name for name, place in places.items() if not place.dtype.is_floating_point]
    if unreal:
        raise WorkbenchError(f"{places[unreal[0]].file.path}: {unreal[0]} holds {places[unreal[0]].dtype}, not floats")
