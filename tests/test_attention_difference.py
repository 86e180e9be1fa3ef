"""The difference of two models' attention."""

import numpy as np
import pytest

from workbench.analyses.attention_difference import attention_difference
from workbench.analyses.attention_maps import attention_maps
from workbench.errors import WorkbenchError


def test_it_is_one_less_the_other_and_its_rows_sum_to_nothing(family, make_model, tokens):
    a, b = make_model(family, seed=0), make_model(family, seed=1)
    found = attention_difference(a, b, tokens[0], layers=[2], heads=[1, 3])
    maps = [attention_maps(model, tokens[0], layers=[2], heads=[1, 3]).values for model in (a, b)]
    assert found.signed and found.heads == ("L2H1", "L2H3")
    assert np.array_equal(found.values, maps[0] - maps[1])
    assert found.values.sum(-1) == pytest.approx(0, abs=1e-5) and found.value_name == "A − B"
    turned = attention_difference(a, b, tokens[0], layers=[2], heads=[1, 3], minus="a")
    assert np.array_equal(turned.values, -found.values) and turned.value_name == "B − A"
    with pytest.raises(WorkbenchError, match="minus is 'c'; choose from 'a' and 'b'"):
        attention_difference(a, b, tokens[0], minus="c")


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_heads_taken_together_are_taken_together_in_each_model(make_model, tokens, combine):
    a, b = make_model("olmo2", seed=0), make_model("olmo2", seed=1)
    found = attention_difference(a, b, tokens[0], layers=[2], combine=combine)
    maps = [attention_maps(model, tokens[0], layers=[2]).values for model in (a, b)]
    assert found.heads == (f"L2 {combine}",)
    assert np.allclose(found.values[0], getattr(maps[0], combine)(0) - getattr(maps[1], combine)(0), atol=1e-6)


def test_a_model_does_not_differ_from_itself(model, tokens):
    assert not attention_difference(model, model, tokens[0]).values.any()


def test_models_of_another_shape_are_refused(make_model, tokens):
    with pytest.raises(WorkbenchError, match="A has 4 layers of 4 heads, B 2 of 4"):
        attention_difference(make_model("olmo"), make_model("olmo", num_hidden_layers=2), tokens[0])
