"""Features: the directions that a dictionary finds in the model, where they are active, and what they predict."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
import torch

from workbench import features
from workbench.analyses.support.cost import Work, pass_flops
from workbench.errors import WorkbenchError
from workbench.features import Dictionary, FeatureBirths, FeatureCard, FeatureScan, MeasuredBirths, scan
from workbench.features.card import Example, card
from workbench.features.explain_token import explain_token
from workbench.features.feature_table import examples, feature_table, with_births, with_names
from workbench.page import components
from workbench.page.build.slot import NOT_QUEUED, Slot, agreement_button, asked
from workbench.page.compat import event_data
from workbench.page.session.arguments import ModelOf, ModelsOf, TextsOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import cached_value
from workbench.page.session.calls import Call, prompt_arguments, tokenizer_argument
from workbench.page.session.dictionaries import (
    NONE_FITS,
    DictionariesOf,
    DictionaryOf,
    NamesOf,
    chosen_dictionary,
    fitting,
    usable,
)
from workbench.page.session.menus import choice
from workbench.page.session.offers import offer
from workbench.page.session.prices import Expensive, Planner, agree, priced
from workbench.page.session.requests import TabRequest
from workbench.page.session.text_sets import FIRST, TextSet
from workbench.progress import Progress

TITLE = "Features"
HOW = (
    "Directions that a sparse dictionary finds in the model, each active at few tokens. Click a row to see where, and "
    "what it predicts."
)
COLUMNS = {
    "feature": ("#", "count"),
    "density": ("active at", "percent"),
    "activations": ("activations", "curve"),
    "max": ("max", "number"),
    "raises": ("raises most", "words"),
    "lowers": ("lowers most", "words"),
    "born": ("born at", "count"),
    "born scaled": ("born, scaled", "count"),
    "died": ("gone at", "count"),
    "norm": ("norm along the run", "curve"),
    "density along the run": ("active along the run", "curve"),
    "name": ("name", "name"),
}
ACTIVE = {
    "dictionary": ("dictionary", "name"),
    "feature": ("#", "count"),
    "activation": ("activation", "number"),
    "effect": ("effect", "number"),
    "raises": ("raises most", "words"),
}
SEARCH = "Search for a token or a number"
ALL_FEATURES = "all features"
LISTS = {ALL_FEATURES: False, "active at the selected token": True}
AROUND, EXAMPLES = 12, 8
PASSES = 6  # of a card, over the texts of its examples
BARS = 8  # tokens in each list of logit effects
BINS = 12  # of the small histograms
ENGLISH = "tiny-olmo/english"  # what is shown before a set is chosen: `text_sets.FIRST` has few tokens
AUTOMATIC = "this checkpoint's own"


def build(slot: Slot) -> None:
    """The menu of dictionaries, the table of features, and the card of one feature."""
    names = [(AUTOMATIC, ""), *((name, name) for name in slot.bench.dictionaries)]
    with gr.Row(elem_id="feature-bar"):
        chosen = gr.Dropdown(names, value="", label="Dictionary", elem_id="dictionary", scale=5, min_width=240)
        number = gr.Number(None, label="Feature", elem_id="feature", scale=1, min_width=90)
        listing = gr.Dropdown(list(LISTS), value=next(iter(LISTS)), label="Show", elem_id="features-of", scale=2)
    slot.link("features", listing)
    slot.link("dictionary", chosen)
    slot.link("feature", number)
    listed, button = components.text_table(elem_id="feature-table"), agreement_button("feature-table-price")
    outputs = [listed, button]
    slot.shows(
        features_table_view,
        inputs=[chosen, listing],
        outputs=outputs,
        follows=["texts"],
        agreement=button,
        with_progress=True,
    )
    active, button = components.text_table(elem_id="active-table"), agreement_button("active-price")
    slot.shows(active_view, inputs=[listing], outputs=[active, button], follows=["token"], agreement=button)
    notice = components.sentence(elem_classes="problem")
    shown, button = components.feature_card(elem_id="feature-card"), agreement_button("feature-card-price")
    slot.shows(
        card_view,
        inputs=[chosen, number],
        outputs=[shown, button],
        follows=["texts"],
        notice=notice,
        agreement=button,
        with_progress=True,
    )
    slot.details.explain(lambda: list(LISTS)[1], None, listing, **NOT_QUEUED)
    slot.details.feature(opened_feature, None, [chosen, number, listing], **NOT_QUEUED)
    slot.on(active.open, clicked_active, outputs=[chosen, number])
    slot.on(listed.open, clicked_feature, outputs=[number])
    slot.on(shown.open, clicked_neighbour, outputs=[chosen, number])
    slot.on(shown.called, name_given, inputs=[listing], outputs=[shown, listed])
    slot.runs(shown.use, clicked_example, outputs=[slot.prompt])


def features_table_view(
    bench: Bench, request: TabRequest, name: str, listing: str = ALL_FEATURES, progress: Progress | None = None
) -> list[Any]:
    """The values of the table of features, and of the button that agrees to its price; hidden for another listing."""
    if choice(listing, LISTS, "listing"):
        return [gr.update(visible="hidden"), asked(None)]
    value, price = features_value(bench, request, name, progress)
    return [gr.update(value=value, visible=True), price]


def features_value(
    bench: Bench, request: TabRequest, name: str, progress: Progress | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The value of the table of features (see text_table.js), and the update of the button that agrees to its price."""
    if not name and not usable(bench, request.query.checkpoint):
        return {"summary": NONE_FITS}, asked(None)
    chosen = chosen_dictionary(bench, request.query.checkpoint, name)
    call, births = table_call(bench, request, chosen), births_on_set(bench, request, chosen)
    call = call if births is None else Call.quick(with_births, call, births)
    try:
        found = scan_of(bench, request, chosen, call, progress)
    except Expensive as expensive:
        return {"summary": dictionary_summary(bench, request, chosen)}, asked(expensive.price)
    curves = {"activations": histograms(found)}
    if births is not None:
        measured = cached_value(births, bench, progress)
        curves |= {"norm": measured.run_norms, "density along the run": measured.run_density}
    whole = cached_value(call, bench)
    given = features.names_of(bench.dictionary(chosen))
    if given:
        call = Call.quick(with_names, call, NamesOf(request.query.checkpoint, tuple(given.items())))
        whole = with_names(whole, given)
    bench.results.put(call, whole)
    value = {
        "summary": dictionary_summary(bench, request, chosen, found),
        **columns_and_rows(whole, curves),
        "offer": offer(bench, call),
        "search": SEARCH,
        "act": "Open its card",
        "label": "table of features",
    }
    return value, asked(None)


