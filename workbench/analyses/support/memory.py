"""How much memory an analysis takes in addition to the model, and how many tokens can therefore run at a time.

An analysis computes the bytes for one token of a batch (`run_bytes`, from the model's width, depth and vocabulary).
`tokens_at_a_time` compares them with the budget, logs the peak, and refuses a text that does not fit. The log record
has level INFO:

    logging.getLogger("workbench.analyses.support.memory").setLevel("INFO")

All numbers are upper bounds, measured on all model families in float32 and bfloat16.
"""

import logging
from collections.abc import Sequence
from math import prod
from typing import TypeAlias

import torch
from transformers import PreTrainedConfig

from hooks import OlmoForCausalLM
from hooks.olmo import d_head_of
from hooks.sites import Sites
from workbench.checkpoints.loading import free_memory, readable
from workbench.errors import WorkbenchError

TOKENS = 4096
"""The most tokens to run at a time, however much memory is free: larger batches are not faster."""

BATCH_BYTES = 10**9
"""The most bytes of a batch of several texts on a CPU, however much memory is free."""

BATCH_PRODUCTS = 2**35
"""The most multiplications of a block for a batch of several texts on a CPU: about a second, so that Stop acts soon."""

log = logging.getLogger(__name__)


Reader: TypeAlias = OlmoForCausalLM | PreTrainedConfig
"""A model, or the configuration of a model that will be loaded later, in float32 on the CPU."""


def budget(model: Reader) -> int:
    """Bytes that an analysis may use in addition to the model: half of the free memory of its device."""
    return free_memory(_device_of(model)) // 2


def _device_of(model: Reader) -> torch.device:
    on_device = isinstance(model, OlmoForCausalLM) and model.device.type != "meta"
    return model.device if on_device else torch.device("cpu")


def reader_config(model: Reader) -> PreTrainedConfig:
    """The configuration of a model, or the configuration itself."""
    return model.config if isinstance(model, OlmoForCausalLM) else model


def _itemsize(model: Reader) -> int:
    return model.dtype.itemsize if isinstance(model, OlmoForCausalLM) else 4


def tokens_at_a_time(
    model: Reader, what: str, per_token: float, length: int, *, fixed: float = 0, at_most: int | None = None
) -> int:
    """The number of tokens to run at a time, at least one text of `length` tokens.

    Args:
        model: the model, or its configuration.
        what: the name of the analysis, for messages.
        per_token: bytes for each token of a batch.
        length: tokens of the longest text.
        fixed: bytes that do not depend on the size of a batch.
        at_most: the most tokens, however much memory is free; `TOKENS` if not given.

    Errors: WorkbenchError if one text takes more than the `budget`; the message gives both numbers.
    """
    allowed, least = budget(model), fixed + per_token * length
    if least > allowed:
        raise WorkbenchError(
            f"{what} needs {readable(int(least))} of memory besides the model for a text of {length} tokens, but "
            f"only {readable(allowed)} may be used (half of the free memory on {_device_of(model)}); use a shorter "
            "text or a smaller dtype (bfloat16)"
        )
    size = max(length, min(at_most or TOKENS, _most_tokens(model, per_token, fixed, allowed)))
    log.info(
        "%s: at most %s beside the model, %d tokens at a time", what, readable(int(fixed + per_token * size)), size
    )
    return size


def peak_bytes(
    model: Reader,
    what: str,
    per_token: float,
    length: int,
    total: int = 0,
    *,
    fixed: float = 0,
    at_most: int | None = None,
) -> float:
    """The peak memory besides the model, in bytes, of `total` tokens (or of one text) in batches of `tokens_at_a_time`.

    The other arguments and the errors are those of `tokens_at_a_time`.
    """
    size = tokens_at_a_time(model, what, per_token, length, fixed=fixed, at_most=at_most)
    return fixed + per_token * min(size, max(length, total))


def _most_tokens(model: Reader, per_token: float, fixed: float, allowed: int) -> int:
    """The tokens that fit into the budget, and on a CPU also into the limits of a batch."""
    if _device_of(model).type != "cpu":
        return int((allowed - fixed) / per_token)
    fitting = (min(allowed, BATCH_BYTES) - fixed) / per_token
    return int(min(fitting, BATCH_PRODUCTS / block_products(reader_config(model))))


def block_products(config: PreTrainedConfig) -> int:
    """Multiplications of one block for one token, without those of attention scores: the number of its weights."""
    d_head = d_head_of(config)
    heads = 2 * (config.num_attention_heads + config.num_key_value_heads)
    return config.hidden_size * (heads * d_head + 3 * config.intermediate_size)


def run_bytes(
    model: Reader, *, capture: Sequence[str] = (), logits: int = 0, grad: bool = False, length: int = 0
) -> float:
    """Bytes for each token of a forward pass, without the weights.

    Args:
        model: the model, or its configuration.
        capture: sites, or globs of sites, whose activations are kept. Needs a model.
        logits: the number of tensors of the size of the logits in memory at a time; 0 if only the last logits are
            computed.
        grad: whether activations are kept for a backward pass.
        length: the number of keys of a text, if patterns or scores are captured.
    """
    size, config = _itemsize(model), reader_config(model)
    width = config.hidden_size + config.intermediate_size
    work = 6 * width * size  # intermediate results of one layer at a time
    if grad:
        work += config.num_hidden_layers * width * (4 * size + 8)  # norms keep their inputs in float32
    kept = 0.0
    if capture:
        assert isinstance(model, OlmoForCausalLM), "the sites of a model are not known from its configuration"
        sites = model.sites
        names = [name for pattern in capture for name in sites.match(pattern)]
        kept = size * sum(_numbers(sites, name, length) for name in names)
    return work + kept + logits * config.vocab_size * size


def site_bytes(model: OlmoForCausalLM, site: str, length: int = 0) -> float:
    """Bytes of one token's activation at a site. `length` is the number of keys, for sites with a key axis."""
    return _itemsize(model) * _numbers(model.sites, site, length)


def _numbers(sites: Sites, site: str, length: int) -> int:
    """The numbers of one token's activation at a site."""
    sizes = sites.sizes | {"batch": 1, "pos": 1, "query": 1, "1": 1, "key": length}
    return prod(sizes[word] for word in sites[site].split())
