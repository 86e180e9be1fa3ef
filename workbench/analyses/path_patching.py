"""Direct paths from heads and MLPs to receiver heads, or to the logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hooks import Capture, Edit, OlmoForCausalLM, Run, edits
from workbench.analyses.support.arguments import chosen
from workbench.analyses.support.batched_runs import PARTS, RESIDUALS, Swap, heads_and_mlp, repeated, run_cells
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.heads import head_name
from workbench.analyses.support.memory import run_bytes
from workbench.analyses.support.prompt_pairs import (
    Contrast,
    NormalisedMeans,
    Pairs,
    TokenLike,
    batches_in_memory,
    contrast,
    ends_of,
    ends_of_others,
    grids,
    last_logits_bytes,
    log_probabilities,
    measured,
    outlined,
    scale_between,
)
from workbench.analyses.support.residual_stream import block_of
from workbench.errors import WorkbenchError
from workbench.progress import Progress, part, steps
from workbench.results import Measures
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer

MLPS = ("frozen", "recomputed")
INPUTS = "qkv"
Readers = dict[str, list[int]]
"""The sites that are the inputs of receivers, each with its heads (or key-value heads)."""


def path_patching(
    model: OlmoForCausalLM,
    clean: TextsLike,
    corrupted: TextsLike,
    token: TokenLike,
    against: TokenLike | None = None,
    *,
    receivers: Sequence[tuple[int, int]] | None = None,
    inputs: str = "q",
    mlps: str = "frozen",
    position: int = -1,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures:
    """How much of the corrupted answer reaches the clean run along the direct path from one part to its receivers.

    Returns Grids of layer × (heads, MLP) of the sender. The measures are those of `activation_patching`, normalised in
    the opposite direction, (run − clean) / (corrupted − clean): 0 where the path changes nothing, 1 where this path
    alone gives the corrupted answer. Layers from which no receiver can be reached have no row (Wang et al. 2022, arXiv
    2211.00593; Goldowsky-Dill et al. 2023, arXiv 2304.05969).

    Two runs over the clean prompt are made for each sender:

    1. The sender has its activation from the corrupted prompt. All other heads are frozen at their clean activations.
       With `mlps="frozen"` all other MLPs are frozen too; with "recomputed" they are computed again, so paths through
       MLPs count as direct. The inputs of the receivers in this run are stored.
    2. The receivers have the stored inputs. Everything after them is computed normally.

    `receivers` are (layer, head) pairs, all changed together. `inputs` names the changed inputs of the receivers: one
    or more letters of "qkv". In models with grouped queries, k and v are those of the head's group. With
    `receivers=None` the path goes to the logits.

    No norm is frozen. These norms are computed again: the norm after the sender's attention in OLMo 2 and 3, the norms
    of queries and keys, the norms before receivers in OLMo 1, and the final norm. An MLP as a sender is replaced where
    its output is added to the residual stream.

    Errors: WorkbenchError as in `activation_patching`, for receivers that do not exist, and for receivers in layer 0,
    where no part comes before them.
    """
    pair = contrast(model, clean, corrupted, token, against, position, tokenizer)
    if mlps not in MLPS:
        raise WorkbenchError(f"mlps={mlps!r}; choices: {', '.join(MLPS)}")
    receivers = None if receivers is None else _receiver_places(model, receivers)
    readers = None if receivers is None else _readers(model, receivers, inputs)
    end = model.config.num_hidden_layers if readers is None else max(block_of(site) for site in readers)
    batches, tokens = _batches(model, pair)
    runs = _runs(model, batches[0])
    ends = [ends_of(pair, batches[0], *(run.logits for run in runs)), *ends_of_others(model, pair, batches)]
    scale = scale_between(pair, ends, one="corrupted", dtype=runs[0].logits.dtype)
    means = NormalisedMeans(pair.measures, one="corrupted")
    for number, pairs in enumerate(batches):
        base, other = runs if number == 0 else _runs(model, pairs)
        log_clean, rows = log_probabilities(base.logits), []
        stage = part(progress, number / len(batches), (number + 1) / len(batches))
        for layer in steps(range(end), stage, "patching paths"):
            senders = heads_and_mlp(model, other, layer, tokens // pairs.clean.numel())
            found = [
                _through(model, base, sender, readers, range(layer, end), mlps).unflatten(0, (len(sender.masks), -1))
                for sender in senders
            ]  # cell text vocab each
            rows.append(measured(pair, pairs, log_clean, torch.cat(found)))  # part text each
        means.add({name: torch.stack([row[name] for row in rows]) for name in pair.measures}, ends[number])
    n_heads = model.config.num_attention_heads
    what = "logits" if receivers is None else f"{inputs} of {', '.join(head_name(*one) for one in receivers)}"
    title = f"Direct path from a head or an MLP to {what} (other MLPs {mlps})"
    return grids(scale, means, range(end), [*range(n_heads), "MLP"], "part", title)


def _runs(model: OlmoForCausalLM, pairs: Pairs) -> tuple[Run, Run]:
    """The run over the clean prompts, whose paths are patched, and the run over the corrupted prompts."""
    kept = [RESIDUALS, "blocks.*.attn_out", "blocks.*.mlp_out"]
    return (
        model.run(pairs.clean, capture=kept, logits_to_keep=1),
        model.run(pairs.corrupted, capture=PARTS, logits_to_keep=1),
    )


def _batches(model: OlmoForCausalLM, pair: Contrast) -> tuple[list[Pairs], int]:
    """The pairs in batches, and the number of tokens of patched runs to compute at a time."""
    return batches_in_memory(model, pair, "patching paths", *_bytes(model, pair))


def _bytes(model: OlmoForCausalLM, pair: Contrast) -> tuple[float, float]:
    """Returns two numbers of bytes: for each token of a batch, the stored activations and the last logits of all
    senders of a layer; and for each token of a patched run.
    """
    lasts = last_logits_bytes(model) / min(pair.clean.lengths)
    kept = run_bytes(model, capture=[RESIDUALS, *PARTS, *PARTS]) + (model.config.num_attention_heads + 1) * lasts
    return kept, run_bytes(model, capture=PARTS) + 8 * model.config.hidden_size * model.dtype.itemsize + lasts


@work_of(path_patching)
def _work(
    model: OlmoForCausalLM,
    clean: TextsLike,
    corrupted: TextsLike,
    *_: object,
    receivers: Sequence[tuple[int, int]] | None = None,
    position: int = -1,
    **__: object,
) -> Work:
    pair, layers = outlined(model, clean, corrupted, position), model.config.num_hidden_layers
    batches, size = _batches(model, pair)
    read = None if receivers is None else sorted({layer for layer, _ in _receiver_places(model, receivers)})
    blocks = 0  # that one sender of each layer runs through
    for layer in range(layers if read is None else read[-1]):
        blocks += layers - layer if read is None else read[-1] + 1 - layer
        blocks += 0 if read is None else layers - min(each for each in read if each > layer)
    senders, tokens = model.config.num_attention_heads + 1, pair.clean.tokens
    logits = senders * len(pair.clean) * (layers if read is None else read[-1])
    kept, of_cell = _bytes(model, pair)
    batch = max(pairs.clean.numel() for pairs in batches)
    flops = pass_flops(model, tokens, 2 * layers + senders * blocks, logits=logits)
    return Work(flops, nbytes=kept * batch + of_cell * min(size, senders * batch))


def _receiver_places(model: OlmoForCausalLM, receivers: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Receivers as (layer, head). Errors: WorkbenchError for heads that do not exist, or in layer 0."""
    if not receivers:
        raise WorkbenchError("receivers is empty; give receivers as (layer, head), or leave it out to use the logits")
    layers = chosen([layer for layer, _ in receivers], model.config.num_hidden_layers, "layer")
    heads = chosen([head for _, head in receivers], model.config.num_attention_heads, "head")
    first = [f"L0H{head}" for layer, head in zip(layers, heads, strict=True) if layer == 0]
    if first:
        raise WorkbenchError(f"receivers in layer 0 have no heads before them; leave out: {', '.join(first)}")
    return list(zip(layers, heads, strict=True))


