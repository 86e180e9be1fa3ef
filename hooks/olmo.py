"""OLMo, OLMo 2 and OLMo 3: the forward pass, with a tap at every site.

Modules and parameters are named as in transformers, so published `-hf` checkpoints load unchanged. Comments give shapes
where they change; `sites.py` lists the shape of every site. OLMo 1 normalises the input of a sublayer; OLMo 2 and 3
normalise its output, and also q and k. OLMo 3 uses sliding-window attention in most layers. `FAMILIES` holds what
differs between the families.

    model = OlmoForCausalLM.from_pretrained("allenai/OLMo-1B-hf", revision="step20000-tokens84B")
    run = model.run(input_ids, capture="blocks.*.resid_post")
"""

from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from os import PathLike
from typing import Any, TypeAlias, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    Cache,
    DynamicCache,
    GenerationMixin,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
)
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .attention import Masks, attend
from .call_taps import Taps
from .compat import ROPE_INIT_FUNCTIONS, dynamic_rope_update, slice_logits_to_keep
from .errors import WrongValue
from .outputs import hidden_states_shown, kept
from .pretrained import Pretrained
from .products import product
from .run import taps_of_this_thread
from .sites import AFTER_BLOCKS, IN_BLOCK, Sites
from .stopping import before_block
from .taps import Tap, Untapped, tap_at
from .weights import WithWeights, matrix_of

AnyOlmoConfig: TypeAlias = OlmoConfig | Olmo2Config | Olmo3Config
# Sites computed at every position even when the last block runs for one.
EVERY_ROW = {"resid_pre", "attn_in", "attn.k_raw", "attn.v_raw", "attn.k", "attn.v", "attn.rot_k"}


class OlmoLayerNorm(nn.Module):
    """LayerNorm without parameters: (x - mean) / scale, in float32."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.d_model = d_model
        self.eps = 1e-5  # fixed in OLMo 1; `eps` applies to the RMS norm only

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), (self.d_model,), eps=self.eps).to(x.dtype)

    def scale(self, x: Tensor) -> Tensor:
        """The divisor: batch pos 1."""
        return (x.float().var(-1, correction=0, keepdim=True) + self.eps).sqrt()


class OlmoRMSNorm(nn.Module):
    """weight · x / scale, in float32."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)

    def scale(self, x: Tensor) -> Tensor:
        """The divisor: batch pos 1."""
        return (x.float().pow(2).mean(-1, keepdim=True) + self.eps).sqrt()


Norm: TypeAlias = OlmoLayerNorm | OlmoRMSNorm


def divided(norm: Norm, x: Tensor, scale: Tensor) -> Tensor:
    """The norm of x with `scale` as its divisor, which makes it linear in x. Exactly `norm(x)` for `norm.scale(x)`."""
    return (norm(x).float() * (norm.scale(x) / scale)).to(x.dtype)


@dataclass(frozen=True)
class Family:
    """The differences between the generations of OLMo."""

    name: str
    architecture: str
    norm: type[Norm]
    norm_first: bool
    qk_norm: bool
    attn_norm: str
    mlp_norm: str


_OLMO = Family(
    "OLMo", "OlmoForCausalLM", OlmoLayerNorm,
    norm_first=True, qk_norm=False, attn_norm="input_layernorm", mlp_norm="post_attention_layernorm",
)  # fmt: skip
_OLMO2 = Family(
    "OLMo 2", "Olmo2ForCausalLM", OlmoRMSNorm,
    norm_first=False, qk_norm=True, attn_norm="post_attention_layernorm", mlp_norm="post_feedforward_layernorm",
)  # fmt: skip
_OLMO3 = replace(_OLMO2, name="OLMo 3", architecture="Olmo3ForCausalLM")
FAMILIES = {"olmo": _OLMO, "olmo2": _OLMO2, "olmo3": _OLMO3}


def family_of(config: AnyOlmoConfig) -> Family:
    """The family a configuration belongs to.

    Raises:
        WrongValue: the configuration is not of a dense OLMo model.
    """
    if config.model_type not in FAMILIES:
        raise WrongValue(f"{config.model_type!r} is not a supported OLMo model type; supported: {', '.join(FAMILIES)}")
    return FAMILIES[config.model_type]


