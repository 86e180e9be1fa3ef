"""The tab Features: its table and its cards show what a scan by hand finds; what does not fit is refused in words."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from copied import run_copied
from small_series import PROMPT, small_bench

from hooks import edits
from tests.test_dictionaries import FEATURES, SITE, random_dictionary
from workbench import features, interventions, metrics
from workbench.activations.recording import weights_digest
from workbench.analyses.logit_lens import logit_lens
from workbench.analyses.support.cost import pass_flops
from workbench.errors import WorkbenchError
from workbench.features.explain_token import explain_token
from workbench.features.feature_table import examples, feature_table, read_by_logits
from workbench.features.reading import read_by
from workbench.page.session.arguments import InterventionsOf, TokenizerOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import cached_value, report_of_call, result
from workbench.page.session.calls import Call, prompt_arguments
from workbench.page.session.code import code
from workbench.page.session.dictionaries import chosen_dictionary, fitting
from workbench.page.session.edit_lines import checked_edits, edit_code, tapped
from workbench.page.session.prices import Expensive, Planner, price_of
from workbench.page.session.requests import Query, Selection, TabRequest
from workbench.page.tabs import features as tab
from workbench.report import as_csv
from workbench.tokens import visible

HOSTILE = (
    "<img src=x onerror=\"document.title='broken'\">",
    "</script><b>$x$",
    "\u202eabc\u202c",
    "\x00\x1b[31m",
    "\u05d0\u05d1",
    "x" * 5000,
    "\ud800",
)
TEXTS = [f"w{n} w{n + 1} w{n % 3}" + " w7" * (n % 4) for n in range(1, 13)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with dictionaries: two that fit, one of another shape, a crosscoder."""
    place = tmp_path_factory.mktemp("dictionaries")
    features.save(random_dictionary(), place / "sae")
    features.save(random_dictionary(reads="blocks.2.mlp_in", writes="blocks.2.mlp_out", seed=1), place / "transcoder")
    features.save(random_dictionary(reads="blocks.7.resid_post", writes="blocks.7.resid_post"), place / "other")
    features.save(random_dictionary(sources=("a", "b")), place / "crosscoder")
    return place


