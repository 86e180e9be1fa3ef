"""AI2's original layout of OLMo 1 and 2, read as if it were transformers' layout.

`ai2-olmo` fuses matrices along their rows: `att_proj` is q, k and v (k and v with n_kv_heads · d_head rows each),
`ff_proj` is up, then gate (its SwiGLU computes `silu(second half) * first half`; `olmo/model.py` of that package).
Everything else is a change of names. Rotary embeddings pair dimensions as transformers does, so no row moves.
"""

import warnings
from typing import Any

from transformers import Olmo2Config, OlmoConfig, PreTrainedConfig

from workbench.errors import WorkbenchError

LAST_TOKEN = 50_279  # <|endoftext|> of the tokenizers that OLMo 1 and 2 were published with
SAME_MATRICES = {"attn_out": "self_attn.o_proj", "ff_out": "mlp.down_proj"}
OLMO2_NORMS = {
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "attn_norm": "post_attention_layernorm",
    "ff_norm": "post_feedforward_layernorm",
}
UNREADABLE = {
    "alibi": (True,),
    "rope": (False,),
    "include_bias": (True,),
    "scale_logits": (True,),
    "embedding_layer_norm": (True,),
    "activation_type": ("gelu", "relu"),
    "block_type": ("llama", "parallel"),
}
"""Settings of `ai2-olmo` that make another architecture than transformers' OLMo 1 and 2, with those values."""

Rows = tuple[str, int, int]
"""A key of a file and the rows `start:stop` of its tensor; a stop of -1 means to the end."""


def is_settings(settings: dict[str, Any]) -> bool:
    """Whether a config is `ai2-olmo`'s: it says `d_model` where transformers says `hidden_size`."""
    return "d_model" in settings and "n_heads" in settings and "n_layers" in settings


def is_original(keys: set[str]) -> bool:
    """Whether the tensors of a checkpoint have `ai2-olmo`'s names."""
    return any(key.removeprefix("model.").startswith("transformer.") for key in keys)


def config_of(settings: dict[str, Any], keys: set[str]) -> PreTrainedConfig:
    """transformers' configuration for settings of `ai2-olmo`: `config.json` of the old repositories, or the `model`
    part of a training run's `config.yaml`. `keys` are the checkpoint's tensors.

    Errors: WorkbenchError naming the setting that transformers' OLMo 1 and 2 cannot express.
    """
    for name, values in UNREADABLE.items():
        if settings.get(name) in values:
            raise WorkbenchError(
                f"settings say {name}: {settings[name]!r}, which OLMo 1 and 2 as published do not have"
            )
    d_model, hidden = settings["d_model"], settings.get("mlp_hidden_size")
    tied = settings.get("weight_tying")
    common = {
        "vocab_size": settings.get("embedding_size") or settings["vocab_size"],
        "hidden_size": d_model,
        "intermediate_size": (hidden if hidden is not None else settings.get("mlp_ratio", 4) * d_model) // 2,
        "num_hidden_layers": settings["n_layers"],
        "num_attention_heads": settings["n_heads"],
        "num_key_value_heads": _kv_heads(settings),
        "max_position_embeddings": settings.get("max_sequence_length", 2048),
        "tie_word_embeddings": tied if tied is not None else _prefix(keys) + "transformer.ff_out.weight" not in keys,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(settings.get("rope_theta", 10_000))},
        "pad_token_id": settings.get("pad_token_id", 1),
        "eos_token_id": _eos(settings),
    }
    if settings.get("norm_after"):
        return _olmo2(settings, common)
    return _olmo1(settings, common)


def plan(keys: set[str], config: PreTrainedConfig) -> dict[str, Rows]:
    """Where each tensor of transformers' layout lies among the tensors `keys` of the original layout.

    Tensors with no place in transformers' layout keep their own names, so that a check of names finds them.
    """
    start = _prefix(keys) + "transformer."
    d_head = config.hidden_size // config.num_attention_heads
    q_end, kv_rows = config.hidden_size, config.num_key_value_heads * d_head
    places: dict[str, Rows] = {}
    for key in keys:
        block, _, part = key.removeprefix(start + "blocks.").partition(".")
        layer, part = f"model.layers.{block}", part.removesuffix(".weight")
        if key == start + "wte.weight":
            places["model.embed_tokens.weight"] = (key, 0, -1)
        elif key == start + "ff_out.weight":
            places["lm_head.weight"] = (key, 0, -1)
        elif key == start + "ln_f.weight":
            places["model.norm.weight"] = (key, 0, -1)
        elif not key.startswith(start + "blocks.") or not key.endswith(".weight"):
            places[key] = (key, 0, -1)
        elif part == "att_proj":
            places[f"{layer}.self_attn.q_proj.weight"] = (key, 0, q_end)
            places[f"{layer}.self_attn.k_proj.weight"] = (key, q_end, q_end + kv_rows)
            places[f"{layer}.self_attn.v_proj.weight"] = (key, q_end + kv_rows, -1)
        elif part == "ff_proj":
            places[f"{layer}.mlp.up_proj.weight"] = (key, 0, config.intermediate_size)
            places[f"{layer}.mlp.gate_proj.weight"] = (key, config.intermediate_size, -1)
        else:
            name = (SAME_MATRICES | OLMO2_NORMS).get(part)
            places[f"{layer}.{name}.weight" if name else key] = (key, 0, -1)
    return places


def _olmo1(settings: dict[str, Any], common: dict[str, Any]) -> OlmoConfig:
    if settings.get("attention_layer_norm") or settings.get("layer_norm_type", "default") == "rms":
        raise WorkbenchError(
            "settings say attention_layer_norm or layer_norm_type: rms without norm_after: neither OLMo 1 nor OLMo 2"
        )
    if settings.get("layer_norm_eps", 1e-5) != 1e-5:
        raise WorkbenchError(f"settings say layer_norm_eps: {settings['layer_norm_eps']}; OLMo 1 has 1e-05")
    return OlmoConfig(**common, clip_qkv=settings.get("clip_qkv"))


def _olmo2(settings: dict[str, Any], common: dict[str, Any]) -> Olmo2Config:
    if settings.get("attention_layer_norm") is False or settings.get("layer_norm_type", "rms") != "rms":
        raise WorkbenchError("settings say norm_after without RMS norms on q and k: not OLMo 2")
    if settings.get("clip_qkv"):
        raise WorkbenchError(
            f"settings say norm_after and clip_qkv: {settings['clip_qkv']}, which OLMo 2 does not have"
        )
    return Olmo2Config(**common, rms_norm_eps=settings.get("layer_norm_eps", 1e-5))


def _kv_heads(settings: dict[str, Any]) -> int:
    if settings.get("n_kv_heads") is not None:
        return settings["n_kv_heads"]
    return 1 if settings.get("multi_query_attention") else settings["n_heads"]


def _eos(settings: dict[str, Any]) -> int | None:
    """The end-of-text token. Some runs' settings say 0 by mistake, as AI2's own converter knows; that is mended."""
    eos = settings.get("eos_token_id")
    if eos == 0 and settings["vocab_size"] > LAST_TOKEN:
        warnings.warn(f"settings say eos_token_id: 0, a known mistake; {LAST_TOKEN} is used", stacklevel=2)
        return LAST_TOKEN
    return eos


def _prefix(keys: set[str]) -> str:
    return "model." if any(key.startswith("model.transformer.") for key in keys) else ""
