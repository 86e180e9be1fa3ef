"""The forward pass equals transformers' own in every argument and output, on all families and variants."""

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, StaticCache
from transformers.models.olmo import modeling_olmo
from transformers.models.olmo2 import modeling_olmo2

from hooks import OlmoForCausalLM, OlmoModel
from hooks.olmo import OlmoRotaryEmbedding
from tests.fixtures import FAMILIES

CLOSE = {"rtol": 1e-4, "atol": 5e-5}


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


# One call


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_hidden_states_and_attentions_are_theirs(case, make_pair, pair, tokens, attention):
    own = OlmoForCausalLM._from_config(deepcopy(pair.ours.config), attn_implementation=attention).eval()
    own.load_state_dict(pair.ours.state_dict())
    ours = own(tokens, output_hidden_states=True, output_attentions=True)
    theirs = pair.eager(tokens, output_hidden_states=True, output_attentions=True)
    assert own.config._attn_implementation == attention
    assert_close(ours.logits, theirs.logits)
    assert len(ours.hidden_states) == len(theirs.hidden_states) == 5
    assert len(ours.attentions) == len(theirs.attentions) == 4
    for mine, reference in zip(
        ours.hidden_states + ours.attentions, theirs.hidden_states + theirs.attentions, strict=True
    ):
        assert_close(mine, reference)


def test_left_padding(pair, padded):
    options = {"attention_mask": padded.attention_mask, "output_hidden_states": True, "output_attentions": True}
    ours, theirs = pair.ours(padded.input_ids, **options), pair.eager(padded.input_ids, **options)
    assert_close(ours.logits[padded.real], theirs.logits[padded.real])
    fused = pair.theirs(padded.input_ids, attention_mask=padded.attention_mask)
    assert_close(ours.logits[padded.real], fused.logits[padded.real])
    for mine, reference in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert_close(mine[padded.real], reference[padded.real])
    for mine, reference in zip(ours.attentions, theirs.attentions, strict=True):
        assert_close(mine.transpose(1, 2)[padded.real], reference.transpose(1, 2)[padded.real])
    assert all(value.isfinite().all() for value in (ours.logits, *ours.hidden_states, *ours.attentions))


def test_padding_changes_nothing_of_a_text(pair, padded):
    positions = (padded.attention_mask.cumsum(-1) - 1).clamp(min=0)
    batch = pair.ours(padded.input_ids, attention_mask=padded.attention_mask, position_ids=positions).logits
    for row, real in enumerate(padded.real):
        assert_close(batch[row, real], pair.ours(padded.input_ids[row, real][None]).logits[0])


def test_position_ids(pair, tokens):
    positions = torch.arange(tokens.shape[1])[None] * 2 + 5
    assert_close(pair.ours(tokens, position_ids=positions).logits, pair.theirs(tokens, position_ids=positions).logits)


def test_packed_texts_do_not_see_each_other(pair, tokens):
    positions = torch.tensor([[*range(6), *range(8)]])
    ours = pair.ours(tokens[:1], position_ids=positions, use_cache=False).logits
    theirs = pair.theirs(tokens[:1], position_ids=positions, use_cache=False).logits
    assert_close(ours, theirs)
    assert_close(ours[:, 6:], pair.ours(tokens[:1, 6:]).logits)


def test_inputs_embeds(pair, tokens):
    embeddings = pair.ours.get_input_embeddings()(tokens)
    ours = pair.ours(inputs_embeds=embeddings).logits
    assert_close(ours, pair.theirs(inputs_embeds=embeddings).logits)
    assert torch.equal(ours, pair.ours(tokens).logits)


@pytest.mark.parametrize("both", [True, False])
def test_exactly_one_input_is_needed(model, tokens, both):
    with pytest.raises(ValueError, match="input_ids"):
        model(input_ids=tokens, inputs_embeds=model.get_input_embeddings()(tokens)) if both else model()


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_mask_of_four_dimensions(pair, tokens, kind):
    visible = torch.ones(14, 14, dtype=torch.bool).tril()
    visible[:, 2] = False
    visible[2, 2] = True
    mask = visible.expand(2, 1, 14, 14)
    if kind.is_floating_point:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(kind).min)
    assert_close(pair.ours(tokens, attention_mask=mask).logits, pair.theirs(tokens, attention_mask=mask).logits)


