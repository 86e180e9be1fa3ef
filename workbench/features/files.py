"""`load` and `save`: dictionaries in files: embedded ones, folders, and repositories of the Hugging Face hub."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from workbench.checkpoints import hub
from workbench.checkpoints.names import split_id
from workbench.errors import WorkbenchError
from workbench.features.cross_layer import CrossLayerTranscoder
from workbench.features.dictionary import Dictionary
from workbench.features.formats import circuit_tracer, gemma_scope, sae_lens, sparsify

FormatName = Literal["SAELens", "sparsify", "Gemma Scope"]
FORMATS = {"SAELens": sae_lens, "sparsify": sparsify, "Gemma Scope": gemma_scope}
EMBEDDED_DICTIONARIES = Path(__file__).parents[1] / "tiny_olmo" / "dictionaries"
SERIES = "tiny-olmo"
FILES = ("cfg.json", *(module.WEIGHTS for module in FORMATS.values()))


def load(name: str | Path, *, reads: str = "", writes: str = "") -> Dictionary:
    """A dictionary of features.

        features.load("tiny-olmo@step6000/blocks.2.resid_post")      # embedded; `features.embedded()` lists them
        features.load("saes/layers.5")                               # a folder
        features.load("owner/repository@revision/layers.5")          # of the hub, or its local cache

    The files are those of SAELens, sparsify or Gemma Scope, recognised by their names. The result has the sites that it
    reads and writes (`reads`, `writes`), its `layer`, and the index of the site in transformers' `hidden_states`.

    Args:
        name: the name of an embedded dictionary, a folder, or a repository, with the folder in it.
        reads, writes: the sites, if the files do not say them, or to overrule them; `writes` is `reads` if not given.

    Errors: WorkbenchError if there is no such dictionary, with those that there are; if its files are damaged or do not
    say a site and none is given; if the hub cannot be reached and the cache does not have it.
    """
    folder, repository = _folder_of(str(name))
    found = next((form for form, module in FORMATS.items() if (folder / module.WEIGHTS).exists()), None)
    if found is None:
        raise WorkbenchError(_why_none(str(name), folder))
    try:
        read = FORMATS[found].read
        dictionary = gemma_scope.read(folder, repository) if found == "Gemma Scope" else read(folder)
    except WorkbenchError as error:
        raise error if str(folder) in str(error) else WorkbenchError(f"{folder}: {error}") from error
    if reads or writes:
        dictionary = replace(dictionary, reads=reads or dictionary.reads, writes=writes or reads or dictionary.writes)
    if not dictionary.reads:
        raise WorkbenchError(f"{name} does not say which site it reads; give it, as reads='blocks.5.resid_post'")
    return dictionary


def save(
    dictionary: Dictionary,
    folder: str | Path,
    form: FormatName = "SAELens",
    *,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a dictionary to a folder; returns the folder.

    Args:
        dictionary: its `scale` is folded into the weights.
        folder: created if it does not exist. For sparsify, it should have the name of a module, `layers.5`.
        form: the format. The settings and tensors are those that SAELens or sparsify write; settings that they do not
            have (sources, family) are in an entry of this workbench.
        dtype: of the stored numbers.

    Errors: WorkbenchError for a dictionary that the format cannot hold, or a folder that cannot be written.
    """
    if form not in FORMATS:
        raise WorkbenchError(f"no format {form!r}; choose one of {', '.join(FORMATS)}")
    FORMATS[form].write(dictionary, Path(folder), dtype)
    return Path(folder)


def load_cross_layer(name: str | Path) -> CrossLayerTranscoder:
    """A cross-layer transcoder in circuit-tracer's format: a folder, or `owner/repository@revision/folder` of the hub.

    Errors: WorkbenchError if there is none, if its files are damaged, or if the hub cannot be reached and the cache
    does not have it.
    """
    folder, _ = _folder_of(str(name), circuit_tracer.PATTERNS)
    if not circuit_tracer.is_cross_layer(folder):
        raise WorkbenchError(
            f"no cross-layer transcoder in {name}: looked for {circuit_tracer.ENCODER.format(0)} and "
            f"{circuit_tracer.DECODER.format(0)}"
        )
    return circuit_tracer.read(folder)


def save_cross_layer(
    transcoder: CrossLayerTranscoder, folder: str | Path, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a cross-layer transcoder to a folder in circuit-tracer's format; returns the folder.

    Errors: WorkbenchError for a transcoder that the format cannot hold, or a folder that cannot be written.
    """
    circuit_tracer.write(transcoder, Path(folder), dtype)
    return Path(folder)


def embedded() -> list[str]:
    """The names of the dictionaries that come with the workbench."""
    folders = (path.parent for path in EMBEDDED_DICTIONARIES.glob("*/*/cfg.json"))
    return sorted(f"{SERIES}@{path.parent.name}/{path.name}" for path in folders)


def _folder_of(name: str, files: Sequence[str] = FILES) -> tuple[Path, str]:
    """(the folder of a name, its repository or ""); of the hub, with these files."""
    first, _, rest = name.partition("/")
    series, revision = split_id(first)
    if series == SERIES:
        if name not in embedded():
            raise WorkbenchError(f"no embedded dictionary {name!r}; there are {', '.join(embedded()) or 'none'}")
        return EMBEDDED_DICTIONARIES / str(revision) / rest, ""
    if Path(name).exists():
        return Path(name), ""
    second, _, inside = rest.partition("/")
    repository, revision = split_id(f"{first}/{second}")
    if not hub.is_repository(repository) or ".." in inside.split("/"):
        raise WorkbenchError(
            f"no dictionary {name!r}: it is no folder, and an embedded one is named {SERIES}@STEP/SITE, one of the hub "
            "owner/repository/folder"
        )
    place = inside.strip("/")
    patterns = [f"{place}/{file}" if place else file for file in files]
    above = Path(place).parent / sparsify.RUN_CONFIG
    return hub.fetch(repository, revision, (*patterns, str(above))) / place, repository


def _why_none(name: str, folder: Path) -> str:
    names = [module.WEIGHTS for module in FORMATS.values()]
    below = sorted({str(path.parent.relative_to(folder)) for file in names for path in folder.glob(f"*/**/{file}")})
    if circuit_tracer.is_cross_layer(folder):
        return f"{name} holds a cross-layer transcoder; read it with features.load_cross_layer"
    if below:
        shown = ", ".join(below[:8]) + (", …" if len(below) > 8 else "")
        return f"{name} holds several dictionaries; name one of its folders: {shown}"
    return f"no dictionary in {name}: looked for {', '.join(names)}"
