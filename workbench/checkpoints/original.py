"""Maps AI2's original layout of OLMo 1 and 2 (package `ai2-olmo`) to transformers' layout.

The original layout fuses matrices along their rows. `att_proj` is q, k and v, where k and v have n_kv_heads · d_head
rows each. `ff_proj` is up, then gate: the SwiGLU computes `silu(second half) * first half` (`olmo/model.py` of
`ai2-olmo`). With `block_group_size` above 1, the name of a block has the number of its group and its index in the
group. All other differences are names. Rotary embeddings pair the same dimensions as in transformers, so rows keep
their order.
"""

import math
import re
import warnings
from collections.abc import Iterable
from typing import Any

from transformers import Olmo2Config, OlmoConfig, PreTrainedConfig

from workbench.errors import WorkbenchError, shown

LAST_TOKEN = 50_279  # <|endoftext|> in the tokenizers of OLMo 1 and 2
IN_BLOCK = {
    "att_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn_out": ("self_attn.o_proj",),
    "ff_proj": ("mlp.up_proj", "mlp.gate_proj"),
    "ff_out": ("mlp.down_proj",),
    "q_norm": ("self_attn.q_norm",),
    "k_norm": ("self_attn.k_norm",),
    "attn_norm": ("post_attention_layernorm",),
    "ff_norm": ("post_feedforward_layernorm",),
}
"""Parts of a block, each with its names in transformers' layout; a fused part has several."""

OUTSIDE = {"wte": "model.embed_tokens", "ff_out": "lm_head", "ln_f": "model.norm"}
REQUIRED = ("d_model", "n_heads", "n_layers")
COUNTS = (
    "d_model",
    "n_heads",
    "n_kv_heads",
    "n_layers",
    "mlp_hidden_size",
    "mlp_ratio",
    "vocab_size",
    "embedding_size",
    "max_sequence_length",
    "block_group_size",
)
NUMBERS = ("clip_qkv", "layer_norm_eps", "rope_theta")
FLAGS = (
    "alibi",
    "rope",
    "include_bias",
    "bias_for_layer_norm",
    "scale_logits",
    "embedding_layer_norm",
    "weight_tying",
    "norm_after",
    "attention_layer_norm",
    "attention_layer_norm_with_affine",
    "layer_norm_with_affine",
    "multi_query_attention",
)
READABLE = {
    "alibi": (False,),
    "rope": (True,),
    "include_bias": (False,),
    "scale_logits": (False,),
    "embedding_layer_norm": (False,),
    "activation_type": ("swiglu",),
    "block_type": ("sequential",),
}
"""Settings of `ai2-olmo` that change the architecture, with the values that transformers' OLMo 1 and 2 support."""