@pytest.fixture(scope="module")
def bench(folder, tmp_path_factory, make_model, tokenizer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        names = [str(folder / name) for name in ("other", "crosscoder", "transcoder", "sae")]
        yield small_bench(tmp_path_factory.mktemp("series"), make_model, tokenizer, dictionaries=names)


@pytest.fixture(scope="module")
def request_for_set(bench):
    name = bench.sets.add("", "\n".join(TEXTS)).name
    return TabRequest(Query(bench.default, PROMPT, 1), Selection(texts=name))


def by_hand(bench, dictionary):
    """The activations of all features at all tokens of the set: token feature."""
    model, tokenizer = bench.load(bench.default)
    texts = [torch.tensor([tokenizer(text)["input_ids"]]) for text in TEXTS]
    return torch.cat([dictionary.encode(model.run(ids, capture=SITE)[SITE][0]).dense() for ids in texts])


def test_the_table_is_that_of_a_scan_by_hand(bench, request_for_set, folder):
    value, _ = tab.features_value(bench, request_for_set, "")
    dictionary = bench.dictionary(str(folder / "sae"))
    whole = cached_value(tab.table_call(bench, request_for_set, str(folder / "sae")), bench)
    active = by_hand(bench, dictionary)
    assert len(value["rows"]) == FEATURES and value["summary"].startswith(str(folder / "sae"))
    np.testing.assert_allclose(whole["density"], (active > 0).float().mean(0), rtol=1e-5)
    np.testing.assert_allclose(whole["max"], active.amax(0), rtol=1e-4)
    np.testing.assert_allclose(whole["mean"], active.sum(0) / (active > 0).sum(0).clamp_min(1), rtol=1e-4)
    assert sorted(row[1] for row in value["rows"]) == whole["feature"].tolist() == list(range(FEATURES))
    json.dumps(value, allow_nan=False)


@pytest.mark.parametrize("family", ["olmo", "olmo2", "olmo3"])
def test_what_a_direction_adds_to_the_logits_is_the_change_with_the_norm_frozen(make_model, family):
    """The logits are linear in the stream for a frozen scale, so the parts of a stream add up to its logits."""
    model = make_model(family)
    last, ids = f"blocks.{model.config.num_hidden_layers - 1}.resid_post", torch.tensor([[5, 17, 3]])
    run = model.run(ids, capture=[last, "ln_final.scale"])
    stream, scale = run[last][0, -1], run["ln_final.scale"][0, -1]
    direction = torch.randn(stream.shape, generator=torch.Generator().manual_seed(3))
    parts = read_by_logits(model, torch.stack([direction, stream - direction]), scale)
    torch.testing.assert_close(parts.sum(0), run.logits[0, -1].float(), atol=1e-4, rtol=1e-4)


def test_the_tokens_it_raises_are_those_of_the_largest_effects(bench, folder):
    model, _ = bench.load(bench.default)
    dictionary = bench.dictionary(str(folder / "sae"))
    whole = feature_table(model, dictionary, [torch.tensor([5, 17, 3])])
    effects = read_by_logits(model, dictionary.decoder)
    for feature in (0, 41):
        order = effects[feature].argsort(descending=True).tolist()
        assert whole["raises"][feature] == " · ".join(map(str, order[:4]))
        assert whole["lowers"][feature] == " · ".join(map(str, order[::-1][:4]))


def test_the_card_is_that_of_the_library_and_its_python_gives_the_same(bench, request_for_set, folder, monkeypatch):
    name = str(folder / "sae")
    value, _ = tab.card_view(bench, request_for_set, "", 41.0)
    call = tab.card_call(bench, request_for_set, name, 41)
    found = cached_value(call, bench)
    activations = by_hand(bench, bench.dictionary(name))[:, 41]
    assert dict((label, number) for label, number, _ in value["facts"])["tokens"] == int((activations > 0).sum())
    assert sum(value["counts"]) == int((activations > 0).sum())
    shown = value["groups"][0]["examples"][0]
    assert shown["value"] == pytest.approx(float(activations.max()), rel=1e-4) == shown["values"][shown["at"]]
    assert {one[0] for one in value["neighbours"]} == {str(folder / "transcoder")}
    json.dumps(value, allow_nan=False)
    taken = bench.offered[value["offer"]["key"]]
    assert as_csv(report_of_call(taken, bench)).count("\n") > len(examples(found))
    for shown_call, wanted in (
        (taken, examples(found)),
        (listed := tab.table_call(bench, request_for_set, name), cached_value(listed, bench)),
    ):
        source = code(shown_call, bench).replace(*python_of_set(bench, request_for_set))
        assert run_copied(source)["result"].equals(wanted)


def python_of_set(bench, request):
    """The line of code that reads a pasted set from its file, and one that has its texts."""
    source = bench.sets.get(request.selection.texts).code("tokenizer")
    return source, f"Texts.of(tokenizer, {TEXTS!r})"


@pytest.mark.parametrize("family", ["olmo", "olmo2", "olmo3"])
@pytest.mark.parametrize("norming", ["none", "layer_norm"])
@torch.no_grad()
def test_the_effects_of_the_features_bias_and_error_are_the_logit(make_model, family, norming):
    model, ids = make_model(family), torch.tensor([[5, 17, 3, 42, 8, 11]])
    site = f"blocks.{model.config.num_hidden_layers - 1}.resid_post"
    dictionary = random_dictionary(reads=site, writes=site, norming=norming)
    found = explain_token(model, ids, {"sae": dictionary}, position=3, token=7)
    run = model.run(ids, capture=[site, "ln_final.scale"])
    x, scale = run[site][0, 3:4], run["ln_final.scale"][0, 3]
    firing = dictionary.encode(x)
    left_out = dictionary.error(x) + dictionary.decode(replace(firing, values=torch.zeros_like(firing.values)), x)
    rest = read_by_logits(model, left_out, scale)[0]
    logits = run.logits[0, 3]
    total = found["effect"].sum() + float(rest[7] - rest.mean())
    assert total == pytest.approx(float(logits[7] - logits.mean()), abs=2e-3)
    assert sorted(found["feature"]) == sorted(firing.indices[0, firing.values[0] > 0].tolist())
    assert found["effect"].abs().is_monotonic_decreasing and found.attrs["position"] == 3


def test_a_token_is_explained_by_all_dictionaries_that_fit_and_with_the_edits(bench, folder):
    edits = interventions.canonical(f"feature {folder / 'sae'}/17 off")
    for text in ("", edits):
        request = TabRequest(Query(bench.default, PROMPT, 1, text), Selection(token=2))
        update, _ = tab.active_view(bench, request, list(tab.LISTS)[1])
        value, call = update["value"], tab.explaining_call(bench, request, fitting(bench, bench.default))
        whole = run_copied(code(call, bench))["result"]
        assert whole.equals(cached_value(call, bench)) and len(value["rows"]) == len(whole)
        assert set(whole["dictionary"]) == {str(folder / "sae"), str(folder / "transcoder")}
        assert "token 2" in value["summary"] and (text in value["summary"])
        assert {row[1] for row in value["rows"]} == {"sae", "transcoder"}
        name, number = tab.clicked_active(bench, request, {"text": 1})
        assert [name, number] == whole.loc[1, ["dictionary", "feature"]].tolist() and type(number) is int
        with pytest.raises(WorkbenchError, match="no row"):
            tab.clicked_active(bench, request, {"text": len(whole)})
        json.dumps(value, allow_nan=False)
    assert tab.active_view(bench, request, tab.ALL_FEATURES)[0]["visible"] == "hidden"


def test_names_of_dictionaries_are_short_where_that_tells_them_apart():
    names = ("a@1/x", "a@2/x", "a@1/y")
    assert tab.last_parts(names) == {"a@1/x": "a@1/x", "a@2/x": "a@2/x", "a@1/y": "y"}


def test_what_cannot_be_explained_is_said(bench, folder):
    model = bench.load(bench.default)[0]
    with pytest.raises(WorkbenchError, match="at least one"):
        explain_token(model, torch.tensor([[5]]), {})
    with pytest.raises(WorkbenchError, match="crosscoder"):
        explain_token(model, torch.tensor([[5]]), {"c": features.load(folder / "crosscoder")})


def test_hostile_tokens_stay_text(bench, request_for_set, monkeypatch):
    """The value of the card is text that has an encoding, with no character that turns or hides what stands beside it;
    the browser's test shows that markup in it is not read."""

    class Spelling:
        """A tokenizer whose token i is the hostile text i."""

        def convert_ids_to_tokens(self, ids):
            return [HOSTILE[i % len(HOSTILE)] for i in ids]

        def decode(self, ids):
            return "".join(self.convert_ids_to_tokens(ids))

    model, dictionary = bench.load(bench.default)[0], bench.dictionary(bench.dictionaries[-1])
    ids = torch.arange(14)[None] % len(HOSTILE)
    number = strongest(model, dictionary, ids)
    value = tab.card_value(features.card(model, dictionary, number, ids, tokenizer=Spelling()), "d", number)
    labels = {label for group in value["groups"] for one in group["examples"] for label in one["tokens"]}
    labels |= {label for label, _ in (*value["raised"], *value["lowered"])}
    assert {visible(HOSTILE[n]) for n in (0, 1, 4, 5)} <= labels
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # half a surrogate pair has no encoding
    assert not any(hidden in label for label in labels for hidden in "\x00\x1b\u202e\u202c")
    whole = feature_table(model, dictionary, ids, tokenizer=Spelling())
    whole.to_json().encode()
    with pytest.raises(WorkbenchError, match="is not a name"):
        features.name_feature(dictionary, number, HOSTILE[-1])

    name = bench.sets.add("", f"{HOSTILE[0]}\nw1 w2").name
    request = TabRequest(request_for_set.query, Selection(texts=name))
    assert tab.clicked_example(bench, request, {"text": 0}) == HOSTILE[0]
    for wrong in (2, -1, None, "0"):
        with pytest.raises(WorkbenchError, match="has 2"):
            tab.clicked_example(bench, request, {"text": wrong})


def test_a_dictionary_that_does_not_fit_is_refused_with_those_that_do(bench, folder):
    assert fitting(bench, bench.default) == (str(folder / "sae"), str(folder / "transcoder"))
    for name, said in (("other", "layer 7"), ("crosscoder", "not trained on"), ("none", "no dictionary")):
        with pytest.raises(WorkbenchError, match=said):
            chosen_dictionary(bench, bench.default, str(folder / name))
    with pytest.raises(WorkbenchError, match="no dictionary 7"):
        chosen_dictionary(bench, bench.default, 7)


def test_without_a_dictionary_it_says_how_to_make_one(bench, request_for_set):
    alone = Bench(list(bench.known.values()), 10**9)
    assert "workbench features train" in tab.features_value(alone, request_for_set, "")[0]["summary"]
    for number in (None, 1):  # said once, above the table
        assert tab.card_view(alone, request_for_set, "", number)[0] == {}


@pytest.mark.parametrize("number", [FEATURES, -1, 1.5, float("nan"), float("inf"), "3", True])
def test_a_wrong_number_is_refused(bench, request_for_set, number):
    with pytest.raises(WorkbenchError, match=f"0 to {FEATURES - 1}"):
        tab.card_view(bench, request_for_set, "", number)


def test_without_a_number_the_first_row_of_the_table_is_shown(bench, request_for_set):
    value, _ = tab.features_value(bench, request_for_set, "")
    assert tab.card_view(bench, request_for_set, "", None)[0]["feature"] == value["rows"][0][0]
    other = TabRequest(request_for_set.query, Selection(texts=bench.sets.add("", "w1 w2 w3").name))
    assert "row" in tab.card_view(bench, other, "", None)[0]["empty"]  # until the table was shown


def test_the_small_curves_count_the_activations(bench, request_for_set, folder):
    value, _ = tab.features_value(bench, request_for_set, "")
    place = 1 + [title for title, _ in value["columns"]].index("activations")
    active = by_hand(bench, bench.dictionary(str(folder / "sae")))
    counts = {row[0]: row[place] for row in value["rows"]}
    assert [sum(counts[feature]) for feature in range(FEATURES)] == (active > 0).sum(0).tolist()
    values = active[:, 41][active[:, 41] > 0].numpy()
    wanted = np.histogram(values, bins=tab.BINS, range=(0, values.max()))[0]
    assert counts[41] == wanted.tolist()


def test_before_a_set_is_chosen_it_shows_english(bench):
    request = TabRequest(Query(bench.default, PROMPT, 1), Selection())
    assert tab.set_of(bench, request).name == "tiny-olmo/english"


def test_the_price_is_said_once_and_a_stored_scan_costs_none(bench, request_for_set, folder, monkeypatch):
    name = bench.sets.add("", "\n".join(TEXTS[:5])).name
    request = TabRequest(request_for_set.query, Selection(texts=name))
    call = tab.scan_call(bench, request, str(folder / "sae"))
    assert price_of(bench, call).seconds > 0
    monkeypatch.setattr(bench, "asks_above", 0)
    with pytest.raises(Expensive):
        tab.scan_of(bench, request, str(folder / "sae"), call)
    agreed = TabRequest(request.query, request.selection, agreed=True)
    found = tab.scan_of(bench, agreed, str(folder / "sae"), call)
    bench.results.put(call, None)  # as after a restart: the stored scan is read, and nobody is asked
    again = tab.scan_of(bench, request, str(folder / "sae"), call)
    assert again is not found and torch.equal(again.value, found.value)


def test_edits_are_not_in_the_stored_scan(bench, request_for_set, folder):
    name = str(folder / "sae")
    edited = TabRequest(Query(bench.default, PROMPT, 1, "MLP 0 off"), request_for_set.selection)
    assert tab.table_call(bench, edited, name) == tab.table_call(bench, request_for_set, name)
    assert "unedited" in tab.features_value(bench, edited, "")[0]["summary"]


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("feature {}/17 off", "feature {}/17 off"),
        ("Feature {}/17 at tokens 1, 2 × .5", "feature {}/17 at tokens 1,2 × 0.5"),
        ("+8 feature {}/17", "+8 feature {}/17"),
        ("−2.5 feature {}/17 at token 3", None),
        ("-2.5 feature {}/17 at token 3", "-2.5 feature {}/17 at token 3"),
    ],
)
def test_a_line_is_read_and_written(folder, line, written):
    name = folder / "sae"
    if written is None:
        with pytest.raises(WorkbenchError, match="is not an edit"):
            interventions.read(line.format(name))
        return
    (change,) = interventions.read(line.format(name))
    assert str(change) == written.format(name) and interventions.read(str(change)) == (change,)


