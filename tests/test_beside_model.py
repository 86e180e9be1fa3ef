"""The ∞-gram beside a model, and verbatim pieces of a text: against the index's own answers."""

import numpy as np
import planted_cache
import pytest
import torch

from workbench import WorkbenchError, checkpoints, corpus, load, token_losses, tokenizer_of
from workbench.page.session.bench import Bench
from workbench.page.session.code import code
from workbench.page.session.training_text import SHADES, ShadeRequest, shade_call, shading

TEXTS = ("She lives in Lisbon and sells lemons, which grow", "nobody there buys: who lives", planted_cache.TEXTS[0])


@pytest.fixture(scope="module")
def model():
    return load(planted_cache.CHECKPOINT)[0]


def texts(index: corpus.SuffixIndex) -> list[torch.Tensor]:
    """Texts, one with a document's end inside, and one with a token that does not occur."""
    tokenizer = tokenizer_of(planted_cache.CHECKPOINT)
    found = [tokenizer(text)["input_ids"] for text in TEXTS]
    absent = int(np.setdiff1d(np.arange(5, 4096), index.tokens)[0])
    ids = [*found, [*found[0][:5], index.end, *found[1]], [*found[0][:4], absent, absent, *found[1]]]
    return [torch.tensor(one) for one in ids]


def test_the_text_is_that_of_continuations_and_the_model_that_of_its_losses(index, model):
    for ids in texts(index):
        found = corpus.beside_model(model, ids, index)
        loss = token_losses(model, ids)["loss"].values[0]
        for position in range(1, len(ids)):
            expected = index.continuations(ids[:position])
            assert found["suffix"].values[0, position] == expected.suffix
            assert found["text"].values[0, position] == pytest.approx(expected.probabilities[ids[position]])
        np.testing.assert_allclose(found["model"].values[0, 1:], np.exp(-loss[1:]), rtol=1e-5)
        whole = found["text"].values + found["difference"].values
        np.testing.assert_allclose(whole, found["model"].values, rtol=1e-5, atol=1e-7)
        assert all(np.isnan(found[name].values[0, 0]) for name in found)


def test_verbatim_pieces_are_the_longest_that_hold_a_token(index):
    for ids in texts(index):
        found = corpus.verbatim(ids, index, shortest=1)
        for position in range(len(ids)):
            pieces = [
                (end - start, index.count(ids[start:end]))
                for start in range(position + 1)
                for end in range(position + 1, len(ids) + 1)
                if index.occurs(ids[start:end])
            ]
            length = max((size for size, _ in pieces), default=0)
            assert found["length"].values[0, position] == length
            counts = {count for size, count in pieces if size == length} or {0}
            assert found["count"].values[0, position] in counts
        longer = corpus.verbatim(ids, index, shortest=4)["length"].values
        assert set(longer[longer > 0]) <= set(found["length"].values[0]) and (longer[longer > 0] >= 4).all()


def test_several_texts_and_unknown_ids_are_refused(index, model):
    with pytest.raises(WorkbenchError, match="one text"):
        corpus.verbatim([torch.tensor([4, 5]), torch.tensor([6])], index)
    with pytest.raises(WorkbenchError, match="no token id 9000"):
        corpus.verbatim(torch.tensor([4, 9000]), index)
    with pytest.raises(WorkbenchError, match="at least 2"):
        corpus.beside_model(model, torch.tensor([4]), index)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(checkpoints.series("tiny-olmo"), 10**9)


@pytest.mark.parametrize("shade", SHADES)
def test_a_strip_is_shaded_by_the_numbers_of_the_copied_python(bench, index, monkeypatch, shade):
    ids = tuple(texts(index)[0].tolist())
    request = ShadeRequest(planted_cache.CHECKPOINT, ids, shade)
    found, call = shading(bench, request), shade_call(bench, request)
    source = code(call, bench).replace("text_page(result).show()", "")
    names: dict = {}
    exec(source, names)
    known = names["result"].values[0]
    assert [np.nan if value is None else value for value in found["values"]] == pytest.approx(known, nan_ok=True)
    if shade == "verbatim":
        assert [tuple(span) for span in found["spans"]] == [
            (one.start, one.end, one.count) for one in index.spans(list(ids), 2)
        ]


def test_no_shade_without_an_index_and_no_unknown_shade(bench, index, tmp_path, monkeypatch):
    ids = tuple(texts(index)[0].tolist())
    with pytest.raises(WorkbenchError, match="no shade 'colour'; choose from verbatim, text, difference"):
        shading(bench, ShadeRequest(planted_cache.CHECKPOINT, ids, "colour"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "corpus build tiny-olmo" in shading(bench, ShadeRequest(planted_cache.CHECKPOINT, ids, "text"))["absent"]
