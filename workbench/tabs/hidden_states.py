"""Hidden states: what each layer's residual stream would predict, how large it is, and how it is spread."""

import gradio as gr

from workbench.analyses.effective_rank import effective_rank
from workbench.analyses.hidden_state_pca import hidden_state_pca
from workbench.analyses.logit_lens import logit_lens
from workbench.analyses.representation_similarity import representation_similarity
from workbench.analyses.residual_norms import residual_norms
from workbench.tabs.bench import Bench
from workbench.tabs.calls import Call, choice, prompt_of, with_tokenizer
from workbench.tabs.panel import Panel
from workbench.tabs.place import Due, Place

TITLE = "Hidden states"
HOW = (
    "The residual stream after the embedding and after each layer, one column a token. The logit lens reads it as if "
    "it were the last: the cell holds the likeliest next token. Click a column to choose its token."
)
LENS = {
    "likeliest next token": "probability",
    "entropy": "entropy",
    "KL from the final distribution": "kl",
    "rank of the true next token": "rank",
}
STATES = {
    "norm": "norm",
    "largest entry": "largest",
    "largest over median entry": "ratio",
    "principal components of a layer": "pca",
    "similarity of layers (CKA)": "cka",
    "effective rank": "rank",
}


def build(place: Place) -> None:
    with gr.Row(elem_classes="tools"):
        lens = place.link("lens", gr.Dropdown(list(LENS), value=next(iter(LENS)), label="Logit lens", min_width=220))
        state = place.link("state", gr.Dropdown(list(STATES), value="norm", label="Residual stream", min_width=220))
    panels = Panel("lens", {"x": "token"}), Panel("states", {"x": "token"})
    place.shows(panels[0].drawing(lens_call), inputs=[lens], outputs=panels[0].outputs)
    place.shows(panels[1].drawing(states_call), inputs=[state], outputs=panels[1].outputs, follows=["layer"])


def lens_call(bench: Bench, due: Due, measure: str) -> Call:
    """The logit lens of the prompt."""
    return Call(logit_lens, prompt_of(due), with_tokenizer(due), measure=choice(measure, LENS, "measure"))


def states_call(bench: Bench, due: Due, what: str) -> Call:
    """Norms, components, similarity or rank of the residual stream."""
    what = choice(what, STATES, "view")
    if what == "pca":
        layer = due.selection.layer
        last = bench.load(due.subject.checkpoint)[0].config.num_hidden_layers - 1
        chosen = last if layer is None else min(layer, last)
        return Call(hidden_state_pca, (*prompt_of(due), chosen), (("skip", 1), *with_tokenizer(due)))
    if what == "cka":
        return Call(representation_similarity, prompt_of(due), (("skip", 1),))
    if what == "rank":
        return Call(effective_rank, prompt_of(due))
    return Call(residual_norms, prompt_of(due), with_tokenizer(due), measure=what)