def strongest(model, dictionary, ids):
    """The feature that is most active at the last token."""
    return int(dictionary.encode(model.run(ids, capture=SITE)[SITE][0]).indices[-1, 0])


def test_edits_in_words_are_those_of_the_library(bench, folder):
    model, name, ids = bench.load(bench.default)[0], folder / "sae", torch.tensor([[5, 17, 3, 42]])
    dictionary = features.load(name)
    n = strongest(model, dictionary, ids)
    for line, edit in (
        (f"feature {name}/{n} off", features.switch_off(dictionary, n)),
        (f"feature {name}/{n} × 3", features.scale(dictionary, n, 3.0)),
        (f"-8 feature {name}/{n} at token 1", features.steer(dictionary, n, -8.0, [1])),
    ):
        edits = interventions.edits_of(model, interventions.read(line))
        assert torch.equal(model.run(ids, edits=edits).logits, model.run(ids, edits=[edit]).logits), line


def test_a_scaled_feature_is_as_active_as_it_says(bench, folder):
    model, dictionary = bench.load(bench.default)[0], features.load(folder / "sae")
    ids = torch.tensor([[5, 17, 3, 42, 8]])
    x = model.run(ids, capture=SITE)[SITE]
    n = strongest(model, dictionary, ids)
    amounts = dictionary.encode(x).of(n)
    scaled = model.run(ids, capture=SITE, edits=[features.scale(dictionary, n, 3.0)])[SITE]
    torch.testing.assert_close(scaled - x, 2 * amounts[..., None] * dictionary.decoder[n], atol=1e-4, rtol=1e-4)
    same = model.run(ids, capture=SITE, edits=[features.scale(dictionary, n, 1.0)])[SITE]
    assert torch.equal(same, x) and (amounts > 0).any()


