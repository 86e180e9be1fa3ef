"""Load a model and a tokenizer by checkpoint id: find the files, check them, compare with free memory, read them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BitsAndBytesConfig, GenerationConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from hooks import OlmoForCausalLM
from workbench.checkpoints import catalog, hub
from workbench.checkpoints.catalog import Checkpoint, CheckpointLike, id_of
from workbench.checkpoints.files import has_weights, is_there, read_json, read_text
from workbench.checkpoints.finite import how_not_finite, is_finite
from workbench.checkpoints.names import split_id
from workbench.checkpoints.published import repository_of
from workbench.checkpoints.settings import generation_settings
from workbench.checkpoints.weights import Weights, open_weights
from workbench.choices import BITS
from workbench.errors import WorkbenchError, reason
from workbench.progress import Progress, report

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Need:
    """Memory for loading, in bytes: `resident` after loading, `peak` during loading."""

    resident: int
    peak: int


def load(
    checkpoint: CheckpointLike,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    quantize: str | None = None,
    check_finite: bool = True,
    with_tokenizer: bool = True,
    progress: Progress | None = None,
) -> tuple[OlmoForCausalLM, PreTrainedTokenizerBase | None]:
    """The model, in evaluation mode, and the tokenizer of a checkpoint.

    The defaults of `model.generate` are those of the checkpoint's `generation_config.json`, if it has one.
    If the checkpoint has no tokenizer files, those of its parent folder are used; if that has none either, the
    tokenizer is None, with a warning. A tokenizer with ids beyond the model's vocabulary is returned with a warning.

    Args:
        checkpoint: an entry of a series, the folder of one checkpoint, or an id `name@revision`. An id without a
            revision is such a folder too, or means the last checkpoint of a series' main run.
        dtype: a torch dtype or its name; "auto" for the dtype of the files. None is float32 on a CPU, and the dtype of
            the files on other devices or if quantised (see `suited_dtype`), as on the page and the command line.
        device: the device; None is the CPU.
        quantize: "nf4" or "8bit" (bitsandbytes, linear layers); None for no quantisation.
        check_finite: False to load weights that are NaN or infinite too.
        with_tokenizer: False to load the model only, which is faster; the tokenizer is then None, without a warning.
        progress: callback for progress and cancellation.

    Errors: WorkbenchError if the checkpoint is not found, is broken, is not an OLMo, or does not fit into free memory;
    if weights are NaN or infinite, with the name of the tensor; if the device does not exist.
    """
    device = device_of(device)
    folder = locate(checkpoint)
    weights = open_weights(folder)
    generation = generation_settings(folder)
    found = _dtype(dtype, device, quantize, weights)
    needed = _bytes_to_load(weights, found, quantize)
    wanted, free = (needed.peak if device.type == "cpu" else needed.resident), free_memory(device)
    if wanted > free:
        raise WorkbenchError(
            f"{folder} needs {readable(wanted)} to load, but {readable(free)} are free on {device}; "
            "a smaller dtype (bfloat16) or quantize='nf4' needs less"
        )
    tokenizer, vocab_size = tokenizer_of(folder) if with_tokenizer else None, weights.config.vocab_size
    if tokenizer is not None and (largest := max(tokenizer.get_vocab().values())) >= vocab_size:
        warnings.warn(
            f"the tokenizer of {folder} has ids up to {largest}, but the model's vocabulary has {vocab_size} tokens: "
            "texts with the others are refused",
            stacklevel=2,
        )
    tensors = _read_tensors(weights, found, check_finite, progress)
    return _build(weights, tensors, found, device, quantize, generation), tokenizer


def estimate(
    checkpoint: CheckpointLike,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    quantize: str | None = None,
) -> Need:
    """The memory that loading a checkpoint would need; reads only the headers of its files.

    The arguments are those of `load`.
    Errors: WorkbenchError if the checkpoint is not found, is broken, or is not an OLMo.
    """
    weights = open_weights(locate(checkpoint))
    return _bytes_to_load(weights, _dtype(dtype, device, quantize, weights), quantize)


def outline(checkpoint: CheckpointLike, *, dtype: torch.dtype | str | None = None) -> OlmoForCausalLM:
    """A checkpoint's model on the meta device: with its sizes, its sites and its dtype, but without weights.

    `dtype` is as in `load`. The errors are those of `locate` and of `load`, for a configuration that is no OLMo.
    """
    weights = open_weights(locate(checkpoint))
    with torch.device("meta"):
        return OlmoForCausalLM(weights.config).to(_dtype(dtype, None, None, weights)).eval()


def locate(checkpoint: CheckpointLike) -> Path:
    """The folder of a checkpoint; its files are downloaded if they are not on this machine.

    Errors: WorkbenchError with the choices if there is no such checkpoint.
    """
    checkpoint_id = id_of(checkpoint)
    if Path(checkpoint_id).is_dir():
        return _inside(Path(checkpoint_id), checkpoint_id, None)
    name, revision = split_id(checkpoint_id)
    name = repository_of(name)
    if name in catalog.EMBEDDED:
        return _inside(catalog.EMBEDDED[name], name, revision)
    if Path(name).is_dir():
        return _inside(Path(name), name, revision)
    if hub.is_repository(name):
        return hub.fetch(name, revision)
    raise WorkbenchError(
        f"no checkpoint {checkpoint_id!r}: an id is `name@revision`; the name is an embedded series "
        f"({', '.join(catalog.EMBEDDED)}), a folder, or a hub repository such as {catalog.PUBLISHED[0].repository}"
    )


def is_here(checkpoint: Checkpoint) -> bool:
    """Whether the files of a checkpoint are on this machine, so that loading it needs no download."""
    if checkpoint.name in catalog.EMBEDDED or Path(checkpoint.name).is_dir():
        return True
    folder = hub.cached(checkpoint.name, checkpoint.revision)
    return folder is not None and has_weights(folder)


def device_of(device: torch.device | str | None) -> torch.device:
    """The device of a name ("cuda", "cuda:1"); the CPU for None.

    Errors: WorkbenchError with the available devices if this machine does not have the device.
    """
    accelerator = torch.accelerator.current_accelerator()
    kind, count = ("cpu", 0) if accelerator is None else (accelerator.type, torch.accelerator.device_count())
    try:
        found = torch.device(device or "cpu")
    except RuntimeError:  # not a name of any device
        found = torch.device("meta")
    if found.type == "cpu" or (found.type == kind and (found.index or 0) < count):
        return found
    there = ", ".join(["cpu", *(f"{kind}:{index}" for index in range(count))])
    raise WorkbenchError(f"no device {str(device)!r} on this machine; torch can use: {there}")


def suited_dtype(device: torch.device | str | None = None, quantize: str | None = None) -> str:
    """The default dtype, in Python, on the page and on the command line.

    It is "float32" on a CPU, where smaller dtypes are slow and inexact; "auto" (the dtype of the files) on other
    devices and if quantised.
    """
    return "float32" if device_of(device).type == "cpu" and quantize is None else "auto"


def free_memory(device: torch.device | str | None = None) -> int:
    """Bytes that are free on a device, without swapping. Errors: those of `device_of`."""
    device = device_of(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def readable(count: int) -> str:
    """A number of bytes in short form: "2.346 GB", "840 kB"."""
    size, unit = next(((10**n, unit) for n, unit in ((9, "GB"), (6, "MB"), (3, "kB")) if count >= 10**n), (1, "bytes"))
    return f"{count / size:.4g} {unit}"


def tokenizer_of(checkpoint: CheckpointLike) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a checkpoint, without its model: from its folder, or else from the parent folder.

    Returns None, with a warning, if neither folder has a tokenizer.
    Errors: WorkbenchError if there is no such checkpoint; or, with the name of the file, if a tokenizer file is broken.
    """
    folder = checkpoint if isinstance(checkpoint, Path) else locate(checkpoint)
    for place in (folder, folder.parent):
        if is_there(place / "tokenizer.json"):
            return _open_tokenizer(place)
    warnings.warn(f"no tokenizer.json in {folder} or {folder.parent}: the tokenizer is None", stacklevel=3)
    return None


