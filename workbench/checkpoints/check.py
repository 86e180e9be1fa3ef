"""A short self-check of a loaded model: are its weights and its computation those of an OLMo?"""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd
import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hooks import OlmoForCausalLM, Run
from workbench.checkpoints.finite import is_finite

LENGTH = 24
LONGEST_WINDOW_MEASURED = 128
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
CHECKED_SITES = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post", "ln1.scale", "ln2.scale")
CHECKED_ATTENTION_SITES = ("attn.q", "attn.rot_q", "attn.pattern", "attn.result")
SAMPLE = "OLMo reads  café, naïve\n\tx = [1, 2]; 語 🙂"


class Finding(NamedTuple):
    """The result of one check: its name, whether it passed, and the numbers."""

    check: str
    ok: bool
    detail: str


def check(model: OlmoForCausalLM, tokenizer: PreTrainedTokenizerBase | None = None, *, seed: int = 0) -> pd.DataFrame:
    """Check the weights of a model and a short run over random tokens.

    Returns one row for each check, with `check`, `ok` and `detail`. The checks are:

    - weights: no NaN or Inf;
    - norm weights: none is all zero;
    - identities: the parts of the residual stream sum to the whole, and the heads sum to the attention output;
    - attention patterns: rows sum to 1;
    - norms: divisors are finite and positive;
    - rotary embedding: the angles of each kind of layer;
    - attention window: the number of keys that the last query attends to;
    - tokenizer, if given: its ids are within the vocabulary, and it restores a sample text.

    Args:
        model: the model.
        tokenizer: its tokenizer, or None.
        seed: seed of the random tokens.
    """
    config = model.config
    windows = [block.self_attn.sliding_window for block in model.model.blocks]
    measured = [window for window in windows if window is not None and window <= LONGEST_WINDOW_MEASURED]
    length = min(max([LENGTH, *(window + 4 for window in measured)]), config.max_position_embeddings)
    generator = torch.Generator().manual_seed(seed)
    device = torch.device("cpu") if model.device.type == "meta" else model.device  # offloaded: any device works
    tokens = torch.randint(config.vocab_size, (1, length), generator=generator).to(device)
    run = model.run(tokens, capture=[f"blocks.*.{site}" for site in CHECKED_SITES + CHECKED_ATTENTION_SITES])
    findings = [
        _finite(model),
        _norm_weights(model),
        *_identities(model, run),
        _norm_scales(run),
        *_rotations(model, run),
        *_check_windows(run, windows, length),
        *([] if tokenizer is None else _check_tokenizer(tokenizer, config.vocab_size)),
    ]
    return pd.DataFrame(findings)


def _all_parameters(model: OlmoForCausalLM) -> Iterator[tuple[str, Tensor, nn.Module]]:
    """Every parameter as (name, parameter, module); offloaded modules are brought into memory one at a time."""
    for path, layer in model.named_modules():
        with align_module_device(layer):
            yield from ((f"{path}.{name}", parameter, layer) for name, parameter in layer.named_parameters("", False))


def _finite(model: OlmoForCausalLM) -> Finding:
    named = dict(model.named_parameters())  # has a tied parameter once
    found = (
        (name, _numbers_of(parameter, layer)) for name, parameter, layer in _all_parameters(model) if name in named
    )
    bad = [name for name, numbers in found if not is_finite(numbers)]
    detail = f"NaN or Inf in {', '.join(bad[:4])} ({len(bad)} tensors)" if bad else f"{len(named)} tensors"
    return Finding("weights are finite", not bad, detail)


def _numbers_of(parameter: Tensor, layer: nn.Module) -> Tensor:
    """The numbers of a parameter; if bitsandbytes has quantised it, its scales, which are NaN if a weight was NaN.

    8-bit scales are stored on the parameter before the layer's first run, and on the layer after it.
    """
    state = getattr(parameter, "quant_state", None)  # of 4-bit parameters
    if state is not None:
        return state.absmax if state.state2 is None else state.state2.absmax
    scales = [getattr(holder, "SCB", None) for holder in (parameter, getattr(layer, "state", None))]
    return next((scale for scale in scales if scale is not None), parameter.detach())


def _norm_weights(model: OlmoForCausalLM) -> Finding:
    weights = {name: weight.detach().cpu() for name, weight, _ in _all_parameters(model) if "norm" in name}
    if not weights:
        return Finding("norm weights", True, "none: this family's norms have no weights")
    dead = [name for name, weight in weights.items() if not weight.any()]
    low, high = (min(w.min().item() for w in weights.values()), max(w.max().item() for w in weights.values()))
    return Finding("norm weights", not dead, f"all zero: {', '.join(dead)}" if dead else f"{low:.3g} … {high:.3g}")


