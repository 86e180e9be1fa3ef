"""Texts accept all documented forms with the same result, and refuse everything else."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from workbench.errors import WorkbenchError
from workbench.text_files import named
from workbench.texts import Texts, as_texts

ROWS = [torch.tensor([5, 6, 7]), torch.tensor([8]), torch.tensor([9, 10, 11])]
RIGHT = torch.tensor([[5, 6, 7], [8, 0, 0], [9, 10, 11]])
LEFT = torch.tensor([[5, 6, 7], [4, 4, 8], [9, 10, 11]])
LEFT_MASK = torch.tensor([[1, 1, 1], [0, 0, 1], [1, 1, 1]])
CONFIG = SimpleNamespace(pad_token_id=4, eos_token_id=2, bos_token_id=2)


@pytest.mark.parametrize(
    "given",
    [
        ROWS,
        tuple(row[None] for row in ROWS),
        Texts(LEFT, LEFT_MASK),
        {"input_ids": LEFT, "attention_mask": LEFT_MASK},
        {"input_ids": [row.tolist() for row in ROWS]},
        {"input_ids": LEFT.tolist(), "attention_mask": LEFT_MASK.tolist()},
    ],
    ids=["sequence", "rows", "Texts", "encoding", "lists", "padded lists"],
)
def test_every_form_holds_the_same_texts(given: Any) -> None:
    texts = as_texts(given)
    assert texts.ids.tolist() == RIGHT.tolist()
    assert texts.mask.tolist() == (RIGHT != 0).tolist()
    assert texts.lengths == [3, 1, 3] and texts.tokens == 7 and len(texts) == 3
    assert [ids.tolist() for ids in texts] == [row.tolist() for row in ROWS]


def test_every_id_of_a_tensor_counts() -> None:
    assert as_texts(RIGHT).lengths == [3, 3, 3]
    assert as_texts(RIGHT[0]).ids.tolist() == [[5, 6, 7]]


def test_some_of_the_texts_keep_their_labels() -> None:
    texts = Texts(LEFT, LEFT_MASK, labels=("a", "b", "c"))
    assert texts[1:].labels == ("b", "c") and texts[1:].lengths == [1, 3]
    assert texts[[2, 0]].labels == ("c", "a") and texts[1].tolist() == [8] and texts[-1].tolist() == [9, 10, 11]
    assert texts[1:2].ids.tolist() == [[8]]  # padded to its longest text
    assert texts[torch.tensor([True, False, True])].labels == ("a", "c")


def test_batches_hold_each_text_once_and_no_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 99, (n,), generator=generator) for n in (5, 3, 5, 5, 2, 3)]
    texts = as_texts(rows)
    for most in (1, 6, 10, 100):
        batches = texts.batches(most)
        assert sorted(row for batch in batches for row in batch.rows) == list(range(6))
        for batch in batches:
            assert batch.ids.numel() <= most or len(batch.rows) == 1
            for row, ids in zip(batch.rows, batch.ids, strict=True):
                assert ids.tolist() == rows[row].tolist()


@pytest.mark.parametrize("most", [1, 12, 40, 1000])
def test_padded_batches_hold_each_text_once_with_little_padding(most: int) -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 30, (40,), generator=generator).tolist()
    rows = [torch.randint(1, 99, (length,), generator=generator) for length in lengths]
    batches = as_texts(rows).padded_batches(most)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(40))
    for batch in batches:
        assert batch.ids.numel() <= most or len(batch.rows) == 1
        assert sum(lengths[row] for row in batch.rows) >= 0.8 * batch.ids.numel()
        for row, ids in zip(batch.rows, batch.ids, strict=True):
            assert ids.tolist() == [*rows[row].tolist(), *[0] * (batch.ids.shape[1] - lengths[row])]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("a text", "not 'a text'"),
        (["a text"], r"Texts\.of"),
        ([], "no texts"),
        (None, "not None"),
        ([torch.tensor([1, 2]), torch.tensor([[1], [2]])], r"text 1 has the shape \(2, 1\)"),
        ([torch.tensor([1.5])], "tokens are torch.float32"),
        ([torch.tensor([1]), torch.tensor([], dtype=torch.long)], "0 tokens"),
        ([1, 2, 3], "text 0 is 1"),
        (torch.ones(2, 3, dtype=torch.bool), "tokens are torch.bool"),
        ({"attention_mask": LEFT_MASK}, "must have input_ids; this one has attention_mask"),
        ({"input_ids": LEFT, "attention_mask": LEFT_MASK[:, :2]}, r"the mask is \(3, 2\)"),
        ({"input_ids": LEFT, "attention_mask": LEFT_MASK - 1}, "has values other than 1"),
        ({"input_ids": LEFT, "attention_mask": torch.tensor([[1, 0, 1]] * 3)}, "between the tokens"),
        ({"input_ids": LEFT, "attention_mask": LEFT_MASK * torch.tensor([[1], [0], [1]])}, "text 1 has no tokens"),
    ],
)
def test_what_are_no_texts_is_refused(given: Any, sentence: str) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        as_texts(given)


def test_rows_that_seem_padded_need_a_mask() -> None:
    for ids in (LEFT, LEFT.flip(1)):
        for given in (ids, {"input_ids": ids}):
            with pytest.raises(WorkbenchError, match=r"text 1 begins or ends with the padding token 4.*attention_mask"):
                as_texts(given, CONFIG)
    assert as_texts(Texts(LEFT), CONFIG).lengths == [3, 3, 3]  # the mask says that there is no padding
    assert len(as_texts(LEFT[1], CONFIG)) == 1  # one row is one text


def test_one_token_that_ends_a_text_is_no_padding() -> None:
    config = SimpleNamespace(pad_token_id=2, eos_token_id=2, bos_token_id=None)
    ended = torch.tensor([[5, 6, 2], [7, 8, 9]])
    assert as_texts(ended, config).lengths == [3, 3]
    with pytest.raises(WorkbenchError, match="text 0 begins or ends"):
        as_texts(torch.tensor([[5, 2, 2], [7, 8, 9]]), config)


def test_labels_are_one_for_each_text() -> None:
    with pytest.raises(WorkbenchError, match="3 texts and 2 labels"):
        Texts(LEFT, LEFT_MASK, labels=("a", "b"))


def test_strings_become_texts(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = Texts.of(tokenizer, ["w5 w6", "w7"], labels=[1, 2])
    assert [ids.tolist() for ids in texts] == [[5, 6], [7]] and texts.labels == ("1", "2")
    for strings, sentence in (("w5 w6", "list of strings"), ([], "empty"), (["w5", ""], "text 1"), ([5], "list of")):
        with pytest.raises(WorkbenchError, match=sentence):
            Texts.of(tokenizer, strings)  # type: ignore[arg-type]
    with pytest.raises(WorkbenchError, match=r"text 1 contains half of a surrogate pair \(U\+D800\) at character 3"):
        Texts.of(tokenizer, ["w5", "w5 \ud800"])


def written(path: Path, rows: list[dict[str, object]]) -> Path:
    """Writes rows to a file in the format of its suffix."""
    table = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", "utf-8")
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_files_with_columns_are_read(kind: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows: list[dict[str, object]] = [{"prompt": "w5 w6", "answer": "a"}, {"prompt": "w7\nw8", "answer": "b"}]
    path = written(tmp_path / f"prompts.{kind}", rows)
    texts = Texts.read(path, tokenizer, text="prompt", label="answer")
    assert [ids.tolist() for ids in texts] == [[5, 6], [7, 8]] and texts.labels == ("a", "b")
    with pytest.raises(WorkbenchError, match=r"no (column )?'text'.*prompt, answer"):
        Texts.read(path, tokenizer)


def test_lines_are_texts(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfw5 w6\r\n\r\nw7\n")
    assert [ids.tolist() for ids in Texts.read(path, tokenizer)] == [[5, 6], [7]]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "holds no texts"),
        ("a.txt", b"w5\nw6\n\xff\n", "line 3: not UTF-8"),
        ("a.jsonl", b'{"text": "w5"}\n{"text": ', "line 2: not JSON"),
        ("a.jsonl", b'{"text": "w5"}\n[1]', "line 2: .* not a JSON object"),
        ("a.jsonl", b'{"text": "w5"}\n{"other": 1}', "line 2: no column 'text'; columns: other"),
        ("a.jsonl", b'{"text": 5}', "line 1: 'text' is 5"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("a.csv", b"text,label\nw5,a\n,b", "line 3: 'text' is empty"),
        ("a.csv", b"prompt\nw5", "line 1: no column 'text'; columns: prompt"),
        ("a.parquet", b"PAR1", "cannot be read"),
        ("a.pdf", b"", r"supported: \.csv"),
        ("a", b"", r"supported: \.csv"),
    ],
)
def test_faults_in_files_are_named(
    name: str, content: bytes, sentence: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WorkbenchError, match=sentence):
        Texts.read(tmp_path / name, tokenizer)


def test_files_that_are_not_there_are_named(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    for name in ("a.txt", "a.parquet"):
        with pytest.raises(WorkbenchError, match=r"a\.\w+ cannot be read"):
            Texts.read(tmp_path / name, tokenizer)
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(WorkbenchError, match="cannot be read"):
        Texts.read(tmp_path / "folder.txt", tokenizer)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"w5\n", "no column 'label': txt files have only texts"),
        ("a.csv", b"text\nw5\n", "line 1: no column 'label'; columns: text"),
        ("a.csv", b"text,label\nw5,a\nw6,\n", "line 3: 'label' is empty"),
        ("a.csv", b"text,label,label\nw5,a,b\n", "line 1: several columns 'label'"),
        (
            "a.csv",
            b"text,label\nw5,a\nw6, w7,b\n",
            "line 3: 3 cells for the 2 columns text, label; a cell",
        ),
        ("a.csv", b'text,label\n"w5\nw6",a\nw7\n', "line 4: 1 cells for the 2 columns"),
        ("a.csv", b'text,label\nw5,a\n"w6,b\nw7,c\n', "line 3: unexpected end of data in the row that begins there"),
        ("a.csv", b'text,label\nw5,a\nw6,"b\xe9"\n', r"line 3: not UTF-8 \(byte 0xe9 at column 6"),
        ("a.csv", b"\xff\xfet\0e\0", "line 1: not UTF-8 but UTF-16"),
        ("a.jsonl", b'{"text": "w5", "label": null}', "line 1: 'label' is empty"),
        ("a.jsonl", b'{"text": "w5", "label": ["a"]}', r"line 1: 'label' is \['a'\]; it should be a string"),
        ("a.jsonl", b'\n{"text": "w5 \\ud800", "label": 1}', "line 2 contains half of a surrogate pair"),
        ("a.jsonl", b'{"text": NaN, "label": 1}', "line 1: 'text' is empty"),
    ],
)
def test_faults_of_labels_and_cells_are_named(
    name: str, content: bytes, sentence: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WorkbenchError, match=rf"a\.\w+.*{sentence}"):
        Texts.read(tmp_path / name, tokenizer, label="label")


def test_a_row_of_parquet_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = written(tmp_path / "a.parquet", [{"text": "w5", "n": 1.0}, {"text": "w6", "n": None}])
    with pytest.raises(WorkbenchError, match="row 2: 'n' is empty"):
        Texts.read(path, tokenizer, label="n")
    with pytest.raises(WorkbenchError, match="both in the column 'text'"):
        Texts.read(path, tokenizer, label="text")


def test_long_texts_are_named_or_cut(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = tmp_path / "a.txt"
    path.write_text("w5\n\nw6 w7 w8\n")
    with pytest.raises(WorkbenchError, match=r"line 3: the text has 3 tokens and the model takes at most 2;.*cut=2"):
        Texts.read(path, tokenizer, longest=2)
    assert [ids.tolist() for ids in Texts.read(path, tokenizer, longest=2, cut=2)] == [[5], [6, 7]]
    with pytest.raises(WorkbenchError, match="cut is 0"):
        Texts.read(path, tokenizer, cut=0)


def test_texts_of_a_file_have_their_places(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = tmp_path / "a.txt"
    path.write_text("w5\n\nw6 w7 w8\nw9\n")
    texts = Texts.read(path, tokenizer)
    assert texts.places is not None and list(texts.places.lines) == [1, 3, 4] and texts.places.file == path
    assert named([1], texts.places) == f"text 1 ({path}, line 3)" and named([1]) == "text 1"
    assert named([0, 2], texts.places) == f"2 texts (0, 2: {path}, lines 1, 4)"
    for some in (texts[[2, 1]], texts[torch.tensor([False, True, True])], *Texts.stream(path, tokenizer, texts=2)):
        assert some.places is not None and len(some.places.lines) == len(some)
        for ids, line in zip(some, some.places.lines, strict=True):
            assert tokenizer.decode(ids) == path.read_text().split("\n")[line - 1]
    assert Texts.of(tokenizer, ["w1"]).places is None


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "txt"])
def test_a_stream_holds_the_same_texts_in_pieces(kind: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows: list[dict[str, object]] = [{"text": f"w{n} w{n + 1}", "label": n % 3} for n in range(1, 12)]
    path, label = tmp_path / f"a.{kind}", None if kind == "txt" else "label"
    if kind == "txt":
        path.write_text("\n".join(str(row["text"]) for row in rows))
    else:
        written(path, rows)
    whole = Texts.read(path, tokenizer, label=label)
    pieces = list(Texts.stream(path, tokenizer, label=label, texts=4))
    assert [len(piece) for piece in pieces] == [4, 4, 3] and len(whole) == 11
    assert torch.cat([piece.ids for piece in pieces]).equal(whole.ids)
    if label:
        assert (
            sum((piece.labels or () for piece in pieces), ()) == whole.labels == tuple(str(n % 3) for n in range(1, 12))
        )


def test_a_stream_reads_only_as_far_as_needed(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "w5"}\n' * 3 + "no JSON")
    stream = Texts.stream(path, tokenizer, texts=2)
    assert len(next(stream)) == 2
    with pytest.raises(WorkbenchError, match="line 4: not JSON"):
        next(stream)
    path.write_text("")
    with pytest.raises(WorkbenchError, match="holds no texts"):
        list(Texts.stream(path, tokenizer))


def test_a_file_that_does_not_fit_is_refused_with_both_numbers(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("w5 w6\n" * 3000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * 9 * 2 * 1500))
    with pytest.raises(WorkbenchError, match=r"up to line 2,000 its 2,000 texts.*Texts\.stream"):
        Texts.read(path, tokenizer)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_never_raise_anything_else(seed: int, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Random bytes of a good file are replaced, cut out or doubled: it is read, or refused with its name."""
    generator = random.Random(seed)
    rows: list[dict[str, object]] = [{"text": f'w{n} "w{n + 1}", w3', "label": n} for n in range(1, 8)]
    for kind in ("csv", "jsonl", "parquet", "txt"):
        path = tmp_path / f"a.{kind}"
        good = (
            "\n".join(str(row["text"]) for row in rows).encode() if kind == "txt" else written(path, rows).read_bytes()
        )
        damaged = bytearray(good)
        for _ in range(generator.randint(1, 4)):
            start = generator.randrange(len(damaged))
            stop = start + generator.choice([0, 1, 1, 5])
            damaged[start:stop] = generator.choice([b"", generator.randbytes(2), bytes(damaged[start:stop]) * 2])
        path.write_bytes(damaged)
        try:
            texts = Texts.read(path, tokenizer, label=None if kind == "txt" else "label")
        except WorkbenchError as error:
            assert path.name in str(error) and "\n" not in str(error)
        else:
            assert len(texts) > 0 and min(texts.lengths) > 0


def test_texts_by_label(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = Texts.of(tokenizer, ["w5", "w6 w7", "w8"], labels=["b", "a", "b"])
    found = texts.by_label()
    assert list(found) == ["b", "a"] and [ids.tolist() for ids in found["b"]] == [[5], [8]]
    with pytest.raises(WorkbenchError, match="no labels"):
        Texts(LEFT).by_label()


def test_a_device_is_reached_without_reading_ids() -> None:
    moved = Texts(LEFT, LEFT_MASK).to("meta")
    assert moved.ids.device.type == "meta" and moved.lengths == [3, 1, 3]
    assert all(batch.ids.device.type == "meta" for batch in moved.batches(3))


def test_what_it_holds_is_shown() -> None:
    make: Callable[..., Tensor] = torch.ones
    assert repr(Texts(make(2, 3, dtype=torch.long), labels=("a", "a"))) == "Texts(2 of 3 tokens, 1 labels)"
    assert repr(Texts(LEFT, LEFT_MASK)) == "Texts(3 of 1–3 tokens)"
