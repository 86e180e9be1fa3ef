"""The type of all dictionaries of features, and edits of features during a run."""

from dataclasses import replace

import pytest
import torch

from hooks import HooksError, edits
from workbench import WorkbenchError, features
from workbench.features import Dictionary, Firing, Gate, dictionary

WIDTH, FEATURES, K = 32, 80, 5
SITE = "blocks.1.resid_post"
GATES = {
    "relu": Gate("relu"),
    "topk": Gate("topk", K),
    "batchtopk": Gate("batchtopk", K, torch.tensor(1.5)),
    "jumprelu": Gate("jumprelu", threshold=torch.rand(FEATURES, generator=torch.Generator().manual_seed(5)) * 3),
}
PLACES = [(SITE, SITE), ("blocks.2.mlp_in", "blocks.2.mlp_out"), ("blocks.0.resid_post", "blocks.3.attn_out")]


def random_dictionary(gate="topk", reads=SITE, writes=SITE, sources=(), seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    width = WIDTH * max(1, len(sources))
    encoder = torch.randn(width, FEATURES, generator=generator) * 0.3
    decoder = torch.randn(FEATURES, width, generator=generator) * 0.2
    biases = torch.randn(FEATURES, generator=generator) * 0.1, torch.randn(width, generator=generator) * 0.3
    return Dictionary(encoder, biases[0], decoder, biases[1], GATES[gate], reads, writes, sources=sources, **options)


def by_hand(d, x):
    """The activations of all features of one activation, written out: feature."""
    pre = (x - d.decoder_bias if d.centred else x) @ d.encoder + d.encoder_bias
    if d.gate.name == "topk":
        kept = pre >= pre.sort(descending=True).values[d.gate.k - 1]
    else:
        kept = pre > (0.0 if d.gate.threshold is None else d.gate.threshold)
    return torch.where(kept & (pre > 0), pre, 0.0)


@pytest.fixture
def x():
    return torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("centred", [False, True])
def test_encoding_and_decoding_are_the_formulas(gate, centred, x):
    d = random_dictionary(gate, centred=centred)
    firing = d.encode(x)
    wanted = torch.stack([by_hand(d, row) for row in x.flatten(0, 1)]).unflatten(0, (3, 7))
    torch.testing.assert_close(firing.dense(), wanted)
    torch.testing.assert_close(d.decode(firing), wanted @ d.decoder + d.decoder_bias)
    torch.testing.assert_close(d.reconstruct(x) + d.error(x), x)
    assert firing.l0 == pytest.approx(float((wanted > 0).sum(-1).float().mean()))
    for feature in (0, 17):
        torch.testing.assert_close(firing.of(feature), wanted[..., feature])


@pytest.mark.parametrize("gate", GATES)
def test_the_memory_budget_changes_nothing(gate, x, monkeypatch):
    d = random_dictionary(gate)
    whole = d.encode(x)
    monkeypatch.setattr(dictionary, "ENCODE_BYTES", 4 * FEATURES * 4)
    parts = d.encode(x)
    torch.testing.assert_close(parts.dense(), whole.dense())
    assert parts.values.shape == whole.values.shape


@pytest.mark.parametrize("norming", ["none", "layer_norm", "unit_norm"])
def test_one_activation_is_read_as_one_of_many(x, norming):
    sae = random_dictionary(norming=norming)
    one, firing = x.reshape(-1, x.shape[-1])[3], sae.encode(x.reshape(-1, x.shape[-1])[3:4])
    assert torch.equal(sae.encode(one).values, firing.values[0])
    assert torch.allclose(sae.reconstruct(one) + sae.error(one), one, atol=1e-5)
    assert sae.added(one, torch.tensor(2.0), 5).shape == one.shape


def test_features_are_listed_strongest_first(x):
    values = random_dictionary("jumprelu").encode(x).values
    assert (values[..., :-1] >= values[..., 1:]).all()


@pytest.mark.parametrize("options", [{"scale": 0.25}, {"norming": "layer_norm"}, {"norming": "unit_norm"}])
def test_what_is_done_to_the_activations_is_undone(options, x):
    d, plain = random_dictionary(**options), random_dictionary()
    mean = x.mean(-1, keepdim=True) if options.get("norming") == "layer_norm" else torch.zeros(3, 7, 1)
    size = {
        "layer_norm": x.std(-1, keepdim=True) + dictionary.EPSILON,
        "unit_norm": x.norm(dim=-1, keepdim=True) / WIDTH**0.5,
    }.get(options.get("norming"), torch.tensor(4.0))
    torch.testing.assert_close(d.encode(x).dense(), plain.encode((x - mean) / size).dense(), atol=1e-4, rtol=1e-4)
    wanted = plain.reconstruct((x - mean) / size) * size + mean
    torch.testing.assert_close(d.reconstruct(x), wanted, atol=1e-4, rtol=1e-4)


def test_a_skip_connection_is_added(x):
    skip = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))
    d = random_dictionary("topk", *PLACES[1], skip=skip)
    torch.testing.assert_close(d.reconstruct(x), random_dictionary("topk").reconstruct(x) + x @ skip)