@pytest.mark.parametrize(
    "keep", [1, 3, torch.tensor([0, 5, 13]), torch.tensor([[1, 2], [13, 0]]), torch.arange(28).view(2, 14) % 3 == 0]
)
def test_logits_to_keep(pair, tokens, keep):
    ours = pair.ours(tokens, logits_to_keep=keep).logits
    theirs = pair.theirs(tokens, logits_to_keep=keep).logits
    assert ours.shape == theirs.shape
    assert_close(ours, theirs)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_last_position_alone(pair, padded, attention):
    """With left padding, and after a cache of either kind."""
    model = OlmoForCausalLM._from_config(deepcopy(pair.ours.config), attn_implementation=attention).eval()
    model.load_state_dict(pair.ours.state_dict())
    ids, mask = padded.input_ids, padded.attention_mask
    whole = pair.ours(ids, attention_mask=mask).logits[:, -1:]
    assert_close(model(ids, attention_mask=mask, logits_to_keep=1).logits, whole)
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=20)):
        model(ids[:, :9], attention_mask=mask[:, :9], past_key_values=cache, logits_to_keep=1)
        rest = model(ids[:, 9:], attention_mask=mask, past_key_values=cache, logits_to_keep=1)
        assert_close(rest.logits, whole)


def test_no_other_position_goes_through_the_last_block(model, tokens):
    """Query, output projection and MLP are computed only for the last position, unless other positions are captured."""

    def operations(**options):
        with FlopCounterMode(display=False) as counter:
            model.run(tokens, logits_to_keep=1, **options)
        return counter.get_total_flops()

    config = model.config
    per_position = 2 * config.hidden_size * (2 * config.hidden_size + 3 * config.intermediate_size)
    for site in ("blocks.3.mlp.post", "blocks.3.attn.z", "ln_final.scale"):
        assert operations(capture=site) - operations() >= per_position * (tokens.numel() - len(tokens))
    for site in ("blocks.3.attn.v", "blocks.3.resid_pre", "blocks.2.mlp.post"):
        assert operations(capture=site) < operations() + per_position


def test_loss(pair, tokens):
    labels = tokens.clone()
    labels[0, :4] = -100
    ours, theirs = pair.ours(tokens, labels=labels), pair.theirs(tokens, labels=labels)
    assert_close(ours.loss, theirs.loss)
    assert_close(ours.logits, theirs.logits)
    mean_of_seven = pair.ours(tokens, labels=labels, num_items_in_batch=7).loss
    assert_close(mean_of_seven, pair.theirs(tokens, labels=labels, num_items_in_batch=7).loss)


def test_return_dict_false_gives_a_tuple(pair, tokens):
    ours = pair.ours(tokens, labels=tokens, output_hidden_states=True, return_dict=False)
    theirs = pair.theirs(tokens, labels=tokens, output_hidden_states=True, return_dict=False)
    assert isinstance(ours, tuple)
    assert len(ours) == len(theirs)
    assert_close(ours[0], theirs[0])
    assert_close(ours[1], theirs[1])


@pytest.mark.parametrize("asked", [0, -1, [1, -2], [2, 9], [9], []])
def test_some_hidden_states(pair, tokens, asked):
    ours, theirs = (model(tokens, output_hidden_states=asked).hidden_states for model in (pair.ours, pair.theirs))
    assert (ours is None) == (theirs is None)
    for mine, reference in zip(ours or (), theirs or (), strict=True):
        assert (mine is None) == (reference is None)
        if mine is not None:
            assert_close(mine, reference)


def test_outputs_asked_for_in_the_configuration(make_model, family, tokens):
    model = make_model(family, output_hidden_states=True, output_attentions=True, use_cache=False)
    outputs = model(tokens)
    assert len(outputs.hidden_states) == 5
    assert len(outputs.attentions) == 4
    assert outputs.past_key_values is None
    assert model(tokens, output_attentions=False).attentions is None


def test_the_bare_model(pair, tokens):
    ours = pair.ours.model(tokens, output_hidden_states=True)
    theirs = pair.theirs.model(tokens, output_hidden_states=True)
    assert isinstance(pair.ours.model, OlmoModel)
    assert_close(ours.last_hidden_state, theirs.last_hidden_state)
    assert_close(ours.hidden_states[-1], theirs.hidden_states[-1])


