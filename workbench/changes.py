"""One change of a model: what is changed and how, its line in words, and its edit."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from hooks import Edit, HooksError, OlmoForCausalLM, edits
from workbench import checkpoints, features
from workbench.analyses.directions import label_direction
from workbench.analyses.support.direction import Direction
from workbench.errors import WorkbenchError
from workbench.features.along_run import source_with_weights_of
from workbench.texts import Texts

LoadDictionary = Callable[[str], features.Dictionary]
LoadModel = Callable[[str], OlmoForCausalLM]
DirectionOf = Callable[["Intervention"], Direction]
"""Gives the direction of a change of the kind "label" or "probe"."""


def model_by_id(checkpoint: str) -> OlmoForCausalLM:
    """The model of a checkpoint."""
    return checkpoints.load(checkpoint, with_tokenizer=False)[0]


class Target(NamedTuple):
    """What is changed: a site or glob, and its heads and positions; None means all.

    With a `feature`, this is its number in the dictionary that `site` names.
    """

    site: str
    heads: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    feature: int | None = None


@dataclass(frozen=True)
class LabelContrast:
    """A label of a set of texts against another label, or against all others."""

    name: str
    toward: str
    against: str | None
    texts: Texts = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.name}/{self.toward}" + (f" against {self.against}" if self.against else "")


@dataclass(frozen=True)
class Intervention:
    """One change of a model. `str` gives its line; `read` makes one from a line.

    Attributes:
        kind: "zero", "scale", "add" or "patch", as in `hooks.edits`; "label" adds the direction of a label, and
            "probe" that in which a probe reads it.
        target: what is changed.
        number: the factor of "scale"; of "add", the length of the vector, or the activation that a feature gets more;
            of "label" and "probe", how often the direction is added.
        text: the token of "add", as typed; the prompt of "patch".
        ids: the token's id, or the ids of the prompt.
        labels: of "label" and "probe", the set of texts and its labels.
    """

    kind: str
    target: Target
    number: float = 1.0
    text: str = ""
    ids: tuple[int, ...] = ()
    labels: LabelContrast | None = None

    def __str__(self) -> str:
        if self.labels is not None:
            return f"{_signed(self.number)} {self.kind} {self.labels} at {_place_of(self.target.site)}"
        words = in_words(self.target)
        if self.kind == "add" and self.target.feature is not None:
            return f"{_signed(self.number)} {words}"
        if self.kind == "add":
            layer = re.fullmatch(r"blocks\.(\d+)\.resid_post", self.target.site)
            if layer and self.target == Target(self.target.site):
                return f"{_signed(self.number)} {self.text} at layer {layer[1]}"
            return _with_places(f"add {self.target.site} {_number_words(self.number)} {self.text}", self.target)
        if words is None:
            more = {"zero": "", "scale": f" {_number_words(self.number)}", "patch": f" {_quoted(self.text)}"}[self.kind]
            return _with_places(f"{self.kind} {self.target.site}{more}", self.target)
        action = {"zero": "off", "scale": f"× {_number_words(self.number)}", "patch": f"from {_quoted(self.text)}"}[
            self.kind
        ]
        return f"{words} {action}"

    def edit(
        self,
        model: OlmoForCausalLM,
        load: LoadDictionary = features.load,
        direction_of: DirectionOf | None = None,
        load_model: LoadModel = model_by_id,
    ) -> Edit:
        """The edit of `hooks.edits` that makes this change in a model. "patch" runs the model on its prompt, without
        any other edit. `load` gives a dictionary of features by its name; `direction_of` gives the direction of a
        change of the kinds "label" and "probe", in place of `direction`; `load_model` gives the other sources of a
        crosscoder, which its features are switched off or scaled with (see `features.switch_off_in`).

        Errors: WorkbenchError, with the line, if the model has no such site, layer or head, or no such feature fits it.
        """
        if self.target.feature is not None:
            return self._of_feature(model, load, load_model)
        self.check(model, load)
        site, *where, _ = self.target
        if self.labels is not None:
            found = self.direction(model) if direction_of is None else direction_of(self)
            return found.edit(self.number)
        match self.kind:
            case "zero":
                return edits.zero(site, *where)
            case "scale":
                return edits.scale(site, self.number, *where)
            case "add":
                return edits.add(site, toward(model, self.ids[0], self.number), *where)
        run = model.run(torch.tensor([self.ids], device=model.device), capture=site, captures_only=True)
        return edits.patch(site, run, *where)

    def check(self, model: OlmoForCausalLM, load: LoadDictionary = features.load) -> None:
        """Raise WorkbenchError, with the line, if the model has no such site, layer, head or feature."""
        if self.target.feature is not None:
            self._of_feature(model, load, lambda _: model)  # in place of the other sources, so that none is loaded
            return
        layer, layers = re.match(r"blocks\.(\d+)\.", self.target.site), model.config.num_hidden_layers
        if layer and int(layer[1]) >= layers:
            raise WorkbenchError(f"“{self}” needs layer {layer[1]}; the layers of this model are 0 to {layers - 1}")
        try:
            with model.tapped(edits=edits.zero(*self.target[:3])):
                return
        except HooksError as error:
            raise WorkbenchError(f"“{self}” does not fit this model: {error.args[0]}") from error

    @property
    def layer(self) -> int | str:
        """Of "label" and "probe": the layer after which the direction is read and added, or "embed"."""
        found = re.match(r"blocks\.(\d+)\.", self.target.site)
        return "embed" if found is None else int(found[1])

    def direction(self, model: OlmoForCausalLM) -> Direction:
        """Of "label" and "probe": the direction that is added at all tokens, computed from all texts of the set.

        Errors: WorkbenchError, with the line, if it cannot be computed, such as a probe of a label with few texts.
        """
        labels = self.labels
        assert labels is not None
        try:
            if self.kind == "label":
                return label_direction(model, labels.texts, labels.toward, labels.against, layer=self.layer)
            from workbench.analyses.linear_probe import probe_layer  # a slow import, which only this line needs

            return probe_layer(model, labels.texts, layer=self.layer).direction(labels.toward, labels.against)
        except WorkbenchError as error:
            raise WorkbenchError(f"“{self}” cannot be done: {error}") from error

    @property
    def runs_sources(self) -> bool:
        """Whether the change of a feature runs all sources of its dictionary, if this is a crosscoder."""
        return self.target.feature is not None and self.kind in ("zero", "scale")

    def _of_feature(self, model: OlmoForCausalLM, load: LoadDictionary, load_model: LoadModel) -> Edit:
        name, _, positions, feature = self.target
        assert feature is not None
        try:
            dictionary = load(name)
            dictionary.check_fits(model)
            source = dictionary.sources[source_with_weights_of(dictionary, model)] if dictionary.sources else None
            if self.runs_sources and source is not None:
                models = {name: model if name == source else load_model(name) for name in dictionary.sources}
                factor = self.number if self.kind == "scale" else 0.0
                return features.switch_off_in(
                    dictionary, feature, models, positions=positions, source=source, factor=factor
                )
            match self.kind:
                case "zero":
                    return features.switch_off(dictionary, feature, positions)
                case "scale":
                    return features.scale(dictionary, feature, self.number, positions)
            return features.steer(dictionary, feature, self.number, positions, source=source)
        except WorkbenchError as error:
            raise WorkbenchError(f"“{self}” cannot be done: {error}") from error


def toward(model: OlmoForCausalLM, token: int, length: float) -> Tensor:
    """A steering vector (d_model) that raises a token's logit: its row of the unembedding, scaled to norm `length`."""
    row = model.get_output_embeddings().weight[token].detach().float()
    return length * row / row.norm()