def test_a_crosscoders_feature_is_steered_along_its_direction_in_this_checkpoint(bench, make_model, tmp_path):
    models = {name: make_model("olmo2", seed=seed) for seed, name in enumerate(("a", "b"))}
    weights = [weights_digest(model) for model in models.values()]
    both = random_dictionary(sources=tuple(models), provenance={"weights": weights})
    features.save(both, tmp_path / "both")
    (change,) = interventions.read(f"+8 feature {tmp_path / 'both'}/17")
    ids = torch.tensor([[5, 17, 3, 42]])
    for number, model in enumerate(models.values()):
        moved = model.run(ids, capture=SITE, edits=[change.edit(model)])[SITE] - model.run(ids, capture=SITE)[SITE]
        torch.testing.assert_close(moved, 8 * both.directions[17, number].expand_as(moved), atol=1e-4, rtol=1e-4)
    with pytest.raises(WorkbenchError, match="is not one of those that the crosscoder reads: a, b"):
        change.edit(make_model("olmo2", seed=7))
    written = edit_code(change, "model", "tokenizer", load=features.load)
    edit = eval(written, {"interventions": interventions, "model": models["b"]})
    by_hand = features.steer(both, 17, 8.0, source="b")
    assert torch.equal(*(models["b"].run(ids, edits=[one]).logits for one in (edit, by_hand)))