def test_the_scale_can_be_folded_into_the_weights(x):
    d = random_dictionary("jumprelu", scale=0.3, centred=True)
    folded = d.folded()
    assert folded.scale == 1.0
    torch.testing.assert_close(folded.encode(x).dense(), d.encode(x).dense())
    torch.testing.assert_close(folded.reconstruct(x), d.reconstruct(x))


def test_a_crosscoder_reads_all_its_sources_side_by_side(x):
    d = random_dictionary(sources=("a", "b", "c"))
    assert d.kind == "crosscoder" and d.width == WIDTH and d.directions.shape == (FEATURES, 3, WIDTH)
    stacked = torch.stack([x, 2 * x, -x], -2)
    assert d.encode(stacked).values.shape[:2] == x.shape[:2]
    assert d.reconstruct(stacked).shape == stacked.shape
    torch.testing.assert_close(d.reconstruct(stacked) + d.error(stacked), stacked)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("norming", ["none", "layer_norm", "unit_norm"])
def test_reconstruction_and_error_put_back_change_no_logit_beyond_rounding(model, tokens, gate, place, norming):
    d = random_dictionary(gate, *place, norming=norming)
    d.check_fits(model)
    plain = model.run(tokens).logits
    edited = model.run(tokens, edits=[features.replace(d, keep_error=True)]).logits
    torch.testing.assert_close(edited, plain, atol=2e-4, rtol=2e-4)
    alone = model.run(tokens, edits=[features.replace(d)]).logits
    assert not torch.allclose(alone, plain, atol=1e-2)


@pytest.mark.parametrize("place", PLACES)
def test_the_replaced_site_holds_the_reconstruction(model, tokens, place):
    d = random_dictionary("topk", *place)
    run = model.run(tokens, capture=list(place), edits=[features.replace(d)])
    plain = model.run(tokens, capture=d.reads)
    torch.testing.assert_close(run[d.writes], d.reconstruct(plain[d.reads]))


@pytest.mark.parametrize("place", PLACES)
def test_steering_by_nothing_changes_no_bit(model, tokens, place):
    d = random_dictionary("topk", *place)
    run = model.run(tokens, edits=[features.steer(d, 3, 0.0)])
    assert torch.equal(run.logits, model.run(tokens).logits)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("norming", ["none", "layer_norm"])
