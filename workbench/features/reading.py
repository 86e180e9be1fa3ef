"""The activations that a dictionary reads, of one model or of all sources of a crosscoder."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.products import fast_products
from workbench.errors import WorkbenchError
from workbench.features.dictionary import Dictionary

Models = OlmoForCausalLM | Mapping[str, OlmoForCausalLM]
"""The model that a dictionary reads; for a crosscoder all of its sources by id, in any order."""


def by_source(dictionary: Dictionary, models: Models) -> dict[str, OlmoForCausalLM]:
    """The models that a dictionary reads, in the order of its sources.

    Errors: WorkbenchError if a source is missing, if several models are given for one, or if one does not fit.
    """
    given = {dictionary.model: models} if isinstance(models, OlmoForCausalLM) else dict(models)
    if not dictionary.sources and len(given) != 1:
        raise WorkbenchError(f"a {dictionary.kind} reads one model, and {len(given)} are given")
    if missing := [name for name in dictionary.sources if name not in given]:
        raise WorkbenchError(f"the crosscoder reads {', '.join(dictionary.sources)}; missing: {', '.join(missing)}")
    found = {name: given[name] for name in dictionary.sources} if dictionary.sources else given
    for model in found.values():
        dictionary.check_fits(model)
    return found


@fast_products()
def captured(models: Mapping[str, OlmoForCausalLM], site: str, ids: Tensor) -> Tensor:
    """The activations of all models at a site: batch pos source d_model, float32."""
    runs = [model.run(ids.to(model.device), capture=site, captures_only=True)[site] for model in models.values()]
    return torch.stack([run.flatten(2).float().to(ids.device) for run in runs], 2)


def in_shape(model: OlmoForCausalLM, site: str, flat: Tensor) -> Tensor:
    """Activations as the site has them, batch pos …, from flat ones: batch pos d."""
    return flat.unflatten(-1, [model.sites.sizes[word] for word in model.sites[site].split()[2:]])


def read_by(dictionary: Dictionary, models: Mapping[str, OlmoForCausalLM], ids: Tensor) -> Tensor:
    """The activations that a dictionary encodes: batch pos d_model, in a crosscoder batch pos source d_model."""
    found = captured(models, dictionary.reads, ids)
    return found if dictionary.sources else found[:, :, 0]
