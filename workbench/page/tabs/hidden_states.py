"""Hidden states: what each layer's residual stream would predict, how large it is, and how it is spread."""

from workbench.analyses.effective_rank import effective_rank
from workbench.analyses.hidden_state_pca import hidden_state_pca
from workbench.analyses.logit_lens import logit_lens
from workbench.analyses.representation_similarity import representation_similarity
from workbench.analyses.residual_norms import residual_norms
from workbench.analyses.tuned_lens import tuned_lens
from workbench.page.build.panel import Panel, Pick, View, layer_pick, menu
from workbench.page.build.slot import Slot
from workbench.page.session.bench import Bench
from workbench.page.session.calls import Call, prompt_arguments, texts_arguments, tokenizer_argument
from workbench.page.session.lenses import LENSES, NO_LENS, divergence_call, lens_for, lens_in_words
from workbench.page.session.menus import OVER, PROMPT, choice
from workbench.page.session.requests import TabRequest

TITLE = "Hidden states"
HOW = (
    "A column is a token, layers go upwards: see where in the model the prediction appears. Click a cell to select its "
    "token and layer."
)
BOTH = "both lenses, on the set of texts"
LENS = {
    "likeliest next token": (
        "probability",
        "The next token that each layer would predict if it were the last; the colour is its probability. Go up a "
        "column to see where the model's prediction appears.",
    ),
    "entropy": (
        "entropy",
        "How uncertain each layer is about the next token: 0 is certain, a strong colour is uncertain.",
    ),
    "KL from the final distribution": (
        "kl",
        "How far each layer's prediction is from the model's final prediction, the top row. Dark: they are the same.",
    ),
    "rank of the true next token": (
        "rank",
        "The rank of the token that really comes next: 1 is the likeliest. The last token has no next token.",
    ),
    BOTH: (
        BOTH,
        "How far each layer's prediction is from the model's final one, through the tuned lens and through the logit "
        "lens: lower is better. Mean over the tokens of the set of texts.",
    ),
}
STATES = {
    "norm": ("norm", "‖x‖ of each token's residual stream. A strongly coloured column is often an attention sink."),
    "cosine to the layer before": (
        "cosine",
        "How much of its direction each layer keeps: 1 is the same direction, 0 is an orthogonal one.",
    ),
    "largest entry": (
        "largest",
        "The residual stream's entry with the largest absolute value; the cell shows its dimension.",
    ),
    "largest over median entry": (
        "ratio",
        "The largest entry divided by the median entry: 4–6 is normal, 1,000 or more is a massive activation.",
    ),
    "principal components of a layer": (
        "pca",
        "A point is a token; its colour is the position. The axes are the two directions in which the states after "
        "this layer differ most. The first token is left out, because its large norm would dominate. Choose the layer "
        "here or by clicking a row above.",
    ),
    "similarity of layers (CKA)": (
        "cka",
        "How similar two layers' states are over the prompt: 1 is equal up to rotation and scale, 0 is unrelated.",
    ),
    "effective rank": (
        "rank",
        "How many directions the prompt's tokens use after each layer; at most the number of tokens.",
    ),
}

OF_SETS = ("pca", "cka", "rank")


def build(slot: Slot) -> None:
    """The logit lens, and views of the residual stream."""
    lens = slot.link("lens", menu(LENS, "Logit lens"))
    panel = Panel("lens", "What would each layer say next?", menus=[lens])
    panel.draws(slot, lens_view, inputs=[lens], follows=["tuned", "texts"])
    state = slot.link("state", menu(STATES, "Residual stream"))
    over = slot.link("states_over", menu(OVER, "Measured on"))
    panel = Panel("states", "What does the residual stream look like?", menus=[state, over])
    panel.draws(slot, states_view, inputs=[state, over], follows=["layer", "texts"])


def lens_view(bench: Bench, request: TabRequest, measure: str) -> View | str:
    """The logit lens or the tuned lens of the prompt, or how near both come to the final distribution."""
    checkpoint, tuned = request.query.checkpoint, request.selection.tuned
    pick = Pick("read through", [(name, {"tuned": number}) for number, name in enumerate(LENSES)], int(bool(tuned)))
    lens, (measure, note) = lens_for(bench, checkpoint), choice(measure, LENS, "measure")
    if measure == BOTH:
        return NO_LENS if lens is None else View(divergence_call(request, lens), note, pick=pick)
    arguments, tokenizer = prompt_arguments(request), tokenizer_argument(request)
    if lens is None or not tuned:
        call, told = (
            Call.of(logit_lens, *arguments, tokenizer=tokenizer),
            f"This is the logit lens. {NO_LENS}" if tuned else "",
        )
    else:
        call, told = Call.of(tuned_lens, *arguments, lens, tokenizer=tokenizer), lens_in_words(bench, request, lens)
    return View(call[measure], f"{note} {told}".strip(), chooses=token_and_layer(bench, request), pick=pick)


def states_view(bench: Bench, request: TabRequest, what: str, over: str = PROMPT) -> View:
    """Norms, components, similarity or rank of the residual stream; the last three also over the set of texts."""
    what, note = choice(what, STATES, "view")
    if choice(over, OVER, "text"):
        if what in OF_SETS:
            return view_of_set(bench, request, what, note)
        note = f"{note} This shows a single text, the prompt."
    opened = bench.read(request.query.checkpoint, request.query.prompt)
    layers, tokens = opened.model.config.num_hidden_layers, opened.ids.shape[1]
    if what == "pca":
        pick = layer_pick(request, layers)
        call = Call.of(
            hidden_state_pca, *prompt_arguments(request), pick.chosen, skip=1, tokenizer=tokenizer_argument(request)
        )
        return View(call, note, chooses={"token": ("pointNumber", 1, tokens)}, pick=pick)
    if what == "cka":
        call = Call.of(representation_similarity, *prompt_arguments(request), skip=1)
        return View(call, note, chooses={"layer": ("y", -1, layers)})
    if what == "rank":
        return View(Call.of(effective_rank, *prompt_arguments(request)), note, chooses={"layer": ("x", -1, layers)})
    call = Call.of(residual_norms, *prompt_arguments(request), tokenizer=tokenizer_argument(request))[what]
    return View(call, note, chooses=token_and_layer(bench, request))


def view_of_set(bench: Bench, request: TabRequest, what: str, note: str) -> View:
    """Components, similarity or rank of the residual stream over all tokens of the set of texts."""
    layers, texts = bench.shape_of(request.query.checkpoint)[0], texts_arguments(request)
    note = f"{note} Over the tokens of {bench.sets.get(request.selection.texts).counted}."
    if what == "pca":
        pick = layer_pick(request, layers)
        return View(Call.of(hidden_state_pca, *texts, pick.chosen, skip=1), note, pick=pick)
    if what == "cka":
        call = Call.of(representation_similarity, *texts, skip=1)
        return View(call, note, chooses={"layer": ("y", -1, layers)})
    return View(Call.of(effective_rank, *texts), note, chooses={"layer": ("x", -1, layers)})


def token_and_layer(bench: Bench, request: TabRequest) -> dict[str, tuple[str, int, int]]:
    """The selection that a click makes in a grid of (embedding and layers) × tokens (see `View.chooses`)."""
    opened = bench.read(request.query.checkpoint, request.query.prompt)
    return {"token": ("x", 0, opened.ids.shape[1]), "layer": ("y", -1, opened.model.config.num_hidden_layers)}
