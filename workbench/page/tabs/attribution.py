"""Attribution: how much each part of the model contributes to a prediction, directly and through later layers."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import torch

from workbench.analyses.ablation import ablation
from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.direct_logit_attribution import by_head, by_layer, direct_logit_attribution, head_sources
from workbench.analyses.support.cost import Work, pass_flops
from workbench.analyses.token_saliency import token_saliency
from workbench.errors import WorkbenchError
from workbench.interventions import read, typed_token
from workbench.page.build.field import FieldError, TextField, text_field
from workbench.page.build.panel import Chooses, Panel, View, head_pick, menu
from workbench.page.build.slot import Slot
from workbench.page.session.arguments import TokenizerOf, TokensOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import result
from workbench.page.session.calls import Call, prompt_arguments, texts_arguments
from workbench.page.session.edit_lines import sets_of, tapped
from workbench.page.session.menus import OVER, PROMPT, choice
from workbench.page.session.opened_prompt import OpenedPrompt
from workbench.page.session.prices import agree
from workbench.page.session.prompts import Prompt, contents, prompt_ids, prompt_like, with_contents
from workbench.page.session.requests import TabRequest

TITLE = "Attribution"
HOW = (
    "Why does the model predict the token after the selected one (or the last)? Orange parts support the prediction, "
    "blue parts oppose it; click one to follow it."
)
NEXT_TOKEN, AGAINST, SECOND = "Next token", "Against another", "Second prompt, of as many tokens"
DIRECT = {
    "each head and MLP": (
        by_head,
        "What each part adds directly to the logit, through the final norm and the unembedding. Click a cell to choose "
        "its head.",
    ),
    "each layer": (
        by_layer,
        "What attention and MLP of each layer add directly to the logit. With the embedding, they sum to it.",
    ),
    "every part, in order": (None, "What each part adds directly to the logit; the parts sum to it."),
}
ABLATIONS = {
    "replaced by their mean": "mean",
    "replaced by zeros": "zero",
}
SALIENCIES = {
    "integrated gradients": (
        "integrated_gradients",
        "What each token of the prompt contributes, compared with a text of average embeddings. The contributions sum "
        "to the change of the logit, except for the gap in the title.",
    ),
    "gradient × input": (
        "gradient_x_input",
        "To first order, how much the logit falls if a token's embedding is set to zero. These need not sum to it.",
    ),
}
PATCHED_SITES = {
    "residual stream entering a layer": "resid_pre",
    "output of attention": "attn_out",
    "output of the MLP": "mlp_out",
    "output of each head": "attn.z",
}
MEASURES = {"whole prediction (KL)": "kl", "logit (difference)": "logit_difference", "probability": "probability"}
WORDS = ("Paris", "Berlin", "Mary", "John", "red", "two", "water", "small", "other", "house")
BETWEEN_PARTS = re.compile(r"resid_|attn_out|mlp_out_raw|ln_final")  # sites that the parts do not show
MOST_TRIED, MOST_EXCHANGES = 256, 16  # exchanges of a word that are tokenised, and those that are run


@dataclass(frozen=True)
class Question:
    """The prediction that the tab explains: a next token after a position, optionally compared with another token.

    `targets` holds the id of the token and, if given, that of the other token.
    """

    opened: OpenedPrompt
    position: int
    targets: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads of each layer) of the model."""
        config = self.opened.model.config
        return config.num_hidden_layers, config.num_attention_heads

    @property
    def options(self) -> dict[str, Any]:
        """The options that the analyses of the prediction share."""
        return {"position": self.position, "tokenizer": TokenizerOf(self.opened.checkpoint)}

    @property
    def heads(self) -> Chooses:
        """The selection that a click makes in a grid of layers × heads (see `View.chooses`)."""
        return {"head": ("x", 0, self.shape[1]), "layer": ("y", 0, self.shape[0])}


