"""What one head does with single tokens, from the weights alone: what it writes, and what it attends to."""

import torch
from torch import Tensor

from hooks import OlmoForCausalLM
from hooks.olmo import OlmoRMSNorm, d_head_of
from hooks.weights import Factored
from workbench.analyses.support.arguments import chosen
from workbench.analyses.support.cost import Work, work_of
from workbench.analyses.support.head_matrices import HeadMatrices, centred, head_matrices
from workbench.analyses.support.heads import head_name
from workbench.analyses.support.memory import Reader, reader_config
from workbench.errors import WorkbenchError
from workbench.progress import Progress, report, steps
from workbench.results import Grid
from workbench.tokens import Tokenizer, token_id, vocabulary_labels

ROWS = ("writes most", "writes least", "attends to most", "attends to least", "is attended to most by")


@torch.no_grad()
def head_circuits(
    model: OlmoForCausalLM,
    layer: int,
    head: int,
    token: int | str,
    *,
    distance: int = 1,
    top: int = 10,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Grid:
    """The tokens that a head writes when it attends to `token`, attends to from `token`, and attends from to `token`.

    Computed from the weights, without a run. The input of the head is the embedding of a token alone, as layer 0 reads
    it. Heads of later layers read more than that, so their numbers describe the weights and not what a run would show
    (Elhage et al. 2021, "A mathematical framework for transformer circuits"). Returns a Grid of rank × five lists, with
    the tokens in its cells:

    - `writes most`, `writes least`: E W_OV U, what the head adds to each token's logit per unit of attention. The
      divisor of the final norm, and in OLMo 2 and 3 of the norm after attention, is left out, so numbers can be
      compared within a list only.
    - `attends to most`, `attends to least`: the attention scores of a query at `token` for each token of the vocabulary
      as the key, `distance` tokens back, scaled by 1/√d_head, with RoPE and the q and k norms. In layer 0 they are
      exact (without clipping and biases).
    - `is attended to most by`: the scores of `token` as the key, for each token of the vocabulary as the query.

    `token` is an id, or with a `tokenizer` the text of a single token.

    Errors: WorkbenchError for a layer, head or token that does not exist, a negative `distance`, or `top` out of range.
    """
    config = model.config
    (layer,) = chosen([layer], config.num_hidden_layers, "layer")
    (head,) = chosen([head], config.num_attention_heads, "head")
    target = token_id(token, tokenizer, config.vocab_size)
    if distance < 0 or not 1 <= top <= config.vocab_size:
        raise WorkbenchError(
            f"distance is {distance} and top is {top}; a key is 0 or more tokens before its query, and 1 to "
            f"{config.vocab_size} tokens can be listed"
        )
    report(progress, 0.0, "circuits of a head")
    matrices = head_matrices(model, layer, distance=distance)
    read = read_embeddings(model)  # vocab d_model
    writes = read[target] @ _of_head(matrices.ov, head) @ unembedding(model)
    queries, keys = _queries_and_keys(model, layer, head, matrices, read)  # vocab d_head each
    lists = (writes, -writes, keys @ queries[target], -(keys @ queries[target]), queries @ keys[target])
    values, texts = [], []
    for scores, name in zip(lists, ROWS, strict=True):
        found = scores.topk(top)
        values.append(-found.values if name.endswith("least") else found.values)
        texts.append(vocabulary_labels(found.indices.tolist(), tokenizer))
    report(progress, 1.0, "circuits of a head")
    (shown,) = vocabulary_labels([target], tokenizer)
    columns = [[row[rank] for row in texts] for rank in range(top)]
    return Grid(
        torch.stack(values, 1),
        [str(rank) for rank in range(1, top + 1)],
        ROWS,
        row_name="rank",
        column_name="list",
        text=columns,
        title=f"{head_name(layer, head)} and {shown}, from the weights",
        value_name="logit or score",
        signed=True,
        provenance={"layer": layer, "head": head, "token": target, "distance": distance},
    )


@work_of(head_circuits)
def _work(model: Reader, *_: object, **__: object) -> Work:
    config = reader_config(model)
    vocabulary = 2 * config.vocab_size * config.hidden_size
    heads = config.num_attention_heads
    d_head = d_head_of(config)
    return Work(
        vocabulary * (1 + 2 * heads * d_head),
        nbytes=4
        * (3 * vocabulary / 2 + 2 * config.vocab_size * heads * d_head + 8 * heads * d_head * config.hidden_size),
    )


@torch.no_grad()
def copying_scores(model: OlmoForCausalLM, *, progress: Progress | None = None) -> Grid:
    """The copying score of each head: Σ λ / Σ |λ| over the eigenvalues λ of its circuit from token to logits, E W_OV U.

    Returns a Grid of layer × head, −1 to 1: 1 if the head raises the logits of the tokens that it attends to, −1 if it
    lowers them, and about 0 for a random matrix. Only d_head eigenvalues are not 0; they are computed from a matrix of
    d_head × d_head (Elhage et al. 2021, "A mathematical framework for transformer circuits"). E holds the embeddings as
    layer 0 reads them, and U the unembedding after the final norm without its divisor.
    """
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    through = unembedding(model) @ read_embeddings(model)  # d_model d_model
    scores = torch.empty(layers, heads)
    for layer in steps(range(layers), progress, "copying scores"):
        values = (head_matrices(model, layer).ov @ through).eigenvalues()  # head d_head
        scores[layer] = (values.real.sum(-1) / values.abs().sum(-1)).cpu()
    return Grid(
        scores,
        [str(layer) for layer in range(layers)],
        [str(head) for head in range(heads)],
        column_name="head",
        title="Copying scores of heads",
        value_name="copying score",
        signed=True,
    )


@work_of(copying_scores)
def _work_of_scores(model: Reader, **_: object) -> Work:
    config = reader_config(model)
    heads, width = config.num_attention_heads, config.hidden_size
    d_head = d_head_of(config)
    of_head = 2 * d_head * width**2 + 2 * d_head**2 * width
    return Work(
        2 * config.vocab_size * width**2 + config.num_hidden_layers * heads * of_head,
        nbytes=4 * (2 * config.vocab_size * width + width**2 + 10 * heads * d_head * width),
    )


@torch.no_grad()
def read_embeddings(model: OlmoForCausalLM) -> Tensor:
    """What layer 0 reads of each token, in float32: vocab d_model."""
    block, embeddings = model.model.blocks[0], model.W_E
    return (getattr(block, block.attn_norm)(embeddings) if block.norm_first else embeddings).float()


@torch.no_grad()
def unembedding(model: OlmoForCausalLM) -> Tensor:
    """The unembedding together with the final norm, without the norm's divisor, in float32: d_model vocab.

    The norm multiplies by its weight (OLMo 2 and 3), or subtracts the mean (OLMo 1).
    """
    norm, matrix = model.model.norm, model.W_U.float()
    return norm.weight.float()[:, None] * matrix if isinstance(norm, OlmoRMSNorm) else centred(matrix, 0)


def _of_head(matrices: Factored, head: int) -> Factored:
    return Factored(matrices.left[head], matrices.right[head])


def _queries_and_keys(
    model: OlmoForCausalLM, layer: int, head: int, matrices: HeadMatrices, read: Tensor
) -> tuple[Tensor, Tensor]:
    """The rotated queries and keys of one head for each row of `read`, the queries scaled: vocab d_head each."""
    attention = model.model.blocks[layer].self_attn
    circuit = _of_head(matrices.qk, head)
    queries, keys = read @ circuit.left * attention.scaling, read @ circuit.right.mT
    if attention.q_norm is not None and attention.k_norm is not None:  # their divisors are over all heads together
        queries = queries / attention.q_norm.scale(attention.q_proj(read.to(model.dtype))).float()
        keys = keys / attention.k_norm.scale(attention.k_proj(read.to(model.dtype))).float()
    return queries, keys
