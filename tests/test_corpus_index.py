"""The index of a training text against a naive scan, and the map of its rows against the rows."""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.small_corpus import END, ORDERS, RECIPE, index_of, joined, naive_followers, naive_places, text_of
from workbench import WorkbenchError, checkpoints, corpus, tokenizer_of
from workbench.command_line import main
from workbench.corpus import building, suffix_array, training_text
from workbench.corpus.replay import Replay
from workbench.corpus.suffix_array import SuffixArray

ALPHABETS = {"two": [0, 1, 2], "wide": [0, 1, 255, 256, 4094, 4095], "high": [0, 4095, 4000, 257], "one": [0, 3]}


def documents_of(alphabet: list[int], seed: int) -> list[list[int]]:
    """Random documents, some of them empty, repeated, or the beginning of another."""
    rng = np.random.default_rng(seed)
    made = [rng.choice(alphabet[1:], rng.integers(0, 25)).tolist() for _ in range(12)]
    return [*made, made[1], made[2], made[3] + made[4], made[5][: len(made[5]) // 2], [alphabet[1]] * 9]


def queries(documents: list[list[int]], alphabet: list[int], seed: int) -> list[list[int]]:
    """Pieces of documents, pieces across their borders, and random n-grams."""
    rng, text = np.random.default_rng(seed), joined(documents).tolist()
    pieces = [
        text[at : at + size] for at, size in zip(rng.integers(0, len(text), 40), rng.integers(1, 9, 40), strict=True)
    ]
    return [
        [],
        [END],
        [END, END],
        *pieces,
        *(rng.choice(alphabet, rng.integers(1, 5)).tolist() for _ in range(20)),
        [7],
    ]


@pytest.fixture(scope="module")
def documents() -> list[list[int]]:
    """Documents that are long enough to draw rows from."""
    rng = np.random.default_rng(5)
    return [rng.integers(1, 4096, rng.integers(40, 90)).tolist() for _ in range(17)]


@pytest.fixture(scope="module")
def index(documents, tmp_path_factory) -> corpus.SuffixIndex:
    return index_of(documents, tmp_path_factory.mktemp("index"))


@pytest.mark.parametrize("gathered", [0, 50_000])
@pytest.mark.parametrize("name", ALPHABETS)
def test_intervals_and_followers_are_those_of_a_naive_scan(name: str, gathered: int, monkeypatch) -> None:
    monkeypatch.setattr(suffix_array, "GATHERED", gathered)
    alphabet = ALPHABETS[name]
    for seed in range(3):
        documents = documents_of(alphabet, seed)
        suffixes = SuffixArray.of(joined(documents), END, 4096)
        for ids in queries(documents, alphabet, seed):
            asked = np.array(ids, np.int64)
            low, high = suffixes.interval(asked)
            expected = naive_places(documents, ids)
            assert sorted(suffixes.positions[low:high]) == expected
            assert suffixes.occurs(asked) == bool(expected)
            followers = suffixes.followers(asked)
            assert {int(i): int(followers[i]) for i in np.flatnonzero(followers)} == naive_followers(documents, ids)


def small_index(alphabet: list[int], seed: int) -> tuple[list[list[int]], corpus.SuffixIndex]:
    documents = documents_of(alphabet, seed)
    suffixes = SuffixArray.of(joined(documents), END, 4096)
    nothing = np.zeros(0, np.int32)
    return documents, corpus.SuffixIndex(suffixes, nothing, nothing, (), map_of_nothing(), (1,))


def map_of_nothing():
    return building.RowMap(np.zeros(0, building.PIECE))


@pytest.mark.parametrize("name", ALPHABETS)
def test_continuations_follow_the_longest_suffix_that_occurs(name: str) -> None:
    for seed in range(2):
        documents, index = small_index(ALPHABETS[name], seed)
        for ids in queries(documents, ALPHABETS[name], seed + 10):
            context = ids[len(ids) - ids[::-1].index(END) :] if END in ids else ids
            longest = next(
                n for n in range(len(context), -1, -1) if naive_places(documents, context[len(context) - n :])
            )
            found = index.continuations(ids)
            expected = naive_followers(documents, context[len(context) - longest :])
            table = found.table()
            assert found.suffix == longest and found.total == sum(expected.values())
            assert dict(zip(table["id"], table["count"], strict=True)) == expected
            assert table["count"].is_monotonic_decreasing and np.isclose(table["probability"].sum(), 1)


@pytest.mark.parametrize("name", ALPHABETS)
def test_spans_are_all_maximal_pieces_that_occur(name: str) -> None:
    for seed in range(2):
        documents, index = small_index(ALPHABETS[name], seed)
        rng = np.random.default_rng(seed)
        text = [*documents[3], *rng.choice(ALPHABETS[name], 12), *documents[6][:5], END, *documents[1], 7].copy()
        pieces = [
            (a, b) for a in range(len(text)) for b in range(a + 1, len(text) + 1) if naive_places(documents, text[a:b])
        ]
        maximal = [(a, b) for a, b in pieces if (a - 1, b) not in pieces and (a, b + 1) not in pieces]
        spans = index.spans(text)
        assert [(span.start, span.end) for span in spans] == maximal
        assert [span.count for span in spans] == [len(naive_places(documents, text[a:b])) for a, b in maximal]
        assert index.spans(text, shortest=4) == [span for span in spans if span.length >= 4]


def test_counts_places_and_documents_of_an_index_on_disk(documents, index) -> None:
    whole = joined(documents)
    assert (index.tokens == whole).all() and index.count([]) == len(whole)
    for ids in queries(documents, [0, 5, 9], 0):
        assert index.count(ids) == len(naive_places(documents, ids))
        assert index.places(torch.tensor(ids)).tolist() == naive_places(documents, ids)
    begin = 0
    for number, ids in enumerate(documents):
        for place in (begin, begin + len(ids)):
            found = index.document(place)
            assert (found.number, found.place, found.ids.tolist()) == (number, begin, ids)
            assert (found.source, found.licence) == (("A", "free") if number < 9 else (f"B, {number - 9}", "none"))
        begin += len(ids) + 1


def test_some_of_many_places(index) -> None:
    places = index.places([], most=10)
    assert len(set(places)) == 10 and (np.diff(places) > 0).all()
    assert index.places([END], most=1000).tolist() == index.places([END]).tolist()


def test_what_is_no_text_of_this_vocabulary_is_refused(index) -> None:
    for ids, message in [
        ([4096], "no token id 4096"),
        ([-1], "no token id -1"),
        ([[1]], "not a list"),
        ([0.5], "not a"),
    ]:
        with pytest.raises(WorkbenchError, match=message):
            index.count(ids)
    for place in (-1, len(index.tokens)):
        with pytest.raises(WorkbenchError, match=f"no place {place}"):
            index.document(place)
    with pytest.raises(WorkbenchError, match="order=4"):
        index.rows_at(0, order=4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("length", [1, 3, 13])
def test_the_rows_of_a_place_are_those_that_hold_it(documents, index, order: int, length: int) -> None:
    replay = Replay.of(text_of(documents)[0].source(), RECIPE)
    held: dict[int, set] = {}
    for step in range(RECIPE.steps):
        places = replay.place_rows(step, order)
        for row, position in np.ndindex(places.shape[0], places.shape[1] - length + 1):
            piece = places[row, position : position + length]
            if piece[0] >= 0 and (np.diff(piece) == 1).all():
                held.setdefault(int(piece[0]), set()).add((step, row, position))
    assert len(held) > 50
    for place in range(0, len(index.tokens), 7):
        table = index.rows_at(place, length, order)
        found = list(table[["step", "row", "position"]].itertuples(index=False, name=None))
        assert len(found) == len(set(found)) and set(found) == held.get(place, set())
        assert (table["place"] == place).all() and table["step"].is_monotonic_increasing
    ids = documents[4][10 : 10 + length]
    found = index.rows_with(ids, order)
    expected = {(place, *where) for place in index.places(ids) for where in held.get(int(place), ())}
    assert set(found.itertuples(index=False, name=None)) == expected
    for _, step, row, position in found.itertuples(index=False, name=None):
        assert replay.rows(step, order)[row, position : position + length].tolist() == ids


def test_a_place_in_no_row_has_no_rows(index) -> None:
    assert index.rows_with([7, 7, 7, 7]).empty
    assert list(index.rows_with([7, 7, 7, 7]).columns) == ["place", "step", "row", "position"]


class Killed(Exception):
    pass


@pytest.mark.parametrize("stopped_at", ["suffixes", "starts", "origins", "rows", building.DESCRIPTION])
def test_a_stopped_build_is_no_index_and_goes_on(documents, tmp_path, monkeypatch, stopped_at: str) -> None:
    made, write, written = text_of(documents)[1], building.write_whole, []

    def stopping(path: Path, content: bytes) -> None:
        if path.name == stopped_at and not written.count("stopped"):
            written.append("stopped")
            (tmp_path / ".half.part").write_bytes(content[: len(content) // 2])  # what a killed process leaves
            raise Killed
        written.append(path.name)
        write(path, content)

    monkeypatch.setattr(building, "write_whole", stopping)
    with pytest.raises(Killed):
        building.build_index(made, tmp_path)
    assert not (tmp_path / building.DESCRIPTION).exists()
    building.build_index(made, tmp_path)
    assert not list(tmp_path.glob(".*.part"))
    assert written.count("tokens") == 1  # a finished stage is not done again
    assert (building.open_folder(tmp_path).tokens == joined(documents)).all()


def test_a_cut_file_is_noticed(documents, tmp_path) -> None:
    index_of(documents, tmp_path)
    path = tmp_path / "suffixes"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(WorkbenchError, match=r"suffixes is damaged; delete the folder"):
        building.open_folder(tmp_path)


def test_opening_what_is_not_built_names_the_command(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(WorkbenchError, match=r"not indexed.*python -m workbench corpus build tiny-olmo"):
        corpus.open("tiny-olmo@step400")
    with pytest.raises(WorkbenchError, match="choices: tiny-olmo"):
        corpus.open("another")


@pytest.fixture
def small_series(tmp_path, monkeypatch) -> list[str]:
    """Documents, in place of the training text of the embedded series, and their index."""
    tokenizer = tokenizer_of("tiny-olmo")
    words = ("cat", "dog", "tree", "house", "river", "stone", "bread", "glass", "horse", "field")
    documents = [f"The {one} and the {other} are here. " * 3 for one in words for other in words[:4]]
    text, made = text_of([tokenizer(text)["input_ids"] for text in documents])
    building.build_index(made, tmp_path)
    monkeypatch.setattr(building, "index_folder", lambda name: tmp_path)
    monkeypatch.setitem(training_text.RECIPES, "tiny-olmo", RECIPE)
    of_documents = Replay.of(text.source(), RECIPE)
    for module in ("influence", "chosen_rows"):
        monkeypatch.setattr(sys.modules[f"workbench.corpus.{module}"], "replay_of", lambda name: of_documents)
    return documents


def printed(capsys, *arguments: str) -> pd.DataFrame:
    """The first table of a command."""
    assert main(["corpus", *arguments, "--csv", "-"]) == 0
    return pd.read_csv(io.StringIO(capsys.readouterr().out), comment="#")


def test_the_command_counts_and_traces(small_series: list[str], capsys) -> None:
    text = " and the dog are here."
    table = printed(capsys, "count", text)
    assert table["count"].item() == sum(document.count(text) for document in small_series)
    assert table["rows"].item() > 0 and 0 <= table["first step"].item() <= table["last step"].item() < RECIPE.steps
    spans = printed(capsys, "trace", "xx The cat and the dog are here. Zebra")
    assert "The cat and the dog are here." in spans["text"].item()
    assert spans["a source"].item() == "A" and spans["count"].item() == 2  # with the space before it


def test_a_row_that_holds_copies_counts_once(small_series: list[str], capsys) -> None:
    """Each document is one sentence three times, and rows with repeats hold spans again."""
    index, tokenizer = corpus.open("tiny-olmo"), tokenizer_of("tiny-olmo")
    for text in (" are", " dog", " the dog are"):
        ids = tokenizer(text)["input_ids"]
        held = {(one.step, one.row): [] for one in index.rows_with(ids).itertuples()}
        for one in index.rows_with(ids).itertuples():
            held[one.step, one.row].append(one.position)
        copies = sum(map(len, held.values()))
        rows = corpus.chosen_rows("tiny-olmo", list(held))
        for positions, row in zip(held.values(), rows, strict=True):  # the rows themselves have it there
            assert all(row[at : at + len(ids)].tolist() == ids for at in positions)
            assert len(set(positions)) == len(positions)
        table = printed(capsys, "count", text)
        assert (table["rows"].item(), table["copies"].item()) == (len(held), copies)
        assert table["count"].item() == index.count(ids)
        spans = printed(capsys, "trace", text, "--shortest", str(len(ids)))
        assert spans["rows"].item() == len(held) and spans["count"].item() == index.count(ids)
    assert copies > len(held) > 0, "no row holds it twice"


def test_the_command_ranks_rows_by_influence(small_series: list[str], capsys) -> None:
    text = "The river and the dog are here."
    options = ["--rows", "4", "--random", "6", "--predicted", "3"]
    table = printed(capsys, "influence", text, *options)
    assert len(table) == 4 and table["score"].is_monotonic_decreasing and table["quantile"].between(0, 1).all()
    tokenizer = tokenizer_of("tiny-olmo")
    rows = corpus.chosen_rows("tiny-olmo", list(zip(table["step"], table["row"], strict=True)))
    for piece, row in zip(table["n-gram held"], rows, strict=True):
        assert piece in text and piece in tokenizer.decode(row)
    read = [checkpoint for checkpoint in checkpoints.series("tiny-olmo") if checkpoint.step == 0]  # the recipe has 9
    prediction = torch.tensor(tokenizer(text)["input_ids"])
    expected = corpus.influence(read, prediction, rows, predicted=3)["score"].values
    assert table["score"].to_numpy() == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert set(table["source"]) <= {"A", *(f"B, {number}" for number in range(len(small_series)))}


def test_the_command_says_what_it_needs(small_series: list[str], capsys) -> None:
    assert main(["corpus", "count", ""]) == 1
    assert "the text is empty" in capsys.readouterr().err
    assert main(["corpus", "influence", "zebra"]) == 1
    assert "no row that tiny-olmo has read held two neighbouring tokens" in capsys.readouterr().err
    assert printed(capsys, "build", "tiny-olmo")["documents"].item() == len(small_series)
