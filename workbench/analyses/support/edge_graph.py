"""The graph of a model's nodes: which part reads the output of which earlier part.

A node is the embedding, a head, an MLP or the logits. Each node adds its output to the residual stream, and reads the
sum of the outputs of all earlier nodes: an edge is one term of one such sum. A head reads with three inputs, q, k and
v; heads that share keys and values share the inputs k and v. Some neurons of an MLP may be nodes of their own; the node
of the MLP is then all its other neurons.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.olmo import divided
from workbench.analyses.support.heads import head_name
from workbench.analyses.support.residual_stream import EMBED
from workbench.errors import WorkbenchError

ARROW = " → "
LOGITS = "logits"
INPUTS = ("q", "k", "v")
Neuron = tuple[int, int]
"""(layer, neuron)"""


@dataclass(frozen=True)
class Graph:
    """The nodes of a model, in forward order.

    Sources are the embedding, then the heads, the chosen neurons and the MLP of each layer. Targets are the inputs q of
    all heads, k and v of all key-value heads, the chosen neurons and the MLP of each layer, then the logits. A target
    reads the first `reach` sources.

    Attributes:
        layers, heads, kv_heads: numbers of the model.
        neurons: the neurons of each layer that are nodes, in ascending order.
    """

    layers: int
    heads: int
    kv_heads: int
    neurons: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: OlmoForCausalLM, neurons: Sequence[Neuron] = ()) -> "Graph":
        """The graph of a model, where these neurons are nodes of their own.

        Errors: WorkbenchError for a neuron that the model does not have.
        """
        config = model.config
        layers, width = config.num_hidden_layers, config.intermediate_size
        for layer, neuron in neurons:
            if not (0 <= layer < layers and 0 <= neuron < width):
                raise WorkbenchError(
                    f"no neuron {neuron} in layer {layer}; the model has layers 0 … {layers - 1} with neurons 0 … "
                    f"{width - 1}"
                )
        chosen = tuple(tuple(sorted({one for place, one in neurons if place == layer})) for layer in range(layers))
        return cls(layers, config.num_attention_heads, config.num_key_value_heads, chosen)

    @property
    def sources(self) -> list[str]:
        """The names of the nodes that write: `embed`, `L0H0`, …, `L0 N417`, `L0 MLP`, `L1H0`, …"""
        return [EMBED, *(name for layer in range(self.layers) for name in (*self._heads(layer), *self._of_mlp(layer)))]

    @property
    def targets(self) -> list[str]:
        """The names of the inputs that read: `L0H0 q`, …, `L0H0 k`, …, `L0H0 v`, …, `L0 N417`, `L0 MLP`, `L1H0 q`, …,
        `logits`.
        """
        return [*(name for layer in range(self.layers) for name in self._targets(layer)), LOGITS]

    def _heads(self, layer: int) -> list[str]:
        return [head_name(layer, head) for head in range(self.heads)]

    def _of_mlp(self, layer: int) -> list[str]:
        return [*(neuron_name(layer, neuron) for neuron in self.neurons[layer]), f"L{layer} MLP"]

    def _targets(self, layer: int) -> list[str]:
        shared = self.heads // self.kv_heads
        groups = ["".join(f"H{head}" for head in range(n * shared, (n + 1) * shared)) for n in range(self.kv_heads)]
        queries = [f"{name} q" for name in self._heads(layer)]
        return [*queries, *(f"L{layer}{group} {letter}" for letter in "kv" for group in groups), *self._of_mlp(layer)]

    def before_heads(self, layer: int) -> int:
        """The number of sources that the heads of a layer read."""
        return 1 + layer * (self.heads + 1) + sum(map(len, self.neurons[:layer]))

    def before_mlp(self, layer: int) -> int:
        """The number of sources that the MLP of a layer, and its neurons, read."""
        return self.before_heads(layer) + self.heads

    def mlp_sources(self, layer: int) -> slice:
        """The sources that are the chosen neurons of a layer and, the last one, its MLP."""
        return slice(self.before_mlp(layer), self.before_heads(layer + 1))

    def _first_target(self, layer: int) -> int:
        return layer * (self.heads + 2 * self.kv_heads + 1) + sum(map(len, self.neurons[:layer]))

    def inputs(self, layer: int) -> dict[str, slice]:
        """The targets q, k and v of a layer's heads, by input."""
        first, sizes, found = self._first_target(layer), (self.heads, self.kv_heads, self.kv_heads), {}
        for letter, size in zip(INPUTS, sizes, strict=True):
            found[letter] = slice(first, first + size)
            first += size
        return found

    def mlp_targets(self, layer: int) -> slice:
        """The targets that are the chosen neurons of a layer and, the last one, its MLP."""
        end = self._first_target(layer + 1)
        return slice(end - 1 - len(self.neurons[layer]), end)

    def mask(self) -> Tensor:
        """Whether there is an edge: target source, boolean."""
        reach = [
            reach
            for layer in range(self.layers)
            for reach in [self.before_heads(layer)] * (self.heads + 2 * self.kv_heads)
            + [self.before_mlp(layer)] * (len(self.neurons[layer]) + 1)
        ]
        every = self.before_heads(self.layers)
        return torch.arange(every) < torch.tensor([*reach, every])[:, None]

    def connected(self, kept: Tensor, *, joined: bool, from_embedding: bool = True) -> Tensor:
        """Which kept edges lie on a path of kept edges from the embedding to the logits, boolean: cell edge.

        A path enters a head by any of its inputs.

        Args:
            kept: for each circuit whether it has each edge, boolean: cell edge.
            joined: whether a path that enters a head leaves all heads of the layer, and one that enters an MLP or a
                neuron of it leaves all of these: in OLMo 2 and 3 they share the divisors of their norms.
            from_embedding: False for all kept edges on a path to the logits, wherever it begins.
        """
        mask, shared = self.mask(), self.heads // self.kv_heads
        edges = torch.zeros(len(kept), *mask.shape, dtype=torch.bool)  # cell target source
        edges[:, mask] = kept
        reached = torch.zeros(len(kept), mask.shape[1], dtype=torch.bool)  # cell source
        reached[:, 0] = True
        for layer in range(self.layers if from_embedding else 0):
            first, mlp = self.before_heads(layer), self.before_mlp(layer)
            for letter, targets in self.inputs(layer).items():
                hit = (edges[:, targets] & reached[:, None]).any(2)
                reached[:, first:mlp] |= hit if letter == "q" else hit.repeat_interleave(shared, 1)
            if joined:
                reached[:, first:mlp] = reached[:, first:mlp].any(1, keepdim=True)
            hit = (edges[:, self.mlp_targets(layer)] & reached[:, None]).any(2)
            reached[:, self.mlp_sources(layer)] = hit.any(1, keepdim=True) if joined else hit
        used = torch.zeros(len(kept), mask.shape[0], dtype=torch.bool)  # cell target
        used[:, -1] = True
        for layer in reversed(range(self.layers)):
            first, mlp = self.before_heads(layer), self.before_mlp(layer)
            hit = (edges[:, :, self.mlp_sources(layer)] & used[:, :, None]).any(1)
            used[:, self.mlp_targets(layer)] = hit.any(1, keepdim=True) if joined else hit
            heads = (edges[:, :, first:mlp] & used[:, :, None]).any(1)
            heads = heads.any(1, keepdim=True).expand_as(heads) if joined else heads
            for letter, targets in self.inputs(layer).items():
                used[:, targets] = heads if letter == "q" else heads.unflatten(1, (-1, shared)).any(2)
        found = edges & used[:, :, None]
        return (found & reached[:, None] if from_embedding else found)[:, mask]

    def places(self, edges: Sequence[str]) -> list[int]:
        """The numbers of edges in `edges`. Errors: WorkbenchError for an edge that the model does not have."""
        place = {name: number for number, name in enumerate(self.edges())}
        unknown = [edge for edge in edges if edge not in place]
        if unknown:
            first, *_, last = place
            raise WorkbenchError(f"no edge {unknown[0]!r} in this model; its {len(place):,} edges: {first}, …, {last}")
        return [place[edge] for edge in edges]

    def edges(self) -> list[str]:
        """The names of all edges, in the order of `mask`: `L1H5 → L2H5 k`."""
        sources, targets = self.sources, self.targets
        return [f"{sources[source]}{ARROW}{targets[target]}" for target, source in self.mask().nonzero().tolist()]


