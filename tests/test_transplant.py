"""A part of A in B: no change if A is B, A's output if all parts are taken, and B itself is never changed."""

import numpy as np
import pytest
import torch

from workbench.analyses.support.named_tensors import ModelTensors
from workbench.analyses.support.part_swap import KINDS, Part, grafted, part_tensors
from workbench.analyses.transplant import WHOLE, transplant, transplant_parts, with_part
from workbench.errors import WorkbenchError
from workbench.metrics import mean_loss

ALL = (0, 1, 2, 3)
USING = ("weights", "activations")


@pytest.fixture(params=[None, 2])
def two(request, make_model, family):
    options = {} if request.param is None else {"num_key_value_heads": request.param}
    return make_model(family, seed=1, **options), make_model(family, seed=2, **options)


def part_of(kind: str, layer: int = 1) -> Part:
    return Part(kind, layer, (2,) if kind == "head" else ())


def effect(scores) -> float:
    return dict(zip(scores.names, scores.values.tolist(), strict=True))["effect on loss"]


@pytest.mark.parametrize("using", USING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_itself_changes_nothing(model, tokens, kind, using):
    if (kind, using) != ("residual", "weights"):
        assert effect(transplant(model, model, tokens, part_of(kind), using=using)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("kind", ["head", "attention", "mlp", "layer"])
def test_weights_of_a_part_are_as_if_they_were_loaded(two, tokens, kind):
    """The expected result: B's parameters replaced directly, for parts that are whole tensors."""
    a, b = two
    part = Part(kind, 1, ALL) if kind == "head" else part_of(kind)
    twin = grafted(b, part_tensors(ModelTensors(a), part), part)
    for name, parameter in twin.named_parameters():
        inside = {
            "head": "layers.1.self_attn" in name and "bias" not in name,
            "attention": "layers.1.self_attn" in name or "layers.1.post_attention_layernorm" in name,
            "mlp": "layers.1.mlp" in name or "layers.1.post_feedforward_layernorm" in name,
            "layer": "layers.1." in name,
        }[kind]
        assert torch.equal(parameter, (a if inside else b).get_parameter(name))
    before, after = mean_loss(b, tokens), mean_loss(twin, tokens)
    assert effect(transplant(a, b, tokens, part)) == pytest.approx(after - before, abs=1e-5)


def test_every_layer_and_the_embeddings_make_b_into_a(two, tokens):
    a, b = two
    twin = b
    for layer in range(4):
        part = Part("layer", layer)
        twin = grafted(twin, part_tensors(ModelTensors(a), part), part)
    resid = a.run(tokens, capture="blocks.0.resid_pre")["blocks.0.resid_pre"]
    last = twin.run(start_at_layer=0, resid=resid, capture="blocks.3.resid_post")["blocks.3.resid_post"]
    assert torch.equal(last, a.run(tokens, capture="blocks.3.resid_post")["blocks.3.resid_post"])


def test_a_graft_shares_all_else_and_leaves_b_as_it_was(two):
    a, b = two
    before = {name: parameter.clone() for name, parameter in b.named_parameters()}
    twin = grafted(b, part_tensors(ModelTensors(a), part_of("head")), part_of("head"))
    assert all(torch.equal(parameter, before[name]) for name, parameter in b.named_parameters())
    shared = [n for n, p in twin.named_parameters() if p.data_ptr() == b.get_parameter(n).data_ptr()]
    assert len(shared) == len(before) - sum("layers.1.self_attn" in name for name in before)


def test_a_head_takes_its_rows_and_columns_and_no_others(make_model):
    a, b = make_model("olmo", seed=1), make_model("olmo", seed=2)
    attention = grafted(b, part_tensors(ModelTensors(a), part_of("head")), part_of("head")).model.layers[1].self_attn
    mine, theirs = b.model.layers[1].self_attn, a.model.layers[1].self_attn
    for matrix in ("q_proj", "k_proj", "v_proj", "o_proj"):
        new, old, given = (
            getattr(x, matrix).weight.chunk(4, 1 if matrix == "o_proj" else 0) for x in (attention, mine, theirs)
        )
        assert [torch.equal(new[h], given[h]) for h in ALL] == [False, False, True, False]
        assert [torch.equal(new[h], old[h]) for h in ALL] == [True, True, False, True]


def test_shared_keys_and_values_go_along_only_with_all_who_share_them(make_model):
    a, b = (make_model("olmo2", seed=seed, num_key_value_heads=2) for seed in (1, 2))
    one, both = Part("head", 1, (2,)), Part("head", 1, (2, 3))
    for part, expected in ((one, [False, False]), (both, [False, True])):
        attention = grafted(b, part_tensors(ModelTensors(a), part), part).model.layers[1].self_attn
        for matrix in ("k_proj", "v_proj", "k_norm"):
            new, given = (getattr(x, matrix).weight.chunk(2) for x in (attention, a.model.layers[1].self_attn))
            assert [torch.equal(new[kv], given[kv]) for kv in (0, 1)] == expected


def test_the_residual_stream_of_the_last_layer_gives_the_other_models_reading_of_it(make_model, family, tokens):
    a, b = (make_model(family, seed=seed, tie_word_embeddings=False) for seed in (1, 2))
    with torch.no_grad():
        b.lm_head.weight.copy_(a.lm_head.weight)
        if family != "olmo":
            b.model.norm.weight.copy_(a.model.norm.weight)
    scores = transplant(a, b, tokens, Part("residual", 3), using="activations")
    assert scores.values[1] == pytest.approx(mean_loss(a, tokens), abs=1e-5)


@pytest.mark.parametrize("using", USING)
def test_the_grid_is_each_head_by_itself(make_model, tokens, using):
    two = [make_model("olmo3", seed=seed, num_key_value_heads=2) for seed in (1, 2)]
    grid = transplant_parts(*two, tokens, kinds=["head"], using=using, target=7)
    for layer, head in ((0, 0), (2, 3)):
        scores = transplant(*two, tokens, Part("head", layer, (head,)), using=using, target=7)
        numbers = dict(zip(scores.names, scores.values.tolist(), strict=True))
        assert grid["loss"].values[layer, head] == pytest.approx(numbers["effect on loss"], abs=1e-5)
        assert grid["target"].values[layer, head] == pytest.approx(numbers["effect on target"], abs=1e-5)
    assert np.abs(grid["loss"].values).min() > 0


@pytest.mark.parametrize("using", USING)
def test_the_grid_of_parts_holds_the_heads_and_each_part_by_itself(make_model, tokens, using):
    two = [make_model("olmo2", seed=seed) for seed in (1, 2)]
    grid = transplant_parts(*two, tokens, using=using)["loss"]
    heads = transplant_parts(*two, tokens, kinds=["head"], using=using)["loss"]
    assert np.array_equal(grid.values[:, :4], heads.values)
    some = transplant_parts(*two, tokens, kinds=["mlp", "attention"], using=using)["loss"]
    assert np.array_equal(grid.values[:, [5, 4]], some.values)
    assert grid.columns == ("0", "1", "2", "3", "attention", "MLP", WHOLE[using][-1])
    for column, kind in enumerate(WHOLE[using], start=4):
        found = effect(transplant(*two, tokens, Part(kind, 2), using=using))
        assert grid.values[2, column] == pytest.approx(found, abs=1e-5)


def test_unknown_kinds_of_parts_are_refused(two, tokens):
    with pytest.raises(WorkbenchError, match="no parts of kind 'residual' with weights; choices: head, attention, mlp"):
        transplant_parts(*two, tokens, kinds=["head", "residual"])
    with pytest.raises(WorkbenchError, match="using='wieghts'"):
        transplant_parts(*two, tokens, using="wieghts")


def test_a_model_with_a_part_is_what_the_transplant_ran(two, tokens):
    for part in (part_of("head"), part_of("mlp")):
        mixed = with_part(*two, part.kind, part.layer, part.heads)
        found = mean_loss(mixed, tokens) - mean_loss(two[1], tokens)
        assert effect(transplant(*two, tokens, part)) == pytest.approx(found, abs=1e-5)
    with pytest.raises(WorkbenchError, match="no layer 9"):
        with_part(*two, "mlp", 9)


def test_checkpoints_by_name_give_the_same_as_models(tmp_path, make_model, tokens, tokenizer):
    a, b = make_model("olmo2", seed=1), make_model("olmo2", seed=2)
    for name, model in (("a", a), ("b", b)):
        model.save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path)
    for using in USING:
        by_name = transplant(str(tmp_path / "a"), str(tmp_path / "b"), tokens, part_of("head"), using=using)
        assert np.array_equal(by_name.values, transplant(a, b, tokens, part_of("head"), using=using).values)


def test_what_does_not_exist_is_refused(two, tokens, make_model, family):
    with pytest.raises(WorkbenchError, match="parts: head, attention, mlp, layer, residual"):
        Part("neuron", 0)
    with pytest.raises(WorkbenchError, match="other parts take none"):
        Part("mlp", 0, (1,))
    with pytest.raises(WorkbenchError, match="no layer 4"):
        transplant(*two, tokens, Part("mlp", 4))
    with pytest.raises(WorkbenchError, match="no head 9"):
        transplant(*two, tokens, Part("head", 0, (9,)), using="activations")
    with pytest.raises(WorkbenchError, match="has no weights"):
        transplant(*two, tokens, Part("residual", 0))
    with pytest.raises(WorkbenchError, match="weights, activations"):
        transplant(*two, tokens, Part("mlp", 0), using="gradients")
    with pytest.raises(WorkbenchError, match="in A and"):
        transplant(make_model(family, intermediate_size=40), two[1], tokens, Part("mlp", 0))


@pytest.mark.parametrize(
    "part",
    [
        Part("head", 2, (1,)),
        Part("head", 10, (1, 3)),
        *(Part(kind, 1) for kind in ("attention", "mlp", "layer", "residual")),
    ],
    ids=str,
)
def test_a_part_is_called_by_its_name(part):
    assert Part.named(str(part)) == Part.named(str(part).upper()) == part


def test_a_part_is_transplanted_by_its_name(two, tokens):
    a, b = two
    for using in USING:
        named, made = (transplant(a, b, tokens, part, using=using) for part in ("L2H1", Part("head", 2, (1,))))
        assert named.title == made.title and "L2H1" in named.title
        np.testing.assert_array_equal(named.values, made.values)


@pytest.mark.parametrize("name", ["L2", "H1", "L2H", "2.1", "L2 heads", "L-1H0", "", "L2H1 mlp"])
def test_a_name_of_no_part_is_refused(model, tokens, name):
    with pytest.raises(WorkbenchError, match="part"):
        transplant(model, model, tokens, name)
    with pytest.raises(WorkbenchError, match="head 9"):
        transplant(model, model, tokens, "L2H9")
