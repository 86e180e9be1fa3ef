"""The notebooks run from top to bottom, the claims in their text hold, and their committed outputs are portable."""

import importlib.util
import os
import re
import shutil
from hashlib import sha1
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from hooks import OlmoForCausalLM
from tests import preloaded

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "workbench" / "tiny_olmo" / "checkpoints"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BYTES = 500_000
PLOTLY, HTML, PNG = "application/vnd.plotly.v1+json", "text/html", "image/png"

CLAIMS = {
    "01_first_look": """
assert repetition < first_time / 4
torch.testing.assert_close(total, resid[-1], rtol=1e-5, atol=1e-3)
assert (lens["probability"].text[0] == token_labels(tokens[0], tokenizer)).mean() > 0.8
assert (rank[-1] == 1).all() and (rank[0] == 1).mean() < 0.1
""",
    "02_attention_heads": """
def best(scores, count):
    return {(row.layer, row.head) for row in scores.rank().head(count).itertuples()}


assert best(atlas["previous"], 2) == {(1, 4), (1, 5)} and best(atlas["induction"], 2) == {(2, 5), (3, 1)}
assert atlas.rank("previous")["previous"][2] < 0.5 and atlas.rank("induction")["induction"][2] < 0.05
assert best(ablated, 3) == {(1, 5), (2, 5), (0, 4)} and ablated.rank()["value"][2] > 7
assert 0.4 < ablated.values[3, 1] < 0.7 and abs(atlas["self"].values[0, 4] - 1) < 0.01
assert copy_losses(*induction_off)[1] - second > 7 and page_loss(*induction_off) - page_loss() < 0.25
score = dict(zip(off, scores, strict=True))
assert max(score["L1H5"]) < 0.05 and min(score["L1H0 to L1H3"]) > 0.65 and max(score["L0H4"]) < 0.3
""",
    "03_where_does_a_logit_come_from": """
assert tokenizer.decode(top.indices[0]) == " ring"
assert abs(parts.values.sum() - parts.total) < 1e-4
assert list(parts.top(3).names) == ["L3 MLP", "L3H1", "L2H5"]
assert list(last["likeliest"] == "▁ring") == [False, False, False, False, True]
assert (sources.values.argmax(1) == position).all()
columns = abs(patched.values).max(0)
assert columns[position] > 0.95 and columns[-1] > 0.4 and sorted(columns)[-3] < 0.05
assert abs(by_head.values[1, 5]) < 0.02 and by_head.values[2, 5] > 0.4 and by_head.values[3, 1] > 0.4
""",
    "04_comparing_checkpoints": """
flips = [floor.values[list(floor.names).index("flip")] for floor in floors]
means = dict(zip(pair.names, pair.values, strict=True))
assert -0.18 < means["loss_difference"] < -0.16 and 0.28 < means["flip"] < 0.3
assert 0.15 < min(flips) < max(flips) < 0.2
assert 0.5 < better < 0.56 and np.sort(difference.values[0, 1:])[:10].sum() < 0.6 * np.nansum(difference.values)
assert 1.4 < low < high < 2.2
assert heads["moved"][0] > 2 * heads["noise floor"][0] and (heads["layer"][0], heads["head"][0]) == (1, 0)
top = effect.rank()
assert set(zip(top["layer"][:3], top["head"][:3])) == {(2, 5), (1, 5), (0, 4)}
assert top["value"][3] < top["value"][2] / 3 and abs(floor.values).max() < 0.05
""",
    "05_how_a_model_learns": """
losses = dict(zip(steps, copy.values.T, strict=True))
assert abs(losses[600] - losses[600].mean()).max() < 0.15 and losses[2000][1] < 1.5 and losses[0].min() > 8
assert score["L1H5"][550] > 0.9 and score["L2H5"][550] < 0.1 and score["L2H5"][700] > 0.8
assert score["L2H5"][600] > 0.25 and score["L3H1"][600] < 0.1
assert [needed_from(curves, 0.1) for curves in needs.values()] == [700, 700, 700, 1000]
ranks = rank.values[1:]
assert (ranks[:, 1:3].min(1) < ranks[:, [0, -1]].min(1) / 2).all()
""",
    "06_real_olmo": "assert not online",
    "07_from_a_label_to_its_effect": """
held_out, shuffled, _ = probe.values
assert (read.values[0] == 0.5).all() and 0.93 < held_out[1] < 0.96 and held_out[2:].min() > 0.98
assert abs(shuffled - 0.5).max() < 0.06 and abs(read.values[1:, 0] - 0.5).max() < 0.1
by_step = dict(zip(steps, read.values[3], strict=True))
assert 0.6 < by_step[50] < 0.72 and by_step[400] > 0.8 and by_step[4000] > 0.99
odds = dict(zip(range(-4, 5), curves["log_odds"].values.T, strict=True))
assert abs(odds[0][0] + 2) < 0.1 and abs(odds[1][0]) < 0.5 and odds[2][0] > 2
assert all(odds[n][0] > odds[n][3] + 1 and odds[-n][0] < odds[-n][2] - 1 for n in range(1, 5))
assert max(abs(values[2:] - odds[0][0]).max() for values in odds.values()) > 1
cost = dict(zip(range(-4, 5), curves["loss"].values.T, strict=True))
assert 0.1 < cost[1][0] - cost[0][0] < 0.15 and 0.9 < cost[4][0] - cost[0][0] < 1.1 and cost[4][0] > cost[4][3]
assert all(text.startswith("▁was") for text in written.text[:, 0])
mean, of_probe, of_tokens = table["effect"]
assert of_tokens > 1.5 * mean and 1.3 * of_probe < mean and of_probe > abs(at_random).max()
assert 0.7 < cosines[1] < 0.85 and cosines[2] < 0.35
won = dict(zip(steps, summary["beyond"], strict=True))
assert [won[step] for step in (1000, 2000, 4000, 6000)] == [False, True, True, True]
assert sum(won[step] for step in steps if step < 1000) <= 4
pushed = dict(zip(steps, summary["effect"], strict=True))
assert 3 < pushed[4000] / pushed[2000] < 4 and 0.05 < by_step[4000] - by_step[2000] < 0.08
""",
    "08_from_a_prediction_to_its_rows": """
assert expected["token"][0] == " camera" and 0.9 < expected["probability"][0] < 0.92
most = needed.rank().head(3)
assert {(row.layer, row.part) for row in most[:2].itertuples()} == {(0, "4"), (1, "MLP")} and most["value"][2] < 1
by_step_of_series = formed["probability"]
assert by_step_of_series[1000] < 0.05 and 0.2 < by_step_of_series[2000] < 0.3 and by_step_of_series[4000] > 0.85
assert by_step["rows read before"].iloc[-1] == len(places) < STEPS * 8 / 3
assert by_layer["nothing"] > 0.9 and by_layer["both"] < 0.4
assert np.median(quantiles) > 0.6
others_known = effect.drop(index="Sarah")
assert effect["with all rows"]["Sarah"] > 0.9 and effect["without"]["Sarah"] < 0.3 and others_known.min().min() > 0.8
if text is not None:
    assert follows.suffix == 6 and follows.counts[answer[0]] == follows.total == 103
    assert formed["rows read before"].loc[[1000, 2000, 4000, 6000]].tolist() == [16, 33, 85, 143]
    assert list(counts["count"][[5, 6, 7]]) == [212, 185, 103]
""",
    "09_the_life_of_a_feature": """
by_step = born.by_step().set_index("step")
assert by_step["born"].iloc[1:].idxmax() == 700 and by_step["died"][200] == 78
assert by_step["born"][[0, 700]].tolist() == [329, 283] and by_step["born"].sum() == 1024
assert len(born) == 1024 and by_step["born"][[700, 1000]].sum() == 338
assert born.holding_ends.all() and 4 < np.median(rise) / born.floor < 6 and not found.exclusive.any()
assert set(first) == {961, 469, 949, 944, 252, 983} and (born.born[first] == 700).all()
assert (born.run_norms[first].argmax(1) == born.steps.index(1000)).all()
assert (shares["repeated"] > shares["new"]).loc[first].all()
dates = born.born[more]
assert 13 <= len(more) <= 15 and min(dates) == 700 and (dates <= 1000).sum() >= len(more) - 2
norms = dict(zip(born.steps, born.run_norms[feature], strict=True))
assert norms[600] < 0.1 and 0.3 < norms[700] < 0.35 and len(active) > 5
assert 0.4 < same.mean() < 0.48 and 0.47 < earlier.mean() < 0.55
assert 7 <= len(kept) <= 9 and feature in kept
went_with = life["scaled"]
assert went_with[0] > went_with.max() / 2 and went_with.loc[200:600].max() < went_with.max() / 4
assert went_with[700] > went_with.max() / 2
old, new = tables["repeated"], tables["new"]
assert (old["without the six"] > old["highest"]).loc[700:].all() and old["without the six"].loc[:600].max() < 0.1
assert (old["without the six"] <= old["highest"]).loc[:600].all()
assert 1.8 < old["without the six"][6000] < 2.2 and old["highest"][6000] < 0.5
assert 0.2 < old["without the six"][700] < 0.5 and new["without the six"].max() < 0.2
assert (old["loss"] > new["loss"] - 0.01).loc[:600].all()
assert 0.35 < (old["without the six"] / (new["loss"] - old["loss"]))[6000] < 0.46
tested = found.is_scaled & (found.born >= 700) & (found.born <= 1000)
assert 0.4 < ((scaled.born >= 600) & (scaled.born <= 1000))[tested].mean() < 0.6
""",
    "10_the_copying_circuit": """
assert 10 < found["what"].effect < 10.5 and found["where"].correlation > 0.9
what, where = by_input(found["what"]), by_input(found["where"])
assert (where.abs().loc[["L0H4", "L1H5", "L1H4"], ["q", "k"]] < 0.1).all().all() and where["v"]["L1H5"] > 4
assert what["v"]["L0H4"] > 6 and what.abs().loc[["L1H5", "L1H4"]].max().max() < 0.1
assert where["k"]["L2H5"] > 8 and abs(where["v"]["L2H5"]) < 0.1 and what["v"]["L2H5"] > 6 and what["k"]["L2H5"] < -2
assert what["v"]["L3H1"] > 3 and score("where", "L2H5 → L3H1 q") > 0.8 * where["q"]["L3H1"] > 1
kept = {question: dict(zip(proof.x.astype(int).tolist(), proof.values.T)) for question, proof in proofs.items()}
assert kept["where"][24][0] > 0.94 and kept["what"][38][0] > 0.93 and kept["where"][38][0] < kept["where"][24][0]
for best, without, at_random, magnitude, nodes in (kept["where"][24], kept["what"][38]):
    assert max(abs(without), abs(at_random), abs(magnitude)) < 0.01 and nodes < 0.6
assert needed == 700 and np.isnan(shares.values[:, :4]).all() and shares.values[0, 4:].min() > 0.9
assert abs(shares.values[1:, 4:]).max() < 0.02 and whole[600] < 0.1 < 0.5 < whole[700]
assert by_step["L1H5 → L2H5 k"][700] > 0.6 and by_step["L1H4 → L2H5 k"][1000] < 0.3 < 3 < by_step["L1H4 → L2H5 k"][2000]
""",
}