def _open_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    for name in TOKENIZER_FILES:
        is_there(folder / name)  # raises for a folder of that name, which transformers would ignore
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        tokenizer.decode(tokenizer("").input_ids)  # some settings are checked only on use
    except Exception as error:  # the tokenizers library raises plain Exception
        raise WorkbenchError(_why_no_tokenizer(folder, error)) from error
    return tokenizer


def _why_no_tokenizer(folder: Path, error: Exception) -> str:
    """The message for a tokenizer that failed to load: the broken file and the reason.

    Errors: WorkbenchError with such a message if a file cannot be read at all.
    """
    path, *others = (folder / name for name in TOKENIZER_FILES if is_there(folder / name))
    if "added_tokens" not in read_json(path):
        return f"{path} is not a complete tokenizer: it has no added_tokens"
    for other in others:
        (read_json if other.suffix == ".json" else read_text)(other)
    try:
        Tokenizer.from_str(read_text(path))
    except Exception as broken:  # noqa: BLE001 - the tokenizers library raises plain Exception
        return f"{path} is not a valid tokenizer: {reason(broken)}"
    names = " and ".join(other.name for other in others) or "no settings"
    return f"{path} with {names} is not a valid tokenizer: {reason(error)}"


def _inside(folder: Path, name: str, revision: str | None) -> Path:
    """The folder of one revision of a local series.

    Without a revision: `folder` itself if it is a checkpoint, else the last checkpoint of the main run.
    """
    if revision is None:
        is_checkpoint = any((folder / config).is_file() for config in ("config.json", "config.yaml"))
        return folder if is_checkpoint else folder / (catalog.last(catalog.folder_series(folder, name)).revision or "")
    if Path(revision).name == revision and (folder / revision).is_dir():
        return folder / revision
    raise WorkbenchError(
        f"{name} has no checkpoint {revision!r}; it has {_choices(catalog.folder_series(folder, name))}"
    )


