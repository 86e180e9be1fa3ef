"""Features of two checkpoints beside each other: what was planted in one is found there, and nothing else is."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from copied import run_copied
from small_series import PROMPT, small_bench
from torch.nn import functional as F

from tests.test_dictionaries import FEATURES, random_dictionary
from workbench import WorkbenchError, features
from workbench.features import Dictionary, FeatureScan, Gate
from workbench.features.compare_firing import LEAST
from workbench.features.compare_sources import SourceSums
from workbench.page.session import compared_features as compared
from workbench.page.session.arguments import TextsOf
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import cached_value, report_of_call
from workbench.page.session.code import code
from workbench.page.session.dictionaries import usable
from workbench.page.session.requests import Query, Selection, TabRequest
from workbench.page.tabs import compare as tab
from workbench.page.tabs import features as features_tab
from workbench.report import as_csv
from workbench.texts import Texts

TEXTS = [f"w{n} w{n + 1} w{n % 3}" + " w7" * (n % 4) for n in range(1, 13)]
SITE = "blocks.1.resid_post"
A, B = "a@step1", "b@step1"


def scan_with(counts, tokens=100):
    """A scan in which feature f is active, with activation f + 1, at the first counts[f] tokens of one text."""
    counts = torch.tensor(counts)
    return FeatureScan(
        texts=Texts(torch.zeros(1, tokens, dtype=torch.long)),
        starts=F.pad(counts.cumsum(0), (1, 0)),
        text=torch.zeros(int(counts.sum()), dtype=torch.int32),
        position=torch.cat([torch.arange(count, dtype=torch.int32) for count in counts]),
        value=torch.arange(1.0, len(counts) + 1).repeat_interleave(counts),
    )


def test_what_fires_in_one_is_found_beyond_the_floor_and_nothing_else():
    #          only in A, only in B, noisy, in both, too rare
    a, b = scan_with([50, 2, 30, 40, LEAST - 1]), scan_with([5, 60, 3, 30, 0])
    finals = [scan_with([50, 2, 0, 40, 0]), scan_with([49, 3, 40, 40, 0]), scan_with([48, 2, 20, 45, 0])]
    found = features.compare_firing(a, b, finals).set_index("feature")
    assert found["only"].to_dict() == {0: "A", 1: "B", 2: "", 3: "", 4: ""}
    np.testing.assert_allclose(found["density_change"].sort_index(), [-0.45, 0.58, -0.27, -0.1, -0.09])
    np.testing.assert_allclose(found["density_floor"].sort_index(), [0.02, 0.01, 0.4, 0.05, 0])
    np.testing.assert_allclose(found["mean_floor"].sort_index(), [0.02, 0.02, 1.2, 0.2, 0])
    np.testing.assert_allclose(found["beyond"], sorted(found["beyond"], reverse=True))
    assert list(found.index[:2]) == [1, 0]
    swapped = features.compare_firing(b, a, finals).set_index("feature")
    assert swapped["only"].to_dict() == {0: "B", 1: "A", 2: "", 3: "", 4: ""}
    alone = features.compare_firing(a, b).set_index("feature")
    assert alone["density_floor"].isna().all() and alone["beyond"].isna().all() and alone["only"][2] == "A"


def test_a_model_compared_with_itself_has_no_difference():
    a = scan_with([50, 2, 30])
    found = features.compare_firing(a, a, [a, a])
    assert not found[["density_change", "mean_change", "density_floor", "beyond"]].any(axis=None)
    assert set(found["only"]) == {""}


def test_a_dictionary_that_does_not_describe_a_model_names_no_feature():
    found = features.compare_firing(scan_with([90, 90, 50]), scan_with([0, 20, 20]))
    assert found.attrs == {"active_a": 2.3, "active_b": 0.4} and set(found["only"]) == {""}


def test_scans_of_other_texts_or_dictionaries_are_refused():
    a = scan_with([50, 2])
    with pytest.raises(WorkbenchError, match="2 features, and another one of 3"):
        features.compare_firing(a, scan_with([1, 2, 3]))
    with pytest.raises(WorkbenchError, match="different texts"):
        features.compare_firing(a, a, [scan_with([1, 2], tokens=99)])


def planted(lacking, rows=4000, noise=0.02):
    """A crosscoder of two sources with orthogonal features, and activations of both; the features `lacking` are not in
    the activations of the second one. Row source d_model."""
    directions = torch.eye(8)[None].repeat(2, 1, 1)  # source feature d_model
    generator = torch.Generator().manual_seed(0)
    amounts = torch.rand(rows, 8, generator=generator) * (torch.rand(rows, 8, generator=generator) < 0.2) * 4
    there = torch.ones(2, 8)
    there[1, lacking] = 0
    x = torch.einsum("rf,sf,sfd->rsd", amounts, there, directions)
    x += noise * torch.randn(x.shape, generator=generator)
    encoder = torch.cat([torch.eye(8) / (1 + there[1]), torch.eye(8) * there[1] / (1 + there[1])])
    decoder = (directions * there[:, :, None]).permute(1, 0, 2).flatten(1)
    gate = Gate("jumprelu", threshold=torch.full((8,), 0.1))
    crosscoder = Dictionary(encoder, torch.zeros(8), decoder, torch.zeros(16), gate, SITE, SITE, sources=(A, B))
    return crosscoder, x


def sums_of(crosscoder, x, a=0, b=1):
    sums = SourceSums(crosscoder, a, b)
    for rows in x.split(999):
        sums.add(rows)
    return sums.table([0, 1] if a == b else []).set_index("feature").sort_index()


def test_a_feature_planted_in_one_source_is_found_as_exclusive_and_nothing_else_is():
    crosscoder, x = planted(lacking=[3])
    found = sums_of(crosscoder, x)
    assert found["only"].to_dict() == {n: "A" if n == 3 else "" for n in range(8)}
    assert sums_of(crosscoder, x, 1, 0)["only"].to_dict() == {n: "B" if n == 3 else "" for n in range(8)}
    shared = found.drop(3)
    np.testing.assert_allclose(shared["refit_a"], shared["size_a"], rtol=0.02)
    np.testing.assert_allclose(shared["refit_b"], shared["size_b"], rtol=0.02)
    assert found["size_b"][3] == 0 and abs(found["refit_b"][3]) < 0.02 * found["refit_a"][3]


def test_a_feature_that_the_crosscoder_only_calls_exclusive_is_told_by_its_refit():
    """The weights say that feature 5 is not in B, and the activations have it."""
    crosscoder, x = planted(lacking=[])
    decoder = crosscoder.decoder.clone()
    decoder[5, 8:] = 0
    found = sums_of(replace(crosscoder, decoder=decoder), x)
    assert found["size_b"][5] == 0 and found["only"][5] == ""
    assert found["refit_b"][5] == pytest.approx(found["refit_a"][5], rel=0.05)


def test_sizes_are_the_formula_and_equal_columns_are_equal():
    crosscoder, x = planted(lacking=[3])
    amounts = crosscoder.encode(x).dense()
    spread = (x - x.mean(0)).square().sum(-1).mean(0).sqrt()
    found = sums_of(crosscoder, x)
    np.testing.assert_allclose(found["density"], (amounts > 0).float().mean(0), rtol=1e-6)
    for number, name in enumerate("ab"):
        size = amounts.mean(0) * crosscoder.directions[:, number].norm(dim=-1) / spread[number]
        np.testing.assert_allclose(found[f"size_{name}"], size, rtol=1e-4)
    same = sums_of(crosscoder, x, 0, 0)
    assert (same["size_a"] == same["size_b"]).all() and (same["refit_a"] == same["refit_b"]).all()
    assert same["size_floor"][3] == same["size_a"][3] > 0


def test_sources_are_compared_on_their_models(make_model):
    models = {A: make_model("olmo2", seed=1), B: make_model("olmo2", seed=2)}
    crosscoder = random_dictionary(sources=(A, B))
    ids = torch.tensor([[5, 17, 3, 42], [8, 5, 9, 17]])
    found = features.compare_sources(models, ids, crosscoder, A, B).set_index("feature").sort_index()
    x = torch.stack([model.run(ids, capture=crosscoder.reads)[crosscoder.reads] for model in models.values()], 2)
    wanted = sums_of(crosscoder, x.flatten(0, 1))
    np.testing.assert_allclose(found.drop(columns="only"), wanted.drop(columns="only"), atol=1e-5, rtol=1e-4)
    with pytest.raises(WorkbenchError, match="no source 'c'"):
        features.compare_sources(models, ids, crosscoder, A, "c")
    with pytest.raises(WorkbenchError, match="compare_firing"):
        features.compare_sources(models[A], ids, random_dictionary(), A, B)


@pytest.fixture(scope="module")
def page(tmp_path_factory, make_model, tokenizer):
    """A bench over four checkpoints, two of them finals of one run, with a crosscoder of three and an SAE."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        place, folder = tmp_path_factory.mktemp("series"), tmp_path_factory.mktemp("dictionaries")
        bench = small_bench(place, make_model, tokenizer, orders=["step10-order2"])
        ids = list(bench.known)
        features.save(random_dictionary(model=ids[-1]), folder / "sae")
        sources, sizes = tuple(ids[1:]), {"sizes": [2.0, 1.0]}
        features.save(random_dictionary(sources=sources, provenance=sizes), folder / "crosscoder")
        features.save(random_dictionary(reads="blocks.7.resid_post", writes="blocks.7.resid_post"), folder / "other")
        names = {name: str(folder / name) for name in ("sae", "crosscoder", "other")}
        yield Bench(list(bench.known.values()), 10**9, dictionaries=list(names.values())), ids, names


