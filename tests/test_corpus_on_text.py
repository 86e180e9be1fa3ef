"""The index on samples of real text, and builds of it that are killed by the operating system."""

import os
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from tests.preloaded import python
from tests.small_corpus import END, index_of, joined, naive_followers, naive_places
from workbench import corpus, tokenizer_of
from workbench.corpus import building

MODULES = ("bisect", "heapq", "keyword", "operator", "reprlib", "sched", "shelve", "stat", "textwrap", "token", "types")


@pytest.fixture(scope="module")
def sources() -> list[list[int]]:
    """Modules of the standard library, of which each machine has some version; two of them come twice."""
    tokenizer = tokenizer_of("tiny-olmo")
    texts = [(Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text("utf-8") for name in MODULES]
    return [tokenizer(text, verbose=False)["input_ids"][:1900] for text in [*texts, texts[0], texts[3]]]


@pytest.fixture(scope="module")
def index(sources: list[list[int]], tmp_path_factory) -> corpus.SuffixIndex:
    return index_of(sources, tmp_path_factory.mktemp("index"))


def pieces(sources: list[list[int]], count: int) -> list[list[int]]:
    """Pieces of 1 to 12 tokens at random places of the text, those across documents among them."""
    rng, text = np.random.default_rng(1), joined(sources).tolist()
    starts = rng.integers(0, len(text) - 12, count)
    return [text[at : at + size] for at, size in zip(starts, rng.integers(1, 13, count), strict=True)]


def test_counts_places_and_followers_of_real_text(sources, index) -> None:
    tokens = joined(sources).astype(np.int64)
    often = np.argsort(np.bincount(tokens))[::-1][:4].tolist()  # of which the most occurrences are counted
    for ids in [*pieces(sources, 40), *([token] for token in often)]:
        expected = naive_places(sources, ids)
        assert index.places(ids).tolist() == expected and index.count(ids) == len(expected)
        followers = index.followers(ids)
        assert {int(n): int(followers[n]) for n in np.flatnonzero(followers)} == naive_followers(sources, ids)


def test_continuations_of_real_text(sources, index) -> None:
    strange = np.random.default_rng(2).integers(300, 4000, 3).tolist()
    for ids in pieces(sources, 15):
        context = [*strange, *ids] if END not in ids else ids[ids.index(END) + 1 :]
        longest = next(n for n in range(len(context), -1, -1) if naive_places(sources, context[len(context) - n :]))
        found = index.continuations(context)
        assert found.suffix == longest
        table = found.table()
        assert dict(zip(table["id"], table["count"], strict=True)) == naive_followers(
            sources, context[len(context) - longest :]
        )


def test_spans_of_a_changed_text(sources, index) -> None:
    rng = np.random.default_rng(3)
    text = np.array(sources[2][100:160])
    text[rng.integers(0, len(text), 5)] = rng.integers(300, 4000, 5)
    whole = b"".join(np.array([END, *document, END], ">u2").tobytes() for document in sources)

    def occurs(start: int, end: int) -> bool:
        piece, at = text[start:end].astype(">u2").tobytes(), -1
        while (at := whole.find(piece, at + 1)) % 2:
            if at < 0:
                return False
        return True

    found = {(a, b) for a in range(len(text)) for b in range(a + 1, len(text) + 1) if occurs(a, b)}
    maximal = sorted((a, b) for a, b in found if (a - 1, b) not in found and (a, b + 1) not in found)
    assert [(span.start, span.end) for span in index.spans(text)] == maximal


KILLED_BUILD = """
import os, pathlib, signal, sys
from tests.small_corpus import text_of
from workbench.corpus import building
from workbench.whole_files import whole_file

write, folder = building.write_whole, pathlib.Path(sys.argv[1])
made = text_of([[3, 1, 4, 1, 5, 9, 2, 6] * 9] * 12)[1]

def build(killed_at=None, after=False):
    '''The exit status of a process that builds the index, or is killed in or after the write of a file.'''
    def writing(path, content):
        if path.name == killed_at and not after:
            with whole_file(path) as file:
                file.write(content[: len(content) // 2])
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)
        if path.name == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
    if (child := os.fork()) == 0:
        building.write_whole = writing
        building.build_index(made, folder / f"{killed_at}-{after}")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

files = [*building.FILES, building.SOURCES, building.DESCRIPTION]
for point in [(file, after) for file in files for after in (False, True)]:
    assert build(*point) == -signal.SIGKILL, point
    at = folder / f"{point[0]}-{point[1]}"
    whole = point == (building.DESCRIPTION, True)
    assert (at / building.DESCRIPTION).exists() == whole, point
    before = {path.name: path.stat().st_mtime_ns for path in at.iterdir() if path.name in files}
    if whole:
        assert len(before) == len(files)
        continue
    halves = list(at.glob(".*.part"))
    assert len(halves) == (not point[1]), (point, halves)
    if (child := os.fork()) == 0:
        building.build_index(made, at)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, point
    assert not list(at.glob(".*.part")), point
    kept = {name for name, when in before.items() if (at / name).stat().st_mtime_ns == when}
    assert kept >= set(before) - {building.SOURCES}, point
    print(at)
assert build() == 0
print(folder / "None-False")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")
def test_a_build_that_is_killed_leaves_no_index_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle and at the end of each file's write; then the build is run again."""
    run = python("-c", KILLED_BUILD, tmp_path)
    assert run.returncode == 0, run.stderr
    *resumed, never_killed = map(Path, run.stdout.split())
    assert len(resumed) == 2 * (len(building.FILES) + 2) - 1
    names = [*building.FILES, building.SOURCES, building.DESCRIPTION]
    expected = {name: (never_killed / name).read_bytes() for name in names}
    for folder in resumed:
        assert {name: (folder / name).read_bytes() for name in names} == expected
        building.open_folder(folder)
