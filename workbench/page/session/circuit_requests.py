"""Circuits that the page's menus ask for: the choices, the calls of a circuit and of its proof, and their keys."""

from typing import Any, NamedTuple

from workbench.analyses.circuit import circuit
from workbench.analyses.faithfulness import faithfulness
from workbench.embedded_texts import pair_sets
from workbench.page.session.arguments import ModelOf, PairsOf, TokenizerOf
from workbench.page.session.calls import Call
from workbench.page.session.menus import choice
from workbench.page.session.requests import TabRequest

PAIRS = {name.rpartition("/")[2]: name for name in reversed(pair_sets())}
OF = {
    "heads and MLPs, over pairs": "heads",
    "heads, MLPs and neurons, over pairs": "neurons",
    "features, of this prompt": "features",
}
NEURONS = 16  # of the MLPs, that are nodes of their own
MEASURES = {
    "logit difference": ("logit_difference", "logits"),
    "probability": ("probability", ""),
    "whole prediction (KL)": ("kl", "nats"),
}
MOST_DRAWN = 1000  # edges that the browser gets


class CircuitChoice(NamedTuple):
    """The choices of the menus: a set of pairs, a measure, and how many neurons are nodes."""

    pairs: str
    measure: str
    neurons: int = 0


def chosen_by(of: str, pairs: str, measure: str) -> CircuitChoice:
    """The choices of three menus."""
    return CircuitChoice(pairs, measure, NEURONS if choice(of, OF, "kind of nodes") == "neurons" else 0)


def circuit_call(request: TabRequest, chosen: CircuitChoice, exact: tuple[str, ...] = ()) -> Call:
    """The circuit of a set of pairs; with `exact`, these edges are patched in place of the strongest ones."""
    measure = choice(chosen.measure, MEASURES, "measure")[0]
    options: dict[str, Any] = {"exact": exact} if exact else {}
    options |= {"neurons": chosen.neurons} if chosen.neurons else {}
    return Call.of(
        circuit, *analysis_arguments(request, chosen.pairs), measure=measure, **tokenizer(request), **options
    )


def proof_call(request: TabRequest, chosen: CircuitChoice, sizes: tuple[int, ...] = ()) -> Call:
    """The faithfulness of the circuit, for these numbers of edges, or for the default ones."""
    model, *prompts = analysis_arguments(request, chosen.pairs)
    options = {"sizes": sizes} if sizes else {}
    return Call.of(faithfulness, model, circuit_call(request, chosen), *prompts, **tokenizer(request), **options)


def analysis_arguments(request: TabRequest, pairs: str) -> list[Any]:
    """The model, without edits, and the prompts and answers of a set of pairs."""
    checkpoint, name = request.query.checkpoint, choice(pairs, PAIRS, "set of pairs")
    parts = ("clean", "corrupted", "answers", "others")
    return [ModelOf(checkpoint), *(PairsOf(checkpoint, name, each) for each in parts)]


def tokenizer(request: TabRequest) -> dict[str, TokenizerOf]:
    """The option `tokenizer`, which reads the answers."""
    return {"tokenizer": TokenizerOf(request.query.checkpoint)}


def chosen_pairs(request: TabRequest, pairs: str) -> tuple[PairsOf, TokenizerOf]:
    """A set of pairs, and the tokenizer that reads its answers."""
    checkpoint = request.query.checkpoint
    return PairsOf(checkpoint, choice(pairs, PAIRS, "set of pairs")), TokenizerOf(checkpoint)


def about_pairs(pairs: str) -> str:
    """A description of a set of pairs."""
    about = pair_sets()[choice(pairs, PAIRS, "set of pairs")]
    return about[0].upper() + about[1:]


def key_of(request: TabRequest, chosen: CircuitChoice) -> tuple[object, ...]:
    """The key of a circuit: what it is computed from."""
    return request.query.checkpoint, *chosen


def key_text(request: TabRequest, chosen: CircuitChoice) -> str:
    """The key of a circuit as one string."""
    return " ".join(map(str, key_of(request, chosen)))
