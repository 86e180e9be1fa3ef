"""Revisions and files of Hugging Face hub repositories; from the local cache if the hub cannot be reached."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from huggingface_hub import HfApi, scan_cache_dir, snapshot_download
from huggingface_hub.errors import (
    CacheNotFound,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from workbench.errors import WorkbenchError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
UNREACHABLE = (OfflineModeIsEnabled, HTTPError, LocalEntryNotFoundError)
SECONDS = 10.0
WANTED = (
    "config.json",
    "config.yaml",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "model.pt")


@dataclass(frozen=True)
class Revisions:
    """The revisions of a repository. `note` is not empty if only revisions in the local cache are listed."""

    names: tuple[str, ...]
    note: str = ""


def is_repository(name: str) -> bool:
    """Whether a name has the form of a hub repository: `owner/name`."""
    return REPOSITORY.fullmatch(name) is not None and not name.startswith((".", "-"))


def revisions(repository: str) -> Revisions:
    """The branches and tags of a repository; if the hub cannot be reached, those in the local cache, with a note.

    Errors: WorkbenchError if the repository does not exist, or the hub cannot be reached and the cache has nothing.
    """
    try:
        HfApi().model_info(repository, timeout=SECONDS)  # a test with a time limit, since the listing has none
        refs = HfApi().list_repo_refs(repository)
    except RepositoryNotFoundError as error:
        raise WorkbenchError(f"the hub has no repository {repository!r}, or you have no access to it") from error
    except UNREACHABLE as error:
        return _cached_revisions(repository, error)
    return Revisions(tuple(ref.name for ref in refs.branches + refs.tags))


def fetch(repository: str, revision: str | None, only: Sequence[str] = ()) -> Path:
    """The folder with the files of one revision; files that are not in the cache are downloaded.

    These are the files of a checkpoint, or those that match `only`. Code is never downloaded, and pickled weights only
    if the revision has no safetensors.
    Errors: WorkbenchError if there is no such revision, or the hub cannot be reached and the cache does not have it.
    """
    name = f"{repository}@{revision or 'main'}"
    try:
        try:
            files = HfApi().model_info(repository, revision=revision, timeout=SECONDS).siblings or []
            safe = any(file.rfilename.endswith(".safetensors") for file in files)
            wanted = only or (WANTED if safe else WANTED + PICKLES)
            return Path(snapshot_download(repository, revision=revision, allow_patterns=list(wanted)))
        except RepositoryNotFoundError as error:
            raise WorkbenchError(f"the hub has no repository {repository!r}, or you have no access to it") from error
        except RevisionNotFoundError as error:
            raise WorkbenchError(
                f"{repository} has no revision {revision!r}; series({repository!r}) lists them"
            ) from error
        except UNREACHABLE as error:
            folder = _of_cache(repository, revision, only or WANTED)
            warnings.warn(f"the hub cannot be reached ({_reason(error)}): {name} comes from the cache", stacklevel=2)
            return folder
    except LocalEntryNotFoundError as error:
        raise WorkbenchError(f"the hub cannot be reached and {name} is not in the local cache") from error


def cached(repository: str, revision: str | None) -> Path | None:
    """The folder of a revision in the local cache, or None; without a request to the hub."""
    try:
        return _of_cache(repository, revision)
    except LocalEntryNotFoundError:
        return None


def _of_cache(repository: str, revision: str | None, wanted: Sequence[str] = WANTED) -> Path:
    # without the patterns, the hub's client would require the files that `fetch` does not download
    return Path(snapshot_download(repository, revision=revision, allow_patterns=list(wanted), local_files_only=True))


def _cached_revisions(repository: str, error: Exception) -> Revisions:
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        repositories = frozenset()
    names = {ref for repo in repositories if repo.repo_id == repository for ref in repo.refs}
    if not names:
        raise WorkbenchError(
            f"the hub cannot be reached ({_reason(error)}) and nothing of {repository} is in the local cache"
        ) from error
    there = f"{len(names)} revision{'s' if len(names) > 1 else ''}"
    return Revisions(
        tuple(sorted(names)),
        f"the hub cannot be reached ({_reason(error)}): only the {there} of {repository} in the local cache are listed",
    )


def _reason(error: Exception) -> str:
    """The first line of an error's message, shortened; the error's type if the message is empty."""
    lines = str(error).strip().splitlines()
    return shorten(lines[0], 120, placeholder=" …") if lines else type(error).__name__