def kinds_of_layers(config: AnyOlmoConfig) -> list[str]:
    """The kind of each layer: "full_attention" or "sliding_attention"."""
    return getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers


class OlmoRotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary position embedding for one kind of layer: batch pos 1 d_head each, float32.

    The sines are signed, negative in the first half of d_head: rotated x_i = x_i cos_i + x_j sin_i, where x_j is the
    other number of the pair (i, i + d_head/2).

    OLMo 3 scales (YaRN) the full-attention layers only, so its configuration holds parameters for each kind. Without
    `kind`, the parameters of full attention are used.
    """

    inv_freq: Tensor
    original_inv_freq: Tensor
    attention_scaling: float

    def __init__(self, config: AnyOlmoConfig, kind: str = "full_attention") -> None:
        super().__init__()
        self.config = copy(config)
        self.config.rope_parameters = dict(config.rope_parameters.get(kind, config.rope_parameters))
        self.rope_type = self.config.rope_parameters["rope_type"]
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        plain = self.rope_type == "default"
        frequencies = self.compute_default_rope_parameters if plain else ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = frequencies(self.config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: AnyOlmoConfig) -> tuple[Tensor, float]:
        """The unscaled frequencies theta^(-2i/d_head) for i < d_head/2, and 1.0, the factor of cosines and sines."""
        d_head = d_head_of(config)
        exponents = torch.arange(0, d_head, 2, dtype=torch.float) / d_head
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of the angles of each position: two tensors, batch pos 1 d_head."""
        angles = position_ids[..., None, None].float() * self.inv_freq.to(x.device, torch.float)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