OPTIONS = {
    "another activation": {"hidden_act": "relu"},
    "no activation": {"hidden_act": "linear"},
    "a coarse norm": {"rms_norm_eps": 0.1},
    "wide heads": {"head_dim": 16},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_the_configuration(make_pair, family, tokens, option):
    pair = make_pair(family, **OPTIONS[option])
    assert_close(pair.ours(tokens).logits, pair.theirs(tokens).logits)
    assert_close(pair.ours.run(tokens, capture="*").logits, pair.theirs(tokens).logits)


def test_fresh_weights_are_theirs(make_config, family):
    """With the same seed, a new model has the weights of transformers' own; their spread is `initializer_range`."""
    models = []
    for model_class in (OlmoForCausalLM, FAMILIES[family][1]):
        torch.manual_seed(0)
        models.append(model_class(make_config(family, initializer_range=0.5)).state_dict())
    for name, weight in models[1].items():
        assert torch.equal(models[0][name], weight), name
    assert 0.4 < models[0]["lm_head.weight"].std() < 0.6


def test_modules_have_their_names(pair):
    ours, theirs = dict(pair.ours.named_modules()), dict(pair.theirs.named_modules())
    assert set(theirs) - set(ours) == set()
    shapes = {name: parameter.shape for name, parameter in pair.theirs.named_parameters()}
    assert {name: parameter.shape for name, parameter in pair.ours.named_parameters()} == shapes


# Caches


@pytest.mark.parametrize("steps", [[14], [9, 1, 1, 1, 1, 1], [3, 4, 7]])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_cache_gives_the_logits_of_one_call(pair, tokens, kind, steps):
    caches = [
        DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(config=model.config, max_cache_len=20)
        for model in (pair.ours, pair.theirs)
    ]
    pieces = []
    for piece in tokens.split(steps, dim=1):
        ours = pair.ours(piece, past_key_values=caches[0], use_cache=True)
        theirs = pair.theirs(piece, past_key_values=caches[1], use_cache=True)
        assert_close(ours.logits, theirs.logits)
        pieces.append(ours.logits)
    assert ours.past_key_values is caches[0]
    assert_close(torch.cat(pieces, dim=1), pair.ours(tokens).logits)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_cache_with_left_padding_and_attentions(pair, padded, kind):
    caches = [
        DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(config=model.config, max_cache_len=20)
        for model in (pair.ours, pair.eager)
    ]
    for start, stop in [(0, 10), (10, 11), (11, 14)]:
        real = padded.real[:, start:stop]
        options = {"attention_mask": padded.attention_mask[:, :stop], "use_cache": True, "output_attentions": True}
        ours = pair.ours(padded.input_ids[:, start:stop], past_key_values=caches[0], **options)
        theirs = pair.eager(padded.input_ids[:, start:stop], past_key_values=caches[1], **options)
        assert_close(ours.logits[real], theirs.logits[real])
        for mine, reference in zip(ours.attentions, theirs.attentions, strict=True):
            assert mine.shape == reference.shape
            assert_close(mine.transpose(1, 2)[real], reference.transpose(1, 2)[real])


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_the_last_logits_with_a_cache(pair, tokens, kind):
    """A cache with free places, where only the last logits are requested."""
    cache = DynamicCache(config=pair.ours.config)
    if kind == "static":
        cache = StaticCache(config=pair.ours.config, max_cache_len=20)
    whole = pair.ours(tokens).logits
    for start, stop in ((0, 9), (9, 10), (10, 14)):
        last = pair.ours(tokens[:, start:stop], past_key_values=cache, logits_to_keep=1).logits
        assert_close(last, whole[:, stop - 1 : stop])


def test_cache_position_is_accepted(pair, tokens):
    whole = pair.ours(tokens, cache_position=torch.arange(14)).logits
    assert torch.equal(whole, pair.ours(tokens).logits)
    cache = pair.ours(tokens[:, :13], use_cache=True, cache_position=torch.arange(13)).past_key_values
    last = pair.ours(tokens[:, 13:], past_key_values=cache, cache_position=torch.tensor([13])).logits
    assert_close(last, whole[:, 13:])


def test_use_cache(model, tokens):
    assert model(tokens, use_cache=False).past_key_values is None
    cache = model(tokens).past_key_values
    assert isinstance(cache, DynamicCache)
    assert cache.get_seq_length() == 14


# Rotary embeddings


def rotated(x: Tensor, frequencies: Tensor, factor: float) -> Tensor:
    """x (batch pos head d_head) turned by pos × frequency in the planes (i, i + d_head / 2), times `factor`."""
    angles = torch.arange(x.shape[1])[:, None, None] * frequencies  # pos 1 d_head/2
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return factor * torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def yarn(d_head: int, theta: float, factor: float, original: int) -> Tensor:
    """YaRN's frequencies (Peng et al. 2023): slow planes stretched by `factor`, fast ones kept, a ramp between."""

    def plane_turning(times: float) -> float:
        return d_head * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

    plane = torch.arange(d_head // 2, dtype=torch.float)
    low, high = max(math.floor(plane_turning(32)), 0), min(math.ceil(plane_turning(1)), d_head - 1)
    stretched = ((plane - low) / (high - low)).clamp(0, 1)
    plain = theta ** (-2 * plane / d_head)
    return plain * (1 - stretched) + plain / factor * stretched


def test_every_layer_turns_by_its_own_angles(family, model, tokens):
    run = model.run(tokens, capture="blocks.*.attn.*")
    plain = 10_000.0 ** (-torch.arange(0, 8, 2) / 8)
    for layer in range(4):
        frequencies, factor = plain, 1.0
        if family == "olmo3" and model.config.layer_types[layer] == "full_attention":
            frequencies, factor = yarn(8, 10_000.0, 4.0, 1024), 0.1 * math.log(4.0) + 1
        for name in "qk":
            turned = rotated(run[f"blocks.{layer}.attn.{name}"], frequencies, factor)
            assert_close(run[f"blocks.{layer}.attn.rot_{name}"], turned)


ROPE_SPELLINGS = {
    "theta": {"rope_theta": 500.0},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}},
    "linear, old": {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 10_000.0},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}},
    "dynamic, old": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 10_000.0,
            "original_max_position_embeddings": 3,
        }
    },
    "yarn, old": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 3}},
}