def in_words(target: Target) -> str | None:
    """What is changed, in the words of the grammar; None for a site that has no words."""
    if target.feature is not None:
        at = "" if target.positions is None else f" at {_token_words(target.positions)}"
        return f"feature {target.site}/{target.feature}{at}"
    found = re.fullmatch(r"blocks\.(\d+)\.(attn\.z|mlp_out|attn_out|resid_post)", target.site)
    places = "" if target.positions is None else _token_words(target.positions)
    if target.site == "embed" and places and target.heads is None:
        return f"{places} at the embedding"
    if found is None or (target.heads is None) == (found[2] == "attn.z"):
        return None
    if found[2] == "resid_post":
        return f"{places} at layer {found[1]}" if places else None
    name = {
        "attn.z": "".join([f"L{found[1]}", *(f"H{head}" for head in target.heads or ())]),
        "mlp_out": f"MLP {found[1]}",
        "attn_out": f"attention {found[1]}",
    }[found[2]]
    return f"{name} at {places}" if places else name


def _place_of(site: str) -> str:
    """The residual stream after a layer, or the embedding, in words."""
    layer = re.match(r"blocks\.(\d+)\.", site)
    return "the embedding" if layer is None else f"layer {layer[1]}"


def _token_words(positions: Sequence[int]) -> str:
    return f"token{'s' if len(positions) > 1 else ''} {','.join(map(str, positions))}"


def _with_places(line: str, target: Target) -> str:
    for name, numbers in (("heads", target.heads), ("positions", target.positions)):
        line += "" if numbers is None else f" {name}={','.join(map(str, numbers))}"
    return line


def _signed(number: float) -> str:
    return f"{'-' if number < 0 else '+'}{_number_words(abs(number))}"


def _number_words(number: float) -> str:
    """A number as a person writes it; read again, it is the same number."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _quoted(prompt: str) -> str:
    return json.dumps(prompt, ensure_ascii=False)