class OlmoRotaryEmbeddings(nn.ModuleDict):
    """The rotary embeddings by kind of layer, with the constructor and call of transformers' single module."""

    def __init__(self, config: AnyOlmoConfig) -> None:
        super().__init__({kind: OlmoRotaryEmbedding(config, kind) for kind in sorted(set(kinds_of_layers(config)))})

    def forward(self, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[Tensor, Tensor]:
        """Cosines and sines for one kind of layer; None means full attention, or the only kind."""
        return self._of(layer_type)(x, position_ids)

    @property
    def inv_freq(self) -> Tensor:
        """The frequencies of full attention, or of the only kind."""
        return self._of(None).inv_freq

    def _of(self, kind: str | None) -> OlmoRotaryEmbedding:
        return cast(OlmoRotaryEmbedding, self[kind or next(iter(self))])


def d_head_of(config: AnyOlmoConfig) -> int:
    """The width of a head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def rotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """x (batch pos head d_head) with each pair (i, i + d_head/2) rotated by the angle of its position."""
    cos, sin = rotary  # batch pos 1 d_head
    from_other = x.roll(x.shape[-1] // 2, -1) * sin
    # In place, because allocating memory would take longer than the addition.
    return from_other.add_(x * cos).to(x.dtype)


class OlmoAttention(nn.Module):
    """Multi-head, grouped-query or multi-query attention with rotary positions."""

    def __init__(self, config: AnyOlmoConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.kind = kinds_of_layers(config)[layer_idx]
        self.head_dim = d_head_of(config)
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        self.sliding_window = config.sliding_window if self.kind == "sliding_attention" else None
        self.clip = getattr(config, "clip_qkv", None)

        d_model, bias = config.hidden_size, config.attention_bias
        n_query, n_key = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(d_model, n_query, bias=bias)
        self.k_proj = nn.Linear(d_model, n_key, bias=bias)
        self.v_proj = nn.Linear(d_model, n_key, bias=bias)
        self.o_proj = nn.Linear(n_query, d_model, bias=bias)
        family = family_of(config)
        self.q_norm = family.norm(n_query, config.rms_norm_eps) if family.qk_norm else None
        self.k_norm = family.norm(n_key, config.rms_norm_eps) if family.qk_norm else None

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        masks: Masks,
        past_key_values: Cache | None,
        tap: Tap | Untapped,
        output_attentions: bool,
        kernel_arguments: dict[str, Any],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Attention of x (batch pos d_model).

        Returns:
            the output before any norm of it (batch pos d_model), z (batch pos head d_head), and the pattern (batch head
            query key), which may be None unless `output_attentions`.
        """
        q, k, v = product(self.q_proj, masks.asking(x)), product(self.k_proj, x), product(self.v_proj, x)
        q, k, v = (part.view(*part.shape[:2], -1, self.head_dim) for part in (q, k, v))  # batch pos head d_head
        q, k, v = tap("attn.q_raw", q), tap("attn.k_raw", k), tap("attn.v_raw", v)
        if self.q_norm is not None and self.k_norm is not None:  # over all heads together
            q, k = self.q_norm(q.flatten(2)).view_as(q), self.k_norm(k.flatten(2)).view_as(k)
        if self.clip is not None:
            q, k, v = (part.clamp(-self.clip, self.clip) for part in (q, k, v))
        q, k, v = tap("attn.q", q), tap("attn.k", k), tap("attn.v", v)
        q, k = rotated(q, (masks.asking(rotary[0]), masks.asking(rotary[1]))), rotated(k, rotary)
        q, k = tap("attn.rot_q", q), tap("attn.rot_k", k)

        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # batch head pos d_head
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)  # the cached positions before the new ones
        z, pattern = attend(self, (q, k, v), masks, tap, output_attentions, kernel_arguments)
        z = tap("attn.z", z)  # batch pos head d_head
        return product(self.o_proj, z.flatten(2)), z, pattern

    def by_head(self, z: Tensor, heads: Tensor) -> Tensor:
        """The contribution of each given head to the output projection, without the bias: batch pos head d_model."""
        weight = matrix_of(self.o_proj)
        if weight is not None:
            weight = rearrange(weight, "d_model (head d_head) -> head d_head d_model", d_head=self.head_dim)
            return torch.einsum("bphe,hed->bphd", z[:, :, heads], weight[heads])
        # Quantised and similar layers: apply the layer to z with all heads but one set to zero.
        alone = z[:, :, None] * F.one_hot(heads, z.shape[2])[:, :, None].to(z.dtype)  # batch pos chosen head d_head
        alone = rearrange(alone, "batch pos chosen head d_head -> batch (pos chosen) (head d_head)")
        out = self.o_proj(alone).unflatten(1, (-1, len(heads)))  # batch pos chosen d_model
        return out if self.o_proj.bias is None else out - self.o_proj.bias


class OlmoMLP(nn.Module):
    """SwiGLU: down(act(gate(x)) · up(x))."""

    def __init__(self, config: AnyOlmoConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor, tap: Tap | Untapped) -> Tensor:
        """The output of the MLP before any norm of it: batch pos d_model -> batch pos d_model."""
        gate = tap("mlp.pre", product(self.gate_proj, x))  # batch pos d_mlp
        up = tap("mlp.pre_linear", product(self.up_proj, x))
        return product(self.down_proj, tap("mlp.post", self.act_fn(gate) * up))


