"""The config of a checkpoint: read, checked, and compared with the tensors in the files.

A config is checked before a model is built: its number of layers and its shapes must agree with the headers of the
files. A wrong config, for example with a million layers, is therefore rejected without cost.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, Olmo2Config, Olmo3Config, OlmoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from hooks import OlmoForCausalLM
from hooks.compat import ROPE_INIT_FUNCTIONS
from hooks.olmo import d_head_of
from workbench.checkpoints import original
from workbench.checkpoints.files import is_there, read_json, read_text
from workbench.errors import WorkbenchError, reason, shown

MODEL_TYPES: dict[str, tuple[str, type[PreTrainedConfig]]] = {
    "olmo": ("OLMo", OlmoConfig),
    "olmo2": ("OLMo 2", Olmo2Config),
    "olmo3": ("OLMo 3", Olmo3Config),
}
FORMER_NAMES = {"olmo_1124": "olmo2", "olmo1124": "olmo2"}
"""Former model types in published configs, with their present names in transformers."""

FORMER_SETTINGS = ("rope_theta", "rope_scaling")
"""Settings that describe the model but are not fields of the config classes. All other settings are ignored."""

UNREADABLE = ("quantization_config", "per_layer_config")
"""Settings that change what the same tensors mean; they are not supported."""

ABOVE_ZERO = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "sliding_window",
    "rms_norm_eps",
    "clip_qkv",
)
DIVISORS = ("rope_theta", "factor")
"""RoPE parameters by which is divided, so that they cannot be 0."""

TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
MOST_VALUES = 100_000
LARGEST = 2**63 - 1  # largest integer in torch

BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""Errors that the configuration and model classes raise for invalid settings."""

LAYER = re.compile(r"(?:model\.)?(?:layers\.(\d+)|transformer\.(?:blocks\.(\d+)|block_groups\.(\d+\.\d+)))\.")

Shapes = dict[str, tuple[int, ...]]


def read_settings(folder: Path) -> tuple[dict[str, Any], Path]:
    """(settings, path): the model settings of a folder, from its `config.json` or else its `config.yaml`.

    Errors: WorkbenchError if both files are missing, or the file cannot be read.
    """
    path = folder / "config.json"
    if is_there(path):
        return _of_a_size(read_json(path), path), path
    path = folder / "config.yaml"
    if not is_there(path):
        raise WorkbenchError(f"{folder} is not a checkpoint: it has neither config.json nor config.yaml")
    text = read_text(path)
    try:
        run = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise WorkbenchError(f"{path} cannot be read as YAML: {reason(error)}") from error
    settings = run.get("model", run) if isinstance(run, dict) else None
    if not isinstance(settings, dict):
        raise WorkbenchError(f"{path} has no `model` section")
    return _of_a_size(settings, path), path


