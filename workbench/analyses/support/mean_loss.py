"""The mean loss of a model on texts."""

from hooks import OlmoForCausalLM
from workbench.analyses.support.arguments import texts_for
from workbench.analyses.support.cost import Work, pass_flops, work_of
from workbench.analyses.support.memory import peak_bytes, run_bytes, tokens_at_a_time
from workbench.analyses.support.next_tokens import CHUNK_BYTES, next_token_statistics
from workbench.texts import Texts, TextsLike

WHAT = "log-probabilities"


def mean_loss(model: OlmoForCausalLM, tokens: TextsLike) -> float:
    """Mean −log p over all tokens except the first of each text, in nats."""
    texts = texts_for(model, tokens, at_least=2)
    total = 0.0
    for _, ids in texts.batches(loss_tokens_at_a_time(model, texts)):
        logits = model.run(ids).logits[:, :-1]
        total += next_token_statistics(logits, ids[:, 1:])["loss"].double().sum().item()
    return total / (texts.tokens - len(texts))


@work_of(mean_loss)
def work_of_all_logits(model: OlmoForCausalLM, tokens: TextsLike, **_: object) -> Work:
    """The work of one pass over texts with all their logits."""
    texts, (per_token, fixed) = texts_for(model.config, tokens), _bytes(model)
    peak = peak_bytes(model, WHAT, per_token, texts.longest, texts.tokens, fixed=fixed)
    return Work(pass_flops(model, texts.tokens, logits=texts.tokens), nbytes=peak)


def loss_tokens_at_a_time(model: OlmoForCausalLM, texts: Texts, kept: int = 0) -> int:
    """The number of tokens to run at a time with all their logits, beside `kept` bytes."""
    per_token, fixed = _bytes(model, kept)
    return tokens_at_a_time(model, WHAT, per_token, texts.longest, fixed=fixed)


def _bytes(model: OlmoForCausalLM, kept: int = 0) -> tuple[float, int]:
    """Bytes for each token of a batch, and bytes that do not depend on its size, `kept` included."""
    return run_bytes(model, logits=2) + 3 * 4 * model.config.vocab_size, CHUNK_BYTES + kept
