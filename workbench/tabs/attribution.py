"""Attribution: which parts of the model make a prediction, directly and by way of what follows."""

import gradio as gr

from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.direct_logit_attribution import direct_logit_attribution
from workbench.errors import WorkbenchError
from workbench.tabs.bench import Bench
from workbench.tabs.calls import Call, Tokens, choice, prompt_of, with_tokenizer
from workbench.tabs.edit_lines import token_id
from workbench.tabs.panel import Panel
from workbench.tabs.place import Due, Place

TITLE = "Attribution"
HOW = (
    "The prediction after the chosen token (the last, unless one is chosen in the strip above). First, what each part "
    "adds directly to the logit; then, what comes back when one activation of this prompt is put into a run on another."
)
SITES = ("resid_pre", "attn_out", "mlp_out", "attn.z")
MEASURES = ("logit_difference", "probability", "kl")


def build(place: Place) -> None:
    with gr.Row(elem_classes="tools"):
        token = place.link("token_text", gr.Textbox("", label="Token (empty: the likeliest)", min_width=150))
        against = place.link("against", gr.Textbox("", label="Against (empty: none)", min_width=150))
    direct = Panel("direct")
    place.shows(direct.drawing(direct_call), inputs=[token, against], outputs=direct.outputs, follows=["token"])
    with gr.Row(elem_classes="tools"):
        second = gr.Textbox(
            "",
            label="Second prompt, as many tokens (empty: one word changed)",
            min_width=300,
            scale=3,
            elem_classes="wide",
        )
        place.link("second", second)
        site = place.link("site", gr.Dropdown(list(SITES), value="resid_pre", label="Site", min_width=110))
        measure = place.link("effect", gr.Dropdown(list(MEASURES), value="kl", label="Measure", min_width=110))
    patching = Panel("patching", {"x": "token"})
    controls = [token, against, second, site, measure]
    place.shows(patching.drawing(patching_call), inputs=controls, outputs=patching.outputs, follows=["token"])


def direct_call(bench: Bench, due: Due, token: str, against: str) -> Call:
    """What each part adds to the logit of a token, or to its difference from another's."""
    position = position_of(bench, due)
    targets = targets_of(bench, due, position, token, against)
    return Call(direct_logit_attribution, (*prompt_of(due), *targets), (("position", position), *with_tokenizer(due)))


def patching_call(bench: Bench, due: Due, token: str, against: str, second: str, site: str, measure: str) -> Call:
    """What one activation of the prompt brings back in a run on the second prompt."""
    site = choice(site, {name: name for name in SITES}, "site")
    measure = choice(measure, {name: name for name in MEASURES}, "measure")
    position = position_of(bench, due)
    targets = targets_of(bench, due, position, token, against)
    if measure == "logit_difference" and len(targets) == 1:
        measure = "logit"
    other = Tokens(due.subject.checkpoint, second if second.strip() else changed(bench, due))
    by = "head" if site == "attn.z" else "position"
    options = (("site", site), ("by", by), ("position", position), *with_tokenizer(due))
    return Call(activation_patching, (*prompt_of(due), other, *targets), options, measure=measure)


def position_of(bench: Bench, due: Due) -> int:
    """The chosen token's position, or the last one's."""
    last = bench.read(due.subject.checkpoint, due.subject.prompt).ids.shape[1] - 1
    return last if due.selection.token is None else min(due.selection.token, last)


def targets_of(bench: Bench, due: Due, position: int, token: str, against: str) -> tuple[int, ...]:
    """The token asked about, and the one it is compared with if there is one, as ids."""
    opened = bench.read(due.subject.checkpoint, due.subject.prompt)
    if token:
        first = token_id(token, opened.tokenizer)
    else:
        key = ("likeliest", due.subject.checkpoint, due.subject.prompt, position)
        first = bench.once(key, lambda: opened.model.run(opened.ids).logits[0, position].argmax().item())
    return (first, token_id(against, opened.tokenizer)) if against else (first,)


def changed(bench: Bench, due: Due) -> str:
    """The prompt with one word exchanged for another of as many tokens: the first that comes once, if it can be."""
    tokenizer = bench.load(due.subject.checkpoint)[1]
    prompt = due.subject.prompt
    length = len(tokenizer(prompt)["input_ids"])
    words = prompt.split()
    for word in sorted(dict.fromkeys(words), key=words.count):
        for other in ("Berlin", "Mary", "John", "water", "small", "other", "house"):
            text = prompt.replace(word, other, 1)
            if text != prompt and len(tokenizer(text)["input_ids"]) == length:
                return text
    raise WorkbenchError("write a second prompt of as many tokens; no single word of this one could be exchanged")