def neuron_name(layer: int, neuron: int) -> str:
    """The name of a neuron: `L2 N417`."""
    return f"L{layer} N{neuron}"


def neurons_in(edges: Sequence[str]) -> list[Neuron]:
    """The neurons that are nodes of some edge: (layer, neuron) each."""
    found = re.findall(r"\bL(\d+) N(\d+)\b", "\n".join(edges))
    return list(dict.fromkeys((int(layer), int(neuron)) for layer, neuron in found))


def node_and_input(target: str) -> tuple[str, str]:
    """The node and the input of a target.

    `L2H5 k` -> ("L2H5", "k"); `L2 MLP` -> ("L2 MLP", "mlp"); `L2 N417` -> ("L2 N417", "mlp"); `logits` -> ("logits",
    "logits").
    """
    node, _, letter = target.partition(" ")
    return (node, letter) if letter in INPUTS else (target, "mlp" if letter else LOGITS)


WRITTEN = ["embed", "blocks.*.attn.result", "blocks.*.attn_out", "blocks.*.mlp_out"]
"""Sites that a run must have captured for `outputs`, without neurons."""
DIVISORS = ["blocks.*.ln1.scale", "blocks.*.ln2.scale"]


def written_sites(graph: Graph) -> list[str]:
    """The sites that a run must have captured for `outputs`."""
    of_neurons = [f"blocks.{layer}.{name}" for layer, some in enumerate(graph.neurons) if some for name in NEURON_SITES]
    return [*WRITTEN, *of_neurons]


