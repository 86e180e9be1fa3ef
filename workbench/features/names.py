"""Names that the user gives to features, in one JSON file: `feature-names.json` in the cache folder.

    features.name_feature(sae, 417, "names of cities")
    features.names_of(sae)                  # {417: "names of cities"}

A dictionary is recognised by its weights: names stay valid if its folder moves, and a retrained dictionary has none.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any

from workbench.activations.shards import digest
from workbench.errors import WorkbenchError, reason
from workbench.features.dictionary import Dictionary
from workbench.whole_files import output_file

MOST_LETTERS, MOST_NAMES = 80, 10_000
_writing = threading.Lock()


def names_file() -> Path:
    """Where the names are kept: `$XDG_CACHE_HOME/olmo-workbench/feature-names.json`, else in `~/.cache`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "olmo-workbench" / "feature-names.json"


def names_of(dictionary: Dictionary) -> dict[int, str]:
    """The names of the features of a dictionary by number, in order; empty if there are none.

    Errors: WorkbenchError if the file of names is damaged.
    """
    found = _all_names().get(_dictionary_key(dictionary), {}).get("names", {})
    return dict(sorted((int(number), str(name)) for number, name in found.items() if int(number) < len(dictionary)))


def name_feature(dictionary: Dictionary, feature: int, name: str) -> None:
    """Give a feature a name; an empty one deletes its name.

    Errors: WorkbenchError for an unknown feature, a name of more than 80 characters or of several lines, or a file that
    is damaged or cannot be written.
    """
    dictionary.check_feature(feature)
    name = name.strip()
    if len(name) > MOST_LETTERS or not (name.isprintable()):
        raise WorkbenchError(f"{name[:40]!r}… is not a name: a name is one line of at most {MOST_LETTERS} characters")
    with _writing:
        everything = _all_names()
        entry = everything.setdefault(_dictionary_key(dictionary), {"dictionary": repr(dictionary), "names": {}})
        entry["names"].pop(str(feature), None)
        if name:
            entry["names"][str(feature)] = name
        if sum(len(one["names"]) for one in everything.values()) > MOST_NAMES:
            raise WorkbenchError(f"there are {MOST_NAMES:,} names already; delete one first")
        path = names_file()
        with output_file(path, make_folder=True) as file:
            file.write(json.dumps(everything, ensure_ascii=False, indent=1).encode())


def _all_names() -> dict[str, Any]:
    path = names_file()
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise WorkbenchError(f"the names of features in {path} cannot be read: {reason(error)}") from error
    if not isinstance(found, dict) or not all(_is_entry(entry) for entry in found.values()):
        raise WorkbenchError(f"{path} is not a file of feature names; move it to another place")
    return found


def _is_entry(entry: object) -> bool:
    names = entry.get("names") if isinstance(entry, dict) else None
    return isinstance(names, dict) and all(number.isdecimal() for number in names)


def _dictionary_key(dictionary: Dictionary) -> str:
    return digest({"encoder": dictionary.encoder, "decoder": dictionary.decoder})[:24]
