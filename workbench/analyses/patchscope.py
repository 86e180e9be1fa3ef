"""The continuation of a prompt in which the state of one token is replaced by a state of another prompt."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from hooks import Edit, OlmoForCausalLM, edits
from workbench.analyses.support.arguments import chosen, one_text
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.analyses.support.residual_stream import (
    residual_names,
    residual_site,
    residual_sites,
    residuals,
    residuals_bytes,
)
from workbench.errors import WorkbenchError
from workbench.progress import Progress, steps
from workbench.results import Grid, Measures
from workbench.texts import TextsLike
from workbench.tokens import Tokenizer, token_labels

IDENTITY = "cat -> cat\n1135 -> 1135\nhello -> hello\n?"
"""The prompt of Ghandeharioun et al. for reading a token's identity: the state takes the place of its last token."""

MEASURES = {
    "probability": "probability of the likeliest next token",
    "own": "probability of what the source's own run predicts",
    "kl": "change of the target's prediction",
}


@torch.no_grad()
def patchscope(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    target: TextsLike | None = None,
    *,
    positions: Sequence[int] | None = None,
    target_position: int = -1,
    target_layer: int | str | None = None,
    max_new_tokens: int = 1,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Measures[Grid]:
    """How a target prompt continues when the state of one of its tokens is replaced by a state of another prompt.

    For every layer and position of the source prompt `tokens`, the state after this layer (`embed`: the embedding)
    replaces the target's state at `target_position`, after the same layer or after `target_layer` (Ghandeharioun et al.
    2024, "Patchscopes: a unifying framework for inspecting hidden representations of language models"). The default
    target prompt is that of the paper and needs a `tokenizer`. It repeats tokens ("cat -> cat", "1135 -> 1135", "hello
    -> hello"), and the state of its last token, "?", is replaced. The continuation then shows which token the state
    represents.

    Returns Grids of source layer × source position (of all positions, or of `positions`):

    - `probability`: the probability of the likeliest next token of the target prompt. The cells show this token, or
      with `max_new_tokens` above 1 the whole continuation, in which each token is the likeliest one.
    - `own`: the probability that the target prompt gives to the token that the source prompt's own run finds likeliest
      after the source position. With `target_layer=None` and a target that ends at `target_position`, the last row is
      the model's own prediction, since nothing of the target follows the last layer.
    - `kl`: KL(unpatched target ‖ patched target), in nats: 0 where the state changes nothing.

    Errors: WorkbenchError without a target and a tokenizer, for a position that a prompt does not have, a layer that
    the model does not have, or more new tokens than the model has room for.
    """
    source = one_text(tokens, model)
    reader = _target_ids(model, target, tokenizer)
    where = chosen(positions, source.shape[1], "position in the source prompt")
    (place,) = chosen([target_position], reader.shape[1], "position in the target prompt")
    _check_context(model, reader.shape[1], max_new_tokens)
    at_once = _cells_at_once(model, source, reader, len(where))
    states = residuals(model, source)[:, 0, where]  # layer position d_model
    own = model.run(source).logits[0, where].argmax(-1)  # position
    unpatched = model.run(reader, logits_to_keep=1).logits[:, -1].float().log_softmax(-1)  # 1 vocab
    sites = residual_sites(model) if target_layer is None else [residual_site(model, target_layer)] * len(states)
    measures = torch.empty(len(MEASURES), *states.shape[:2])  # measure layer position
    texts = np.empty(states.shape[:2], dtype=object)
    chunks = [slice(start, start + at_once) for start in range(0, len(where), at_once)]
    for layer, some in steps(list(product(range(len(states)), chunks)), progress, "patchscope"):
        edit = edits.replace(sites[layer], states[layer, some, None], positions=[place])
        log_p, ids = _read_patched(model, reader.expand(len(own[some]), -1), edit, max_new_tokens)
        measures[:, layer, some] = _patched_measures(log_p, own[some], unpatched).cpu()
        texts[layer, some] = [_text(model, row, tokenizer) for row in ids.tolist()]
    columns = [token_labels(source[0], tokenizer)[position] for position in where]
    return Measures(
        **{
            name: Grid(
                values,
                residual_names(model),
                columns,
                row_name="source layer",
                column_name="source token",
                text=texts,
                title=f"Patchscope: {what}",
                value_name=name,
                unit="nats" if name == "kl" else "",
                as_percent=name == "probability",
            )
            for (name, what), values in zip(MEASURES.items(), measures, strict=True)
        }
    )


@work_of(patchscope)
def _work(
    model: OlmoForCausalLM,
    tokens: TextsLike,
    target: TextsLike | None = None,
    *,
    positions: Sequence[int] | None = None,
    max_new_tokens: int = 1,
    tokenizer: Tokenizer | None = None,
    **_: object,
) -> Work:
    length, reader = one_text(tokens).shape[1], _target_ids(model, target, tokenizer).shape[1]
    columns = length if positions is None else len(positions)
    cells = (model.config.num_hidden_layers + 1) * columns
    per_token, fixed = _bytes(model, length, reader, columns)
    peak = peak_bytes(model, "patchscope", per_token, reader, columns * reader, fixed=fixed)
    ends = pass_flops(model, 2 * length + reader, logits=length + 1)
    patched = pass_flops(model, cells * (reader + max_new_tokens - 1), logits=cells * max_new_tokens)
    return Work(ends + patched, nbytes=peak)


def _target_ids(model: OlmoForCausalLM, target: TextsLike | None, tokenizer: Tokenizer | None) -> Tensor:
    """The ids of the target prompt: 1 pos; by default, those of `IDENTITY`."""
    if target is not None:
        return one_text(target, model)
    if tokenizer is None:
        raise WorkbenchError("the default target prompt needs a tokenizer; give tokenizer=, or the ids of a target")
    return torch.tensor([tokenizer.encode(IDENTITY, add_special_tokens=False)], device=model.device)


def _check_context(model: OlmoForCausalLM, length: int, new_tokens: int) -> None:
    """Raise WorkbenchError if the new tokens do not fit behind the target prompt, or are fewer than one."""
    room = model.config.max_position_embeddings - length + 1  # the last new token is not read
    if not 1 <= new_tokens <= room:
        raise WorkbenchError(f"max_new_tokens is {new_tokens}; after a target of {length} tokens, choose 1 to {room}")


def _cells_at_once(model: OlmoForCausalLM, source: Tensor, reader: Tensor, columns: int) -> int:
    """The number of copies of the target prompt to run together."""
    length = reader.shape[1]
    per_token, fixed = _bytes(model, source.shape[1], length, columns)
    return max(1, tokens_at_a_time(model, "patchscope", per_token, length, fixed=fixed) // length)


def _bytes(model: OlmoForCausalLM, source: int, target: int, columns: int) -> tuple[float, float]:
    """Bytes for each token of a copy of the target, and those of the source's states and predictions. source, target:
    their numbers of tokens.
    """
    config = model.config
    cache = 2 * config.num_hidden_layers * config.hidden_size * model.dtype.itemsize
    kept = residuals_bytes(model) * source + 4 * config.vocab_size * (source + 3)
    return run_bytes(model) + cache + 6 * 4 * config.vocab_size / target, kept + 64 * columns


def _read_patched(model: OlmoForCausalLM, batch: Tensor, edit: Edit, new_tokens: int) -> tuple[Tensor, Tensor]:
    """The patched prediction after the target (batch vocab, log-probabilities), and the likeliest new tokens (batch
    new).
    """
    cache = DynamicCache(config=model.config) if new_tokens > 1 else None
    logits = model.run(batch, edits=edit, logits_to_keep=1, past_key_values=cache).logits[:, -1]
    written = [logits.argmax(-1)]
    for _ in range(new_tokens - 1):
        following = model.run(written[-1][:, None], logits_to_keep=1, past_key_values=cache).logits[:, -1]
        written.append(following.argmax(-1))
    return logits.float().log_softmax(-1), torch.stack(written, 1)


def _patched_measures(log_p: Tensor, own: Tensor, unpatched: Tensor) -> Tensor:
    """The measures of patched predictions: measure position. log_p: position vocab; unpatched: 1 vocab."""
    kl = (unpatched.exp() * (unpatched - log_p)).sum(-1).clamp_min(0)
    return torch.stack([log_p.amax(-1).exp(), log_p.gather(-1, own[:, None])[:, 0].exp(), kl])


def _text(model: OlmoForCausalLM, ids: list[int], tokenizer: Tokenizer | None) -> str:
    """The label of new tokens, up to an end-of-text token."""
    end = model.config.eos_token_id
    kept = ids[: ids.index(end) + 1] if end in ids else ids
    return ("" if tokenizer else " ").join(token_labels(kept, tokenizer))
