"""Every view of the page is a call: it runs, and its Python gives the same numbers."""

import asyncio

import gradio as gr
import numpy as np
import pandas as pd
import pytest
from small_series import small_bench

from workbench.errors import WorkbenchError
from workbench.results import Measures
from workbench.tabs import TABS, attribution, compare, generate, hidden_states, shell, training
from workbench.tabs.bench import Selection, Subject, amount, label
from workbench.tabs.calls import code, result
from workbench.tabs.edit_lines import parse_edits
from workbench.tabs.panel import as_csv, keep
from workbench.tabs.pictures import Ask, map_call
from workbench.tabs.place import Due, guarded

PROMPT = "w5 w17 w3 w42 w8 w5 w17 w3"


@pytest.fixture(scope="module")
def bench(tmp_path_factory, make_model, tokenizer):
    return small_bench(tmp_path_factory.mktemp("series"), make_model, tokenizer)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("workbench.analyses.trajectory.CACHE", tmp_path)


@pytest.fixture
def due(bench):
    return Due(Subject(bench.default, PROMPT, 1), Selection(token=4, layer=1, head=2))


def calls(bench, due):
    """Each view's call, by a name for it."""
    other = next(iter(bench.known))
    for measure in hidden_states.LENS:
        yield f"lens: {measure}", hidden_states.lens_call(bench, due, measure)
    for state in hidden_states.STATES:
        yield f"states: {state}", hidden_states.states_call(bench, due, state)
    yield "direct", attribution.direct_call(bench, due, "", "")
    yield "direct, against", attribution.direct_call(bench, due, "w9", "w10")
    for site in attribution.SITES:
        second = "w5 w17 w4 w42 w8 w5 w17 w3"
        yield f"patching {site}", attribution.patching_call(bench, due, "w9", "w10", second, site, "logit_difference")
    for difference in compare.DIFFERENCES:
        yield f"compare: {difference}", compare.difference_call(bench, due, other, difference)
    for metric in training.METRICS:
        yield f"training: {metric}", training.training_call(bench, due, metric, "step", "w7 w8")
    yield "a head", map_call(Ask(bench.default, PROMPT, layer=1, head=2))
    yield "a layer by value", map_call(Ask(bench.default, PROMPT, layer=1, combine="mean", weigh="value"))
    yield "a difference", map_call(Ask(bench.default, PROMPT, other=other, layer=1, head=2))


def test_every_views_python_gives_the_same_numbers(bench, due):
    for name, call in calls(bench, due):
        shown, names = result(call, bench), {}
        exec(compile(code(call, bench), name, "exec"), names)
        copied = names["result"]
        assert type(copied) is type(shown) and not isinstance(shown, Measures), name
        assert np.allclose(copied.values, shown.values, atol=1e-6, equal_nan=True), name
        assert copied.table().columns.equals(shown.table().columns), name


def test_every_result_says_where_it_comes_from_and_its_csv_is_exact(bench, due, tmp_path):
    for name, call in calls(bench, due):
        shown = result(call, bench)
        assert bench.default.split("@")[0] in shown.provenance["checkpoints"], name
        assert {"analysis", "torch", "transformers", "python"} <= set(shown.provenance), name
        path = tmp_path / "view.csv"
        path.write_text(as_csv(shown))
        lines = path.read_text().splitlines()
        read = pd.read_csv(path, skiprows=int(lines[0].split("skiprows=")[1].rstrip(")")))
        expected = shown.table().select_dtypes(np.float32)
        assert len(expected.columns) >= 1, name
        for column in expected:
            found = read[column].to_numpy(np.float32)
            assert np.array_equal(found, expected[column], equal_nan=True), (name, column)


