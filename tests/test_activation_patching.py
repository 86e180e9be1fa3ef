"""Activation patching: the resumed, batched cells equal those of one whole forward pass for each cell."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import Edit, OlmoForCausalLM, edits
from tests.fixtures import ONE_FAMILY, Pair
from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.attribution_patching import attribution_patching
from workbench.errors import WorkbenchError
from workbench.results import Measures

LAYERS, HEADS = 4, 4


def readings(logits: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """The raw measures after the last position, computed directly: mean over texts."""
    log_p, log_reference = (x[:, -1].double().log_softmax(-1) for x in (logits, reference))
    return {
        "logit_difference": (logits[:, -1, 5] - logits[:, -1, 7]).double().mean(),
        "probability": log_p[:, 5].exp().mean(),
        "kl": (log_reference.exp() * (log_reference - log_p)).sum(-1).mean(),
    }


def expected(model: OlmoForCausalLM, clean: Tensor, corrupted: Tensor, cells: list[list[Edit]]) -> dict[str, Tensor]:
    """Normalised measures from one whole forward pass with one edit for each cell: layer column."""
    reference = model.run(clean).logits
    one, zero = (readings(model.run(ids).logits, reference) for ids in (clean, corrupted))
    found = [[readings(model.run(corrupted, edits=edit).logits, reference) for edit in row] for row in cells]
    return {
        name: torch.tensor([[(cell[name] - zero[name]) / (one[name] - zero[name]) for cell in row] for row in found])
        for name in one
    }


def assert_same(grids: Measures, wanted: dict[str, Tensor]) -> None:
    assert list(grids) == list(wanted)
    for name, values in wanted.items():
        # Rounding is relative to the raw measure, which may be far smaller than the normalised one.
        np.testing.assert_allclose(
            grids[name].values, values, atol=2e-4 * max(1.0, float(values.abs().max())), err_msg=name
        )


@pytest.mark.parametrize(
    ("case", "site"), [("olmo-gqa-tied", "resid_pre"), ("olmo2-gqa-bias", "attn.k"), ("olmo3-gqa-bias", "attn.pattern")]
)
def test_cells_by_position_are_those_of_whole_forward_passes(
    pair: Pair, tokens: Tensor, other_tokens: Tensor, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.analyses.activation_patching.POSITIONS", 5)
    monkeypatch.setattr("workbench.analyses.support.memory.TOKENS", 100)
    model, clean, corrupted = pair.ours, tokens[:1], other_tokens[:1]
    source = model.run(clean, capture=f"blocks.*.{site}").stack(site)
    axis = 2 if site == "attn.pattern" else 1
    cells = [
        [
            edits.replace(f"blocks.{layer}.{site}", source[layer].narrow(axis, p, 1), positions=[p])
            for p in range(clean.shape[1])
        ]
        for layer in range(LAYERS)
    ]
    assert_same(activation_patching(model, clean, corrupted, 5, 7, site=site), expected(model, clean, corrupted, cells))


@pytest.mark.parametrize("shared", [0, 6])
@pytest.mark.parametrize(("family", "site"), [("olmo", "attn.z"), ("olmo2", "attn.result"), ("olmo3", "attn.scores")])
def test_cells_by_head_are_those_of_whole_forward_passes(
    model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor, site: str, shared: int
) -> None:
    other_tokens = torch.cat([tokens[:, :shared], other_tokens[:, shared:]], dim=1)
    source = model.run(tokens, capture=f"blocks.*.{site}").stack(site)
    axis = 1 if site == "attn.scores" else 2
    cells = [
        [
            edits.replace(f"blocks.{layer}.{site}", source[layer].narrow(axis, head, 1), heads=[head])
            for head in range(HEADS)
        ]
        for layer in range(LAYERS)
    ]
    assert_same(
        activation_patching(model, tokens, other_tokens, 5, 7, site=site, by="head"),
        expected(model, tokens, other_tokens, cells),
    )


def test_a_batch_of_pairs_may_have_a_target_each(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor) -> None:
    """Raw measures of a batch are means of those of its pairs."""
    together = activation_patching(model, tokens, other_tokens, [5, 6])["logit"]
    apart = [
        activation_patching(model, tokens[[n]], other_tokens[[n]], target)["logit"] for n, target in enumerate([5, 6])
    ]
    ends = [[grid.provenance[end] for grid in (together, *apart)] for end in ("at 0", "at 1")]
    for whole, *parts in ends:
        assert whole == pytest.approx(sum(parts) / 2, abs=1e-5)
    raw = [g.values * (g.provenance["at 1"] - g.provenance["at 0"]) + g.provenance["at 0"] for g in (together, *apart)]
    np.testing.assert_allclose(raw[0], (raw[1] + raw[2]) / 2, atol=1e-4)


def test_patching_all_that_differs_brings_the_answer_back(model: OlmoForCausalLM, tokens: Tensor) -> None:
    corrupted, clean = tokens[:1], tokens[:1].clone()
    clean[0, 3] = corrupted[0, 3] % 90 + 1
    for name, grid in activation_patching(model, clean, corrupted, 5, 7).items():
        assert grid.values[0, 3] == pytest.approx(1.0, abs=1e-3), name
        assert np.abs(grid.values[:, :3]).max() < 1e-3, f"{name}: the measure should differ there"


def test_the_last_residual_is_the_answer(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor) -> None:
    grid = activation_patching(model, tokens, other_tokens, 5, 7, site="resid_post", position=9)["probability"]
    assert grid.values.shape == (LAYERS, 10), "later positions should have no effect"
    assert grid.values[-1, -1] == pytest.approx(1.0, abs=1e-3)
    assert np.abs(grid.values[-1, :-1]).max() < 1e-3


@ONE_FAMILY
def test_columns_are_named(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor, tokenizer: object) -> None:
    grid = activation_patching(model, tokens[0], other_tokens[0], "w5", "w7", tokenizer=tokenizer)["kl"]
    assert grid.columns == tuple(f"w{index}" for index in tokens[0].tolist())
    assert "w5 over w7" in grid.title
    assert grid.provenance["at 1"] == pytest.approx(0.0, abs=1e-9) and grid.provenance["at 0"] > 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"corrupted": torch.arange(1, 10)}, "14 tokens .* and the corrupted ones 9"),
        ({"clean": torch.arange(0)}, "0 tokens"),
        ({"token": "w5 w6"}, "'w5 w6' is 2 tokens"),
        ({"token": [5, 6, 7]}, "3 target tokens for 1 prompts"),
        ({"position": 14}, "no position 14"),
        ({"site": "resid"}, "no site 'resid' .*choices: resid_pre"),
        ({"by": "head"}, "no site 'resid_pre' with a head axis in a block; choices: attn.q"),
        ({"by": "layer"}, "choices: position, head"),
    ],
)
def test_what_cannot_be_patched_is_refused(
    model: OlmoForCausalLM,
    tokens: Tensor,
    other_tokens: Tensor,
    tokenizer: object,
    change: dict[str, object],
    sentence: str,
) -> None:
    arguments = {"clean": tokens[0], "corrupted": other_tokens[0], "token": 5, "tokenizer": tokenizer} | change
    with pytest.raises(WorkbenchError, match=sentence):
        activation_patching(model, **arguments)


def test_prompts_that_do_not_differ_yet_are_refused(model: OlmoForCausalLM, tokens: Tensor) -> None:
    other = tokens.clone()
    other[:, 8] = tokens[:, 8] % 90 + 1
    with pytest.raises(WorkbenchError, match="too small to explain"):
        activation_patching(model, tokens, other, 5, 7, position=7)


@ONE_FAMILY
def test_progress_rises_to_one(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor) -> None:
    heard: list[float] = []
    activation_patching(
        model, tokens, other_tokens, 5, site="attn_out", progress=lambda fraction, text: heard.append(fraction)
    )
    assert heard == sorted(heard) and heard[0] == 0 and heard[-1] == 1


def test_a_metric_of_the_logits(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor) -> None:
    """A metric equal to a measure gives the same grid, beside it or alone; it may return one number for each text."""

    def difference(logits: Tensor) -> Tensor:
        assert logits.shape == (2, 1, 99)
        return (logits[:, -1, 5] - logits[:, -1, 7]).mean()

    def number(logits: Tensor) -> float:
        return difference(logits).item()

    wanted = activation_patching(model, tokens, other_tokens, 5, 7, site="attn_out")["logit_difference"]
    both = activation_patching(model, tokens, other_tokens, 5, 7, metric=difference, site="attn_out")
    assert list(both) == ["logit_difference", "probability", "kl", "metric"]
    for metric in (difference, number, lambda logits: logits[:, -1, 5] - logits[:, -1, 7]):
        alone = activation_patching(model, tokens, other_tokens, metric=metric, site="attn_out")
        assert list(alone) == ["metric"]
        for grid in (both["metric"], alone["metric"]):
            np.testing.assert_allclose(grid.values, wanted.values, atol=1e-6)
            assert grid.provenance["at 0"] == pytest.approx(wanted.provenance["at 0"])
            assert grid.provenance["at 1"] == pytest.approx(wanted.provenance["at 1"])


def test_a_metric_of_another_shape_is_refused(model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor) -> None:
    with pytest.raises(WorkbenchError, match=r"metric returned \(2, 99\) .*a number, or one for each text"):
        activation_patching(model, tokens, other_tokens, metric=lambda logits: logits[:, -1])
    for options in ({}, {"against": 5, "metric": lambda logits: logits.sum()}):
        with pytest.raises(WorkbenchError, match="give a token, or metric="):
            activation_patching(model, tokens, other_tokens, **options)


@pytest.mark.parametrize("family", ["olmo2"])
@pytest.mark.parametrize("patching", [activation_patching, attribution_patching])
@pytest.mark.parametrize(
    ("theirs", "ours", "by"),
    [("hook_resid_pre", "resid_pre", "position"), ("attn.hook_q", "attn.q_raw", "head")],
)
def test_sites_in_the_spelling_of_transformerlens(
    model: OlmoForCausalLM, tokens: Tensor, other_tokens: Tensor, patching, theirs: str, ours: str, by: str
) -> None:
    one, other = (patching(model, tokens, other_tokens, 5, site=site, by=by)["logit"] for site in (theirs, ours))
    np.testing.assert_array_equal(one.values, other.values)
    assert one.title == other.title and ours in one.title
    with pytest.raises(WorkbenchError, match=r"no site 'attn.hook_q_input': in TransformerLens .*'attn_in'"):
        patching(model, tokens, other_tokens, 5, site="attn.hook_q_input")
