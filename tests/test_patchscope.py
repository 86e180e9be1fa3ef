"""A state that is put where it came from changes nothing; put elsewhere, the target reads it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hooks import OlmoForCausalLM, edits
from workbench import checkpoints
from workbench.analyses.patchscope import IDENTITY, patchscope
from workbench.errors import WorkbenchError


def test_a_state_put_where_it_came_from_changes_nothing(model: OlmoForCausalLM, tokens: Tensor) -> None:
    for position in (3, -1):
        found = patchscope(model, tokens[0], tokens[0], positions=[position], target_position=position)
        assert found["kl"].values.max() < 1e-5
        chances = model.run(tokens[:1]).logits[0, -1].softmax(-1)
        np.testing.assert_allclose(found["probability"].values, chances.max().item(), rtol=1e-4)
        assert set(found["probability"].text.ravel()) == {str(chances.argmax().item())}


def test_after_the_last_layer_the_target_says_what_the_source_says(model: OlmoForCausalLM, tokens: Tensor) -> None:
    found = patchscope(model, tokens[0], tokens[1])
    logits = model.run(tokens[:1]).logits[0]
    assert found["probability"].rows == ("embed", "0", "1", "2", "3")
    assert list(found["probability"].text[-1]) == [str(token) for token in logits.argmax(-1).tolist()]
    np.testing.assert_allclose(found["own"].values[-1], logits.softmax(-1).amax(-1), rtol=1e-4)
    np.testing.assert_allclose(found["own"].values[-1], found["probability"].values[-1], rtol=1e-5)


def test_an_embedding_in_place_of_another_is_another_token(model: OlmoForCausalLM, tokens: Tensor) -> None:
    """The row of the embedding: the target with the source's token instead of its own."""
    found = patchscope(model, tokens[0], tokens[1], positions=[2], target_position=5)
    other = tokens[1:].clone()
    other[0, 5] = tokens[0, 2]
    chances = model.run(other).logits[0, -1].softmax(-1)
    assert found["probability"].values[0, 0] == pytest.approx(chances.max().item(), rel=1e-4)
    kl = torch.nn.functional.kl_div(
        chances.log(), model.run(tokens[1:]).logits[0, -1].log_softmax(-1), reduction="sum", log_target=True
    )
    assert found["kl"].values[0, 0] == pytest.approx(kl.item(), rel=1e-3)


def test_each_cell_is_one_patched_run(model: OlmoForCausalLM, tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    states = model.run(tokens[:1], capture="blocks.*.resid_post").stack("resid_post")[:, 0]
    found = patchscope(model, tokens[0], tokens[1], target_position=4, target_layer=1, max_new_tokens=3)
    for layer, position in ((0, 3), (3, 13)):
        edit = edits.replace("blocks.1.resid_post", states[layer, position], positions=4)
        written = model.generate(tokens[1:], max_new_tokens=3, do_sample=False, pad_token_id=0, edits=[edit])
        text = found["probability"].text[layer + 1, position]
        assert text == " ".join(str(token) for token in written[0, -3:].tolist())
    monkeypatch.setattr("workbench.analyses.support.memory.TOKENS", 1)
    alone = patchscope(model, tokens[0], tokens[1], target_position=4, target_layer=1)
    for name in alone:
        np.testing.assert_allclose(alone[name].values, found[name].values, rtol=1e-4, atol=1e-5)


def test_the_embedded_model_reads_itself_with_the_default_target() -> None:
    model, tokenizer = checkpoints.load("tiny-olmo")
    ids = tokenizer("The children were playing in", return_tensors="pt").input_ids
    found = patchscope(model, ids, tokenizer=tokenizer)
    assert tokenizer.decode(tokenizer(IDENTITY).input_ids) == IDENTITY
    last = tokenizer.decode([model.run(ids).logits[0, -1].argmax().item()]).replace(" ", "▁")
    assert found["probability"].text[-1, -1] == last


def test_a_text_ends_at_the_end_of_text_token(make_model: Any, tokens: Tensor) -> None:
    model = make_model("olmo", eos_token_id=None)
    first = patchscope(model, tokens[0], tokens[1], positions=[-1])["probability"].text[-1, 0]
    model.config.eos_token_id = int(first)
    assert patchscope(model, tokens[0], tokens[1], positions=[-1], max_new_tokens=4)["own"].text[-1, 0] == first


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": None}, "the default target prompt needs a tokenizer"),
        ({"target_position": 14}, "no position in the target prompt 14; there are 14"),
        ({"positions": [-15]}, "no position in the source prompt -15; there are 14"),
        ({"target_layer": 4}, "no layer 4; choices: embed, 0 to 3"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; after a target of 14 tokens, choose 1 to"),
        ({"max_new_tokens": 10_000}, "max_new_tokens is 10000"),
    ],
)
def test_what_cannot_be_read_is_refused(
    model: OlmoForCausalLM, tokens: Tensor, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        patchscope(model, tokens[0], **({"target": tokens[1]} | options))
