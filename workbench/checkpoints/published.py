"""The OLMo models that AI2 has published with their training checkpoints, by name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One repository of the hub. `checkpoints` is True if its revisions are steps of a training run."""

    name: str
    repository: str
    family: str
    size: str
    layout: str = "transformers"
    checkpoints: bool = True


PUBLISHED: tuple[Published, ...] = (
    Published("OLMo 1B", "allenai/OLMo-1B-hf", "OLMo", "1B"),
    Published("OLMo 7B", "allenai/OLMo-7B-hf", "OLMo", "7B"),
    Published("OLMo 7B Twin 2T", "allenai/OLMo-7B-Twin-2T-hf", "OLMo", "7B"),
    Published("OLMo 1B (original layout)", "allenai/OLMo-1B", "OLMo", "1B", layout="original"),
    Published("OLMo 7B (original layout)", "allenai/OLMo-7B", "OLMo", "7B", layout="original"),
    Published("OLMo 7B Twin 2T (original layout)", "allenai/OLMo-7B-Twin-2T", "OLMo", "7B", layout="original"),
    Published("OLMo 7B 0424", "allenai/OLMo-7B-0424-hf", "OLMo", "7B"),
    Published("OLMo 1B 0724", "allenai/OLMo-1B-0724-hf", "OLMo", "1B"),
    Published("OLMo 7B 0724", "allenai/OLMo-7B-0724-hf", "OLMo", "7B"),
    Published("OLMo 2 1B", "allenai/OLMo-2-0425-1B", "OLMo 2", "1B"),
    Published("OLMo 2 1B, early training", "allenai/OLMo-2-0425-1B-early-training", "OLMo 2", "1B"),
    Published("OLMo 2 1B Instruct", "allenai/OLMo-2-0425-1B-Instruct", "OLMo 2", "1B", checkpoints=False),
    Published("OLMo 2 7B", "allenai/OLMo-2-1124-7B", "OLMo 2", "7B"),
    Published("OLMo 2 7B Instruct", "allenai/OLMo-2-1124-7B-Instruct", "OLMo 2", "7B", checkpoints=False),
    Published("OLMo 2 13B", "allenai/OLMo-2-1124-13B", "OLMo 2", "13B"),
    Published("OLMo 2 13B Instruct", "allenai/OLMo-2-1124-13B-Instruct", "OLMo 2", "13B", checkpoints=False),
    Published("OLMo 2 32B", "allenai/OLMo-2-0325-32B", "OLMo 2", "32B"),
    Published("OLMo 2 32B Instruct", "allenai/OLMo-2-0325-32B-Instruct", "OLMo 2", "32B", checkpoints=False),
    Published("OLMo 3 7B", "allenai/Olmo-3-1025-7B", "OLMo 3", "7B"),
    Published("OLMo 3 7B Instruct", "allenai/Olmo-3-7B-Instruct", "OLMo 3", "7B", checkpoints=False),
    Published("OLMo 3 7B Think", "allenai/Olmo-3-7B-Think", "OLMo 3", "7B"),
    Published("OLMo 3 32B", "allenai/Olmo-3-1125-32B", "OLMo 3", "32B"),
    Published("OLMo 3 32B Think", "allenai/Olmo-3-32B-Think", "OLMo 3", "32B"),
)


def repository_of(name: str) -> str:
    """The repository of a published model by its name ("OLMo 2 1B"); any other name is returned unchanged."""
    return next((known.repository for known in PUBLISHED if known.name == name), name)