@pytest.fixture(autouse=True)
def forked_kernels(monkeypatch):
    """Kernels start at once, download nothing, and do not use this machine's own cache."""

    def launch(command, cwd, env, **_):
        return preloaded.Forked(command, cwd, env)

    monkeypatch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", launch)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")


def execute(notebook: nbformat.NotebookNode, **options: Any) -> None:
    """Run all cells, in the repository's root."""
    resources = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources, **options).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_claims_hold(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(CLAIMS[path.stem]))
    execute(notebook)


def test_each_notebook_has_its_claims():
    assert [path.stem for path in NOTEBOOKS] == list(CLAIMS)


@pytest.fixture
def hub():
    """The folder of the hub's files in the kernels' home; emptied afterwards."""
    yield preloaded.home() / "hub"
    shutil.rmtree(preloaded.home() / "hub", ignore_errors=True)


def put_in_cache(hub: Path, repository: str, revision: str, model: OlmoForCausalLM) -> None:
    """A model with the embedded series' tokenizer, as if a revision of a repository had been downloaded."""
    folder, commit = hub / f"models--{repository.replace('/', '--')}", sha1(revision.encode()).hexdigest()
    model.save_pretrained(folder / "snapshots" / commit)
    for file in EMBEDDED.glob("tokenizer*.json"):
        shutil.copy(file, folder / "snapshots" / commit)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(commit)


