"""Which neurons of the MLPs become nodes of a graph: those whose activations the measure depends on most."""

from collections.abc import Sequence

import torch

from hooks import OlmoForCausalLM
from workbench.analyses.support.cost import pass_flops
from workbench.analyses.support.edge_graph import Neuron
from workbench.analyses.support.prompt_pairs import Contrast, Pairs, log_probabilities, measured

SITE = "blocks.*.mlp.post"
NeuronsLike = int | Sequence[Neuron]
"""How many neurons are nodes, or which: (layer, neuron) each."""


def chosen_neurons(
    model: OlmoForCausalLM, pair: Contrast, measure: str, batches: Sequence[Pairs], wanted: NeuronsLike
) -> list[Neuron]:
    """The neurons that are nodes.

    Of a number, those with the largest |Σ (clean − corrupted activation) · ∂measure/∂activation|, summed over positions
    and pairs, with the gradients of the clean runs.
    """
    if not isinstance(wanted, int):
        return [(int(layer), int(neuron)) for layer, neuron in wanted]
    if wanted == 0:
        return []
    total = torch.zeros(model.config.num_hidden_layers, model.config.intermediate_size, dtype=torch.float64)
    for pairs in batches:
        other = model.run(pairs.corrupted, capture=SITE, captures_only=True)
        run = model.run(pairs.clean, capture=SITE, grad=True, logits_to_keep=1)
        with torch.enable_grad():
            logits = run.logits[:, -1]
            value = measured(pair, pairs, log_probabilities(run.logits.detach()), logits[None])[measure].sum()
            slopes = torch.autograd.grad(value, list(run.values()))
        for layer, (site, slope) in enumerate(zip(run, slopes, strict=True)):
            change = run[site].detach().float() - other[site].float()
            total[layer] += (change * slope.float()).sum((0, 1)).double().cpu()
    order = total.abs().flatten().argsort(descending=True, stable=True)[:wanted].tolist()
    return [divmod(number, model.config.intermediate_size) for number in order]


def spread_neurons(model: OlmoForCausalLM, wanted: NeuronsLike) -> list[Neuron]:
    """As many neurons, spread evenly over the layers: for the cost of a graph before its neurons are chosen."""
    if not isinstance(wanted, int):
        return list(wanted)
    layers, width = model.config.num_hidden_layers, model.config.intermediate_size
    return [(number % layers, number // layers) for number in range(min(wanted, layers * width))]


def choice_flops(model: OlmoForCausalLM, tokens: int, texts: int, wanted: NeuronsLike) -> float:
    """Operations of the choice."""
    return pass_flops(model, 3 * tokens, logits=2 * texts) if isinstance(wanted, int) and wanted else 0.0