class OlmoDecoderLayer(GradientCheckpointingLayer):
    """One block: attention, then the MLP; each reads the residual stream and adds its output to it."""

    def __init__(self, config: AnyOlmoConfig, layer_idx: int) -> None:
        super().__init__()
        family = family_of(config)
        self.layer_idx = layer_idx
        self.norm_first, self.attn_norm, self.mlp_norm = family.norm_first, family.attn_norm, family.mlp_norm
        self.self_attn = OlmoAttention(config, layer_idx)
        self.mlp = OlmoMLP(config)
        for name in (self.attn_norm, self.mlp_norm):
            self.add_module(name, family.norm(config.hidden_size, getattr(config, "rms_norm_eps", 0.0)))

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        masks: Masks,
        past_key_values: Cache | None = None,
        taps: Taps | None = None,
        output_attentions: bool = False,
        kernel_arguments: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The residual stream (batch pos d_model) after this block, and the pattern (None unless computed)."""
        tap = tap_at(taps, self.layer_idx)
        norm1, norm2 = getattr(self, self.attn_norm), getattr(self, self.mlp_norm)

        x = tap("resid_pre", x)
        read = normed(norm1, x, tap, "ln1.scale")[0] if self.norm_first else x
        out, z, pattern = self.self_attn(
            tap("attn_in", read), rotary, masks, past_key_values, tap, output_attentions, kernel_arguments or {}
        )
        if self.norm_first:
            out = tap("attn_out_raw", self._with_results(out, z, None, tap))
        else:
            out, scale = normed(norm1, tap("attn_out_raw", out), tap, "ln1.scale", tap.wants("attn.result"))
            out = self._with_results(out, z, scale, tap)
        x = tap("resid_mid", masks.asking(x) + tap("attn_out", out))

        read = normed(norm2, x, tap, "ln2.scale")[0] if self.norm_first else x
        out = tap("mlp_out_raw", self.mlp(tap("mlp_in", read), tap))
        if not self.norm_first:
            out, _ = normed(norm2, out, tap, "ln2.scale")
        return tap("resid_post", x + tap("mlp_out", out)), pattern

    def _with_results(self, out: Tensor, z: Tensor, scale: Tensor | None, tap: Tap | Untapped) -> Tensor:
        """`out`, the output that attention adds to the residual stream, after captures and edits at `attn.result`.

        Args:
            out: batch pos d_model.
            z: batch pos head d_head.
            scale: the divisor of the norm after attention, batch pos 1; None if no norm follows.
        """
        if not isinstance(tap, Tap) or not tap.wants("attn.result"):
            return out
        shards = tap.shards
        if shards is not None:  # in OLMo 2 and 3 each process has z of all heads, but only a part of the projection
            z = shards.own_heads(z)

        def total(parts: Tensor) -> Tensor:
            return parts.sum(2) if shards is None else shards.total(parts.sum(2))

        if not tap.changes("attn.result") and not tap.grad:
            capture = tap.capture("attn.result")
            rows = torch.tensor(tap.rows(capture), device=z.device)
            heads = tap.heads(capture, z.shape[2], z.device)
            tap.record("attn.result", self._result(z, scale, heads, rows), head_axis=2)
            return out
        result = self._result(z, scale, torch.arange(z.shape[2], device=z.device))
        new = tap("attn.result", result)
        # With gradients, everything except the bias is computed from `result`. Without, only the change made by the
        # edits is added, so that an edit that changes nothing changes no bit.
        kept, given = ((out - total(result)).detach(), new) if tap.grad else (out, new - result)
        return kept + total(given)

    def _result(self, z: Tensor, scale: Tensor | None, heads: Tensor, rows: Tensor | None = None) -> Tensor:
        """What each given head adds to the residual stream at the given positions: batch pos head d_model.

        If a norm follows attention, its divisor `scale` is held fixed, so that the norm is linear and the parts sum to
        the whole (without the bias).

        Args:
            rows: position indices; None means all.
        """
        if rows is not None:
            z, scale = z[:, rows], None if scale is None else scale[:, rows]
        result = self.self_attn.by_head(z, heads)
        return result if scale is None else divided(getattr(self, self.attn_norm), result, scale[:, :, None])


def normed(
    norm: Norm, x: Tensor, tap: Tap | Untapped, site: str, need_scale: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The norm of x, with captures and edits of its divisor at `site`.

    Returns:
        the normalised tensor, and the divisor (batch pos 1), or None if it is neither needed nor captured nor edited.
    """
    if not (need_scale or tap.wants(site)):
        return norm(x), None
    scale = tap(site, norm.scale(x))
    on_the_path = tap.changes(site) or (tap.grad and tap.wants(site))
    return divided(norm, x, scale) if on_the_path else norm(x), scale


