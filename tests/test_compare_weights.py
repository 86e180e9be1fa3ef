"""Changes of weights equal those of tensors in memory, in either layout, by matrix and by head."""

import math

import numpy as np
import pytest
import torch

from tests.layouts import save_original
from workbench import checkpoints
from workbench.analyses import compare_weights as module
from workbench.analyses.compare_weights import compare_weights, singular_directions, weight_table
from workbench.errors import WorkbenchError

PATHS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "o": "self_attn.o_proj", "down": "mlp.down_proj"}
GROUPED = {"num_key_value_heads": 2}


@pytest.fixture
def two(make_model, family):
    return make_model(family, seed=1, **GROUPED), make_model(family, seed=2, **GROUPED)


def matrix(model, layer, name):
    return model.get_parameter(f"model.layers.{layer}.{PATHS[name]}.weight").detach().double()


def test_each_measure_is_its_formula(two):
    measures = compare_weights(*two)
    rows = measures["cosine"].rows
    for layer in range(4):
        for name in PATHS:
            a, b = (matrix(model, layer, name).flatten() for model in two)
            expected = {
                "relative_change": (b - a).norm() / a.norm(),
                "cosine": torch.nn.functional.cosine_similarity(a, b, dim=0),
                "distance": (b - a).norm(),
                "norm_a": a.norm(),
                "norm_b": b.norm(),
            }
            found = {measure: grid.values[rows.index(name), layer] for measure, grid in measures.items()}
            assert found == pytest.approx({m: v.item() for m, v in expected.items()}, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", ["q", "k", "o"])
def test_heads_have_their_own_rows_and_columns(two, name):
    heads = 2 if name == "k" else 4
    change = compare_weights(*two, heads_of=name)["relative_change"]
    assert change.values.shape == (4, heads)
    for layer in range(4):
        a, b = (matrix(model, layer, name) for model in two)
        axis = 1 if name == "o" else 0
        for head, (one, other) in enumerate(zip(a.chunk(heads, axis), b.chunk(heads, axis), strict=True)):
            assert change.values[layer, head] == pytest.approx(((other - one).norm() / one.norm()).item(), rel=1e-5)


def test_squares_of_heads_sum_to_the_matrix(two):
    table = weight_table(*two)
    for name in PATHS:
        if name != "down":
            mine = table[(table["matrix"] == name) & (table["layer"] == 2)]
            whole, heads = mine[mine["head"] == ""], mine[mine["head"] != ""]
            assert (heads["distance"] ** 2).sum() == pytest.approx((whole["distance"] ** 2).sum(), rel=1e-6)


def test_a_checkpoint_does_not_differ_from_itself(two):
    measures = compare_weights(two[0], two[0])
    assert not measures["distance"].values.any()
    assert measures["cosine"].values == pytest.approx(np.ones_like(measures["cosine"].values), abs=1e-6)


def test_the_two_models_are_left_as_they_were(two):
    before = [[parameter.clone() for parameter in model.parameters()] for model in two]
    compare_weights(*two)
    for model, kept in zip(two, before, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(model.parameters(), kept, strict=True))


def test_files_of_either_layout_and_models_give_the_same(tmp_path, make_model):
    two = make_model("olmo2", seed=1, **GROUPED), make_model("olmo2", seed=2, **GROUPED)
    two[0].save_pretrained(tmp_path / "a")
    save_original(two[1], tmp_path / "b", "config.yaml", pickled=True)
    by_id = compare_weights(str(tmp_path / "a"), str(tmp_path / "b"))
    for measure, grid in compare_weights(*two).items():
        assert np.array_equal(by_id[measure].values, grid.values)


def test_no_block_is_larger_than_it_may_be(tmp_path, make_model, monkeypatch):
    """Only a few blocks are in memory at a time, for tensors of any size."""
    make_model("olmo").save_pretrained(tmp_path)
    weights = checkpoints.open_weights(tmp_path)
    whole = weight_table(weights, weights)
    monkeypatch.setattr(module, "BLOCK", 100)
    read: list[int] = []
    rows = type(weights).rows

    def counted(self, name, start, stop):
        block = rows(self, name, start, stop)
        read.append(block.numel())
        return block

    monkeypatch.setattr(type(weights), "rows", counted)
    in_blocks = weight_table(weights, weights)
    assert max(read) <= 100
    assert np.allclose(in_blocks["norm_a"], whole["norm_a"], rtol=1e-6)


def test_every_tensor_is_in_the_table_once(two):
    table = weight_table(*two)
    assert list(table.loc[table["head"] == "", "tensor"].sort_values()) == sorted(
        n for n, _ in two[0].named_parameters()
    )
    assert {"embed", "unembed"} <= set(table.loc[table["layer"].isna(), "matrix"])


def test_unrelated_matrices_are_about_root_two_apart(make_model):
    change = compare_weights(make_model("olmo", seed=1), make_model("olmo", seed=2))["relative_change"]
    assert change.values == pytest.approx(np.full_like(change.values, math.sqrt(2)), rel=0.1)


def test_singular_directions_are_those_of_the_difference(two):
    strengths, left, right = singular_directions(*two, 1, "down", count=32)
    difference = matrix(two[1], 1, "down") - matrix(two[0], 1, "down")
    assert strengths.values == pytest.approx(torch.linalg.svdvals(difference).numpy(), rel=1e-4)
    again = torch.einsum("i,ir,ic->rc", torch.tensor(strengths.values), left, right)
    assert torch.allclose(again, difference.float(), atol=1e-4)


@pytest.mark.parametrize("spectrum", ["flat", "falling", "of few directions"])
def test_the_strongest_directions_are_exact(make_model, spectrum):
    """A spectrum without gaps is the hard case: approximations mix directions that are nearly as strong."""
    a, b = (make_model("olmo", seed=1, hidden_size=256, intermediate_size=320, num_hidden_layers=1) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 256, generator=generator)).Q for n in (320, 256))
    strengths = {
        "flat": torch.linspace(1.01, 1, 256),
        "falling": 1 / torch.arange(1, 257),
        "of few directions": (torch.arange(256) < 3).float() * torch.arange(3, -253, -1),
    }[spectrum]
    with torch.no_grad():
        b.get_parameter("model.layers.0.mlp.up_proj.weight").add_((left * strengths) @ right.T)
    found, left, right = singular_directions(a, b, 0, "up", count=8)
    change = (
        b.get_parameter("model.layers.0.mlp.up_proj.weight") - a.get_parameter("model.layers.0.mlp.up_proj.weight")
    ).detach()
    exact = torch.linalg.svdvals(change.double())[:8].numpy()
    np.testing.assert_allclose(found.values, exact, atol=2e-6 * exact[0])
    np.testing.assert_allclose(left @ change @ right.T, np.diag(exact), atol=5e-6 * exact[0])


