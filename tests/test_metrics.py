"""Each ready-made metric gives its defined number, along a run of a few random checkpoints."""

import numpy as np
import pytest

from hooks import OlmoForCausalLM
from workbench import checkpoints, metrics
from workbench.analyses.compare_behaviour import divergences
from workbench.analyses.compare_weights import compare_weights
from workbench.analyses.effective_rank import effective_rank
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.support.part_swap import Part
from workbench.analyses.trajectory import trajectory
from workbench.analyses.transplant import transplant
from workbench.errors import WorkbenchError
from workbench.results import Curves
from workbench.texts import Texts, as_texts


@pytest.fixture
def series(tmp_path, make_model, tokenizer):
    for seed, step in enumerate((0, 10, 30)):
        make_model("olmo", seed=seed, num_hidden_layers=2).save_pretrained(tmp_path / f"step{step}")
    tokenizer.save_pretrained(tmp_path)
    return checkpoints.series(str(tmp_path))


def follow(series, metric) -> Curves:
    return trajectory(series, metric, cache=None)


def model_of(checkpoint):
    return checkpoints.load(checkpoint)[0]


def line(curves: Curves, name: str) -> np.ndarray:
    return curves.values[curves.lines.index(name)]


def test_head_scores_are_the_atlas(series, tokens):
    curves = follow(series, metrics.head_scores(tokens, "first"))
    atlas = head_atlas(model_of(series[1]), tokens, samples=0)
    assert line(curves, "L1H2")[1] == pytest.approx(float(atlas["first"].values[1, 2]))
    assert len(curves.lines) == 8
    with pytest.raises(WorkbenchError, match="scores: entropy, previous"):
        follow(series, metrics.head_scores(tokens, "beauty"))


def test_residual_norms_and_ranks_have_a_line_a_layer(series, tokens):
    norms = follow(series, metrics.residual_norms(tokens))
    assert norms.lines == ("embed", "0", "1")
    run = model_of(series[2]).run(tokens, capture="blocks.1.resid_post")
    expected = run["blocks.1.resid_post"].norm(dim=-1)[:, 1:].mean().item()
    assert line(norms, "1")[2] == pytest.approx(expected, rel=1e-5)
    ranks = follow(series, metrics.effective_rank(tokens))
    assert ranks.values[:, 0] == pytest.approx(effective_rank(model_of(series[0]), tokens).values[0], rel=1e-5)


def test_a_continuation_has_the_log_probability_of_its_tokens(series, tokens):
    curves = follow(series, metrics.continuation_log_prob(tokens[0, :5], tokens[0, 5:8]))
    log_p = model_of(series[0]).run(tokens[:1, :8]).logits[0].log_softmax(-1)
    expected = sum(log_p[position - 1, tokens[0, position]].item() for position in (5, 6, 7))
    assert curves.values[0, 0] == pytest.approx(expected, rel=1e-5)


def test_the_last_checkpoint_is_no_distance_from_itself(series, tokens):
    values = follow(series, metrics.kl_to_last(tokens)).values[0]
    logs = [model_of(c).run(tokens).logits.log_softmax(-1) for c in (series[2], series[0])]
    assert values[2] == 0
    assert values[0] == pytest.approx(divergences(*logs)[0].mean().item(), rel=1e-4)


LABELS = ("a", "b", "a", "b")


@pytest.mark.parametrize("of", [metrics.held_out_loss, metrics.kl_to_last, lambda t: metrics.head_needed(t, 1, 2)])
def test_labelled_texts_have_a_line_for_each_label(series, tokens, of):
    rows = [row[:length] for row, length in zip(tokens.repeat(2, 1), (9, 7, 5, 8), strict=False)]
    texts = labelled(rows)
    curves = follow(series, of(texts))
    assert curves.lines == ("all texts", "a", "b") and curves.texts == (4, 2, 2)
    plain = follow(series, of(rows))
    assert len(plain.lines) == 1 and plain.lines != ("all texts",) and plain.texts == 4
    np.testing.assert_array_equal(plain.values[0], curves.values[0])
    for place, label in enumerate("ab", 1):
        alone = follow(series, of(texts.by_label()[label]))
        np.testing.assert_allclose(curves.values[place], alone.values[0], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(curves.errors[place], alone.errors[0], rtol=1e-4, atol=1e-7)


def labelled(rows) -> Texts:
    found = as_texts(rows)
    return Texts(found.ids, found.mask, LABELS)


def test_a_loss_that_is_not_a_number_names_its_text_and_checkpoint(series, tokens, monkeypatch):
    def overflowing(model, *arguments, **options):
        found = run(model, *arguments, **options)
        for activations in found.values():
            activations[0] = np.nan
        return found

    run = OlmoForCausalLM.run
    monkeypatch.setattr(OlmoForCausalLM, "run", overflowing)
    rows = [tokens[0, :9], tokens[0, :4]]
    with pytest.raises(WorkbenchError, match=r"at .*step0: the loss of .*text.* is not a finite number"):
        follow(series, metrics.held_out_loss(rows))


def test_weight_change_is_per_step_and_undefined_at_the_first(series, monkeypatch):
    monkeypatch.setattr(checkpoints, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    curves = follow(series, metrics.weight_change())
    assert np.isnan(curves.values[:, 0]).all()
    change = compare_weights(series[1], series[2])
    squares = (change["distance"].values ** 2).sum(0) / (change["norm_a"].values ** 2).sum(0)
    assert curves.values[1:, 2] == pytest.approx(squares**0.5 / 20, rel=1e-5)


def test_the_need_of_a_head_is_the_transplant_of_its_first_state(series, tokens):
    values = follow(series, metrics.head_needed(tokens, 1, 2)).values[0]
    assert values[0] == pytest.approx(0, abs=1e-6)
    scores = transplant(model_of(series[0]), model_of(series[2]), tokens, Part("head", 1, (2,)))
    assert values[2] == pytest.approx(float(scores.values[2]), abs=1e-5)


@pytest.mark.parametrize(
    ("values", "place"),
    [([0, 0.2, 0.1, 0.5, 0.9], 300), ([1, 1, 1, 1, 1], 0), ([1, 1, 1, 1, 0], None), ([0, 0, 0, 0, 1], 400)],
)
def test_a_head_is_needed_from_where_it_stays_above_the_floor(values, place):
    assert metrics.needed_from(Curves([values], ["need"], [0, 100, 200, 300, 400]), floor=0.2) == place


def test_the_strongest_lines_are_those_with_the_largest_value_anywhere():
    values = [[0, 1, 0], [-9, 0, 0], [2, 2, np.nan]]
    curves = Curves(values, ["a", "b", "c"], [0, 1, 2], errors=np.abs(values), texts=[3, 4, 5])
    found = metrics.strongest_lines(curves, 2)
    assert found.lines == ("b", "c") and found.texts == (4, 5)
    np.testing.assert_array_equal(found.values, values[1:])
    np.testing.assert_array_equal(found.errors, np.abs(values[1:]))
    assert metrics.strongest_lines(curves, 9).lines == ("b", "c", "a")
    with pytest.raises(WorkbenchError, match="count is 0; choose"):
        metrics.strongest_lines(curves, 0)