@pytest.mark.parametrize(("words", "share"), [("off", 0.0), ("× 0.5", 0.5)])
def test_a_crosscoders_feature_is_switched_off_as_active_as_in_its_unchanged_sources(
    make_model, tmp_path, words, share
):
    models = {name: make_model("olmo2", seed=seed) for seed, name in enumerate(("a", "b"))}
    weights = [weights_digest(model) for model in models.values()]
    both = random_dictionary(sources=tuple(models), provenance={"weights": weights})
    features.save(both, tmp_path / "both")
    ids = torch.tensor([[5, 17, 3, 42, 8, 9], [5, 17, 3, 42, 1, 2]])
    n = int(both.encode(read_by(both, models, ids)).indices[0, 3, 0])
    (change,) = interventions.read(f"feature {tmp_path / 'both'}/{n} {words}")
    earlier = edits.scale("blocks.0.mlp_out", 0.0)  # of an unchanged source nothing is seen of it
    for name, model in models.items():
        (edit,) = interventions.edits_of(model, [change], load_model=models.__getitem__)
        by_hand = features.switch_off_in(both, n, models, ids, source=name, factor=share)
        for before in ([], [earlier]):
            with model.tapped(edits=[*before, edit]):
                found = model.run(ids).logits
            wanted = model.run(ids, edits=[*before, by_hand]).logits
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
            assert not torch.allclose(found, model.run(ids, edits=before).logits, atol=1e-3)
    with pytest.raises(WorkbenchError, match="is not one of those that the crosscoder reads: a, b"):
        change.check(make_model("olmo2", seed=7))