class OlmoPreTrainedModel(Pretrained):
    """The base class of both models: their configuration, their sites, and the methods of `Hookable`."""

    class config_class(OlmoConfig):
        """Reads the configuration of any OLMo family."""

        @classmethod
        def from_pretrained(cls, *args: object, **kwargs: object) -> object:
            found = AutoConfig.from_pretrained(*args, **kwargs)
            family_of(found[0] if isinstance(found, tuple) else found)
            return found

    _no_split_modules = ["OlmoDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]

    @property
    def sites(self) -> Sites:
        """Every site of this model with its shape in words, in forward order."""
        config, family = self.config, family_of(self.config)
        sizes = dict(
            head=config.num_attention_heads,
            kv_head=config.num_key_value_heads,
            d_head=d_head_of(config),
            d_model=config.hidden_size,
            d_mlp=config.intermediate_size,
            vocab=config.vocab_size,
        )
        has_logits = hasattr(self, "lm_head")
        return _sites_of_sizes(
            family.name, config.num_hidden_layers, tuple(sizes.items()), family.norm_first, has_logits
        )


@cache
def _sites_of_sizes(
    family: str, n_layers: int, sizes: tuple[tuple[str, int], ...], norm_first: bool, has_logits: bool
) -> Sites:
    """The sites of all models of these sizes, made once: every forward pass reads them."""
    return Sites(family, n_layers, dict(sizes), norm_first, has_logits)


class OlmoModel(OlmoPreTrainedModel):
    """The decoder without its unembedding."""

    def __init__(self, config: AnyOlmoConfig) -> None:
        super().__init__(config)
        family = family_of(config)
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(OlmoDecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = family.norm(config.hidden_size, getattr(config, "rms_norm_eps", 0.0))
        self.kinds = kinds_of_layers(config)
        self.rotary_emb = OlmoRotaryEmbeddings(config)
        self.gradient_checkpointing = False
        self.post_init()

    @property
    def blocks(self) -> list[OlmoDecoderLayer]:
        """The layers with their exact type."""
        return cast(list[OlmoDecoderLayer], list(self.layers))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        cache_position: Tensor | None = None,
        taps: Taps | None = None,
        last_only: bool = False,
        **kernel_arguments: object,
    ) -> BaseModelOutputWithPast:
        """transformers' `OlmoModel.forward` with captures and edits; see `run`.

        Args:
            output_attentions: return the patterns; works with every attention implementation.
            taps: the captures and edits of this call; None means those of the open `tapped()` blocks, if any.
            last_only: the last hidden state may be that of the last position alone. The last block then computes only
                what this position needs, unless a capture, an edit or a requested output needs the others.
            kernel_arguments: further arguments of the attention function.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise WrongValue("give either input_ids or inputs_embeds")
        config, taps = self.config, taps or taps_of_this_thread(self)
        use_cache = config.use_cache if use_cache is None else use_cache
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output_attentions = config.output_attentions if output_attentions is None else output_attentions

        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # batch pos d_model
        if use_cache and past_key_values is None and not (self.gradient_checkpointing and self.training):
            past_key_values = DynamicCache(config=config)
        layers = range(len(self.layers)) if taps is None else taps.layers
        seen = 0 if past_key_values is None else past_key_values.get_seq_length(layers.start)
        position_ids = self._position_ids(x, seen, cache_position) if position_ids is None else position_ids
        kernel_arguments["position_ids"] = position_ids
        explicit = output_attentions or taps is not None
        masks = self._masks(layers, explicit, past_key_values, x, attention_mask, position_ids)
        rotary = {kind: embedding(x, position_ids) for kind, embedding in self.rotary_emb.items()}
        if taps is not None:
            taps.begin(int(seen), len(x), x.shape[1], *_ids_and_mask(input_ids, attention_mask), past_key_values)

        x = tap_at(taps)("embed", x) if layers.start == 0 else x
        shown = hidden_states_shown(output_hidden_states, len(self.layers) + 1)
        last_only = last_only and x.shape[1] > 1 and not (shown or output_attentions or self._looked_at(taps))
        hidden_states, patterns, blocks = [], [], self.blocks
        for layer in layers:
            before_block(x)
            hidden_states.append(x if layer in shown else None)
            masks = masks.last_row() if last_only and layer == len(self.layers) - 1 else masks
            x, pattern = blocks[layer](
                x, rotary[self.kinds[layer]], masks, past_key_values, taps, output_attentions, kernel_arguments
            )
            patterns += [pattern] if output_attentions else []
        x = self._ended(x, layers, taps)
        hidden_states.append(x if len(self.layers) in shown else None)
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=past_key_values,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(patterns) if output_attentions else None,
        )

    def _ended(self, x: Tensor, layers: range, taps: Taps | None) -> Tensor:
        """The final-norm output; if the run stops before a block, the residual stream entering this block."""
        if taps is not None and layers.stop < len(self.layers):
            taps.resid = tap_at(taps, layers.stop)("resid_pre", x)
            return taps.resid
        tap = tap_at(taps)
        return tap("ln_final.normalized", normed(self.norm, x, tap, "ln_final.scale")[0])

    def _looked_at(self, taps: Taps | None) -> bool:
        """Whether a capture or edit may need all positions of the last block, or of the sites after it."""
        last = tap_at(taps, len(self.layers) - 1)
        return last.wants(*(IN_BLOCK.keys() - EVERY_ROW)) or tap_at(taps).wants(*AFTER_BLOCKS)

    def _position_ids(self, x: Tensor, seen: int | Tensor, cache_position: Tensor | None) -> Tensor:
        """The positions of the new tokens, 1 pos: `cache_position`, or those after the `seen` cached positions."""
        return (torch.arange(x.shape[1], device=x.device) + seen if cache_position is None else cache_position)[None]

    def _masks(
        self,
        layers: range,
        explicit: bool,
        cache: Cache | None,
        x: Tensor,
        attention_mask: Tensor | dict | None,
        position_ids: Tensor,
    ) -> Masks:
        """The masks of the layers to compute. If block 0 does not run, the past length of the mask of a kind of layers
        is that in the cache of its first layer to compute.
        """
        first = {
            kind: next((layer for layer in layers if self.kinds[layer] == kind), None) if layers.start else None
            for kind in self.rotary_emb
        }
        asked = dict(inputs_embeds=x, attention_mask=attention_mask, position_ids=position_ids)
        return Masks(self.config, first, explicit, cache, **asked)


def _ids_and_mask(ids: Tensor | None, mask: Tensor | dict | None) -> tuple[Tensor | None, Tensor | None]:
    """The token ids and the attention mask of a call, for edits that need the ids. None for both if the mask is not a
    tensor, because padding is then unknown.
    """
    return (ids, mask) if mask is None or isinstance(mask, Tensor) else (None, None)


class OlmoForCausalLM(OlmoPreTrainedModel, GenerationMixin, WithWeights):
    """The decoder with its unembedding: computes next-token logits and supports `generate`.

    Its matrices are `W_E`, `W_U`, `W_Q[layer, head]`, and so on (see `hooks.weights`).
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: AnyOlmoConfig) -> None:
        super().__init__(config)
        self.model = OlmoModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        taps: Taps | None = None,
        **kwargs: object,
    ) -> CausalLMOutputWithPast:
        """transformers' `OlmoForCausalLM.forward` with `taps`, the captures and edits of this call; see `run`."""
        taps = taps or taps_of_this_thread(self)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            cache_position=cache_position,
            taps=taps,
            last_only=isinstance(logits_to_keep, int) and logits_to_keep == 1,
            return_dict=True,
            **kwargs,
        )
        logits, loss = self._logits(outputs.last_hidden_state, logits_to_keep, taps), None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _logits(self, x: Tensor, logits_to_keep: int | Tensor, taps: Taps | None) -> Tensor | None:
        """The logits of x, the output of the final norm: batch pos vocab; None if the run stopped before a block."""
        if taps is not None and taps.layers.stop < len(self.model.layers):
            return None
        logits = product(self.lm_head, slice_logits_to_keep(x, logits_to_keep))
        tap = tap_at(taps)
        if isinstance(tap, Tap) and tap.wants("logits"):
            logits = tap("logits", logits, kept(tap.taps.present, logits_to_keep))
        if taps is not None and taps.ended is not None:
            taps.ended(logits)
        return logits

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: object) -> None:
        """transformers' `save_pretrained`; the saved configuration names the architecture of the family."""
        super().save_pretrained(save_directory, **kwargs)
        self.config.architectures = [family_of(self.config).architecture]
        self.config.save_pretrained(save_directory)