READABLE_1 = {
    "attention_layer_norm": (False,),
    "layer_norm_type": ("default", "low_precision"),
    "layer_norm_with_affine": (False,),
    "layer_norm_eps": (1e-5,),
}
READABLE_2 = {
    "attention_layer_norm": (True,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "attention_layer_norm_with_affine": (True,),
    "bias_for_layer_norm": (False,),
    "clip_qkv": (),
}
"""The same for OLMo 1 (`READABLE_1`) and for OLMo 2 (`READABLE_2`, if `norm_after` is set).

Settings that are absent are not checked here; the check of tensor names covers them.
"""

MAKES = (
    (r"(attn_norm|ff_norm|ln_f|q_norm|k_norm)\.bias$", "bias_for_layer_norm"),
    (r"(attn_norm|ff_norm|ln_f)\.weight$", "layer_norm_with_affine"),
    (r"[qk]_norm\.weight$", "attention_layer_norm"),
    (r"emb_norm\.", "embedding_layer_norm"),
    (r"wpe\.", "rope"),
    (r"[qkv]_proj\.", "block_type"),
    (r"\.bias$", "include_bias"),
    (r"transformer\.ff_out\.", "weight_tying"),
)
"""Patterns of tensor names, each with the setting that decides whether such tensors exist."""

Rows = tuple[str, int, int]
"""(key, start, stop): the rows `start:stop` of the tensor `key`; a stop of -1 means the end."""

GROUPED = re.compile(r"block_groups\.(\d{1,9})\.(\d{1,9})\.(.+)")  # group, index in the group, part


def is_settings(settings: dict[str, Any]) -> bool:
    """Whether a config is one of `ai2-olmo`, which has `d_model` instead of transformers' `hidden_size`."""
    return "d_model" in settings and "n_heads" in settings and "n_layers" in settings


def is_original(keys: set[str]) -> bool:
    """Whether the tensors of a checkpoint have names of `ai2-olmo`."""
    return any(key.removeprefix("model.").startswith("transformer.") for key in keys)


def config_from_original(settings: dict[str, Any], keys: set[str]) -> PreTrainedConfig:
    """The transformers configuration for settings of `ai2-olmo`.

    Args:
        settings: `config.json` of an old repository, or the `model` section of a training run's `config.yaml`.
        keys: names of the checkpoint's tensors.

    Errors: WorkbenchError that names the setting, if its value is invalid or transformers' OLMo 1 and 2 do not support
    it.
    """
    _check_types(settings)
    second = bool(settings.get("norm_after"))
    _check_readable(settings, READABLE | (READABLE_2 if second else READABLE_1), "OLMo 2" if second else "OLMo 1")
    d_model, hidden = settings["d_model"], settings.get("mlp_hidden_size")
    tied = settings.get("weight_tying")
    common = {
        "vocab_size": settings.get("embedding_size") or settings["vocab_size"],
        "hidden_size": d_model,
        "intermediate_size": (hidden if hidden is not None else _given(settings, "mlp_ratio", 4) * d_model) // 2,
        "num_hidden_layers": settings["n_layers"],
        "num_attention_heads": settings["n_heads"],
        "num_key_value_heads": _kv_heads(settings),
        "max_position_embeddings": _given(settings, "max_sequence_length", 2048),
        "tie_word_embeddings": tied if tied is not None else _prefix(keys) + "ff_out.weight" not in keys,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(_given(settings, "rope_theta", 10_000))},
        "pad_token_id": settings.get("pad_token_id", 1),
        "eos_token_id": _eos(settings),
    }
    if second:
        return Olmo2Config(**common, rms_norm_eps=float(_given(settings, "layer_norm_eps", 1e-5)))
    clip = settings.get("clip_qkv")
    return OlmoConfig(**common, clip_qkv=None if clip is None else float(clip))


def plan(keys: set[str], config: PreTrainedConfig) -> dict[str, Rows]:
    """The source of each tensor of transformers' layout: its key and rows in the original layout.

    `keys` are the tensors of the original layout. A tensor without a counterpart in transformers' layout keeps its own
    name, so that a later check of names reports it.
    """
    start, size = _prefix(keys), _group_size(keys)
    places: dict[str, Rows] = {}
    for key in sorted(keys):
        parts = _rows_of_parts(_in_a_row(key.removeprefix(start), size), config)
        taken = any(name in places for name in parts)
        places |= {key: (key, 0, -1)} if taken or not parts else {name: (key, *rows) for name, rows in parts.items()}
    return places


def keys_of(names: Iterable[str], keys: set[str]) -> dict[str, str]:
    """Maps names of transformers' layout to the names of the (possibly fused) tensors of the original layout.

    A name without a counterpart maps to itself. `keys` are the tensors of the original layout; their names show the
    prefix and the block groups.
    """
    start, size = _prefix(keys), _group_size(keys)
    grouped = any(key.startswith(f"{start}block_groups.") for key in keys)
    outside = {f"{new}.weight": f"{start}{old}.weight" for old, new in OUTSIDE.items()}
    in_block = {f"{new}.weight": f"{old}.weight" for old, parts in IN_BLOCK.items() for new in parts}

    def key_of(name: str) -> str:
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        if part not in in_block:
            return outside.get(name, name)
        block = f"block_groups.{int(layer) // size}.{int(layer) % size}" if grouped else f"blocks.{layer}"
        return f"{start}{block}.{in_block[part]}"

    return {name: key_of(name) for name in names}


def setting_of(key: str) -> str | None:
    """The setting of `ai2-olmo` that decides whether a tensor of this name exists; None if no setting does."""
    return next((setting for pattern, setting in MAKES if re.search(pattern, key)), None)