@pytest.mark.parametrize("on", list(tab.FEATURES_ON))
@pytest.mark.parametrize("name", ["sae", "crosscoder"])
def test_the_table_is_that_of_the_library_and_its_python_gives_the_same(page, name, on):
    bench, ids, names = page
    chosen = bench.sets.add("", "\n".join(TEXTS)).name
    request = TabRequest(Query(ids[-1], PROMPT, 1), Selection(texts=chosen))
    value, about, price = tab.features_view(bench, request, ids[1], names[name], on)
    assert not price["visible"] and len(value["rows"]) == FEATURES == len({row[0] for row in value["rows"]})
    assert name in value["summary"] and "2 final checkpoints" in value["summary"]
    assert [row[0] for row in value["rows"]] == [row[1] for row in value["rows"]]
    json.dumps(value, allow_nan=False)
    call = bench.offered[about["key"]]
    whole = cached_value(call, bench)
    assert [row[1] for row in value["rows"]] == whole["feature"].tolist()
    assert as_csv(report_of_call(call, bench)).count("\n") > FEATURES
    source = code(call, bench).replace(bench.sets.get(chosen).code("tokenizer"), f"Texts.of(tokenizer, {TEXTS!r})")
    assert run_copied(source)["result"].equals(whole)


def test_the_instrument_is_a_crosscoder_of_both_and_else_a_dictionary_that_fits(page):
    bench, ids, names = page
    assert compared.dictionary_for_pair(bench, ids[1], ids[2]) == names["crosscoder"]
    assert compared.dictionary_for_pair(bench, ids[0], ids[2]) == names["sae"]
    texts = TextsOf(ids[0], "")
    with pytest.raises(WorkbenchError, match=r"not trained on .*step0"):
        compared.pair_of_features(bench, ids[0], ids[2], names["crosscoder"], texts)
    with pytest.raises(WorkbenchError, match="layer 7"):
        compared.pair_of_features(bench, ids[0], ids[2], names["other"], texts)
    with pytest.raises(WorkbenchError, match="no dictionary"):
        compared.pair_of_features(bench, ids[0], ids[2], "/etc", texts)
    alone = Bench(list(bench.known.values()), 10**9)
    request = TabRequest(Query(ids[-1], PROMPT, 1), Selection())
    value, about, _ = tab.features_view(alone, request, ids[0], "", next(iter(tab.FEATURES_ON)))
    assert value == {} and "workbench features train" in about["note"]