def test_what_did_not_change_has_no_strength(two):
    strengths, left, right = singular_directions(two[0], two[0], 1, "down", count=3)
    assert not strengths.values.any() and left.shape == (3, 32) and right.shape == (3, 48)


def test_wrong_names_and_shapes_are_refused(two, make_model, family):
    with pytest.raises(WorkbenchError, match="q, k, v, o"):
        compare_weights(*two, heads_of="up")
    with pytest.raises(WorkbenchError, match="matrices: embed, unembed, q"):
        singular_directions(*two, 9, "q")
    with pytest.raises(WorkbenchError, match="differ in size"):
        compare_weights(two[0], make_model(family, intermediate_size=40, **GROUPED))
    with pytest.raises(WorkbenchError, match="different architecture"):
        compare_weights(two[0], make_model(family, num_hidden_layers=3, layer_types=None, **GROUPED))


def test_codes_of_a_quantised_model_are_not_taken_for_weights(make_model, family):
    model = make_model(family, **GROUPED)
    o_proj = model.model.layers[1].self_attn.o_proj
    o_proj.weight = torch.nn.Parameter(o_proj.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(WorkbenchError, match="of a quantised model cannot be compared"):
        compare_weights(model, model)


def test_progress_rises_to_one(two):
    heard: list[float] = []
    compare_weights(*two, progress=lambda fraction, text: heard.append(fraction))
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