def test_a_crosscoders_feature_is_switched_off_on_the_page_at_the_price_of_its_sources(bench, tmp_path):
    ids = list(bench.known)
    models = {name: bench.load(name)[0] for name in ids}
    weights = [weights_digest(model) for model in models.values()]
    both, place = random_dictionary(sources=tuple(ids), provenance={"weights": weights}), tmp_path / "both"
    features.save(both, place)
    page = Bench(list(bench.known.values()), 10**9, dictionaries=[str(place)])
    opened = page.read(page.default, PROMPT)
    n = int(both.encode(read_by(both, models, opened.ids)).indices[0, 3, 0])
    line = checked_edits(page, opened, f"feature {place}/{n} off")
    steered = checked_edits(page, opened, f"+1 feature {place}/{n}")
    off, plain = (
        Call.of(logit_lens, *prompt_arguments(TabRequest(Query(page.default, PROMPT, 1, text), Selection())))
        for text in (line, steered)
    )
    assert Planner(page).work_of_sources(plain).flops == 0
    passes = [pass_flops(model, opened.ids.numel()) for model in models.values()]
    assert Planner(page).work_of_sources(off).flops == sum(passes)
    with tapped(page, (opened.model, page.default, line)):
        found = opened.model.run(opened.ids).logits
    by_hand = features.switch_off_in(both, n, models, opened.ids, source=page.default)
    torch.testing.assert_close(found, models[page.default].run(opened.ids, edits=by_hand).logits, atol=1e-5, rtol=1e-5)