def _identities(model: OlmoForCausalLM, run: Run) -> list[Finding]:
    attn_out, pattern = run.stack("attn_out"), run.stack("attn.pattern")
    sums = {
        "resid_pre + attn_out = resid_mid": (run.stack("resid_pre") + attn_out, run.stack("resid_mid")),
        "resid_mid + mlp_out = resid_post": (run.stack("resid_mid") + run.stack("mlp_out"), run.stack("resid_post")),
        "heads sum to attn_out": (run.stack("attn.result").sum(3) + _bias_part(model, run), attn_out),
        "rows of the pattern sum to 1": (pattern.sum(-1), torch.ones_like(pattern[..., 0])),
    }
    tolerance = TOLERANCE.get(model.dtype, 5e-2)
    findings = []
    for name, (left, right) in sums.items():
        error = ((left.float() - right.float()).abs().max() / right.float().abs().max()).item()
        findings.append(Finding(name, error <= tolerance, f"relative error {error:.1e} (at most {tolerance:.0e})"))
    return findings


def _bias_part(model: OlmoForCausalLM, run: Run) -> Tensor:
    """The part of `attn_out` that comes from the biases of the output projections: layer batch pos d_model."""
    parts = []
    for index, block in enumerate(model.model.blocks):
        projection, norm = block.self_attn.o_proj, getattr(block, block.attn_norm)
        with align_module_device(projection), align_module_device(norm):
            out = run[f"blocks.{index}.attn_out"]
            part = torch.zeros_like(out) if projection.bias is None else projection.bias.expand_as(out)
            if not block.norm_first:
                part = norm.weight * part / run[f"blocks.{index}.ln1.scale"]
            parts.append(part.detach())
    return torch.stack(parts)


def _norm_scales(run: Run) -> Finding:
    scales = torch.stack([run.stack("ln1.scale"), run.stack("ln2.scale")]).float()
    ok = bool(torch.isfinite(scales).all() and (scales > 0).all())
    return Finding("divisors of the norms", ok, f"{scales.min().item():.3g} … {scales.max().item():.3g}")


def _rotations(model: OlmoForCausalLM, run: Run) -> list[Finding]:
    """Check, for each kind of layer, the angles by which RoPE rotates the pairs of dimensions of q at position 1.

    Without scaling, pair i rotates by theta^(-2i / d_head) radians per position. With scaling (YaRN, …), this is the
    upper bound.
    """
    attention, rope = [block.self_attn for block in model.model.blocks], model.config.rope_parameters
    findings = []
    for kind in dict.fromkeys(part.kind for part in attention):
        layers = [index for index, part in enumerate(attention) if part.kind == kind]
        settings = rope.get(kind, rope)
        angles = torch.stack([_angles(run, index) for index in layers])  # layer pair
        exponents = torch.arange(angles.shape[1]) / angles.shape[1]
        unscaled = settings["rope_theta"] ** -exponents
        tolerance = max(0.02, TOLERANCE.get(model.dtype, 5e-2))
        scaled = settings["rope_type"] != "default"
        ok = bool((angles <= unscaled + tolerance).all() if scaled else ((angles - unscaled).abs() <= tolerance).all())
        detail = f"{settings['rope_type']}, base {settings['rope_theta']:g}, layers {', '.join(map(str, layers))}"
        findings.append(Finding(f"RoPE of {kind.replace('_', ' ')}", ok, detail))
    return findings


def _angles(run: Run, layer: int) -> Tensor:
    """Rotation of each pair (i, i + d_head/2) at position 1, in radians: pair.

    Each pair is measured in the head where its norm is largest.
    """
    before, after = (run[f"blocks.{layer}.attn.{site}"][0, 1].double().cpu() for site in ("q", "rot_q"))  # head d_head
    before, after = (torch.complex(*x.chunk(2, -1)) for x in (before, after))  # head pair
    head = before.abs().argmax(0, keepdim=True)
    return (after.gather(0, head) / before.gather(0, head)).angle()[0]


def _check_windows(run: Run, windows: list[int | None], length: int) -> list[Finding]:
    """Check, for each window size, that the last query attends to no more keys than the window has."""
    findings = []
    for window in dict.fromkeys(windows):
        layers = [index for index, other in enumerate(windows) if other == window]
        seen = [int((run[f"blocks.{i}.attn.pattern"][0, :, -1] > 0).sum(-1).max()) for i in layers]
        allowed = min(length, window or length)
        name = "attention to all keys" if window is None else f"attention to the last {window} keys"
        short = window is not None and window >= length
        detail = f"layers {', '.join(map(str, layers))}: {max(seen)} of {length} keys" + (
            "; the run is too short to see the window" if short else ""
        )
        findings.append(Finding(name, max(seen) <= allowed, detail))
    return findings


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> list[Finding]:
    largest = max(tokenizer.get_vocab().values())
    ids = tokenizer(SAMPLE)["input_ids"]
    back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return [
        Finding("tokenizer fits the vocabulary", largest < vocab_size, f"largest id {largest} of {vocab_size}"),
        Finding("tokenizer gives a text back", back == SAMPLE, f"{len(ids)} tokens for {len(SAMPLE)} characters"),
    ]
