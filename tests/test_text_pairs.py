"""Pairs of prompts are read whole, or refused with the line and the reason."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from hooks import OlmoForCausalLM
from workbench.analyses.activation_patching import activation_patching
from workbench.errors import WorkbenchError
from workbench.text_pairs import TextPairs
from workbench.texts import Texts

HEAD = b"clean,corrupted,answer,other\n"


def test_pairs_are_read(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(HEAD + b"w1 w2,w1 w3,w7,w8\nw4,w5,w9,w10\n")
    pairs = TextPairs.read(path, tokenizer)
    assert [ids.tolist() for ids in pairs.clean] == [[1, 2], [4]]
    assert [ids.tolist() for ids in pairs.corrupted] == [[1, 3], [5]]
    assert pairs.answers == ("w7", "w9") and pairs.others == ("w8", "w10") and len(pairs) == 2
    path.write_bytes(b"clean,corrupted,answer\nw1,w2,w3\n")
    assert TextPairs.read(path, tokenizer).others is None


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (b"", "holds no pairs"),
        (b"w1,w2,w7,w8\nw1 w2,w3,w7,w8\n", "line 3: the clean prompt has 2 tokens and the corrupted one 1"),
        (b"w1,w1,w7,w8\n", "line 2: the clean and the corrupted prompt are the same, 'w1'"),
        (b"w1,w2,w7 w8,w8\n", r"line 2: 'w7 w8' is 2 tokens"),
        (b"w1,w2,w7,w7\n", "line 2: both answers are 'w7'"),
        (b"w1,w2,,w7\n", "line 2: 'answer' is empty"),
        (b"w1 w2 w3,w1 w2 w4,w5,w6\n", "line 2: the prompts have 3 tokens and the model takes at most 2"),
    ],
)
def test_faults_are_named(rows: bytes, sentence: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (tmp_path / "a.csv").write_bytes(HEAD + rows)
    with pytest.raises(WorkbenchError, match=sentence):
        TextPairs.read(tmp_path / "a.csv", tokenizer, longest=2)


def test_columns_that_are_missing_are_named(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (tmp_path / "a.csv").write_bytes(b"clean,answer\nw1,w2\n")
    with pytest.raises(WorkbenchError, match="line 1: no column 'corrupted'; columns: clean, answer"):
        TextPairs.read(tmp_path / "a.csv", tokenizer)
    (tmp_path / "a.txt").write_bytes(b"w1\n")
    with pytest.raises(WorkbenchError, match="no column 'clean': txt files have only texts"):
        TextPairs.read(tmp_path / "a.txt", tokenizer)


def test_there_is_one_of_each_for_every_pair(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = Texts.of(tokenizer, ["w1", "w2"])
    with pytest.raises(WorkbenchError, match="2 clean, 2 corrupted, 1 answers"):
        TextPairs(texts, texts, ("w3",))


def test_a_pair_that_an_analysis_refuses_is_named_with_its_line(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, make_model: Callable[..., OlmoForCausalLM]
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(HEAD + b"w1 w2,w1 w3,w7,w8\n\nw4 w5,w4 w6,w7,w8\n")
    pairs, model = TextPairs.read(path, tokenizer), make_model("olmo")
    with torch.no_grad():
        model.get_input_embeddings().weight[6] = torch.nan
    place = rf"pair 1 \({path}, line 4\)"
    with pytest.raises(WorkbenchError, match=f"after the corrupted prompt of {place} is not a finite number"):
        activation_patching(model, pairs.clean, pairs.corrupted, 7)
    longer = Texts.of(tokenizer, ["w1 w3", "w4 w6 w8"])
    with pytest.raises(WorkbenchError, match=rf"2, 3 \(in 2\): {place}; patching needs pairs of prompts"):
        activation_patching(model, pairs.clean, longer, 7)