def test_steering_adds_the_direction_and_keeps_the_error(model, tokens, place, norming):
    d = random_dictionary("topk", *place, norming=norming)
    plain = model.run(tokens, capture=list(place))
    steered = model.run(tokens, capture=d.writes, edits=[features.steer(d, 3, 2.0, positions=[4, -1])])
    size = plain[d.reads].std(-1, keepdim=True) if (norming, d.kind) == ("layer_norm", "SAE") else 1.0
    change = (2.0 * d.decoder[3] * size).expand_as(plain[d.writes])
    wanted = plain[d.writes].clone()
    wanted[:, [4, -1]] += change[:, [4, -1]]
    torch.testing.assert_close(steered[d.writes], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("norming", ["none", "unit_norm"])
def test_switching_off_takes_away_what_the_feature_writes(model, tokens, place, norming):
    d = random_dictionary("topk", *place, norming=norming)
    plain = model.run(tokens, capture=list(place))
    firing = d.encode(plain[d.reads])
    active = firing.indices[0, 3, 0].item()
    off = model.run(tokens, capture=d.writes, edits=[features.switch_off(d, active)])
    gone = firing.of(active)
    without = Firing(firing.indices, firing.values.where(firing.indices != active, 0.0), len(d))
    change = d.decode(without, plain[d.reads]) - d.decode(firing, plain[d.reads])
    torch.testing.assert_close(off[d.writes], plain[d.writes] + change, atol=1e-4, rtol=1e-4)
    assert torch.equal(off[d.writes][gone == 0], plain[d.writes][gone == 0])
    assert 0 < (gone > 0).sum() < gone.numel()


def test_a_feature_that_is_never_active_can_be_switched_off_without_a_change(model, tokens):
    d = random_dictionary("relu")
    never = replace(d, encoder_bias=torch.full((FEATURES,), -1e4))
    run = model.run(tokens, edits=[features.switch_off(never, 0)])
    assert torch.equal(run.logits, model.run(tokens).logits)


def test_a_feature_can_be_set_to_a_value(model, tokens):
    d = random_dictionary("relu", *PLACES[1])
    plain = model.run(tokens, capture=list(PLACES[1]))
    run = model.run(tokens, capture=d.writes, edits=[features.set_to(d, 9, 1.5)])
    change = (1.5 - d.encode(plain[d.reads]).of(9))[..., None] * d.decoder[9]
    torch.testing.assert_close(run[d.writes], plain[d.writes] + change)


def test_edits_of_features_hold_in_generation(model, tokens):
    d = random_dictionary("topk", *PLACES[1])
    edit = features.switch_off(d, 4)
    options = {"max_new_tokens": 4, "do_sample": False}
    generated = model.generate(tokens, edits=[edit], **options)
    for length in range(tokens.shape[1], generated.shape[1]):
        logits = model.run(generated[:, :length], edits=[edit]).logits[:, -1]
        chosen = logits.gather(1, generated[:, length : length + 1])[:, 0]
        torch.testing.assert_close(chosen, logits.max(-1).values, atol=1e-3, rtol=1e-3)


def test_a_crosscoder_steers_the_model_of_one_source(model, tokens):
    d = random_dictionary(sources=("a", "b"))
    plain = model.run(tokens, capture=SITE)
    run = model.run(tokens, capture=SITE, edits=[features.steer(d, 5, 3.0, source="b")])
    torch.testing.assert_close(run[SITE], plain[SITE] + 3.0 * d.directions[5, 1])
    with pytest.raises(WorkbenchError, match="no source 'c' in this crosscoder; it has a, b"):
        features.steer(d, 5, 3.0, source="c")
    with pytest.raises(WorkbenchError, match="reads 2 models at once"):
        features.switch_off(d, 5)


def test_a_crosscoders_feature_is_taken_away_in_given_texts(model, make_model, family, tokens):
    """By its activation in all sources, along its direction in the one that runs; and as `token_losses_without`."""
    d, models = random_dictionary("relu", sources=("a", "b")), {"a": make_model(family, seed=5), "b": model}
    plain = {name: one.run(tokens, capture=SITE)[SITE] for name, one in models.items()}
    amounts = d.encode(torch.stack(list(plain.values()), 2)).of(5)
    off = model.run(tokens, capture=SITE, edits=[features.switch_off_in(d, 5, models, tokens, source="b")])
    torch.testing.assert_close(off[SITE], plain["b"] - amounts[..., None] * d.directions[5, 1], atol=1e-4, rtol=1e-4)
    assert torch.equal(off[SITE][amounts == 0], plain["b"][amounts == 0]) and 0 < (amounts > 0).sum() < amounts.numel()
    losses = features.token_losses_without(d, models, [[5]], tokens, sources=["b"])[0, 0, :, 1:]
    wanted = -off.logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(losses, wanted, atol=1e-4, rtol=1e-4)
    with pytest.raises(WorkbenchError, match="no source ''"):
        features.switch_off_in(d, 5, models, tokens)


@pytest.mark.parametrize("place", PLACES)
def test_taking_away_in_given_texts_is_switching_off(model, tokens, place):
    d = random_dictionary("topk", *place)
    feature = d.encode(model.run(tokens, capture=d.reads)[d.reads]).indices[0, 3, 0].item()
    found, wanted = (
        model.run(tokens, edits=[edit]).logits
        for edit in (features.switch_off_in(d, feature, model, tokens), features.switch_off(d, feature))
    )
    torch.testing.assert_close(found, wanted)


def test_an_edit_may_read_a_site_that_comes_before_its_own(model, tokens):
    sites = ["blocks.0.mlp_in", "blocks.2.attn_out"]
    plain = model.run(tokens, capture=sites)
    edit = edits.apply(sites[1], lambda x, read: x + read, reads=sites[0])
    run = model.run(tokens, capture=sites[1], edits=[edit])
    assert torch.equal(run[sites[1]], plain[sites[1]] + plain[sites[0]])
    both = model.run(tokens, capture=sites, edits=[edits.apply(sites[0], lambda x: x + 1), edit])
    without = model.run(tokens, capture=sites[1], edits=[edits.apply(sites[0], lambda x: x + 1)])
    assert torch.equal(both[sites[1]], without[sites[1]] + both[sites[0]])  # what it reads is edited
    rows = torch.tensor([[0, 3], [5, 6]])
    some = model.run(
        tokens,
        capture=sites[1],
        edits=[edits.apply(sites[1], lambda x, read: x + read, positions=rows, reads=sites[0])],
    )
    wanted = plain[sites[1]].clone()
    for text, places in enumerate(rows):
        wanted[text, places] += plain[sites[0]][text, places]
    assert torch.equal(some[sites[1]], wanted)


@pytest.mark.parametrize(
    ("site", "reads", "said"),
    [
        ("blocks.1.mlp_in", "blocks.1.mlp_out", "which is not reached before it"),
        ("blocks.1.mlp_in", "blocks.1.mlp_in", "which is not reached before it"),
        ("blocks.3.mlp_in", "blocks.*.mlp_out", "reads one site"),
        ("blocks.3.mlp_in", "blocks.1.attn.pattern", "only its captured part"),
    ],
)
def test_an_edit_that_cannot_read_is_refused(model, tokens, site, reads, said):
    with pytest.raises(HooksError, match=said):
        model.run(tokens, edits=[edits.apply(site, lambda x, _: x, reads=reads)])


def test_what_it_is_is_said():
    assert repr(random_dictionary(model="m@1")) == (
        f"<SAE at {SITE} (hidden_states[2]) of m@1: 80 features, width 32, topk, k = 5>"
    )
    d = random_dictionary("relu", *PLACES[1])
    assert repr(d) == "<transcoder at blocks.2.mlp_in → blocks.2.mlp_out: 80 features, width 32, relu>"
    assert (random_dictionary().layer, random_dictionary().hidden_state) == (1, 2)


def test_a_dictionary_that_does_not_fit_is_refused_with_both(make_model, model):
    site = "blocks.7.resid_post"
    with pytest.raises(WorkbenchError, match=r"for layer 7 .*, and the model has 4 layers"):
        random_dictionary("topk", site, site).check_fits(model)
    with pytest.raises(WorkbenchError, match=r"width 32, and blocks.1.resid_post of the model is of width 64"):
        random_dictionary().check_fits(make_model("olmo2", hidden_size=64))
    with pytest.raises(WorkbenchError, match="family gemma2, and this is olmo"):
        random_dictionary(family="gemma2").check_fits(model)
    random_dictionary(family=model.config.model_type).check_fits(model)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder_bias": torch.zeros(79)}, r"encoder_bias \(79,\)"),
        ({"decoder": torch.zeros(80, 31)}, r"decoder \(80, 31\)"),
        ({"encoder": torch.zeros(80)}, r"encoder \(80,\)"),
        ({"decoder_bias": torch.full((32,), float("nan"))}, "decoder bias .* NaN"),
        ({"gate": Gate("topk", 81)}, "k is 81"),
        ({"scale": 0.0}, "scale"),
        ({"norming": "other"}, "choose one of none"),
        ({"sources": ("a", "b", "c")}, "not a multiple of 3 sources"),
        ({"gate": Gate("jumprelu", threshold=torch.zeros(3))}, "threshold"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(change, said):
    with pytest.raises(WorkbenchError, match=said):
        replace(random_dictionary(), **change)


def test_wrong_gates_features_and_activations_are_refused(x):
    for arguments in (("step",), ("topk",), ("relu", 3), ("topk", 0), ("jumprelu",), ("relu", None, torch.zeros(3))):
        with pytest.raises(WorkbenchError):
            Gate(*arguments)
    d = random_dictionary()
    for feature in (-1, 80, "3", 2.0, True):
        with pytest.raises(WorkbenchError, match="features 0 to 79"):
            features.steer(d, feature, 1.0)
    with pytest.raises(WorkbenchError, match="finite"):
        features.steer(d, 3, float("nan"))
    with pytest.raises(WorkbenchError, match=r"this SAE reads … 32"):
        d.encode(x[..., :31])
    normed = random_dictionary(norming="unit_norm")
    with pytest.raises(WorkbenchError, match="needs the activations to decode"):
        normed.decode(normed.encode(x))