def test_what_is_offered_for_download_is_bounded(bench, due):
    for place in range(300):
        keep(bench, map_call(Ask(bench.default, f"w{place % 98 + 1} w{place // 98 + 1}")))
    assert len(bench.offered) == 256


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda b, d: hidden_states.lens_call(b, d, "no"), "no measure 'no'; choose from"),
        (lambda b, d: hidden_states.states_call(b, d, None), "no view None"),
        (lambda b, d: attribution.direct_call(b, d, "w1 w2", ""), "'w1 w2' is 2 tokens"),
        (lambda b, d: attribution.patching_call(b, d, "", "", "", "mlp", "kl"), "no site 'mlp'"),
        (lambda b, d: compare.difference_call(b, d, "/etc", next(iter(compare.DIFFERENCES))), "no checkpoint '/etc'"),
        (lambda b, d: training.training_call(b, d, "no", "step", ""), "no metric 'no'"),
        (lambda b, d: training.checkpoint_at(b, d, {}, float("nan")), "no checkpoint number nan"),
        (lambda b, d: list(generate.generate(b, d, "", 10, float("nan"), 1, 0, 0, True)), "numbers"),
        (lambda b, d: list(generate.generate(b, d, "", 5000, 1, 1, 0, 0, True)), "at most 512"),
        (lambda b, d: list(generate.generate(b, d, "burn it", 5, 1, 1, 0, 0, True)), "no edit"),
        (lambda b, d: list(generate.branch(b, d, {"token": 99, "id": 1}, {"ids": [1, 2]}, 5, 1, 1, 0, 0, True)), "99"),
        (
            lambda b, d: list(generate.branch(b, d, {"token": 1, "id": 1}, {"ids": [1, 1e9]}, 5, 1, 1, 0, 0, True)),
            "ids",
        ),
    ],
)
def test_bad_input_is_said(bench, due, make, said):
    with pytest.raises(WorkbenchError, match=said):
        make(bench, due)


def test_an_error_leaves_the_last_result(bench, due):
    def broken(due, told):
        raise WorkbenchError("mend this")

    (shown,) = list(guarded(broken, 2, False)(type("Event", (), {"_data": None}), due=due))
    assert shown[0] == "mend this"
    assert shown[1]["__type__"] == shown[2]["__type__"] == "update" and "value" not in shown[1]


def test_generated_text_is_the_models_and_edits_change_it(bench, due):
    opened = bench.read(bench.default, PROMPT)
    settings = (12, 0, 1, 0, 0, False)
    *_, (plain, _), (_, none) = generate.generate(bench, due, "", *settings)
    expected = opened.model.generate(opened.ids, max_new_tokens=12, do_sample=False)[0].tolist()
    assert plain["ids"] == expected and none == {"empty": "No edits."}
    *_, (_, edited) = generate.generate(
        bench, due, "zero blocks.*.attn.z heads=0,1\nscale blocks.1.mlp_out 0", *settings
    )
    edits = parse_edits("zero blocks.*.attn.z heads=0,1\nscale blocks.1.mlp_out 0", opened.model, opened.tokenizer)
    assert (
        edited["ids"] == opened.model.generate(opened.ids, max_new_tokens=12, do_sample=False, edits=edits)[0].tolist()
    )


def test_a_direction_that_is_added_raises_its_token(bench):
    opened = bench.read(bench.default, PROMPT)
    edits = parse_edits("add blocks.3.resid_post 50 w9", opened.model, opened.tokenizer)
    token = opened.tokenizer("w9")["input_ids"][0]
    before, after = (opened.model.run(opened.ids, edits=some).logits[0, -1].softmax(-1)[token] for some in ([], edits))
    assert after > before


def test_a_branch_goes_on_from_the_other_token(bench, due):
    written = {"ids": [*bench.read(bench.default, PROMPT).ids[0].tolist(), 7, 8, 9]}
    *_, strip = generate.branch(bench, due, {"token": 9, "id": 11}, written, 5, 0, 1, 0, 0, False)
    assert strip["ids"][:10] == [*written["ids"][:9], 11] and len(strip["ids"]) == 15


def test_only_the_tab_in_sight_is_due(bench):
    async def made():
        with gr.Blocks():
            page = shell.Page(bench)
            for tab in TABS:
                page.place(tab.TITLE)
            return page

    page = asyncio.run(made())
    asked = page._ask(bench.default, PROMPT, Subject(bench.default, ""), Selection(), "Attention")
    dues = asked[-len(TABS) :]
    assert [isinstance(due, Due) for due in dues] == [tab.TITLE == "Attention" for tab in TABS]
    refused = page._ask("nobody", PROMPT, Subject(bench.default, ""), Selection(), "Attention")
    assert "no checkpoint 'nobody'" in refused[0] and not any(isinstance(due, Due) for due in refused)


def test_a_checkpoint_is_called_as_people_say_it(bench):
    assert label(bench.known[bench.default]).endswith(" · step 10")
    assert [amount(n) for n in (12, 4_000, 24_576_000, 4_030_000_000_000)] == ["12", "4 k", "24.6 M", "4.03 T"]


def test_every_tab_says_how_it_is_read():
    assert [tab.TITLE for tab in TABS] == [
        "Generate",
        "Attention",
        "Hidden states",
        "Attribution",
        "Compare",
        "Training",
    ]
    assert all(len(tab.HOW) > 60 and callable(tab.build) for tab in TABS)
