"""A checkpoint folder as named tensors in transformers' layout, for every supported layout and file format.

Opening a folder reads only headers. It checks that the files are complete, that the family is OLMo, and that every
tensor of the config exists with the right shape. Tensors are then read one at a time, or by rows.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedConfig

from workbench.checkpoints import original
from workbench.checkpoints.files import Entry, TensorFile, tensor_files
from workbench.checkpoints.settings import (
    MODEL_TYPES,
    check_that_it_makes_a_model,
    config_from_settings,
    read_settings,
    shapes,
)
from workbench.errors import WorkbenchError, shown

HASHED_WHOLE = 64 * 2**20
SAMPLED_PLACES = 64
SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class TensorPlace(Entry):
    """Location of one tensor: rows of the tensor `key` in `file`, from row `first`."""

    file: TensorFile
    key: str
    first: int


@dataclass(frozen=True)
class Weights:
    """The tensors of one checkpoint by their names in transformers; they are read from disk on request."""

    folder: Path
    config: PreTrainedConfig
    places: Mapping[str, TensorPlace]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the files."""
        return sum(place.nbytes for place in self.places.values())

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(self.size(name) for name in self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor."""
        return self._place(name).shape

    def size(self, name: str) -> int:
        """The number of elements of one tensor."""
        return math.prod(self._place(name).shape)

    def tensor(self, name: str) -> Tensor:
        """One whole tensor, in the dtype of the file."""
        place = self._place(name)
        return self.rows(name, 0, place.shape[0] if place.shape else 1)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start:stop` of one tensor, in the dtype of the file."""
        place = self._place(name)
        return place.file.rows(place.key, place.first + start, place.first + stop)

    def _place(self, name: str) -> TensorPlace:
        if name not in self.places:
            raise KeyError(f"no tensor {name!r} in {self.folder}; there are {', '.join(list(self.places)[:4])}, …")
        return self.places[name]


def open_weights(folder: str | Path) -> Weights:
    """Open a checkpoint folder of either layout and check it against its config; reads only headers.

    Errors: WorkbenchError with the file and the reason: missing shards, an incomplete file, code in a pickle, not an
    OLMo, or tensors that are missing, unexpected or of the wrong shape.
    """
    folder = Path(folder)
    settings, said_in = read_settings(folder)
    found = {key: file for file in tensor_files(folder) for key in file.entries}
    with _naming(said_in):
        config = config_from_settings(settings, set(found))
    places = _tensor_places(found, config)
    _check_names(places, set(found), config, folder)
    _check_shapes(places, config)
    with _naming(said_in):
        check_that_it_makes_a_model(config)
    return Weights(folder, config, places)


def fingerprint(weights: Weights) -> str:
    """A hash of the contents of a checkpoint, independent of its folder.

    The hash covers the config and the name, size and bytes of every weight file. For a file above 64 MiB it covers 64
    samples of 4 KiB and the modification time instead of all bytes: reading the whole file would take longer than most
    computations that are cached under the hash.
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
            for sample in range(SAMPLED_PLACES):
                file.seek(sample * (size - SAMPLE_BYTES) // (SAMPLED_PLACES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


@contextmanager
def _naming(said_in: Path) -> Iterator[None]:
    """Add the file name to a WorkbenchError about settings in the block."""
    try:
        yield
    except WorkbenchError as error:
        raise WorkbenchError(f"{said_in}: {error}") from error


def _tensor_places(found: Mapping[str, TensorFile], config: PreTrainedConfig) -> dict[str, TensorPlace]:
    """Location of each tensor by its name in transformers.

    Tensors that are not parameters are left out: a copy of a tied embedding, and the rotary angles of old checkpoints.
    """
    keys = set(found)
    in_own_layout = original.is_original(keys)
    plan = original.plan(keys, config) if in_own_layout else {key: (key, 0, -1) for key in keys}
    places = {name: _tensor_place(found[key], key, start, stop) for name, (key, start, stop) in sorted(plan.items())}
    if config.tie_word_embeddings and not in_own_layout:
        places.pop("lm_head.weight", None)
    return {name: place for name, place in places.items() if not name.endswith("rotary_emb.inv_freq")}


def _tensor_place(file: TensorFile, key: str, start: int, stop: int) -> TensorPlace:
    entry = file.entries[key]
    if (start, stop) == (0, -1) or not entry.shape:
        return TensorPlace(entry.shape, entry.dtype, file, key, 0)
    stop = entry.shape[0] if stop == -1 else min(stop, entry.shape[0])
    return TensorPlace((max(stop - start, 0), *entry.shape[1:]), entry.dtype, file, key, start)


def _check_names(places: Mapping[str, TensorPlace], keys: set[str], config: PreTrainedConfig, folder: Path) -> None:
    """Raise WorkbenchError if tensors are missing or unexpected; the message has their names in the files."""
    expected, family = shapes(config), MODEL_TYPES[config.model_type][0]
    in_files = original.keys_of(expected, keys) if original.is_original(keys) else {name: name for name in expected}
    missing = list(dict.fromkeys(in_files[name] for name in expected if name not in places))
    extra = [places[name] for name in places if name not in expected]
    if missing:
        raise WorkbenchError(
            f"{folder} lacks {len(missing)} of {len(set(in_files.values()))} tensors of this {family}: "
            f"{', '.join(missing[:4])}{_by_setting(missing[0], keys)}"
        )
    if extra:
        raise WorkbenchError(
            f"{extra[0].file.path} holds {len(extra)} tensors that this {family} does not have: "
            f"{', '.join(shown(place.key) for place in extra[:4])}{_by_setting(extra[0].key, keys)}"
        )


def _check_shapes(places: Mapping[str, TensorPlace], config: PreTrainedConfig) -> None:
    """Raise WorkbenchError if a tensor does not have the shape of the config, or a dtype that is not floating-point."""
    expected = shapes(config)
    wrong = [name for name in expected if places[name].shape != expected[name]]
    if wrong:
        name, place = wrong[0], places[wrong[0]]
        part = "" if place.key == name else f" (of {place.key})"
        raise WorkbenchError(
            f"{place.file.path}: {name}{part} has shape {place.shape}, but the config says {expected[name]} "
            f"({len(wrong)} such tensors)"
        )
    unreal = [name for name, place in places.items() if not place.dtype.is_floating_point]
    if unreal:
        raise WorkbenchError(f"{places[unreal[0]].file.path}: {unreal[0]} is {places[unreal[0]].dtype}, not floats")


def _by_setting(key: str, keys: set[str]) -> str:
    """A hint for a message: the setting that decides whether a tensor exists; "" if unknown."""
    setting = original.setting_of(key) if original.is_original(keys) else None
    return "" if setting is None else f" (see {setting} in the config)"