def _of_a_size(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings unchanged. Errors: WorkbenchError for more than `MOST_VALUES` values; YAML aliases can do that."""
    left, counted = [settings], 0
    while left:
        value, counted = left.pop(), counted + 1
        if isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
        if counted + len(left) > MOST_VALUES:
            raise WorkbenchError(f"{path} holds more than {MOST_VALUES:,} values, too many for the config of a model")
    return settings


def family_name(settings: Mapping[str, Any]) -> str | None:
    """The display name of a config's model family ("OLMo 2"); None if it is not a dense OLMo."""
    if original.is_settings(dict(settings)):
        return "OLMo 2" if settings.get("norm_after") else "OLMo"
    model_type = _model_type(settings)
    return MODEL_TYPES[model_type][0] if model_type in MODEL_TYPES else None


def config_from_settings(settings: dict[str, Any], keys: set[str]) -> PreTrainedConfig:
    """The transformers configuration of a checkpoint's settings, checked except for the shapes of tensors.

    `keys` are the names of the checkpoint's tensors.
    Errors: WorkbenchError with the setting and its value.
    """
    _check_layers(settings, keys)
    try:
        config = (
            original.config_from_original(settings, keys) if original.is_settings(settings) else _transformers(settings)
        )
    except WorkbenchError:
        raise
    except BROKEN as error:
        raise WorkbenchError(f"not a valid OLMo config: {type(error).__name__}: {reason(error)}") from error
    _check_ranges(config)
    _check_functions(config)
    return config


def generation_settings(folder: Path) -> GenerationConfig | None:
    """The defaults of `generate` in a folder's `generation_config.json`; None if there is no such file.

    Errors: WorkbenchError if the file cannot be read, or transformers refuses its values.
    """
    path = folder / "generation_config.json"
    if not is_there(path):
        return None
    settings = _of_a_size(read_json(path), path)
    for name in TOKEN_IDS:
        ids = settings.get(name)
        for token in ids if isinstance(ids, list) else [ids]:
            if token is not None and (type(token) is not int or not -1 <= token <= LARGEST):
                raise WorkbenchError(f"{path}: {name}: {shown(token)} is not a token id")
    try:
        return GenerationConfig.from_dict(settings)
    except BROKEN as error:
        raise WorkbenchError(f"{path} holds no settings for generation: {reason(error)}") from error


def shapes(config: PreTrainedConfig) -> Shapes:
    """The shape of every parameter of a config's model, by name; computed without building the model."""
    d_model, d_mlp, d_head = config.hidden_size, config.intermediate_size, d_head_of(config)
    n_query, n_key = config.num_attention_heads * d_head, config.num_key_value_heads * d_head
    projections = {"q": (n_query, d_model), "k": (n_key, d_model), "v": (n_key, d_model), "o": (d_model, n_query)}
    layer: Shapes = {}
    for name, shape in projections.items():
        layer[f"self_attn.{name}_proj.weight"] = shape
        if config.attention_bias:
            layer[f"self_attn.{name}_proj.bias"] = shape[:1]
    layer |= {f"mlp.{name}_proj.weight": (d_mlp, d_model) for name in ("gate", "up")}
    layer["mlp.down_proj.weight"] = (d_model, d_mlp)
    has_norms = config.model_type != "olmo"  # norms of OLMo 1 have no weights
    if has_norms:
        layer |= {"self_attn.q_norm.weight": (n_query,), "self_attn.k_norm.weight": (n_key,)}
        layer |= {f"post_{name}_layernorm.weight": (d_model,) for name in ("attention", "feedforward")}
    found: Shapes = {"model.embed_tokens.weight": (config.vocab_size, d_model)}
    for index in range(config.num_hidden_layers):
        found |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    found |= {"model.norm.weight": (d_model,)} if has_norms else {}
    return found if config.tie_word_embeddings else found | {"lm_head.weight": (config.vocab_size, d_model)}


def check_that_it_makes_a_model(config: PreTrainedConfig) -> None:
    """Build the model on the meta device, without memory for parameters, as a check of the config.

    Compare `shapes(config)` with the files first, so that the config has a realistic size. Checkpoints of one run have
    the same config, and only the first of them is built.
    Errors: WorkbenchError if the model cannot be built, or RoPE does not rotate all dimensions of a head.
    """
    _build_on_meta(_Described(config.to_json_string(use_diff=False), config))


@dataclass(frozen=True)
class _Described:
    """A config with its description as JSON; two of the same description are equal."""

    description: str
    config: PreTrainedConfig = field(compare=False)


@lru_cache(maxsize=64)
def _build_on_meta(described: _Described) -> None:
    """Raises the errors of `check_that_it_makes_a_model`; a config that has none is built once."""
    config = described.config
    try:
        with torch.device("meta"):
            model = OlmoForCausalLM(config)
    except BROKEN as error:
        raise WorkbenchError(f"no model can be built from this config: {reason(error)}") from error
    turned = {2 * buffer.numel() for name, buffer in model.named_buffers() if name.endswith("inv_freq")}
    if turned != {d_head_of(config)}:
        raise WorkbenchError(
            f"no model can be built from this config: rope_parameters rotate {max(turned)} dimensions of a head, which "
            f"has {d_head_of(config)}"
        )


def layers_in(keys: Iterable[str]) -> int:
    """The number of layers that have tensors in a checkpoint, in either layout."""
    return len({match.group(1, 2, 3) for key in keys if (match := LAYER.match(key))})


def _model_type(settings: Mapping[str, Any]) -> str | None:
    """The `model_type` of a config, with former names replaced by their present name; None if it is not a string."""
    said = settings.get("model_type")
    return FORMER_NAMES.get(said, said) if isinstance(said, str) else None


def _transformers(settings: dict[str, Any]) -> PreTrainedConfig:
    """The configuration for settings in transformers' layout; settings that do not describe the model are ignored."""
    family = _model_type(settings)
    if family not in MODEL_TYPES:
        raise WorkbenchError(
            f"model_type {shown(settings.get('model_type'))} is not a supported OLMo model type; "
            f"supported: {', '.join(MODEL_TYPES)} and the old hf_olmo"
        )
    for name in UNREADABLE:
        if settings.get(name) is not None:
            raise WorkbenchError(f"{name}: {shown(settings[name])} is not supported; save the checkpoint without it")
    made = MODEL_TYPES[family][1]
    _check_rope_theta(settings)
    known = {*made.__annotations__, *FORMER_SETTINGS, "head_dim"}
    return made.from_dict({name: value for name, value in settings.items() if name in known})


def _check_rope_theta(settings: Mapping[str, Any]) -> None:
    """Raise WorkbenchError for a `rope_theta` that no table of `rope_parameters` has: transformers would ignore it.

    OLMo 3 may have one table for each kind of attention, each with a base of its own.
    """
    tables, said = settings.get("rope_parameters"), settings.get("rope_theta")
    if not isinstance(tables, Mapping) or not isinstance(said, int | float):
        return
    bases = [value for name, value in _leaves(tables) if name == "rope_theta"]
    if bases and said not in bases:
        raise WorkbenchError(
            f"rope_theta: {shown(said)}, but rope_parameters: rope_theta: {', '.join(map(shown, bases))}"
        )


def _check_layers(settings: Mapping[str, Any], keys: set[str]) -> None:
    """Raise WorkbenchError if the number of layers is not that of the tensors; before any list of layers is built."""
    name = "n_layers" if original.is_settings(dict(settings)) else "num_hidden_layers"
    said, there = settings.get(name), layers_in(keys)
    if isinstance(said, int) and said != there:
        raise WorkbenchError(f"{name}: {shown(said)}, but the weight files have {there} layers")


def _check_ranges(config: PreTrainedConfig) -> None:
    """Raise WorkbenchError for numbers that no model can have and that the check of shapes would not find."""
    for name in ABOVE_ZERO:
        value = getattr(config, name, None)
        if value is not None and (not isinstance(value, int | float) or not 0 < value <= LARGEST):
            raise WorkbenchError(f"{name}: {shown(value)} should be a number above 0 and below 2**63")
    for name in TOKEN_IDS:
        ids = getattr(config, name, None)
        for token in ids if isinstance(ids, list) else [ids]:
            if token is not None and not -1 <= token <= LARGEST:
                raise WorkbenchError(f"{name}: {shown(token)} is not a token id")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % kv_heads or d_head_of(config) % 2:
        raise WorkbenchError(
            f"{heads} heads of {d_head_of(config)} dimensions and {kv_heads} key-value heads: the number of heads "
            "should be a multiple of the number of key-value heads, and the number of dimensions should be even"
        )
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()) and config.sliding_window is None:
        raise WorkbenchError("layer_types contains sliding_attention, but sliding_window is not set")
    for name, value in _leaves(config.rope_parameters):
        least = math.ulp(0.0) if name in DIVISORS else 0
        if isinstance(value, int | float) and not least <= value <= LARGEST:
            raise WorkbenchError(f"rope_parameters: {name}: {shown(value)} is not a valid value for RoPE")


def _check_functions(config: PreTrainedConfig) -> None:
    """Raise WorkbenchError for the name of an activation function or of a kind of RoPE that does not exist."""
    if config.hidden_act not in ACT2FN:
        choices = ", ".join(sorted(ACT2FN))
        raise WorkbenchError(f"hidden_act: {shown(config.hidden_act)} is no activation function; choices: {choices}")
    kinds = ("default", *ROPE_INIT_FUNCTIONS)
    for name, value in _leaves(config.rope_parameters):
        if name == "rope_type" and value not in kinds:
            raise WorkbenchError(f"rope_parameters: rope_type: {shown(value)}; choices: {', '.join(kinds)}")


def _leaves(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The (name, value) pairs of a table and of all nested tables."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield name, value