def _readers(model: OlmoForCausalLM, receivers: list[tuple[int, int]], inputs: str) -> Readers:
    """The sites that are the inputs of receivers."""
    if not inputs or not set(inputs) <= set(INPUTS):
        raise WorkbenchError(f"inputs={inputs!r}; give one or more letters of {INPUTS!r}")
    group = model.config.num_attention_heads // model.config.num_key_value_heads
    readers: dict[str, set[int]] = {}
    for layer, head in receivers:
        for letter in inputs:
            readers.setdefault(f"blocks.{layer}.attn.{letter}", set()).add(head if letter == "q" else head // group)
    return {site: sorted(heads) for site, heads in readers.items()}


def _through(
    model: OlmoForCausalLM, base: Run, sender: Swap, readers: Readers | None, between: range, mlps: str
) -> Tensor:
    """The last logits of the clean run in which only the receivers read the sender's new activation: (cell text) vocab.

    `between` are the layers from the sender's to the one before the last receiver's.
    """
    cells = len(sender.masks)
    frozen = _frozen(model, base, sender, between, mlps)
    if readers is None:
        return run_cells(model, base, sender, freeze=frozen, logits_to_keep=1).logits[:, -1]
    after = {site: heads for site, heads in readers.items() if block_of(site) > between.start}
    capture = [Capture(site, heads=heads) for site, heads in after.items()]
    read = run_cells(model, base, sender, freeze=frozen, capture=capture, stop_at_layer=between.stop + 1)
    first = min(block_of(site) for site in after)
    run = model.run(
        resid=repeated(base[f"blocks.{first}.resid_pre"], cells),
        start_at_layer=first,
        edits=[edits.replace(site, read[site], heads=heads) for site, heads in after.items()],
        logits_to_keep=1,
    )
    return run.logits[:, -1]


def _frozen(model: OlmoForCausalLM, base: Run, sender: Swap, between: range, mlps: str) -> list[Edit]:
    """Edits that keep the attention of later layers, and with `mlps="frozen"` the other MLPs, as in the base run.

    The other heads of the sender's layer need no edit, since their inputs do not change.
    """
    sites = [f"blocks.{layer}.attn_out" for layer in between[1:]]
    sites += [f"blocks.{layer}.mlp_out" for layer in between if mlps == "frozen"]
    everywhere = torch.ones(len(sender.masks), 1, 1, dtype=torch.bool)
    return [Swap(site, base[site], everywhere).edit(model.sites[site]) for site in sites if site != sender.site]
