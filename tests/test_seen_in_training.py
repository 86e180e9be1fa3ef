"""What the page shows of the training text: against the index, by checkpoints of other data orders, and without one."""

import numpy as np
import planted_cache
import pytest
import torch
from copied import run_copied
from fastapi.testclient import TestClient
from headless import served

from workbench import WorkbenchError, checkpoints, load, tokenizer_of
from workbench.corpus.excerpts import excerpt, plain_text
from workbench.page.session.bench import Bench
from workbench.page.session.cached_results import cached_value
from workbench.page.session.code import code
from workbench.page.session.training_text import BINS, SeenRequest, ngrams_at, seen, seen_call

TEXT = "She lives in Lisbon and sells lemons, which grow"


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(checkpoints.series("tiny-olmo"), 10**9)


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return tokenizer_of(planted_cache.CHECKPOINT)(TEXT)["input_ids"]


def test_the_ngrams_of_a_token_occur_and_none_can_be_longer(index, ids):
    for token in range(len(ids)):
        found = ngrams_at(index, ids, token)
        ending = [one for one in found if one[1] == token + 1]
        assert all(count == index.count(ids[start:end]) > 0 for start, end, count in found)
        assert all(start <= token < end for start, end, _ in found)
        sizes, counts = [end - start for start, end, _ in ending], [count for *_, count in ending]
        assert sizes == sorted(sizes, reverse=True) and counts == sorted(set(counts))
        longest = ending[0][0] if ending else token + 1
        assert longest == 0 or not index.occurs(ids[longest - 1 : token + 1])
        for start, end, _ in found:  # a span that goes beyond the token cannot grow
            if end > token + 1:
                assert end == len(ids) or not index.occurs(ids[start : end + 1])


def test_what_follows_stands_beside_the_models_own_distribution(bench, index, ids):
    model = load(planted_cache.CHECKPOINT)[0]
    for token in (3, len(ids) - 1):
        found = seen(bench, SeenRequest(planted_cache.CHECKPOINT, tuple(ids), token))["follows"]
        expected = index.continuations(ids[: token + 1])
        by_model = model.run(torch.tensor([ids[: token + 1]])).logits[0, -1].softmax(-1)
        assert found["suffix"] == expected.suffix and found["total"] == expected.total
        for _, token_id, in_text, own in found["rows"]:
            assert in_text == pytest.approx(expected.probabilities[token_id])
            assert own == pytest.approx(by_model[token_id].item(), rel=1e-4)
        listed = [row[1] for row in found["rows"]]
        assert by_model.argmax().item() in listed or expected.probabilities[listed].min() > by_model.max().item()


def test_edits_change_the_model_beside_the_text_and_not_the_text(bench, index, ids):
    plain = seen(bench, SeenRequest(planted_cache.CHECKPOINT, tuple(ids), 5))["follows"]
    edited = seen(bench, SeenRequest(planted_cache.CHECKPOINT, tuple(ids), 5, "L0 mlp off"))["follows"]
    assert plain["suffix"] == edited["suffix"] and plain["rows"] != edited["rows"]


def test_documents_are_those_of_the_index_with_source_licence_and_steps(bench, index, ids):
    found = seen(bench, SeenRequest(planted_cache.CHECKPOINT, tuple(ids), 4))
    start, end = found["chosen"]
    assert found["places"] == index.count(ids[start:end]) >= len(found["documents"]) > 0
    tokenizer = tokenizer_of(planted_cache.CHECKPOINT)
    for shown, place in zip(found["documents"], index.places(ids[start:end], 4), strict=True):
        document = index.document(place)
        assert (shown["source"], shown["licence"]) == (document.source, "free")
        assert shown["match"] == plain_text(ids[start:end], tokenizer)
        assert shown["steps"] == index.rows_at(place, end - start)["step"].unique().tolist()