def test_the_notebook_on_published_models_runs_on_stand_ins(hub, make_model):
    """With random models in the hub's cache, every cell runs, and the check of logits reports that they differ."""
    sizes = {"vocab_size": 8192, "max_position_embeddings": 2048}
    put_in_cache(hub, "allenai/OLMo-1B-hf", "main", make_model("olmo", **sizes))
    for seed, (step, tokens) in enumerate(((10, 21), (100, 210), (200, 420), (700, 1468), (1900, 3985))):
        model = make_model("olmo2", seed=seed, **sizes)
        put_in_cache(hub, "allenai/OLMo-2-0425-1B", f"stage1-step{step}000-tokens{tokens}B", model)
    notebook = nbformat.read(ROOT / "notebooks" / "06_real_olmo.ipynb", as_version=4)
    execute(notebook, allow_errors=True)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    (error,) = [output for output in outputs if output.output_type == "error"]
    assert error.evalue.startswith("mean logits are off by ")
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "skipped" not in said and "5 checkpoints; chosen: ['stage1-step10000-tokens21B'," in said
    assert len([output for output in outputs if PLOTLY in output.get("data", ())]) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_whole_small_and_visible_without_javascript(path):
    written = path.read_text(encoding="utf-8")
    assert len(written) < BYTES and "plotly.js v" not in written and str(Path.home()) not in written
    cells = [cell for cell in nbformat.reads(written, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "not run from top to bottom"
    assert max(len(line) for cell in cells for line in cell.source.splitlines()) <= 100, "pages that do not scroll"
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    for cell in cells:
        shown = [output.get("data", {}) for output in cell.outputs]
        for place, data in enumerate(shown):
            if PLOTLY in data:
                assert PNG in data and HTML not in data
            if data.get(HTML, "").startswith("<iframe"):
                assert PNG in shown[place + 1]


def test_pictures_are_added_beside_what_is_interactive():
    """The script that re-executes the notebooks treats the same outputs as the tests above."""
    source = importlib.util.spec_from_file_location("execute", ROOT / "notebooks" / "execute.py")
    execute = importlib.util.module_from_spec(source)
    source.loader.exec_module(execute)
    assert (execute.PLOTLY, execute.HTML, execute.PNG) == (PLOTLY, HTML, PNG)
    assert execute.notebooks() == NOTEBOOKS


def test_links_between_notebooks_lead_somewhere():
    names = {path.name for path in NOTEBOOKS}
    for path in NOTEBOOKS:
        targets = re.findall(r"\]\(([\w./]+\.ipynb)\)", " ".join(c.source for c in nbformat.read(path, 4).cells))
        assert set(targets) <= names, os.fspath(path)
