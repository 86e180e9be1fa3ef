"""An index in the format of infini-gram, made by its own indexer, against a naive scan."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.small_corpus import naive_followers, naive_places
from workbench import WorkbenchError, corpus
from workbench.corpus import infini_gram

NEEDED = "infini-gram has wheels for Linux on x86-64 only"
END = 9
SHARDS = (14, 1, 10)  # documents of each


def written(documents: list[list[int]], folder: Path, shard: int, dtype: str) -> None:
    """The files of a shard, as the indexer writes them before it sorts: a separator, then the ids of the document."""
    separator, tokens, metadata = b"\xff" * np.dtype(dtype).itemsize, b"", b""
    offsets, lines = [], []
    for number, ids in enumerate(documents):
        offsets.append(len(tokens))
        lines.append(len(metadata))
        tokens += separator + np.array(ids, dtype).tobytes()
        about = {"path": f"{shard}.jsonl", "linenum": number, "metadata": {"source": f"S{number % 3}"}}
        metadata += json.dumps(about).encode() + b"\n"
    for name, content in {
        "tokenized": tokens,
        "offset": np.array(offsets, "<u8").tobytes(),
        "metadata": metadata,
        "metaoff": np.array(lines, "<u8").tobytes(),
    }.items():
        (folder / f"{name}.{shard}").write_bytes(content)


@pytest.fixture(scope="module")
def documents() -> list[list[int]]:
    rng = np.random.default_rng(4)
    made = [rng.integers(1, 6, rng.integers(1, 30)).tolist() for _ in range(sum(SHARDS) - 3)]
    return [*made[:5], made[1], [3], [2, 2, 2, 2], *made[5:]]


@pytest.fixture(scope="module", params=["<u2", "<u4"])
def index(request, documents, tmp_path_factory) -> infini_gram.InfiniGramIndex:
    pytest.importorskip("infini_gram", reason=NEEDED)
    folder, begin = tmp_path_factory.mktemp("index"), 0
    for shard, count in enumerate(SHARDS):
        written(documents[begin : begin + count], folder, shard, request.param)
        begin += count
    if request.param == "<u2":
        sorted_by_the_indexer(folder)
    else:
        sorted_here(folder, width=4)
    return corpus.open_infini_gram(folder, end=END, vocab=10, token_type=f"u{8 * np.dtype(request.param).itemsize}")


def sorted_by_the_indexer(folder: Path) -> None:
    options = {"--data_dir": folder, "--save_dir": folder, "--temp_dir": folder / "parts", "--token_dtype": "u16"}
    options |= {"--mem": 1, "--cpus": 1, "--shards": len(SHARDS), "--ulimit": 1024}
    command = [sys.executable, "-m", "infini_gram.indexing", *(str(part) for pair in options.items() for part in pair)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def sorted_here(folder: Path, width: int) -> None:
    """The same tables for tokens of four bytes, for which the indexer takes 32 GB of memory, however small the text."""
    for shard in range(len(SHARDS)):
        tokens = (folder / f"tokenized.{shard}").read_bytes()
        size = math.ceil(math.log2(len(tokens)) / 8)
        order = sorted(range(0, len(tokens), width), key=lambda at: tokens[at:])
        (folder / f"table.{shard}").write_bytes(b"".join(at.to_bytes(size, "little") for at in order))


def test_the_tables_are_sorted_as_the_indexer_sorts(documents, tmp_path) -> None:
    pytest.importorskip("infini_gram", reason=NEEDED)
    for folder in (tmp_path / "one", tmp_path / "other"):
        folder.mkdir()
        for shard in range(len(SHARDS)):
            written(documents[shard : shard + 4], folder, shard, "<u2")
    sorted_by_the_indexer(tmp_path / "one")
    sorted_here(tmp_path / "other", width=2)
    for shard in range(len(SHARDS)):
        one, other = (tmp_path / name / f"table.{shard}" for name in ("one", "other"))
        assert one.read_bytes() == other.read_bytes()


def queries(documents: list[list[int]]) -> list[list[int]]:
    rng = np.random.default_rng(7)
    text = [token for document in documents for token in [*document, END]]
    starts = rng.integers(0, len(text) - 6, 50)
    pieces = [text[at : at + size] for at, size in zip(starts, rng.integers(1, 7, 50), strict=True)]
    last = [[*documents[sum(SHARDS[: shard + 1]) - 1][-2:], END] for shard in range(len(SHARDS))]
    return [*pieces, *last, [END], [END, END], [8], [3, END], *(rng.integers(1, 6, 3).tolist() for _ in range(20))]


def test_counts_places_and_followers_are_those_of_a_naive_scan(documents, index) -> None:
    assert index.count([]) == sum(len(document) + 1 for document in documents) == len(index.places([]))
    for ids in queries(documents):
        expected = naive_places(documents, ids, END)
        assert index.count(ids) == len(expected) and index.occurs(ids) == bool(expected)
        assert index.places(ids).tolist() == expected
        some = index.places(ids, most=3).tolist()
        assert len(some) == min(3, len(expected)) == len(set(some)) and set(some) <= set(expected)
        followers = index.followers(ids)
        found = {int(token): int(followers[token]) for token in np.flatnonzero(followers)}
        assert found == naive_followers(documents, ids, END)


def test_documents_have_their_place_and_source(documents, index) -> None:
    place = number = 0
    for shard, count in enumerate(SHARDS):
        for line in range(count):
            ids = documents[number]
            for at in (0, len(ids) - 1, len(ids)):
                found = index.document(place + at)
                assert (found.number, found.place, found.ids.tolist()) == (number, place, ids), (shard, line, at)
                assert found.source == f"S{line % 3}"
            place, number = place + len(ids) + 1, number + 1
    for outside in (-1, place):
        with pytest.raises(WorkbenchError, match=f"no place {outside}"):
            index.document(outside)


def test_continuations_and_spans_work_on_it(documents, index) -> None:
    text = [*documents[2], 8, *documents[9][:4]]
    spans = index.spans(text)
    assert text[: spans[0].end] == documents[2]
    assert all(span.count == len(naive_places(documents, text[span.start : span.end], END)) for span in spans)
    found = index.continuations([8, *documents[4][:3]])
    assert found.suffix == 3 and found.total == sum(naive_followers(documents, documents[4][:3], END).values())


def test_a_frequent_context_is_refused_in_place_of_hours_of_reading(index, monkeypatch) -> None:
    monkeypatch.setattr(infini_gram, "MOST_READ", 20)
    with pytest.raises(WorkbenchError, match="give a longer context"):
        index.followers([])


def test_what_is_no_index_is_refused(index, tmp_path) -> None:
    with pytest.raises(WorkbenchError, match=r"is not an infini-gram index: there is no tokenized\.0"):
        corpus.open_infini_gram(tmp_path, end=1, vocab=10)
    for name in ("tokenized", "offset", "table"):
        (tmp_path / f"{name}.0").write_bytes((index.folder / f"{name}.0").read_bytes())
    (tmp_path / "tokenized.0").write_bytes(b"\xff" * 5)
    with pytest.raises(WorkbenchError, match="is damaged"):
        corpus.open_infini_gram(tmp_path, end=1, vocab=10)
    with pytest.raises(WorkbenchError, match="end=10"):
        corpus.open_infini_gram(index.folder, end=10, vocab=10)
    with pytest.raises(WorkbenchError, match="choices: u16, u32"):
        corpus.open_infini_gram(index.folder, end=1, vocab=10, token_type="u8")


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "infini_gram.engine", None)
    with pytest.raises(WorkbenchError, match=r"olmo-workbench\[corpus-published\]"):
        corpus.open_infini_gram(tmp_path, end=1, vocab=10)
