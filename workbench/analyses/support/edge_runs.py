"""Runs in which each input of each node reads some outputs of earlier nodes as computed, and others replaced."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM, edits
from hooks.olmo import divided
from hooks.products import fast_products
from hooks.taps import tap_at
from workbench.analyses.support.cost import pass_flops
from workbench.analyses.support.edge_graph import INPUTS, Graph, edges_flops, heads_flops, of_heads, results_flops
from workbench.analyses.support.memory import run_bytes


@torch.no_grad()
@fast_products()
def run_edges(
    model: OlmoForCausalLM, kept: Tensor, embed: Tensor, replaced: Tensor, graph: Graph | None = None
) -> Tensor:
    """The last logits of runs, called cells, with some edges kept: cell text vocab.

    A node's input is the sum of the outputs of all earlier nodes. A kept edge carries the output of the source as it is
    computed in this cell; any other edge carries the source's replacement. The nodes are computed layer by layer, so
    the result is exact: no gradient is used, and no divisor of a norm is held fixed. With all edges kept the result is
    that of the model, and with none it is the unembedding of the sum of all replacements. The norm of queries, and of
    keys (OLMo 2 and 3), is taken over all heads of the cell together, as in the model; so is the norm after attention,
    and that after the MLP over all its nodes.

    Args:
        model: the model.
        kept: boolean, cell target source.
        embed: the embeddings of the texts, text pos d_model.
        replaced: the replacement outputs, float32: source text pos d_model, where text and pos may be 1.
        graph: the graph; None for that of the model without neurons.
    """
    graph, kept = graph or Graph.of(model), kept.to(embed.device, torch.float32)
    replaced = replaced.expand(-1, *embed.shape)
    changes = replaced.new_zeros(len(kept), *replaced.shape)  # cell source text pos d_model
    changes[:, 0] = embed.float() - replaced[0]
    stream = replaced[0].clone()  # text pos d_model: all edges replaced
    for layer in range(graph.layers):
        first, mlp, of_mlp = graph.before_heads(layer), graph.before_mlp(layer), graph.mlp_sources(layer)
        raw = {
            letter: _projected(model, layer, letter, _target_inputs(stream, changes[:, :first], kept[:, rows, :first]))
            for letter, rows in graph.inputs(layer).items()
        }
        changes[:, first:mlp] = _heads(model, layer, raw, len(kept)) - replaced[first:mlp]
        stream += replaced[first:mlp].sum(0)
        read = _target_inputs(stream, changes[:, :mlp], kept[:, graph.mlp_targets(layer), :mlp]).to(model.dtype)
        changes[:, of_mlp] = _mlp(model, graph, layer, read) - replaced[of_mlp]
        stream += replaced[of_mlp].sum(0)
    return unembedded(model, _target_inputs(stream[:, -1:], changes[..., -1:, :], kept[:, -1:])[:, 0, :, 0])


def unembedded(model: OlmoForCausalLM, stream: Tensor) -> Tensor:
    """The logits of a residual stream after the last block: … d_model -> … vocab."""
    return model.lm_head(model.model.norm(stream.to(model.dtype)))


def _target_inputs(stream: Tensor, changes: Tensor, kept: Tensor) -> Tensor:
    """What targets read: cell target text pos d_model.

    Args:
        stream: the sum of all replacements, text pos d_model.
        changes: outputs less replacements, cell source text pos d_model.
        kept: cell target source.
    """
    return (kept @ changes.flatten(2)).unflatten(2, stream.shape) + stream


def _projected(model: OlmoForCausalLM, layer: int, letter: str, read: Tensor) -> Tensor:
    """The raw q, k or v of each head from its own input: cell head text pos d_model -> (cell text) pos head d_head."""
    block, read = model.model.blocks[layer], read.to(model.dtype)
    if block.norm_first:
        read = getattr(block, block.attn_norm)(read)
    weight = {"q": model.W_Q, "k": model.W_K, "v": model.W_V}[letter][layer]
    bias = getattr(block.self_attn, f"{letter}_proj").bias
    raw = torch.einsum("chbpd,hde->cbphe", read, weight).flatten(0, 1)
    return raw if bias is None else raw + bias.unflatten(0, raw.shape[2:])


def _heads(model: OlmoForCausalLM, layer: int, raw: dict[str, Tensor], cells: int) -> Tensor:
    """The outputs of a layer's heads, float32: cell head text pos d_model."""
    names = (f"blocks.{layer}.attn.result", f"blocks.{layer}.attn_out")
    batch, length = raw["q"].shape[:2]
    run = model.run(
        resid=raw["q"].new_zeros(batch, length, model.config.hidden_size),  # replaced by the edits
        start_at_layer=layer,
        stop_at_layer=layer + 1,
        edits=[edits.replace(f"blocks.{layer}.attn.{letter}_raw", raw[letter]) for letter in INPUTS],
        capture=list(names),
        captures_only=True,
    )
    return of_heads(*(run[name] for name in names)).unflatten(1, (cells, -1)).movedim(1, 0)


def _mlp(model: OlmoForCausalLM, graph: Graph, layer: int, read: Tensor) -> Tensor:
    """The outputs of the chosen neurons of a layer, each from its own input, and of the rest of its MLP.

    cell node text pos d_model -> cell node text pos d_model, float32. The last node is the rest.
    """
    block, some = model.model.blocks[layer], list(graph.neurons[layer])
    mlp, norm = block.mlp, getattr(block, block.mlp_norm)
    read = norm(read) if block.norm_first else read
    if not some:
        out = mlp(read, tap_at(None))
        return (out if block.norm_first else norm(out)).float()
    gate, linear = (
        torch.einsum("cnbpd,dn->ncbp", read[:, :-1], weight[layer][:, some]) for weight in (model.W_gate, model.W_in)
    )
    post = mlp.act_fn(mlp.gate_proj(read[:, -1])) * mlp.up_proj(read[:, -1])  # cell text pos d_mlp
    post[..., some] = 0
    rows = torch.einsum("ncbp,nd->cnbpd", mlp.act_fn(gate) * linear, model.W_out[layer][some])
    parts = torch.cat([rows, mlp.down_proj(post)[:, None]], 1)
    if block.norm_first:
        return parts.float()
    return divided(norm, parts.float(), norm.scale(parts.sum(1, keepdim=True)))


def cell_bytes(model: OlmoForCausalLM, graph: Graph) -> float:
    """Bytes for each token of a cell of `run_edges`."""
    sources, most = graph.before_heads(graph.layers), max(map(len, graph.neurons))
    wide = 4 * model.config.hidden_size
    return run_bytes(model) + wide * (sources + 8 * graph.heads + 6 * most + 8)


def cell_flops(model: OlmoForCausalLM, graph: Graph, tokens: int, texts: int) -> float:
    """Operations of a cell of `run_edges`: a pass, the outputs of all heads, and the inputs of all targets."""
    again = heads_flops(model) + results_flops(model)  # `_heads` projects a stream that is not used
    return pass_flops(model, tokens, logits=texts) + tokens * (edges_flops(model, graph) + again)
