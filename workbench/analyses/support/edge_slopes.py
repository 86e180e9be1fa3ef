"""Gradients of a measure with respect to the input of every target of the graph of a model's nodes."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hooks import OlmoForCausalLM, Run, edits
from hooks.olmo import Norm
from hooks.stopping import check_stop
from workbench.analyses.support.edge_graph import INPUTS, Graph

RAW = ("attn.q_raw", "attn.k_raw", "attn.v_raw", "mlp_in")
GATED = ("mlp.pre", "mlp.pre_linear")
STREAMS = ("resid_pre", "resid_mid")
Measure = Callable[[Tensor], Tensor]
"""Of the last logits, text vocab, to one number for each text, or to one for the batch."""


def slopes(
    model: OlmoForCausalLM, embed: Tensor, measure: Measure, graph: Graph | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """The gradients of the summed measure at a text's embeddings, in groups of targets with equally many sources.

    The run of the model starts at `embed`, text pos d_model. The gradient of a head's query with respect to the head's
    own copy of the residual stream is that of `attn.q_raw` times W_Q, and in OLMo 1 times the derivative of the norm
    before it; keys, values and neurons alike. So one backward pass gives the gradients of all inputs, without copies.
    `graph` is that of the model without neurons if not given.

    Yields the targets, and the gradients of what they read, float32: target text pos d_model.
    """
    graph, last = graph or Graph.of(model), f"blocks.{model.config.num_hidden_layers - 1}.resid_post"
    wanted = [f"blocks.{layer}.{name}" for layer in range(graph.layers) for name in RAW] + [last]
    wanted += [f"blocks.{layer}.{name}" for layer, some in enumerate(graph.neurons) if some for name in GATED]
    streams = [f"blocks.*.{name}" for name in STREAMS] if model.model.blocks[0].norm_first else []
    leaf = embed.detach().requires_grad_()
    # In OLMo 2 and 3 an MLP reads the residual stream unchanged. A copy keeps its gradient apart from the stream's own.
    copies = edits.apply("blocks.*.mlp_in", torch.clone)
    run = model.run(resid=leaf, grad=True, capture=[*wanted, *streams], edits=copies, logits_to_keep=1)
    with torch.enable_grad():
        value = measure(run.logits[:, -1]).sum()
        found = dict(zip(wanted, torch.autograd.grad(value, [run[name] for name in wanted]), strict=True))
    for layer, block in enumerate(model.model.blocks):
        check_stop()  # with a large model, what follows takes a second for all layers
        norm1, norm2 = (
            getattr(block, name) if block.norm_first else None for name in (block.attn_norm, block.mlp_norm)
        )
        at = f"blocks.{layer}"
        for letter, weight in zip(INPUTS, (model.W_Q, model.W_K, model.W_V), strict=True):
            slope = torch.einsum("bphe,hde->hbpd", found[f"{at}.attn.{letter}_raw"], weight[layer]).float()
            yield graph.inputs(layer)[letter], _before(norm1, run, f"{at}.resid_pre", slope)
        slope = found[f"{at}.mlp_in"][None].float()
        if graph.neurons[layer]:
            own = _of_neurons(model, graph, layer, *(found[f"{at}.{name}"] for name in GATED))
            slope = torch.cat([own, slope - own.sum(0)])
        yield graph.mlp_targets(layer), _before(norm2, run, f"{at}.resid_mid", slope)
    yield slice(len(graph.targets) - 1, None), found[last][None].float()


def _of_neurons(model: OlmoForCausalLM, graph: Graph, layer: int, gate: Tensor, linear: Tensor) -> Tensor:
    """The gradients with respect to the input of the MLP through each chosen neuron: neuron text pos d_model.

    Args:
        gate, linear: the gradients with respect to `mlp.pre` and `mlp.pre_linear`, text pos d_mlp.
    """
    some = list(graph.neurons[layer])
    of_gate, of_linear = (
        torch.einsum("bpn,dn->nbpd", part[..., some].float(), weight[layer][:, some].float())
        for part, weight in ((gate, model.W_gate), (linear, model.W_in))
    )
    return of_gate + of_linear


def _before(norm: Norm | None, run: Run, site: str, slope: Tensor) -> Tensor:
    """The gradients with respect to the input of a norm, from those of its output: target text pos d_model.

    `site` is the input. Without a norm the gradients themselves.
    """
    if norm is None:
        return slope
    with torch.enable_grad():
        copies = run[site].detach().float().expand_as(slope).requires_grad_()
        return torch.autograd.grad(norm(copies), copies, slope)[0]
