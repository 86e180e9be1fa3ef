"""A run of one text in which transcoders stand for the MLPs: all that an attribution graph is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hooks import OlmoForCausalLM, Run
from workbench.features.replaced_mlps import LayerTranscoder, ReplacedMLP, replaced_mlps, sites_of, with_most

HELD = ("blocks.*.attn.pattern", "blocks.*.ln1.scale", "blocks.*.ln2.scale", "ln_final.scale")
"""The sites whose activations a frozen run takes from the clean run."""
LAST = "ln_final.normalized"


@dataclass(frozen=True, eq=False)
class ReplacedRun:
    """A clean run, and what the features and errors of its MLPs write.

    Attributes:
        model: the model.
        ids: the text, 1 pos.
        clean: the run, with `HELD`, `LAST` and the sites of the transcoders captured, and the logits of the last
            position.
        mlps: the MLPs of all layers, in order.
        names: the name of the transcoder of each layer; "" for a layer without one.
    """

    model: OlmoForCausalLM
    ids: Tensor
    clean: Run
    mlps: Sequence[ReplacedMLP]
    names: Sequence[str]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        model: OlmoForCausalLM,
        ids: Tensor,
        named: Mapping[int, LayerTranscoder],
        most: int,
        *,
        also: Sequence[str] = (),
    ) -> "ReplacedRun":
        """Run a text.

        Args:
            model: the model.
            ids: the text, 1 pos.
            named: its transcoders by layer.
            most: the most features; the others count as error (`with_most`).
            also: further sites to capture.
        """
        layers = range(model.config.num_hidden_layers)
        sites = dict.fromkeys([*HELD, LAST, *sites_of(named, layers), *also])
        clean = model.run(ids, capture=list(sites), logits_to_keep=1)
        mlps = with_most(replaced_mlps(model, clean, named, layers), most)
        return cls(model, ids, clean, mlps, [named[layer].name if layer in named else "" for layer in layers])
