"""A run with frozen attention patterns, norm divisors and MLP outputs, in which every site is linear in the writers.

Between the writers (embedding, MLPs, biases) and a reader there are then only the residual stream, the OV circuits of
attention, and norms with constant divisors. So the gradient of a reader with respect to a writer is constant, and
gradient · output is the exact direct effect.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hooks import Edit, OlmoForCausalLM, Run, edits
from hooks.sites import layer_of
from workbench.features.dictionary import Dictionary
from workbench.features.replaced_mlps import ReplacedMLP
from workbench.features.replaced_run import HELD, LAST, ReplacedRun


class FrozenRun:
    """Copies of one text in a batch, to take the gradients of as many readers at a time.

    Args:
        of: a run of the text with, if there are any, `constant_sites` captured too.
        copies: the size of the batch.
    """

    def __init__(self, of: ReplacedRun, copies: int) -> None:
        model, clean, mlps = of.model, of.clean, of.mlps
        self.copies = copies
        self.writers = ["embed", *(mlp.writes for mlp in mlps)]
        self.constants = _constants(model, clean)
        readers = [mlp.transcoder.reads for mlp in mlps if mlp.transcoder is not None]
        self.run = model.run(
            of.ids.expand(copies, -1),
            capture=list(dict.fromkeys([*self.writers, *self.constants, *readers, LAST])),
            edits=[*(edits.patch(site, clean) for site in HELD), *(_cut(mlp) for mlp in mlps)],
            grad=True,
            captures_only=True,
        )

    def gradients(self, reader: str, positions: Tensor, slopes: Tensor) -> dict[str, Tensor]:
        """The gradients of products slope · activation of a site, for at most `copies` of them.

        Args:
            reader: the site.
            positions: the position of each product: target.
            slopes: target d_site.

        Returns:
            the gradients with respect to all sites before it that are writers or constants, float32: target pos ….
        """
        found, number = self.run[reader], torch.arange(len(positions), device=positions.device)
        outside = torch.zeros_like(found)
        outside[number, positions] = slopes.to(found.dtype)
        before = self._before(reader)
        gradients = torch.autograd.grad(found, [self.run[site] for site in before], outside, retain_graph=True)
        return {site: one[: len(positions)].float() for site, one in zip(before, gradients, strict=True)}

    def constant_part(self, gradients: dict[str, Tensor]) -> Tensor:
        """What biases and clipped values of attention add to each product, given its gradients: target."""
        total: Tensor | float = 0.0
        for site, constant in self.constants.items():
            if site in gradients:
                total = total + (gradients[site] * constant).flatten(1).sum(1)
        any_ = next(iter(gradients.values()))
        return any_.new_zeros(len(any_)) + total

    def _before(self, reader: str) -> list[str]:
        layer = layer_of(reader)[0]

        def reaches(site: str) -> bool:
            of_site = layer_of(site)[0]
            if layer is None or of_site is None:
                return True
            return of_site <= layer if site in self.constants else of_site < layer

        return [site for site in (*self.writers, *self.constants) if reaches(site)]


def constant_sites(model: OlmoForCausalLM) -> list[str]:
    """The sites that a run must have captured so that the constants of its attention are known."""
    if model.config.attention_bias or getattr(model.config, "clip_qkv", None) is not None:
        return ["blocks.*.attn.v_raw", "blocks.*.attn.v"]
    return []


def _constants(model: OlmoForCausalLM, clean: Run) -> dict[str, Tensor]:
    """What attention adds at a site independently of its input: biases (… of the site), and values that are clipped."""
    found: dict[str, Tensor] = {}
    for layer, block in enumerate(model.model.blocks):
        at, attention = f"blocks.{layer}", block.self_attn
        if attention.v_proj.bias is not None:
            found[f"{at}.attn.v_raw"] = attention.v_proj.bias.detach().float().view(-1, attention.head_dim)
            found[f"{at}.attn_out_raw"] = attention.o_proj.bias.detach().float()
        if attention.clip is not None:
            raw, clipped = clean[f"{at}.attn.v_raw"][0].float(), clean[f"{at}.attn.v"][0].float()
            found[f"{at}.attn.v"] = clipped.where(raw != clipped, 0.0)
    return found


def _cut(mlp: ReplacedMLP) -> Edit:
    """The edit that makes the output of an MLP constant, except for the skip of its transcoder."""
    dictionary = mlp.transcoder
    if dictionary is None or dictionary.skip is None:
        return edits.apply(mlp.writes, torch.detach)
    return edits.apply(mlp.writes, _skipping(dictionary), reads=dictionary.reads)


def _skipping(dictionary: Dictionary) -> Callable[[Tensor, Tensor], Tensor]:
    def through(out: Tensor, read: Tensor) -> Tensor:
        skip = dictionary.skip
        assert skip is not None
        skipped = (read.float() @ skip).to(out.dtype)
        return out.detach() - skipped.detach() + skipped

    return through