def _check_types(settings: dict[str, Any]) -> None:
    """Raise WorkbenchError if a setting has a value of the wrong type or range."""
    for name in COUNTS:
        value = settings.get(name)
        if (type(value) is not int or value < 1) and (value is not None or name in REQUIRED):
            raise WorkbenchError(f"{name}: {shown(value)} should be a whole number from 1")
    for name in NUMBERS:
        value = settings.get(name)
        if value is not None and (type(value) not in (int, float) or not 0 < value < math.inf):
            raise WorkbenchError(f"{name}: {shown(value)} should be a number above 0")
    for name in FLAGS:
        if not isinstance(settings.get(name), bool | None):
            raise WorkbenchError(f"{name}: {shown(settings[name])} should be true or false")


def _given(settings: dict[str, Any], name: str, default: Any) -> Any:  # noqa: ANN401 - the type depends on the setting
    """A setting, or its default if it is absent or null."""
    return default if settings.get(name) is None else settings[name]


def _check_readable(settings: dict[str, Any], readable: dict[str, tuple[Any, ...]], family: str) -> None:
    """Raise WorkbenchError for a setting of an architecture that is not supported; absent settings are accepted."""
    for name, values in readable.items():
        value = settings.get(name)
        if value is not None and value not in values:
            has = " or ".join(str(value) for value in values) or "none"
            raise WorkbenchError(f"{name}: {shown(value)} is not supported; published {family} models have {has}")


def _group_size(keys: set[str]) -> int:
    """The number of blocks in a group; 1 without groups."""
    start = _prefix(keys)
    found = (GROUPED.match(key.removeprefix(start)) for key in keys)
    return 1 + max((int(match[2]) for match in found if match), default=0)


def _in_a_row(name: str, size: int) -> str:
    """The name of a tensor with its block number instead of the group number and the index in the group."""
    match = GROUPED.match(name)
    return f"blocks.{size * int(match[1]) + int(match[2])}.{match[3]}" if match else name


def _rows_of_parts(name: str, config: PreTrainedConfig) -> dict[str, tuple[int, int]]:
    """The parts of a tensor in transformers' layout: (start, stop) rows by name; empty if it has no counterpart."""
    path, ending = name.removesuffix(".weight"), ".weight"
    if not name.endswith(ending):
        return {}
    if path in OUTSIDE:
        return {OUTSIDE[path] + ending: (0, -1)}
    block, _, part = path.removeprefix("blocks.").partition(".")
    if not path.startswith("blocks.") or part not in IN_BLOCK:
        return {}
    ends = _ends_of_parts(part, config)
    spans = zip([0, *ends], [*ends, -1], strict=True)
    return {f"model.layers.{block}.{new}{ending}": span for new, span in zip(IN_BLOCK[part], spans, strict=True)}


def _ends_of_parts(part: str, config: PreTrainedConfig) -> list[int]:
    """End rows of the parts of a fused matrix, without the last part."""
    if part == "att_proj":
        d_head = config.hidden_size // config.num_attention_heads
        return [config.hidden_size, config.hidden_size + config.num_key_value_heads * d_head]
    return [config.intermediate_size] if part == "ff_proj" else []


def _kv_heads(settings: dict[str, Any]) -> int:
    """The number of key-value heads. Errors: WorkbenchError if two settings contradict each other."""
    several, of_all = settings.get("n_kv_heads"), settings.get("multi_query_attention")
    by_flag = None if of_all is None else 1 if of_all else settings["n_heads"]
    if None not in (several, by_flag) and several != by_flag:
        raise WorkbenchError(f"n_kv_heads: {several} contradicts multi_query_attention: {of_all}")
    return several or by_flag or settings["n_heads"]


def _eos(settings: dict[str, Any]) -> int | None:
    """The id of the end-of-text token. A wrong 0, which AI2's converter also corrects, is replaced with a warning."""
    eos = settings.get("eos_token_id")
    if eos == 0 and settings["vocab_size"] > LAST_TOKEN:
        warnings.warn(f"the config has eos_token_id: 0, a known mistake; {LAST_TOKEN} is used instead", stacklevel=2)
        return LAST_TOKEN
    return eos


def _prefix(keys: set[str]) -> str:
    """The common prefix of all tensor names."""
    return "model.transformer." if any(key.startswith("model.transformer.") for key in keys) else "transformer."