def build(slot: Slot) -> None:
    """Panels for direct effects, ablation, saliency and patching, and the inputs that choose the predicted token."""
    with gr.Row(elem_classes="tools"):
        token = text_field(slot, "token_text", NEXT_TOKEN, "the likeliest token", check_token)
        against = text_field(slot, "against", AGAINST, "none", check_token)
    with gr.Row(elem_classes="panels"):
        direct = slot.link("direct", menu(DIRECT, "Direct effect of"))
        panel = Panel("direct", "What wrote it?", menus=[direct], beside=True)
        panel.draws(slot, direct_view, inputs=[token, against, direct], follows=["token"])
        method = slot.link("ablation", menu(ABLATIONS, "Heads and MLPs taken away"))
        over = slot.link("ablation_over", menu(OVER, "Ablation over"))
        panel = Panel("ablation", "What breaks without it?", menus=[method, over], beside=True)
        panel.draws(slot, ablation_view, inputs=[token, against, method, over], follows=["token", "texts"])
    panel = Panel("sources", "Where did that head get it from?", of_tokens=True)
    panel.draws(slot, sources_view, inputs=[token, against], follows=["token", "layer", "head"])
    method = slot.link("saliency", menu(SALIENCIES, "Saliency of tokens"))
    panel = Panel("saliency", "Which tokens does it depend on?", menus=[method], of_tokens=True)
    panel.draws(slot, saliency_view, inputs=[token, against, method], follows=["token"])
    site = slot.link("site", menu(PATCHED_SITES, "What is patched"))
    measure = slot.link("effect", menu(MEASURES, "Measured by"))
    second = TextField(slot, "second", SECOND, "this prompt with one word changed", check_second)
    panel = Panel("patching", "What carries it?", menus=[site, measure], below=[second])
    panel.draws(slot, patching_view, inputs=[token, against, second.box, site, measure], follows=["token"])


def direct_view(bench: Bench, request: TabRequest, token: str, against: str, what: str) -> View:
    """The direct effect of each part on the logit of a token, or on the difference of two tokens' logits."""
    gather, note = choice(what, DIRECT, "view")
    question = question_of(bench, request, token, against)
    note, call = f"{note}{uncounted(bench, question.opened, request.query.edits)}", direct_call(request, question)
    if gather is by_head:
        return View(Call.quick(by_head, call), note, chooses=question.heads)
    return View(call if gather is None else Call.quick(gather, call), note)


def uncounted(bench: Bench, opened: OpenedPrompt, edits: str) -> str:
    """A sentence on the edits that change the residual stream between the parts; empty if there are none."""
    changes = read(edits, opened.tokenizer, sets_of(bench, opened.checkpoint))
    of_features = {
        change: bench.dictionary(change.target.site).writes for change in changes if change.target.feature is not None
    }
    names = [str(one) for one in changes if BETWEEN_PARTS.search(of_features.get(one, one.target.site))]
    return f" With {', '.join(names)}, which acts between the parts, they do not sum to the logit." if names else ""


def ablation_view(bench: Bench, request: TabRequest, token: str, against: str, method: str, over: str = PROMPT) -> View:
    """The change of the token's surprisal when a head or an MLP is ablated, for each of them; over the set of
    texts, the change of its loss."""
    method = choice(method, ABLATIONS, "ablation")
    if choice(over, OVER, "text"):
        (layers, heads), found = bench.shape_of(request.query.checkpoint), bench.sets.get(request.selection.texts)
        note = (
            f"Change of the mean loss per token of {found.counted} without the part; point at a cell for "
            "its standard error over texts. Orange: the part helps. Other panels of this tab show the prompt."
        )
        chooses = {"head": ("x", 0, heads), "layer": ("y", 0, layers)}
        return View(Call.of(ablation, *texts_arguments(request), method=method)["loss"], note, chooses=chooses)
    question = question_of(bench, request, token, "")
    call = Call.of(ablation, *prompt_arguments(request), *question.targets, method=method, **question.options)
    call = call["surprisal"]
    note = "Change of −log p without the part, with its effects on later layers. Orange: the part helps."
    return View(call, note + (" The other token is not used here." if against else ""), chooses=question.heads)