NEURON_SITES = ("mlp.post", "ln2.scale")


@torch.no_grad()
def outputs(model: OlmoForCausalLM, graph: Graph, run: Mapping[str, Tensor]) -> Tensor:
    """What each source adds to the residual stream of a run, float32: source batch pos d_model.

    The outputs sum to the residual stream. In OLMo 2 and 3 the output of a head is its part of the norm after
    attention, with the divisor that the norm has in this run; that of a neuron likewise. A bias of attention's output
    belongs to all heads of the layer in equal parts.
    """
    found = [run["embed"][None].float()]
    for layer in range(graph.layers):
        block = f"blocks.{layer}"
        found.append(of_heads(run[f"{block}.attn.result"], run[f"{block}.attn_out"]))
        out = run[f"{block}.mlp_out"][None].float()
        if graph.neurons[layer]:
            post = run[f"{block}.mlp.post"][..., list(graph.neurons[layer])]
            own = of_neurons(model, graph, layer, post.movedim(-1, 0), run[f"{block}.ln2.scale"])
            found += [own, out - own.sum(0)]
        else:
            found.append(out)
    return torch.cat(found)


def of_neurons(model: OlmoForCausalLM, graph: Graph, layer: int, post: Tensor, scale: Tensor) -> Tensor:
    """The outputs of the chosen neurons of a layer, float32: neuron … d_model.

    Args:
        post: their activations, neuron ….
        scale: the divisor of the norm after the MLP (OLMo 2 and 3), … 1. Models without that norm do not use it.
    """
    rows = model.W_out[layer][list(graph.neurons[layer])].float()  # neuron d_model
    out = torch.einsum("n...,nd->n...d", post.float(), rows)
    block = model.model.blocks[layer]
    return out if block.norm_first else divided(getattr(block, block.mlp_norm), out, scale.float())


def of_heads(results: Tensor, out: Tensor) -> Tensor:
    """The outputs of the heads of a layer, float32: head batch pos d_model.

    Args:
        results: `attn.result`, batch pos head d_model.
        out: `attn_out`, batch pos d_model.
    """
    results = results.float()
    rest = (out.float() - results.sum(2)) / results.shape[2]  # of the bias, and of rounding
    return (results + rest[:, :, None]).movedim(2, 0)


def with_divisors_of(graph: Graph, outs: Tensor, run: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """The outputs of a run, computed with the divisors that the norms after attention and MLPs have in another run.

    Both runs have `DIVISORS` captured.
    """
    found = outs.clone()
    for layer in range(graph.layers):
        first, mlp = graph.before_heads(layer), graph.mlp_sources(layer)
        found[first : mlp.start] *= (run[f"blocks.{layer}.ln1.scale"] / other[f"blocks.{layer}.ln1.scale"]).float()
        found[mlp] *= (run[f"blocks.{layer}.ln2.scale"] / other[f"blocks.{layer}.ln2.scale"]).float()
    return found


def heads_flops(model: OlmoForCausalLM) -> float:
    """Operations for each token of the products with W_Q, W_K and W_V of all layers."""
    config, sizes = model.config, model.sites.sizes
    heads = sizes["head"] + 2 * sizes["kv_head"]
    return 2 * config.num_hidden_layers * config.hidden_size * heads * sizes["d_head"]


def results_flops(model: OlmoForCausalLM) -> float:
    """Operations for each token of the outputs of all heads (`attn.result`)."""
    config, sizes = model.config, model.sites.sizes
    return 2 * config.num_hidden_layers * config.hidden_size * sizes["head"] * sizes["d_head"]


def edges_flops(model: OlmoForCausalLM, graph: Graph) -> float:
    """Operations for each token of one product of an output and an input for every edge."""
    return 2 * float(graph.mask().sum()) * model.config.hidden_size