def test_an_edit_of_a_feature_changes_the_other_tabs_and_its_python_the_same(bench, folder):
    edits = interventions.canonical(f"+8 feature {folder / 'sae'}/17\nfeature {folder / 'transcoder'}/3 off")
    query = Query(bench.default, PROMPT, 1, edits)
    call = Call.of(logit_lens, *prompt_arguments(TabRequest(query, Selection())), tokenizer=TokenizerOf(bench.default))[
        "entropy"
    ]
    found = result(call, bench)
    assert not np.allclose(found.values, result(call.unedited, bench).values)
    np.testing.assert_array_equal(run_copied(code(call, bench))["result"].values, found.values)
    assert found.provenance["edits"] == "; ".join(edits.split("\n"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("feature {}/sae/80 off", "feature 80"),
        ("feature 17 off", "names no dictionary"),
        ("+2 feature 17", "names no dictionary"),
        ("feature {}/sae/17", "is not an edit"),
        ('feature {}/sae/17 from "w5"', "not patched"),
        ("feature {}/sae/17 × inf", "is not an edit|not finite"),
        ("feature {}/other/1 off", "layer 7"),
        ("feature {}/crosscoder/1 off", "crosscoder"),
        ("feature /etc/1 off", "on this page"),
        ("feature owner/repository/1 off", "on this page"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(bench, folder, line, said):
    """And no folder or repository is read that was not named when the page was started."""
    opened, text = bench.read(bench.default, PROMPT), line.format(folder)
    with pytest.raises(WorkbenchError, match=said):
        checked_edits(bench, opened, text)
    if "names" not in said and "edit" not in said and "patched" not in said:
        with pytest.raises(WorkbenchError, match=said), tapped(bench, (opened.model, bench.default, text)):
            pass


def test_a_metric_along_training_takes_such_edits(bench, folder):
    named = InterventionsOf(bench.default, f"feature {folder / 'sae'}/17 off")
    assert [str(change) for change in named.value(bench)] == [named.text]
    with pytest.raises(WorkbenchError, match="on this page"):
        InterventionsOf(bench.default, "feature elsewhere/17 off").value(bench)


def test_a_kept_curve_is_not_taken_for_another_dictionary_of_the_same_folder(tmp_path, bench):
    """And the metric of an edited model is that of a run with the same edit."""
    model, ids = bench.load(bench.default)[0], torch.tensor([[5, 17, 3, 42, 8, 17, 3]])
    found = []
    for seed in (1, 2):
        features.save(random_dictionary(seed=seed), tmp_path / "sae")
        metric = metrics.intervened(metrics.held_out_loss(ids), interventions.read(f"+9 feature {tmp_path / 'sae'}/17"))
        with model.tapped(edits=features.steer(features.load(tmp_path / "sae"), 17, 9.0)):
            expected = metrics.held_out_loss(ids)
            expected = expected.function(model, **expected.arguments)
        np.testing.assert_array_equal(metric.function(model, **metric.arguments).values, expected.values)
        found.append(metric.arguments["dictionaries"])
    assert found[0] != found[1]


@pytest.fixture
def own_names(tmp_path, monkeypatch):
    """A cache folder without names."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "olmo-workbench" / "feature-names.json"


def test_names_are_kept_by_weights_and_travel_in_exports(bench, request_for_set, folder, own_names):
    name, hostile = str(folder / "sae"), "<b>cities</b> & “towns”"
    data = {"dictionary": name, "feature": 41, "name": f" {hostile} "}
    card, update = tab.name_given(bench, request_for_set, data, tab.ALL_FEATURES)
    assert card["called"] == hostile
    assert {row[0]: row[-1] for row in update["value"]["rows"]} == {n: hostile * (n == 41) for n in range(FEATURES)}
    assert hostile in own_names.read_text(encoding="utf-8")
    moved = features.save(features.load(name), folder / "moved")
    assert (
        features.names_of(features.load(moved)) == {41: hostile} and features.names_of(random_dictionary(seed=9)) == {}
    )
    for offered in (card["offer"], update["value"]["offer"]):
        call = bench.offered[offered["key"]]
        assert hostile.replace('"', '""') in as_csv(report_of_call(call, bench))
        source = code(call, bench).replace(*python_of_set(bench, request_for_set))
        assert run_copied(source)["result"].equals(cached_value(call, bench))
    card, update = tab.name_given(bench, request_for_set, data | {"name": ""}, tab.ALL_FEATURES)
    assert card["called"] == "" and features.names_of(features.load(name)) == {}


def test_a_bad_name_or_a_damaged_file_is_refused_and_nothing_is_lost(bench, request_for_set, folder, own_names):
    dictionary, name = features.load(folder / "sae"), str(folder / "sae")
    features.name_feature(dictionary, 3, "kept")
    before = own_names.read_bytes()
    for wrong in ("x" * 81, "two\nlines", "\x00"):
        with pytest.raises(WorkbenchError, match="is not a name"):
            features.name_feature(dictionary, 4, wrong)
    for data in ({"feature": FEATURES, "name": "a"}, {"feature": 1, "name": None}, {"feature": "1", "name": "a"}):
        with pytest.raises(WorkbenchError, match=r"no (feature|name)"):
            tab.name_given(bench, request_for_set, {"dictionary": name, **data}, tab.ALL_FEATURES)
    assert own_names.read_bytes() == before
    for content in ("{oops", "[1]", '{"key": {"names": {"x": "y"}}}', '{"key": 3}'):
        own_names.write_text(content)
        with pytest.raises(WorkbenchError, match=r"feature-names\.json"):
            features.name_feature(dictionary, 4, "new")
        assert own_names.read_text() == content