def test_the_copied_python_gives_the_documents_that_are_shown(bench, index, ids):
    asked = SeenRequest("tiny-olmo@step6000-order2", tuple(ids), 4)
    call, found = seen_call(bench, asked), seen(bench, asked)["documents"]
    copied = run_copied(code(call, bench))["result"]
    assert copied.equals(cached_value(call, bench)) and len(copied) == len(found) > 0
    names = ["document", "source", "before", "match", "after", "begins"]
    shown_so = [[one[name] for name in ["number", *names[1:]]] for one in found]
    assert copied[names].to_numpy().tolist() == shown_so
    assert [len(steps) for steps in copied["steps"]] == [one["times"] for one in found]
    other = seen_call(bench, SeenRequest(asked.checkpoint, asked.ids, 4, ngram=(4, 5)))
    alone = plain_text(ids[4:5], tokenizer_of(planted_cache.CHECKPOINT))
    assert other != call and set(cached_value(other, bench)["match"]) == {alone}
    absent = int(np.setdiff1d(np.arange(5, 4096), index.tokens)[0])
    assert cached_value(seen_call(bench, SeenRequest(planted_cache.CHECKPOINT, (absent,), 0)), bench).empty


def test_the_time_line_counts_every_row_and_what_a_checkpoint_has_read(bench, index, ids):
    rows = index.rows_with(ids[3:4]).drop_duplicates(["step", "row"])["step"]
    for name in ("tiny-olmo@step0", planted_cache.CHECKPOINT):
        found = seen(bench, SeenRequest(name, tuple(ids), 3, ngram=(3, 4)))["rows"]
        assert found["count"] == len(rows) == sum(found["bins"]) and len(found["bins"]) == BINS
        assert found["before"] == (rows < bench.checkpoint(name).step).sum()
        assert found["steps"] == rows.nunique() and found["last"] == rows.max()


def test_a_checkpoint_of_another_data_order_has_the_rows_of_its_own_run(bench, index, ids):
    other = "tiny-olmo@step6000-order2"
    found = seen(bench, SeenRequest(other, tuple(ids), 3, ngram=(3, 4)))["rows"]
    assert found["count"] == len(index.rows_with(ids[3:4], 2).drop_duplicates(["step", "row"]))


def test_a_token_that_does_not_occur_has_no_documents(bench, index):
    absent = int(np.setdiff1d(np.arange(5, 4096), index.tokens)[0])
    found = seen(bench, SeenRequest(planted_cache.CHECKPOINT, (absent,), 0))
    assert found["ngrams"] == [] and found["documents"] == [] and found["rows"] is None
    assert found["follows"]["suffix"] == 0 and all(row[2] == 0 for row in found["follows"]["rows"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token": 99}, "no token 99"),
        ({"ids": (5000,)}, "not valid"),
        ({"ngram": (4, 9)}, "not an n-gram that contains token 3"),
    ],
)
def test_requests_that_do_not_fit_are_refused(bench, index, ids, change, said):
    asked = {"checkpoint": planted_cache.CHECKPOINT, "ids": tuple(ids), "token": 3} | change
    with pytest.raises(WorkbenchError, match=said):
        seen(bench, SeenRequest(**asked))


def test_without_an_index_the_answer_is_the_command_that_makes_one(bench, ids, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = seen(bench, SeenRequest(planted_cache.CHECKPOINT, tuple(ids), 3))
    assert list(found) == ["absent"] and "python -m workbench corpus build tiny-olmo" in found["absent"]


def test_an_excerpt_stays_in_its_document_and_its_text_is_safe_to_show(index):
    tokenizer = tokenizer_of(planted_cache.CHECKPOINT)
    for place in index.places(tokenizer(" sells")["input_ids"]):
        found = excerpt(index, int(place), 1, 500)
        whole = found.before + found.match + found.after
        assert whole == found.document.ids.tolist() and index.end not in whole
    shown = plain_text(tokenizer(planted_cache.TEXTS[2])["input_ids"], tokenizer)
    assert "\u202e" not in shown and "‹U+202E›" in shown and planted_cache.HOSTILE in shown


def test_the_route_answers_a_browser(bench, index, ids):
    with served(bench) as client:
        asked = {"checkpoint": planted_cache.CHECKPOINT, "ids": ids, "token": 3}
        told = client.post("/data/corpus/seen/offer", json=asked).json()
        assert "documents_with" in told["code"] and client.get(f"/data/export/{told['key']}.csv").status_code == 200
        asked = {"checkpoint": planted_cache.CHECKPOINT, "ids": ids, "token": 3, "edits": "", "ngram": None}
        assert shown(client, asked)["ngrams"]
        assert client.post("/data/corpus/seen", json=asked | {"folder": "/"}).status_code == 422


def shown(client: TestClient, asked: dict) -> dict:
    reply = client.post("/data/corpus/seen", json=asked)
    assert reply.status_code == 200, reply.text
    return reply.json()
