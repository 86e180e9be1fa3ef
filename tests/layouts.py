"""Writes models to folders in AI2's original layout: the inverse of the workbench's reader."""

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from hooks import OlmoForCausalLM

FORMS = ("config.json", "config.yaml")


def original_tensors(model: OlmoForCausalLM) -> dict[str, Tensor]:
    """The parameters under `ai2-olmo`'s names, fused: q k v; up gate."""
    tensors = {"transformer.wte.weight": model.model.embed_tokens.weight}
    for index, layer in enumerate(model.model.layers):
        block, attention, mlp = f"transformer.blocks.{index}", layer.self_attn, layer.mlp
        qkv = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
        tensors[f"{block}.att_proj.weight"] = torch.cat(qkv)
        tensors[f"{block}.attn_out.weight"] = attention.o_proj.weight
        tensors[f"{block}.ff_proj.weight"] = torch.cat([mlp.up_proj.weight, mlp.gate_proj.weight])
        tensors[f"{block}.ff_out.weight"] = mlp.down_proj.weight
        if model.config.model_type == "olmo2":
            tensors[f"{block}.q_norm.weight"] = attention.q_norm.weight
            tensors[f"{block}.k_norm.weight"] = attention.k_norm.weight
            tensors[f"{block}.attn_norm.weight"] = layer.post_attention_layernorm.weight
            tensors[f"{block}.ff_norm.weight"] = layer.post_feedforward_layernorm.weight
    if model.config.model_type == "olmo2":
        tensors["transformer.ln_f.weight"] = model.model.norm.weight
    if not model.config.tie_word_embeddings:
        tensors["transformer.ff_out.weight"] = model.lm_head.weight
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def original_settings(model: OlmoForCausalLM) -> dict[str, object]:
    """The settings of `ai2-olmo` for this model."""
    config, second = model.config, model.config.model_type == "olmo2"
    return {
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "n_layers": config.num_hidden_layers,
        "mlp_hidden_size": 2 * config.intermediate_size,
        "vocab_size": config.vocab_size - 1,
        "embedding_size": config.vocab_size,
        "max_sequence_length": config.max_position_embeddings,
        "weight_tying": config.tie_word_embeddings,
        "clip_qkv": None if second else config.clip_qkv,
        "rope": True,
        "alibi": False,
        "rope_theta": config.rope_parameters["rope_theta"],
        "block_type": "sequential",
        "activation_type": "swiglu",
        "include_bias": False,
        "layer_norm_type": "rms" if second else "default",
        "layer_norm_with_affine": second,
        "layer_norm_eps": config.rms_norm_eps if second else 1e-5,
        "attention_layer_norm": second,
        "norm_after": second,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
    }


def save_original(model: OlmoForCausalLM, folder: Path, form: str, pickled: bool = False) -> Path:
    """Write a checkpoint like an old `hf_olmo` repository (`config.json`) or a training run (`config.yaml`)."""
    folder.mkdir(parents=True, exist_ok=True)
    settings, tensors = original_settings(model), original_tensors(model)
    if form == "config.json":
        (folder / form).write_text(
            json.dumps({"model_type": "hf_olmo", "architectures": ["OLMoForCausalLM"], **settings})
        )
        tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    else:
        (folder / form).write_text(yaml.safe_dump({"run_name": "test", "model": settings}))
    if pickled:
        torch.save(tensors, folder / ("pytorch_model.bin" if form == "config.json" else "model.pt"))
    else:
        save_file(tensors, folder / "model.safetensors")
    return folder
