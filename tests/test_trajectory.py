"""A trajectory is the metric at each checkpoint, measured once, with every executor."""

import functools
import sys
from dataclasses import replace
from unittest.mock import ANY

import joblib
import numpy as np
import pytest
import torch

from tests.preloaded import interpreter
from workbench import checkpoints, metrics
from workbench.analyses import trajectory as module
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.residual_norms import residual_norms
from workbench.analyses.support.content_key import content_key
from workbench.analyses.support.named_values import Estimate, named_estimates
from workbench.analyses.token_losses import token_losses
from workbench.analyses.trajectory import Loading, Metric, trajectory
from workbench.errors import WorkbenchError
from workbench.results import Curves, Scores

STEPS = (0, 10, 20)


@pytest.fixture
def series(tmp_path, make_model, tokenizer):
    for seed, step in enumerate(STEPS):
        make_model("olmo2", seed=seed, num_hidden_layers=2).save_pretrained(tmp_path / "run" / f"step{step}")
    make_model("olmo2", seed=9, num_hidden_layers=2).save_pretrained(tmp_path / "run" / "step20-order2")
    tokenizer.save_pretrained(tmp_path / "run")
    return checkpoints.series(str(tmp_path / "run"))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def loaded(monkeypatch):
    """The ids of the checkpoints that were loaded."""
    ids, load = [], checkpoints.load

    def counted(checkpoint, **options):
        ids.append(checkpoint.revision)
        return load(checkpoint, **options)

    monkeypatch.setattr(checkpoints, "load", counted)
    return ids


def first_weight(model) -> float:
    return model.model.embed_tokens.weight[0, 0].item()


def test_each_point_is_the_metric_of_that_checkpoint(series, cache, tokens):
    curves = trajectory(series, metrics.held_out_loss(tokens), cache=cache)
    main = checkpoints.main_run(series)
    expected = [metrics.mean_loss(checkpoints.load(c)[0], tokens) for c in main]
    assert curves.values[0] == pytest.approx(expected, rel=1e-6)
    assert curves.x.tolist() == list(STEPS)
    assert curves.x_labels == tuple(c.revision for c in main)


def test_any_function_of_a_model_is_a_metric(series, tokens):
    assert len(trajectory(series, first_weight, cache=None).lines) == 1
    norms = functools.partial(mean_norm, tokens=tokens[0])
    curves = trajectory(series, norms, cache=None)
    assert curves.values[0, 0] == pytest.approx(mean_norm(checkpoints.load(series[0])[0], tokens[0]), rel=1e-6)


def mean_norm(model, tokens) -> float:
    return float(residual_norms(model, tokens)["norm"].values.mean())


def test_a_checkpoint_is_loaded_once_and_then_read_from_the_cache(series, cache, tokens, loaded):
    first = trajectory(series, metrics.held_out_loss(tokens), cache=cache)
    assert loaded == ["step0", "step10", "step20"]
    again = trajectory(series, metrics.held_out_loss(tokens), cache=cache)
    assert len(loaded) == 3
    assert np.array_equal(first.values, again.values)


@pytest.mark.parametrize("change", ["arguments", "version", "loading", "contents", "function"])
def test_what_a_result_depends_on_is_measured_anew(series, cache, tokens, loaded, make_model, change):
    metric, loading = metrics.held_out_loss(tokens), Loading()
    trajectory(series, metric, cache=cache)
    loaded.clear()
    if change == "arguments":
        metric = metrics.held_out_loss(tokens + (tokens < 50))
    elif change == "version":
        metric = Metric(metric.name, metric.function, metric.arguments, metric.unit, version=2)
    elif change == "loading":
        loading = Loading(dtype="bfloat16")
    elif change == "contents":
        make_model("olmo2", seed=7, num_hidden_layers=2).save_pretrained(checkpoints.locate(series[0]))
    else:
        metric = Metric(metric.name, lambda model, tokens: 0.0, metric.arguments, metric.unit)
    trajectory(series, metric, cache=cache, loading=loading)
    assert loaded == (["step0"] if change == "contents" else ["step0", "step10", "step20"])