def columns_and_rows(whole: pd.DataFrame, curves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The columns and rows of the table of features, with a small curve for each; features that are never active come
    last."""
    lists = {name: np.round(values.astype(float), 6).tolist() for name, values in curves.items()}
    names = [name for name in COLUMNS if name in whole or name in lists]
    cells = whole.astype(object).where(whole.notna(), None)
    parts = [lists[name] if name in lists else cells[name].tolist() for name in names]
    order = np.argsort(whole["count"].to_numpy() == 0, kind="stable")
    rows = [list(row) for row in zip(cells["feature"], *parts, strict=True)]
    return {"columns": [COLUMNS[name] for name in names], "rows": [rows[number] for number in order]}


def histograms(found: FeatureScan) -> np.ndarray:
    """How many places have each activation, in `BINS` bins from 0 to the largest one of the feature: feature bin."""
    owner = torch.arange(len(found)).repeat_interleave(found.counts)
    place = (found.value / found.peak[owner].clamp_min(1e-12) * BINS).long().clamp(0, BINS - 1)
    counts = torch.bincount(owner * BINS + place, minlength=len(found) * BINS)
    return counts.reshape(-1, BINS).numpy()


def births_of(bench: Bench, request: TabRequest, name: str) -> Call | None:
    """The call that says when the features of a crosscoder are born; None where that is not known."""
    call = Call.quick(features.births, DictionaryOf(request.query.checkpoint, name))
    try:
        cached_value(call, bench)
    except WorkbenchError:  # no crosscoder, or not one along a run
        return None
    return call


def births_on_set(bench: Bench, request: TabRequest, name: str) -> Call | None:
    """The call that measures births on the set of texts: firing at each checkpoint, latent scaling, families; None for
    a dictionary that is no crosscoder along a run."""
    if births_of(bench, request, name) is None:
        return None
    models, texts, dictionary = scan_call(bench, request, name).arguments
    return Call.of(features.births_on_texts, dictionary, models, texts)


def active_view(bench: Bench, request: TabRequest, listing: str = ALL_FEATURES) -> list[Any]:
    """The values of the table of features that are active at the selected token, or the last one, and of the button
    that agrees to its price; hidden for another listing."""
    if not choice(listing, LISTS, "listing"):
        return [gr.update(visible="hidden"), asked(None)]
    there = fitting(bench, request.query.checkpoint)
    if not there:
        return [gr.update(value={"summary": NONE_FITS}, visible=True), asked(None)]
    call = explaining_call(bench, request, there)
    try:
        agree(bench, request, call)
    except Expensive as expensive:
        return [gr.update(value={"summary": ""}, visible=True), asked(expensive.price)]
    whole = cached_value(call, bench)
    short = whole.assign(dictionary=whole["dictionary"].map(last_parts(there)))
    cells = short.astype(object).where(short.notna(), None).to_numpy().tolist()
    value = {
        "summary": about_token(bench, request, whole),
        "columns": [ACTIVE[column] for column in whole],
        "rows": [[number, *row] for number, row in enumerate(cells)],
        "offer": offer(bench, call),
        "search": SEARCH,
        "act": "Open its card",
        "label": "table of active features",
    }
    return [gr.update(value=value, visible=True), asked(None)]


def last_parts(names: tuple[str, ...]) -> dict[str, str]:
    """The last parts of the names of dictionaries, which tell them apart; whole names where two have the same one."""
    parts = [name.rpartition("/")[2] for name in names]
    return {name: part if parts.count(part) == 1 else name for name, part in zip(names, parts, strict=True)}


def explaining_call(bench: Bench, request: TabRequest, there: tuple[str, ...]) -> Call:
    """The features of these dictionaries that are active at the selected token, or at the last one."""
    model, tokens = prompt_arguments(request)
    last = bench.read(request.query.checkpoint, request.query.prompt).ids.shape[1] - 1
    token = last if request.selection.token is None else min(request.selection.token, last)
    dictionaries = DictionariesOf(request.query.checkpoint, there)
    return Call.of(explain_token, model, tokens, dictionaries, position=token, tokenizer=tokenizer_argument(request))


def about_token(bench: Bench, request: TabRequest, whole: pd.DataFrame) -> str:
    """Which token, how many features of how many dictionaries are active there, and what their effect is on."""
    opened, place = bench.read(request.query.checkpoint, request.query.prompt), whole.attrs["position"]
    edits = f" With {', '.join(request.query.edits.splitlines())}." if request.query.edits else ""
    answer = f"“{whole.attrs['token']}”, the likeliest next token ({100 * whole.attrs['probability']:.0f} %)"
    return (
        f"{len(whole)} features of {whole['dictionary'].nunique()} dictionaries are active at token {place}, "
        f"“{opened.labels[place]}”. Effect: what each adds directly to the logit of {answer}, less the mean over all "
        f"tokens. Effects of different layers do not add up.{edits}"
    )


def card_view(
    bench: Bench, request: TabRequest, name: str, number: float | None, progress: Progress | None = None
) -> list[Any]:
    """The values of the card of a feature, and of the button that agrees to its price."""
    if not name and not usable(bench, request.query.checkpoint):
        return [{}, asked(None)]  # the table above says why
    chosen = chosen_dictionary(bench, request.query.checkpoint, name)
    if number is None:
        scanned = bench.results.get(scan_call(bench, request, chosen))
        if scanned is None or not scanned.counts.any():
            return [{"empty": "Click a row of the table, or type the number of a feature."}, asked(None)]
        number = int(scanned.counts.gt(0).int().argmax())  # the first row of the table
    feature = checked_feature(bench.dictionary(chosen), number)
    call = card_call(bench, request, chosen, feature)
    try:
        scan_of(bench, request, chosen, call, progress)
    except Expensive as expensive:
        return [{"empty": f"Feature {feature} of {chosen}"}, asked(expensive.price, "Show its card")]
    found, called = cached_value(call, bench), features.names_of(bench.dictionary(chosen)).get(feature, "")
    taken = Call.quick(examples, call, called) if called else Call.quick(examples, call)
    bench.results.put(taken, examples(found, called))
    value = card_value(found, chosen, feature) | {"called": called, "offer": offer(bench, taken)}
    births, on_set = births_of(bench, request, chosen), births_on_set(bench, request, chosen)
    if births is not None:
        value["life"] = life_value(bench.results.get(on_set) or cached_value(births, bench), feature)
    if not found.count:
        value["silent"] = f"It is active at none of the tokens of {set_of(bench, request).counted}."
    return [value, asked(None)]


def life_value(births: FeatureBirths, feature: int) -> dict[str, Any]:
    """The norms of a feature along the run as a value of the card, and what texts say about them if that is known."""
    born, died = (step_of(steps[feature]) for steps in (births.born, births.died))
    told: dict[str, Any] = {}
    if isinstance(births, MeasuredBirths):
        told["fires"] = births.run_density[feature].astype(float).tolist()
        if births.is_scaled[feature]:
            told["scaled"] = step_of(births.after_scaling().born[feature])
    return told | {
        "steps": list(births.steps),
        "norms": births.run_norms[feature].tolist(),
        "born": born,
        "died": died,
        "floor": births.floor,
        "ends": births.end_norms[feature].tolist(),
    }


def step_of(found: float) -> int | None:
    """A step; None for never."""
    return None if np.isnan(found) else int(found)


def set_of(bench: Bench, request: TabRequest) -> TextSet:
    """The chosen set of texts; English before one is chosen, unless the page was started with a set."""
    unchosen = not request.selection.texts and bench.sets.default == FIRST
    return bench.sets.get(ENGLISH if unchosen else request.selection.texts)


def scan_of(bench: Bench, request: TabRequest, name: str, after: Call, progress: Progress | None = None) -> FeatureScan:
    """Where the features are active in the set of texts, from the cache or from its folder if it is there.

    Raises Expensive if the price of it and of `after`, a call that comes after it, is not agreed to.
    """
    call = scan_call(bench, request, name)
    if bench.results.get(call) is None and are_loaded(bench, call.arguments[0]):
        model, texts, dictionary = (part.value(bench) for part in call.arguments)
        if scan.is_stored(model, texts, dictionary):
            cached_value(call, bench)
    if bench.results.get(call) is None or bench.results.get(after) is None:
        rest = Planner(bench).work(after.replaced(lambda part: None if part == call else part))
        if after.function is card:
            texts, model = call.arguments[1].value(bench), bench.outline(request.query.checkpoint)
            tokens = min(EXAMPLES, len(texts)) * texts.longest
            models = max(1, len(bench.dictionary(name).sources))
            rest += Work(pass_flops(model, PASSES * tokens * models, logits=3 * tokens))
        progress = priced(progress, agree(bench, request, call, before=rest))
    return cached_value(call, bench, progress)


def are_loaded(bench: Bench, models: ModelOf | ModelsOf) -> bool:
    """Whether a scan needs no model to be loaded, but for the page's own checkpoint."""
    return isinstance(models, ModelOf) or all(bench.is_loaded(name) for name in models.ids)


def scan_call(bench: Bench, request: TabRequest, name: str) -> Call:
    """The scan of the set of texts by the unedited model; for a crosscoder, by all of its sources."""
    checkpoint, sources = request.query.checkpoint, bench.dictionary(name).sources
    models = ModelsOf(checkpoint, sources) if sources else ModelOf(checkpoint)
    texts = TextsOf(checkpoint, set_of(bench, request).name)
    return Call.of(scan.of, models, texts, DictionaryOf(checkpoint, name))


def source_option(bench: Bench, request: TabRequest, name: str) -> dict[str, str]:
    """The option `source` of functions that show a crosscoder: the checkpoint of the page."""
    return {"source": request.query.checkpoint} if bench.dictionary(name).sources else {}


def table_call(bench: Bench, request: TabRequest, name: str) -> Call:
    """The table of features."""
    _, _, dictionary = (scanned := scan_call(bench, request, name)).arguments
    options = source_option(bench, request, name) | {"tokenizer": tokenizer_argument(request)}
    return Call.of(feature_table, ModelOf(request.query.checkpoint), dictionary, scanned, **options)


def card_call(bench: Bench, request: TabRequest, name: str, feature: int) -> Call:
    """The card of a feature, with its neighbours in the other dictionaries of one model."""
    models, _, dictionary = (scanned := scan_call(bench, request, name)).arguments
    others = tuple(other for other in fitting(bench, request.query.checkpoint) if other != name)
    near = {"others": DictionariesOf(request.query.checkpoint, others)} if others else {}
    shown = {"examples": EXAMPLES, "around": AROUND, "tokenizer": tokenizer_argument(request)}
    shown |= source_option(bench, request, name)
    return Call.of(card, models, dictionary, feature, scanned, **near, **shown)


def checked_feature(dictionary: Dictionary, number: object) -> int:
    """The number of a feature, from a number field or an event. Errors: WorkbenchError for an unknown one."""
    if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
        raise WorkbenchError(f"no feature {number!r}; there are features 0 to {len(dictionary) - 1:,}")
    dictionary.check_feature(int(number))
    return int(number)


def clicked_feature(bench: Bench, request: TabRequest, data: Mapping[str, Any]) -> object:
    """The number of a clicked row."""
    number = data.get("text")
    if not isinstance(number, int) or number < 0:
        raise WorkbenchError(f"no feature {number!r}")
    return number


def clicked_active(bench: Bench, request: TabRequest, data: Mapping[str, Any]) -> list[object]:
    """The dictionary and the number of the feature of a clicked row."""
    whole = cached_value(explaining_call(bench, request, fitting(bench, request.query.checkpoint)), bench)
    number = data.get("text")
    if not isinstance(number, int) or not 0 <= number < len(whole):
        raise WorkbenchError(f"no row {number!r}; the table has {len(whole):,}")
    return [whole["dictionary"][number], int(whole["feature"][number])]


def opened_feature(event: gr.EventData) -> list[object]:
    """New values of three controls, for a feature that was clicked on another tab: dictionary, feature, and list."""
    data = event_data(event)
    name, number = data.get("dictionary"), data.get("feature")
    if not isinstance(name, str) or not isinstance(number, int):
        return [gr.skip()] * 3
    return [name, number, ALL_FEATURES]


def name_given(bench: Bench, request: TabRequest, data: Mapping[str, Any], listing: str) -> list[Any]:
    """The values of the card and of the table, after a name was given on the card."""
    chosen = chosen_dictionary(bench, request.query.checkpoint, data.get("dictionary"))
    feature, name = checked_feature(bench.dictionary(chosen), data.get("feature")), data.get("name")
    if not isinstance(name, str):
        raise WorkbenchError(f"no name {name!r}")
    features.name_feature(bench.dictionary(chosen), feature, name)
    request = replace(request, agreed=True)  # both were shown, so their numbers are at hand
    return [card_view(bench, request, chosen, feature)[0], features_table_view(bench, request, chosen, listing)[0]]


def clicked_neighbour(bench: Bench, request: TabRequest, data: Mapping[str, Any]) -> list[object]:
    """The dictionary and the number of a clicked neighbour."""
    name = chosen_dictionary(bench, request.query.checkpoint, data.get("dictionary"))
    return [name, checked_feature(bench.dictionary(name), data.get("feature"))]


def clicked_example(bench: Bench, request: TabRequest, data: Mapping[str, Any]) -> str:
    """The text of a clicked example."""
    found, number = set_of(bench, request), data.get("text")
    if not isinstance(number, int) or not 0 <= number < len(found.strings):
        raise WorkbenchError(f"no text {number!r}; {found.title} has {len(found.strings):,}")
    return found.strings[number]


def dictionary_summary(bench: Bench, request: TabRequest, name: str, found: FeatureScan | None = None) -> str:
    """What is shown: the dictionary, the texts, how many features are never active in them, and for which model."""
    dictionary, checkpoint = bench.dictionary(name), request.query.checkpoint
    place = dictionary.reads if dictionary.reads == dictionary.writes else f"{dictionary.reads} → {dictionary.writes}"
    told = [f"{name}: {dictionary.kind} of {len(dictionary):,} features at {place}"]
    told += [f"in {set_of(bench, request).counted}"]
    sentences = [", ".join(told) + "."]
    if found is not None:
        never = int((found.counts == 0).sum())
        sentences += [] if not never else [f"{never:,} of them are active at none of {found.texts.tokens:,} tokens."]
    if dictionary.model and dictionary.model != checkpoint:
        sentences += [f"It was trained on {dictionary.model}; here it reads {checkpoint}."]
    if request.query.edits:
        sentences += ["The edits do not affect this: it reads the unedited model."]
    return " ".join(sentences)


def card_value(found: FeatureCard, name: str, feature: int) -> dict[str, Any]:
    """The value of the card (see feature_card.js)."""
    edges, counts = found.histogram
    facts: list[tuple[str, float | None, str]] = [
        ("active at", found.density, "percent"),
        ("tokens", found.count, "count"),
        ("largest activation", found.peak, "number"),
        ("mean where active", found.mean, "number"),
        ("loss without it", found.loss_change, "nats"),
        ("and at tokens after it", found.loss_change_next, "nats"),
    ]
    return {
        "feature": feature,
        "dictionary": name,
        "facts": facts,
        "raised": list(found.raised[:BARS]),
        "lowered": list(found.lowered[:BARS]),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "high": found.peak,
        "groups": [
            {"title": "Where it is most active", "examples": list(map(example_value, found.top))},
            {"title": "Evenly over its activations", "examples": list(map(example_value, found.quantiles))},
        ],
        "neighbours": [(one.dictionary, one.feature, one.cosine) for one in found.neighbours],
    }


def example_value(example: Example) -> dict[str, Any]:
    """An example as a value of the card."""
    return {
        "text": example.text,
        "position": example.position,
        "at": example.position - example.start,
        "value": example.value,
        "tokens": list(example.tokens),
        "values": list(example.values),
    }
