"""Settings of a dictionary that a format does not have, in an entry of this workbench in `cfg.json`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workbench.errors import WorkbenchError, reason
from workbench.features.dictionary import Dictionary
from workbench.features.firing import Gate

NAME = "workbench"
TEXTS = ("reads", "writes", "model", "family")


def said_of(dictionary: Dictionary) -> dict[str, Any]:
    """The entry of a dictionary."""
    return {
        **{name: getattr(dictionary, name) for name in TEXTS},
        "gate": dictionary.gate.name,
        "k": dictionary.gate.k,
        "scale": dictionary.scale,
        "sources": list(dictionary.sources),
        "provenance": dict(dictionary.provenance),
    }


def with_own(dictionary: Dictionary, said: object, path: object) -> Dictionary:
    """The dictionary with the settings of its entry. Errors: WorkbenchError if the entry is not one that `said_of`
    made.
    """
    if said is None:
        return dictionary
    try:
        assert isinstance(said, Mapping)
        texts: dict[str, Any] = {name: str(said[name]) for name in TEXTS}
        sources, provenance = tuple(map(str, said["sources"])), dict(said["provenance"])
        gate, scale = dictionary.gate, float(said["scale"])
        if said["gate"] == "batchtopk" and gate.threshold is not None:
            gate = Gate("batchtopk", int(said["k"]), gate.threshold.flatten()[0])
    except (AssertionError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WorkbenchError(f"{path}: the entry {NAME!r} is damaged: {reason(error)}") from error
    return replace(dictionary, **texts, sources=sources, provenance=provenance, gate=gate, scale=scale)