def sources_view(bench: Bench, request: TabRequest, token: str, against: str) -> View:
    """The direct effect of one head, split by the tokens that it reads from."""
    question = question_of(bench, request, token, against)
    strongest = strongest_head(bench, request, question)
    pick = head_pick(request, question.shape, strongest)
    layer, head = pick.options[pick.chosen][1].values()
    name = pick.options[pick.chosen][0]
    note = (
        f"What {name} adds directly to the logit from each token that it attends to. Choose the head here or in the "
        "grids above."
    )
    heads = ((layer, head),)
    call = Call.quick(head_sources, *prompt_arguments(request), *question.targets, heads=heads, **question.options)
    chooses = {"token": ("x", 0, question.opened.ids.shape[1])}
    return View(call, note, title=f"Where the direct effect of {name} comes from", chooses=chooses, pick=pick)


def saliency_view(bench: Bench, request: TabRequest, token: str, against: str, method: str) -> View:
    """The saliency of each token of the prompt for the prediction."""
    measure, note = choice(method, SALIENCIES, "saliency")
    question = question_of(bench, request, token, against)
    call = Call.of(token_saliency, *prompt_arguments(request), *question.targets, **question.options)[measure]
    return View(call, note, chooses={"token": ("x", 0, question.opened.ids.shape[1])})


def patching_view(
    bench: Bench, request: TabRequest, token: str, against: str, second: str, site: str, measure: str
) -> View:
    """How much of the prompt's prediction one activation restores when patched into a run on the second prompt."""
    site = choice(site, PATCHED_SITES, "site")
    measure = choice(measure, MEASURES, "measure")
    question = question_of(bench, request, token, against)
    if measure == "logit_difference" and len(question.targets) == 1:
        measure = "logit"
    by = "head" if site == "attn.z" else "position"

    def patched(other: Prompt) -> Call:
        prompts = (*prompt_arguments(request), TokensOf(request.query.checkpoint, other))
        return Call.of(activation_patching, *prompts, *question.targets, site=site, by=by, **question.options)[measure]

    try:
        check_second(bench, request, second)
    except WorkbenchError as error:
        raise FieldError("Second prompt") from error
    other, told = prompt_like(request.query.prompt, second), "the second prompt"
    if not second.strip():
        agree_to_choose(bench, request, question, patched)
        other, told = other_prompt(bench, request, question)
    call = patched(other)
    note = (
        f"A run on {told}, in which one activation is replaced by that of this prompt. 1: this prompt's prediction is "
        "fully restored; 0: nothing changes."
    )
    tokens = {"token": ("x", 0, question.opened.ids.shape[1]), "layer": ("y", 0, question.shape[0])}
    return View(call, note, chooses=question.heads if by == "head" else tokens)


def direct_call(request: TabRequest, question: Question) -> Call:
    """The direct effect of every part."""
    return Call.of(direct_logit_attribution, *prompt_arguments(request), *question.targets, **question.options)


def strongest_head(bench: Bench, request: TabRequest, question: Question) -> tuple[int, int]:
    """The head with the largest direct effect: layer, head."""
    heads = result(Call.quick(by_head, direct_call(request, question)), bench)
    best = heads.rank().query("part != 'MLP'").iloc[0]
    return int(best["row"]), int(best["column"])


def question_of(bench: Bench, request: TabRequest, token: str, against: str) -> Question:
    """The prediction to explain: at the selected position or the last; of the typed token or the likeliest; and the
    other token, if typed."""
    opened = bench.read(request.query.checkpoint, request.query.prompt)
    last = opened.ids.shape[1] - 1
    position = last if request.selection.token is None else min(request.selection.token, last)
    if token:
        first = token_in(NEXT_TOKEN, token, opened)
    else:
        key = ("likeliest", replace(request.query, run=0), position)
        first = bench.once(key, lambda: likeliest(bench, opened, request.query.edits, position))
    return Question(opened, position, (first, token_in(AGAINST, against, opened)) if against else (first,))


def check_token(bench: Bench, request: TabRequest, text: str) -> None:
    """Raise WorkbenchError if a text is neither empty nor a token of the checkpoint's vocabulary."""
    if text:
        typed_token(text, bench.load(request.query.checkpoint)[1])


def check_second(bench: Bench, request: TabRequest, text: str) -> None:
    """Raise WorkbenchError if a second prompt is neither empty nor another text of as many tokens as the prompt."""
    if not text.strip():
        return
    query = request.query
    own = bench.tokens(query.checkpoint, query.prompt)
    other = bench.tokens(query.checkpoint, prompt_like(query.prompt, text))
    if own.shape != other.shape:
        raise WorkbenchError(
            f"it has {other.shape[1]} tokens, but the prompt has {own.shape[1]}; patching needs equally many"
        )
    if torch.equal(own, other):
        raise WorkbenchError("it is the prompt itself; change a word, so that there is a difference to explain")