@pytest.mark.parametrize("spelling", ROPE_SPELLINGS)
@pytest.mark.parametrize("rope_family", ["olmo", "olmo2"])
def test_rope_spellings(make_pair, tokens, rope_family, spelling):
    pair = make_pair(rope_family, max_position_embeddings=12, **ROPE_SPELLINGS[spelling])
    for length in (14, 8, 13):  # a dynamic rotation changes beyond 12 positions and is reset for shorter texts
        assert_close(pair.ours(tokens[:, :length]).logits, pair.theirs(tokens[:, :length]).logits)


def test_rope_of_olmo3_in_the_old_spelling(make_pair, tokens):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    pair = make_pair("olmo3", rope_parameters=None, rope_scaling=scaling, rope_theta=10_000.0)
    assert pair.ours.config.rope_parameters["sliding_attention"]["rope_type"] == "default"
    assert_close(pair.ours(tokens).logits, pair.theirs(tokens).logits)


def test_all_layers_sliding_or_none(make_pair, tokens):
    for layer_types in (["sliding_attention"] * 4, ["full_attention"] * 4):
        pair = make_pair("olmo3", layer_types=layer_types)
        assert_close(pair.ours(tokens).logits, pair.theirs(tokens).logits)


@pytest.mark.parametrize("kind", ["default", "linear", "dynamic", "yarn"])
@pytest.mark.parametrize("family", ["olmo", "olmo2"])
def test_the_rotary_embedding_is_made_as_transformers_own(make_config, family, kind):
    """From a configuration alone, as transformers' tests do with the class that they find in a model; equal angles."""
    config = make_config(family)
    scaling = {} if kind == "default" else {"factor": 10.0}
    config.rope_parameters = {"rope_type": kind, "rope_theta": 10_000.0, **scaling}
    module = next(module for name, module in OlmoModel(config).named_modules() if "rotary_emb" in name)
    theirs = {"olmo": modeling_olmo.OlmoRotaryEmbedding, "olmo2": modeling_olmo2.Olmo2RotaryEmbedding}[family](config)
    for made in (type(module)(config=config), OlmoRotaryEmbedding(config)):
        for length in (10, 96, 10):  # the model has 64 positions
            positions = torch.arange(length)[None]
            (cos, sin), (their_cos, their_sin) = (each(torch.zeros(1), positions) for each in (made, theirs))
            signs = torch.tensor([-1.0] * 4 + [1.0] * 4)
            torch.testing.assert_close(cos[:, :, 0], their_cos)
            torch.testing.assert_close(sin[:, :, 0] * signs, their_sin)
            torch.testing.assert_close(made.inv_freq, theirs.inv_freq)


def test_rotary_embeddings_of_two_kinds(make_config):
    config = make_config("olmo3")
    both, positions = OlmoModel(config).rotary_emb, torch.arange(8)[None]
    for kind in ("full_attention", "sliding_attention"):
        alone = OlmoRotaryEmbedding(config, kind)
        assert torch.equal(both(torch.zeros(1), positions, kind)[0], alone(torch.zeros(1), positions)[0])
    assert torch.equal(OlmoRotaryEmbedding(config).inv_freq, both["full_attention"].inv_freq)
