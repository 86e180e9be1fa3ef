"""Series: their order, gaps, final checkpoints and the records in their folders."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from workbench import checkpoints
from workbench.checkpoints import Checkpoint, Series, catalog, hub
from workbench.errors import WorkbenchError

NAMES = ["step0", "step100", "step200", "step400-order2", "step400-order3", "step400"]


@pytest.fixture
def folder(tmp_path, make_model, tokenizer):
    model = make_model("olmo", num_hidden_layers=1)
    for name in NAMES:
        model.save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def embedded(folder, monkeypatch):
    monkeypatch.setitem(catalog.EMBEDDED, "tiny-olmo", folder)
    return folder


def run_of(*steps: int, stage: int | None = None) -> list[Checkpoint]:
    return [Checkpoint(f"run@step{step}", step=step, stage=stage, revision=f"step{step}") for step in steps]


def test_a_series_is_sorted_and_ends_with_the_end_of_its_main_run(embedded):
    series = checkpoints.series("tiny-olmo")
    assert [c.revision for c in series] == NAMES
    assert [c.step for c in series] == [0, 100, 200, 400, 400, 400]
    assert series[-1].id == "tiny-olmo@step400"
    assert {c.family for c in series} == {"OLMo"}
    assert series.source == "embedded"


def test_a_local_folder_is_a_series_under_its_own_name(folder):
    series = checkpoints.series(str(folder))
    assert [c.id for c in series] == [f"{folder}@{name}" for name in NAMES]


def test_a_folder_that_is_a_checkpoint_is_a_series_of_one(folder):
    (one,) = checkpoints.series(str(folder / "step100"))
    assert one.step == 100
    assert checkpoints.locate(one) == folder / "step100"


def test_tokens_and_measurements_come_from_the_list_beside_them(folder):
    records = [{"revision": "step100", "step": 100, "tokens": 409_600, "held_out_loss": 4.5}]
    (folder / "series.json").write_text(json.dumps({"checkpoints": records}))
    by_name = {c.revision: c for c in checkpoints.series(str(folder))}
    assert by_name["step100"].tokens == 409_600
    assert by_name["step100"].measured["held_out_loss"] == 4.5
    assert by_name["step200"].tokens is None


def test_a_broken_list_beside_them_is_refused_by_name(folder):
    (folder / "series.json").write_text("[1, 2]")
    with pytest.raises(WorkbenchError, match=r"series\.json"):
        checkpoints.series(str(folder))


def test_sub_folders_without_weights_are_left_out_and_named(folder):
    (folder / "step300").mkdir()
    (folder / "logs").mkdir()
    series = checkpoints.series(str(folder))
    assert "step300" not in [c.revision for c in series]
    assert "step300" in series.note
    assert "logs" not in series.note


def test_a_half_written_config_leaves_out_its_step_alone(folder):
    (folder / "step200" / "config.json").write_text('{"model_type": "ol')
    series = checkpoints.series(str(folder))
    assert [c.revision for c in series] == [name for name in NAMES if name != "step200"]
    assert str(folder / "step200" / "config.json") in series.note


def test_nothing_found_names_the_choices(tmp_path):
    with pytest.raises(WorkbenchError, match=r"tiny-olmo.*allenai/OLMo-1B-hf.*OLMo 2 1B"):
        checkpoints.series("no-such-series")
    with pytest.raises(WorkbenchError, match="no checkpoints in"):
        checkpoints.series(str(tmp_path))


def test_a_missing_embedded_folder_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(catalog.EMBEDDED, "tiny-olmo", tmp_path / "gone")
    with pytest.raises(WorkbenchError, match="does not exist"):
        checkpoints.series("tiny-olmo")


def test_the_main_run_has_no_branches_and_the_finals_have_one_step(embedded):
    series = checkpoints.series("tiny-olmo")
    assert [c.revision for c in checkpoints.main_run(series)] == ["step0", "step100", "step200", "step400"]
    assert [c.revision for c in checkpoints.finals(series)] == ["step400", "step400-order2", "step400-order3"]


def test_an_ingredient_is_followed_only_when_it_is_chosen():
    series = [
        *run_of(1000, 2000, stage=1),
        Checkpoint("run@a", step=10, stage=2, ingredient=1),
        Checkpoint("run@b", step=10, stage=2, ingredient=2),
        Checkpoint("run@main", revision="main"),
    ]
    assert [c.step for c in checkpoints.main_run(series)] == [1000, 2000]
    assert [c.id for c in checkpoints.main_run(series, ingredient=2)][-1] == "run@b"
    assert [c.id for c in checkpoints.finals(series)] == ["run@a", "run@b"]


def test_gaps_are_the_steps_left_out_at_the_usual_spacing():
    run = run_of(0, 1000, 2000, 3000, 6000, 7000, 9000)
    gaps = checkpoints.gaps(run)
    assert [(gap.after.step, gap.before.step, gap.missing) for gap in gaps] == [(3000, 6000, 2), (7000, 9000, 1)]


def test_a_run_spaced_by_logarithm_and_a_whole_one_have_no_gaps():
    assert checkpoints.gaps(run_of(0, 50, 100, 200, 400, 800, 1600)) == []
    assert checkpoints.gaps(run_of(0, 10, 20, 30)) == []
    assert checkpoints.gaps(run_of(7)) == []


def test_gaps_do_not_reach_across_stages():
    run = run_of(0, 1000, 2000, stage=1) + run_of(0, 1000, 2000, stage=2)
    assert checkpoints.gaps(run) == []


def test_gaps_are_told_in_the_note_and_in_the_table():
    series = Series(run_of(0, 1000, 2000, 3000, 6000, 7000, 9000), "run", "folder", ["said before"])
    assert series.note == (
        "said before; missing at the usual spacing: 2 between step3000 and step6000, 1 between step7000 and step9000"
    )
    table = series.table().set_index("step")
    assert table["missing"].to_dict() == {0: 0, 1000: 0, 2000: 0, 3000: 0, 6000: 2, 7000: 0, 9000: 1}


def test_many_gaps_are_not_all_named():
    steps = [step for step in range(0, 100_000, 1000) if step % 5000 != 4000]
    assert Series(run_of(*steps), "run", "folder").note.endswith("between step18000 and step20000, and 15 more gaps")


def test_stages_count_anew_and_are_put_end_to_end():
    stages = [
        Checkpoint("run@a", step=1000, tokens=4, stage=1),
        Checkpoint("run@b", step=9000, tokens=36, stage=1),
        Checkpoint("run@c", step=500, tokens=2, stage=2, ingredient=1),
        Checkpoint("run@d", step=700, tokens=3, stage=2, ingredient=2),
        Checkpoint("run@e", step=100, stage=3),
        Checkpoint("run@f", step=1, stage=4),
        Checkpoint("run@main", revision="main"),
    ]
    series = Series(stages, "run", "hub")
    assert [c.place("step") for c in series] == [1000, 9000, 9500, 9700, 9800, 9801, None]
    assert [c.place("tokens") for c in series] == [4, 36, 38, 39, None, None, None]
    with pytest.raises(WorkbenchError, match="axis='hours'; choices: step, tokens"):
        series[0].place("hours")


def test_the_end_of_training_is_no_branch():
    branches = [
        Checkpoint("run@a", step=10, stage=1),
        Checkpoint("run@b", step=20, stage=1),
        Checkpoint("run@c", step=5, stage=2, ingredient=1),
    ]
    assert catalog.last(branches).id == "run@b"
    assert catalog.last([*branches, Checkpoint("run@main", revision="main")]).id == "run@main"
    assert catalog.last(branches[2:]).id == "run@c"


def test_picks_keep_both_ends_and_thin_out_evenly_in_log_steps():
    run = run_of(*range(0, 100_001, 1000))
    picked = [c.step for c in checkpoints.pick(run, 8)]
    assert len(picked) == 8
    assert (picked[0], picked[-1]) == (0, 100_000)
    assert picked == sorted(set(picked))
    ratios = [after / before for before, after in pairwise(picked[1:])]
    assert max(ratios) < 3
    assert checkpoints.pick(run[:3], 8) == run[:3]


def test_picking_too_few_or_from_entries_without_a_step_is_refused():
    with pytest.raises(WorkbenchError, match="at least 2"):
        checkpoints.pick(run_of(0, 1), 1)
    with pytest.raises(WorkbenchError, match="main_run"):
        checkpoints.pick([*run_of(0, 1, 2), Checkpoint("run@main", revision="main")], 2)


def test_the_published_collection_covers_every_family_and_has_no_name_twice():
    families = {known.family for known in checkpoints.PUBLISHED}
    assert families == {"OLMo", "OLMo 2", "OLMo 3"}
    assert len({known.repository for known in checkpoints.PUBLISHED}) == len(checkpoints.PUBLISHED)
    assert len({known.name for known in checkpoints.PUBLISHED}) == len(checkpoints.PUBLISHED)


def test_a_published_model_is_found_by_its_name(monkeypatch, tmp_path):
    asked: list[str] = []
    monkeypatch.setattr(
        hub, "revisions", lambda repository: asked.append(repository) or hub.Revisions(("step1", "main"))
    )
    monkeypatch.setattr(hub, "fetch", lambda repository, revision: asked.append(f"{repository} {revision}") or tmp_path)
    series = checkpoints.series("OLMo 2 1B")
    assert (series[0].id, series[0].family) == ("allenai/OLMo-2-0425-1B@step1", "OLMo 2")
    assert checkpoints.locate("OLMo 2 1B@step1") == tmp_path
    assert asked == ["allenai/OLMo-2-0425-1B", "allenai/OLMo-2-0425-1B step1"]


def test_the_embedded_series_has_a_place_inside_the_package():
    assert catalog.EMBEDDED["tiny-olmo"] == Path(checkpoints.__file__).parents[1] / "tiny_olmo" / "checkpoints"
