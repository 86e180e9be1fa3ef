"""Answers to prompts: continuations of one or more tokens, and their probability after each prompt."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hooks import Edit, OlmoForCausalLM
from hooks.products import fast_products
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.errors import WorkbenchError
from workbench.texts import Texts, TextsLike

Answers = TextsLike | Sequence[int]
"""A list of token ids, each an answer of one token; or texts, each an answer."""
Answer = tuple[int, ...]


def answers_for(model: OlmoForCausalLM, given: Answers, what: str) -> list[Answer]:
    """The ids of each answer. `what` is the name of the argument, for messages.

    Errors: WorkbenchError for ids that are not in the vocabulary, or strings.
    """
    single = isinstance(given, Sequence) and bool(given) and all(isinstance(one, int) for one in given)
    texts: Any = Texts(torch.tensor(given)[:, None]) if single else given
    try:
        found = [tuple(ids.tolist()) for ids in texts_for(model.config, texts)]
    except WorkbenchError as error:
        raise WorkbenchError(f"{what}: {error}") from error
    size = model.config.vocab_size
    for token in {token for answer in found for token in answer}:
        if not 0 <= token < size:
            raise WorkbenchError(f"{what} has the token {token}; token ids are 0 to {size - 1}")
    return found


def check_apart(answers: list[Answer]) -> None:
    """Raise WorkbenchError if an answer is given twice or begins another one: its probability would count twice."""
    for number, one in enumerate(answers):
        for other in answers[:number] + answers[number + 1 :]:
            if other[: len(one)] == one:
                how = "is given twice" if one == other else f"begins another answer, {list(other)}"
                raise WorkbenchError(f"the answer {list(one)} {how}; its probability would count twice")


def answer_tokens_at_a_time(model: OlmoForCausalLM, texts: Texts, answers: Sequence[Answer], what: str) -> int:
    """The number of tokens of prompts to run at a time for `answer_log_probs`."""
    per_token, fixed = _bytes(model, texts, answers)
    return tokens_at_a_time(model, what, per_token, texts.longest, fixed=fixed)


def answers_work(model: OlmoForCausalLM, texts: Texts, answers: Sequence[Answer], what: str, times: int) -> Work:
    """The work of `times` calls of `answer_log_probs` for these texts."""
    per_token, fixed = _bytes(model, texts, answers)
    peak = peak_bytes(model, what, per_token, texts.longest, times * texts.tokens, fixed=fixed)
    lengths = [len(beginning) for beginning in {answer[:-1] for answer in answers}]
    tokens = sum(texts.tokens + length * len(texts) for length in lengths)
    logits = sum((length + 1) * len(texts) for length in lengths)
    return Work(times * pass_flops(model, tokens, logits=logits), nbytes=peak)


def _bytes(model: OlmoForCausalLM, texts: Texts, answers: Sequence[Answer]) -> tuple[float, int]:
    """Bytes for each token of a prompt, and bytes that do not depend on the size of a batch."""
    longest, shortest = max(map(len, answers)), min(texts.lengths)
    logits = 4 * 4 * model.config.vocab_size * longest / shortest  # logits and their log-probabilities, float32
    return (run_bytes(model) + logits) * (1 + (longest - 1) / shortest), 8 * len(texts) * len(answers)


@torch.no_grad()
@fast_products()
def answer_log_probs(
    model: OlmoForCausalLM, ids: Tensor, answers: Sequence[Answer], edits: Sequence[Edit] = ()
) -> Tensor:
    """log p(answer | prompt), the sum over the answer's tokens, in nats: batch answer, float64 on the CPU.

    ids: batch pos. Prompts run once for all answers with the same beginning, so once for all answers of one token.
    """
    found = torch.empty(len(ids), len(answers), dtype=torch.double)
    beginnings: dict[Answer, list[int]] = {}
    for number, answer in enumerate(answers):
        beginnings.setdefault(answer[:-1], []).append(number)
    for beginning, numbers in beginnings.items():
        whole = torch.cat([ids, torch.tensor([beginning], dtype=ids.dtype, device=ids.device).expand(len(ids), -1)], 1)
        logits = model.run(whole, edits=edits, logits_to_keep=len(beginning) + 1).logits
        log_p = logits.float().log_softmax(-1)  # batch pos vocab
        for number in numbers:
            wanted = torch.tensor(answers[number], device=log_p.device)[None, :, None].expand(len(ids), -1, 1)
            found[:, number] = log_p.gather(-1, wanted).double().sum((1, 2)).cpu()
    return found