def test_a_run_that_was_stopped_goes_on_where_it_was(series, cache, tokens, loaded):
    def stop(fraction: float, text: str) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trajectory(series, metrics.held_out_loss(tokens), cache=cache, progress=stop)
    assert loaded == ["step0", "step10"]
    trajectory(series, metrics.held_out_loss(tokens), cache=cache)
    assert loaded == ["step0", "step10", "step20"]


def test_progress_rises_to_one(series, tokens):
    heard: list[float] = []
    trajectory(series, first_weight, cache=None, progress=lambda fraction, text: heard.append(fraction))
    assert heard == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])


def stop(fraction: float, text: str) -> None:
    """A progress object that cancels after the first checkpoint."""
    if fraction:
        raise KeyboardInterrupt


@pytest.fixture
def forked_workers(monkeypatch):
    """Processes of loky are forked from an interpreter that has the project imported; its own would import it anew."""
    interpreter()
    monkeypatch.setattr("joblib.externals.loky.backend.context._DEFAULT_START_METHOD", "forkserver")


@pytest.mark.parametrize("executor", ["threading", "loky"])
def test_two_workers_give_the_same_as_one_and_can_be_cancelled(series, cache, tokens, executor, forked_workers):
    """One test, because processes of loky end with what is cancelled."""
    metric = metrics.kl_to_last(tokens)
    serial = trajectory(series, metric, cache=None)
    spread = trajectory(series, metric, cache=cache, executor=executor, workers=2)
    assert spread.lines == serial.lines
    assert np.allclose(spread.values, serial.values, rtol=1e-5, atol=1e-6)
    with pytest.raises(KeyboardInterrupt):
        trajectory(series, metrics.held_out_loss(tokens), cache=cache, executor=executor, workers=2, progress=stop)


def test_a_list_is_followed_as_it_is(series):
    branch = [c for c in series if c.revision in ("step0", "step10", "step20-order2")]
    assert trajectory(branch, first_weight, cache=None).x_labels == ("step0", "step10", "step20-order2")


def test_stages_are_put_end_to_end(series, tokens):
    stages = [replace(c, stage=c.step, tokens=c.step, before=(c.step, c.step)) for c in checkpoints.main_run(series)]
    assert trajectory(stages, first_weight, cache=None, axis="tokens").x.tolist() == [0, 20, 40]
    change = trajectory(stages, metrics.weight_change(), cache=None).values[0]
    whole = trajectory(series, metrics.weight_change(), cache=None).values[0]
    assert change[1:] == pytest.approx(whole[1:] / 2)


def test_what_is_no_one_run_is_refused(series):
    with pytest.raises(WorkbenchError, match=r"step20-order2 and .*step20 do not follow one another"):
        trajectory(list(series), first_weight, cache=None)


def test_cancelling_reaches_the_caller(series, cache, tokens):
    with pytest.raises(KeyboardInterrupt):
        trajectory(series, metrics.held_out_loss(tokens), cache=cache, executor="serial", progress=stop)


def test_ray_that_is_not_installed_is_said(series, cache, tokens, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkbenchError, match="needs Ray, which is not installed: pip install ray"):
        trajectory(series, metrics.held_out_loss(tokens), cache=cache, executor="ray")


def test_an_unknown_executor_or_axis_is_refused(series):
    with pytest.raises(WorkbenchError, match="executor='no-such'"):
        trajectory(series, first_weight, cache=None, executor="no-such")
    with pytest.raises(WorkbenchError, match="step, tokens"):
        trajectory(series, first_weight, cache=None, axis="epoch")
    with pytest.raises(WorkbenchError, match=r"tokens of .*step0 is not known"):
        trajectory(series, first_weight, cache=None, axis="tokens")
    with pytest.raises(WorkbenchError, match="without checkpoints"):
        trajectory([], first_weight, cache=None)


def test_a_broken_checkpoint_is_named_and_the_others_stay_in_the_cache(series, cache, tokens, loaded):
    broken = checkpoints.locate(series[1]) / "model.safetensors"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-8])
    with pytest.raises(WorkbenchError, match=r"step10.*truncated"):
        trajectory(series, metrics.held_out_loss(tokens), cache=cache)
    broken.write_bytes(whole)
    trajectory(series, metrics.held_out_loss(tokens), cache=cache)
    assert loaded == ["step0", "step10", "step20"]


