"""The matrices by layer and head compute what the model computes, and are views of its parameters."""

import copy

import pytest
import torch
from torch import Tensor, nn

from hooks import OlmoForCausalLM
from hooks.errors import OutOfRange, WrongType
from hooks.weights import Factored, dense


def test_they_compute_what_the_model_computes(model: OlmoForCausalLM, tokens: Tensor) -> None:
    run = model.run(tokens, capture="*")
    read, z = run["blocks.1.attn_in"], run["blocks.1.attn.z"]
    for matrices, site in ((model.W_Q, "q_raw"), (model.W_K, "k_raw"), (model.W_V, "v_raw")):
        found = torch.einsum("bpd,hde->bphe", read, matrices[1])
        torch.testing.assert_close(found, run[f"blocks.1.attn.{site}"])
    out = torch.einsum("bphe,hed->bpd", z, model.W_O[1])
    torch.testing.assert_close(out, run["blocks.1.attn_out_raw"])
    mlp = run["blocks.1.mlp_in"]
    torch.testing.assert_close(mlp @ model.W_gate[1], run["blocks.1.mlp.pre"])
    torch.testing.assert_close(mlp @ model.W_in[1], run["blocks.1.mlp.pre_linear"])
    torch.testing.assert_close(run["blocks.1.mlp.post"] @ model.W_out[1], run["blocks.1.mlp_out_raw"])
    torch.testing.assert_close(model.W_E[tokens], run["embed"])
    torch.testing.assert_close(run["ln_final.normalized"] @ model.W_U, run.logits)


def test_they_are_views(make_model) -> None:
    model = make_model("olmo2")
    before = model.W_O[2, 1].clone()
    model.model.layers[2].self_attn.o_proj.weight.data.mul_(2)
    assert torch.equal(model.W_O[2, 1], before) is False
    for matrices, name in ((model.W_Q[0], "q_proj"), (model.W_V[0, 1], "v_proj"), (model.W_O[0], "o_proj")):
        parameter = getattr(model.model.layers[0].self_attn, name).weight
        assert matrices.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr()


def test_shared_keys_and_values(model: OlmoForCausalLM) -> None:
    heads, shared = model.config.num_attention_heads, model.config.num_key_value_heads
    for head in range(heads):
        group = head * shared // heads
        qk, ov = model.W_QK[1, head], model.W_OV[1, head]
        torch.testing.assert_close(qk.product(), model.W_Q[1, head] @ model.W_K[1, group].T)
        torch.testing.assert_close(ov.product(), model.W_V[1, group] @ model.W_O[1, head])
    assert model.W_QK.stack().shape[:2] == (model.config.num_hidden_layers, heads)


def test_products_are_not_computed_to_be_measured() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 3, 9, 4, generator=generator, dtype=torch.float64)
    both = Factored(left, right.mT)
    whole = both.product()
    torch.testing.assert_close(both.norm(), torch.linalg.matrix_norm(whole))
    torch.testing.assert_close(both.singular_values(), torch.linalg.svdvals(whole)[:, :4])
    torch.testing.assert_close(both.T.product(), whole.mT)
    row = torch.randn(9, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(row @ both, row @ whole)
    largest = torch.linalg.eigvals(whole).abs().sort(descending=True).values[:, :4]
    torch.testing.assert_close(both.eigenvalues().abs().sort(descending=True).values, largest)


@pytest.mark.parametrize(
    ("place", "error"),
    [(4, OutOfRange), ((0, 9), OutOfRange), ((0, 1, 2), WrongType), ("q", WrongType), (slice(2), WrongType)],
)
def test_a_wrong_place_is_refused(model: OlmoForCausalLM, place, error) -> None:
    with pytest.raises(error):
        model.W_Q[place]


def test_a_matrix_of_the_whole_layer_has_no_heads(model: OlmoForCausalLM) -> None:
    assert torch.equal(model.W_in[-1], model.W_in[model.config.num_hidden_layers - 1])
    with pytest.raises(OutOfRange, match="one matrix for each layer"):
        model.W_in[0, 1]


def test_other_linear_layers_are_read_by_what_they_do(make_model) -> None:
    class Quantised(nn.Module):
        """A layer without a matrix of its own."""

        def __init__(self, plain: nn.Linear) -> None:
            super().__init__()
            self.in_features, self.bias, self.plain = plain.in_features, plain.bias, plain

        def forward(self, x: Tensor) -> Tensor:
            return self.plain(x)

    plain = make_model("olmo", attention_bias=True)
    other = copy.deepcopy(plain)
    for layer in other.model.layers:
        layer.self_attn.q_proj = Quantised(layer.self_attn.q_proj)
    torch.testing.assert_close(other.W_Q[1], plain.W_Q[1])
    assert torch.equal(dense(plain.lm_head), plain.lm_head.weight)