def _choices(series: catalog.Series) -> str:
    names = [checkpoint.revision or checkpoint.id for checkpoint in series]
    return ", ".join(names if len(names) <= 24 else [*names[:12], "…", *names[-8:]])


def _bytes_to_load(weights: Weights, dtype: torch.dtype, quantize: str | None) -> Need:
    """Memory for loading. Peak: the loaded tensors plus the largest tensor as stored in its file.

    With quantisation, the peak also includes the whole model in `dtype`, which is kept until quantisation ends.
    """
    if quantize is not None and quantize not in BITS:
        raise WorkbenchError(f"quantize={quantize!r}; choices: {', '.join(BITS)}, or None")
    whole = weights.parameters * dtype.itemsize
    largest = max(place.nbytes for place in weights.places.values())
    if quantize is None:
        return Need(whole, whole + largest)
    linear = sum(weights.size(name) for name in weights if name.split(".")[-2] in LINEAR)
    resident = whole - linear * dtype.itemsize + linear * BITS[quantize] // 8
    return Need(resident, whole + resident + largest)


def _dtype(
    dtype: torch.dtype | str | None, device: torch.device | str | None, quantize: str | None, weights: Weights
) -> torch.dtype:
    """The torch dtype for the arguments of `load`; "auto" is the widest dtype in the files."""
    dtype = suited_dtype(device, quantize) if dtype is None else dtype
    if isinstance(dtype, str) and dtype == "auto":
        return max((place.dtype for place in weights.places.values()), key=lambda d: d.itemsize)
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise WorkbenchError(
            f"dtype={dtype!r}; choices: float32, bfloat16, float16, float64, or 'auto' for the files' own"
        )
    return found


def _build(
    weights: Weights,
    tensors: dict[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    quantize: str | None,
    generation: GenerationConfig | None,
) -> OlmoForCausalLM:
    quantization = None
    if quantize is not None:
        bits = {f"load_in_{BITS[quantize]}bit": True}
        quantization = BitsAndBytesConfig(**bits, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    with _no_progress_bar():
        model = OlmoForCausalLM.from_pretrained(
            None,
            config=weights.config,
            state_dict=tensors,
            dtype=dtype,
            device_map=None if device.type == "cpu" and quantize is None else {"": device},
            quantization_config=quantization,
            generation_config=generation,
            attn_implementation="sdpa",
        )
    return model.eval()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """A block without the progress bar of transformers, which would count tensors that are already in memory."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _read_tensors(
    weights: Weights, dtype: torch.dtype, check_finite: bool, progress: Progress | None
) -> dict[str, Tensor]:
    """All tensors by name, converted to `dtype`; progress is counted in bytes."""
    tensors, done, total = {}, 0, weights.nbytes
    for name in weights:
        report(progress, done / total, f"reading {weights.folder.name}: {name}")
        stored = weights.tensor(name)
        tensors[name] = stored.to(dtype)
        if check_finite and not is_finite(tensors[name]):
            raise WorkbenchError(_why_not_finite(weights, name, stored, dtype))
        done += weights.places[name].nbytes
    report(progress, 1.0, f"read {weights.folder.name}")
    return tensors


def _why_not_finite(weights: Weights, name: str, stored: Tensor, dtype: torch.dtype) -> str:
    """The message for a tensor that is not finite in `dtype`: because of the stored values, or of the conversion."""
    place = weights.places[name]
    key = name if place.key == name else f"{name} (of {place.key})"
    if is_finite(stored):
        return (
            f"{place.file.path}: {key} holds numbers up to {stored.abs().max().item():.3g}, more than "
            f"{str(dtype).removeprefix('torch.')} can represent; use another dtype (bfloat16, float32)"
        )
    return (
        f"{place.file.path}: {key} holds {how_not_finite(stored)}: the training diverged, or the file is damaged; "
        "load(..., check_finite=False) loads it anyway"
    )