def test_results_become_lines_under_their_own_names(model, tokens):
    assert named_estimates(2.5, "x") == {"x": Estimate(2.5, ANY)}
    assert named_estimates(torch.tensor(2.5), "x") == {"x": Estimate(2.5, ANY)}
    assert list(named_estimates(torch.zeros(2), "x")) == ["layer 0", "layer 1"]
    assert list(named_estimates(np.zeros((1, 2)), "x")) == ["L0H0", "L0H1"]
    scores = named_estimates(Scores([1, 2], ["a", "b"], errors=[0.5, 0.25], texts=[3, 4]), "x")
    assert scores == {"a": Estimate(1.0, 0.5, 3), "b": Estimate(2.0, 0.25, 4)}
    assert list(named_estimates(Scores([1], ["all texts"]), "x")) == ["x"]
    assert list(named_estimates(Curves([[1, 2]], ["only"], [0, 1]), "x")) == ["0", "1"]
    assert list(named_estimates(Curves([[1], [2]], ["a", "b"], [7]), "x")) == ["a, 7", "b, 7"]
    atlas = head_atlas(model, tokens, samples=0)
    assert named_estimates(atlas["previous"], "x")["L3H1"].value == pytest.approx(float(atlas["previous"].values[3, 1]))


def test_what_has_no_lines_is_refused(model, tokens):
    with pytest.raises(WorkbenchError, match="shape"):
        named_estimates(torch.zeros(2, 2, 2), "x")
    with pytest.raises(WorkbenchError, match="loss, rank, entropy"):
        named_estimates(token_losses(model, tokens), "x")


def test_names_that_differ_between_checkpoints_are_refused(series, monkeypatch):
    names = iter("aab")
    with pytest.raises(WorkbenchError, match=r"other names at .*step20"):
        trajectory(series, lambda model: {next(names): 1.0}, cache=None)


def test_a_function_without_source_is_not_cached_silently(series, cache):
    function = eval("lambda model: 1.0")
    with pytest.raises(WorkbenchError, match="cache=None"):
        trajectory(series, function, cache=cache)
    assert trajectory(series, function, cache=None).values.tolist() == [[1.0, 1.0, 1.0]]


def test_keys_tell_equal_tensors_from_others():
    key = content_key
    same = [joblib.hash(key({"tokens": torch.arange(4)})) for _ in range(2)]
    assert same[0] == same[1]
    assert joblib.hash(key({"tokens": torch.arange(4) + 1})) != same[0]
    assert joblib.hash(key({"tokens": torch.arange(4).float()})) != same[0]


def test_a_reference_is_made_once_and_not_read_when_nothing_is_missing(series, cache, tokens, loaded, monkeypatch):
    metric = metrics.kl_to_last(tokens)
    first = trajectory(series, metric, cache=cache)
    assert loaded == ["step20", "step0", "step10", "step20"]
    monkeypatch.setattr(module, "_refer", lambda *_: pytest.fail("the reference was made again"))
    monkeypatch.setattr(checkpoints, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert np.array_equal(trajectory(series, metric, cache=cache).values, first.values)


def test_where_nothing_can_be_kept_it_is_measured_with_a_warning(series, tmp_path, tokens, loaded):
    (tmp_path / "file").write_text("")
    found = []
    for executor in ("serial", "threading"):
        with pytest.warns(UserWarning, match=r"file cannot be written: the results are not kept"):
            found.append(trajectory(series, metrics.kl_to_last(tokens), cache=tmp_path / "file", executor=executor))
        assert loaded.count("step20") == 2, "the reference was computed more than once"
        loaded.clear()
        assert "are not kept" in found[-1].provenance["warning"]
    plain = trajectory(series, metrics.kl_to_last(tokens), cache=None)
    assert all(np.array_equal(one.values, plain.values) for one in found) and "warning" not in plain.provenance


def test_references_are_kept_within_bounds(series, cache, monkeypatch, tokens):
    """References are large (a number for each token of the vocabulary), so the least recently used one is dropped."""
    monkeypatch.setattr(module, "MOST_CACHED", 0)
    run, counts = checkpoints.main_run(series), []
    for text in (tokens, tokens.flip(1), tokens):
        assert trajectory(run, metrics.kl_to_last(text), cache=cache).values[0, -1] == 0
        counts.append(len(list(cache.rglob("*.pickle"))))
    assert counts == [counts[0]] * 3