def token_in(label: str, text: str, opened: OpenedPrompt) -> int:
    """The id of the token in the text box with this label. Errors: FieldError."""
    try:
        return typed_token(text, opened.tokenizer)
    except WorkbenchError as error:
        raise FieldError(label) from error


def likeliest(bench: Bench, opened: OpenedPrompt, edits: str, position: int) -> int:
    """The id of the token that the model, with interventions, predicts after a position."""
    with tapped(bench, (opened.model, opened.checkpoint, edits)):
        return int(opened.model.run(opened.ids).logits[0, position].argmax())


def other_prompt(bench: Bench, request: TabRequest, question: Question) -> tuple[Prompt, str]:
    """A second prompt and its description: the prompt with one word exchanged, where that moves the prediction most.

    The measure is KL(prediction on the prompt ‖ prediction on the other). The new word is from the prompt or from
    `WORDS`, and the number of tokens stays the same.
    Errors: WorkbenchError if no word can be exchanged.
    """
    found = exchanges(request.query.prompt, question)
    if not found:
        raise WorkbenchError("no one-word change of this prompt was found; type a second prompt of equally many tokens")

    def furthest() -> int:
        rows = [question.opened.ids[0].tolist(), *(ids for ids, _, _ in found)]
        batch = torch.tensor(rows, device=question.opened.ids.device)[:, : question.position + 1]
        with tapped(bench, (question.opened.model, question.opened.checkpoint, request.query.edits)):
            logits = question.opened.model.run(batch, logits_to_keep=1).logits[:, -1]
        own, *others = logits.float().log_softmax(-1)
        return max(range(len(others)), key=lambda n: float((own.exp() * (own - others[n])).sum()))

    _, text, change = found[bench.once(choice_key(request, question), furthest)]
    return text, change


def choice_key(request: TabRequest, question: Question) -> tuple[object, ...]:
    """The key of the cached choice of `other_prompt`."""
    return "exchanged", replace(request.query, run=0), question.position


def agree_to_choose(bench: Bench, request: TabRequest, question: Question, call_on: Callable[[Prompt], Call]) -> None:
    """Raise Expensive if `other_prompt`, and then a call on the prompt that it chooses, are expensive together."""
    found = exchanges(request.query.prompt, question)
    if found and bench.results.get(choice_key(request, question)) is None:
        prompts = len(found) + 1
        reading = pass_flops(question.opened.model, prompts * (question.position + 1), logits=prompts)
        agree(bench, request, call_on(found[0][1]), before=Work(reading))


def exchanges(prompt: Prompt, question: Question) -> list[tuple[list[int], Prompt, str]]:
    """Exchanges of one word that keep the number of tokens: (ids, prompt, description), at most `MOST_EXCHANGES`.

    Pairs of words of more than three letters that agree in an initial capital come first, since the result is more
    likely to be a sentence. Exchanges that change no token up to the position are left out.
    """
    texts = contents(prompt)
    own, tokenizer = question.opened.ids[0].tolist(), question.opened.tokenizer
    words = [word.strip(".,:;") for word in dict.fromkeys(" ".join(texts).split())]
    pairs = [(word, other) for word in words for other in (*words, *WORDS) if word and other and word != other]
    pairs.sort(key=lambda pair: min(map(len, pair)) > 3 and pair[0][0].isupper() == pair[1][0].isupper(), reverse=True)
    found = []
    for word, other in pairs[:MOST_TRIED]:
        pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")
        place = next(number for number, text in enumerate(texts) if pattern.search(text))
        changed = other.join(pattern.split(texts[place], maxsplit=1))
        exchanged = with_contents(prompt, [*texts[:place], changed, *texts[place + 1 :]])
        ids = prompt_ids(tokenizer, exchanged)
        if len(ids) == len(own) and ids[: question.position + 1] != own[: question.position + 1]:
            found.append((ids, exchanged, f"this prompt with “{other}” in place of its first “{word}”"))
    return found[:MOST_EXCHANGES]