def test_the_price_is_known_before_and_said_once(page, monkeypatch):
    bench, ids, names = page
    chosen = bench.sets.add("", "\n".join(TEXTS[:7])).name
    request = TabRequest(Query(ids[-1], PROMPT, 1), Selection(texts=chosen))
    monkeypatch.setattr(bench, "asks_above", 0)
    for name in ("sae", "crosscoder"):
        value, _, price = tab.features_view(bench, request, ids[1], names[name], next(iter(tab.FEATURES_ON)))
        assert value == {} and price["visible"]
        agreed = replace(request, agreed=True)
        value, _, price = tab.features_view(bench, agreed, ids[1], names[name], next(iter(tab.FEATURES_ON)))
        assert value["rows"] and not price["visible"]
        again, _, price = tab.features_view(bench, request, ids[1], names[name], next(iter(tab.FEATURES_ON)))
        assert again == value and not price["visible"]


def test_a_crosscoder_is_shown_like_other_dictionaries_with_its_births(page):
    """Its table and card are those of the library on all of its sources, and the copied Python gives the same."""
    bench, ids, names = page
    chosen = bench.sets.add("", "\n".join(TEXTS)).name
    request = TabRequest(Query(ids[-1], PROMPT, 1), Selection(texts=chosen))
    assert names["crosscoder"] in usable(bench, ids[1]) and names["crosscoder"] not in usable(bench, ids[0])
    value, _ = features_tab.features_value(bench, request, names["crosscoder"])
    titles = [title for title, _ in value["columns"]]
    assert {"born at", "born, scaled", "norm along the run", "active along the run", "activations"} <= {*titles}
    crosscoder = features.load(names["crosscoder"])
    models = {name: bench.load(name)[0] for name in crosscoder.sources}
    texts = bench.texts(ids[-1], chosen)
    born = features.births_on_texts(crosscoder, models, texts)
    rows = {row[0]: dict(zip(titles, row[1:], strict=True)) for row in value["rows"]}
    for feature in (0, 17):
        assert rows[feature]["norm along the run"] == pytest.approx(born.run_norms[feature].tolist(), abs=1e-6)
        assert rows[feature]["active along the run"] == pytest.approx(born.run_density[feature].tolist(), abs=1e-6)
    card, _ = features_tab.card_view(bench, request, names["crosscoder"], 17.0)
    assert card["life"]["norms"] == born.run_norms[17].tolist()
    assert card["life"]["fires"] == pytest.approx(born.run_density[17].tolist())
    assert ("scaled" in card["life"]) == bool(born.is_scaled[17])
    wanted = features.card(models, crosscoder, 17, texts, source=ids[-1], tokenizer=bench.tokenizer(ids[-1]))
    assert dict(map(tuple, card["raised"])) == dict(wanted.raised[: features_tab.BARS])
    json.dumps([value, card], allow_nan=False)
    for offered in (value["offer"], card["offer"]):
        call = bench.offered[offered["key"]]
        source = code(call, bench).replace(bench.sets.get(chosen).code("tokenizer"), f"Texts.of(tokenizer, {TEXTS!r})")
        assert run_copied(source)["result"].equals(cached_value(call, bench))
