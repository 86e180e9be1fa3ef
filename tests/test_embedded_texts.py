"""The built-in sets of texts are what their maker writes, are read by name, and do what the data card says."""

import numpy as np
import pytest
import torch

from workbench import checkpoints
from workbench.analyses.token_losses import token_losses
from workbench.embedded_texts import FOLDER, SETS, path_of, text_sets
from workbench.errors import WorkbenchError
from workbench.text_pairs import TextPairs
from workbench.texts import Texts
from workbench.tiny_olmo.make_texts import MADE, text_of

OF_TEXTS = [name for name, found in SETS.items() if not found.pairs]
OF_PAIRS = [name for name, found in SETS.items() if found.pairs]


@pytest.fixture(scope="module")
def tokenizer():
    return checkpoints.tokenizer_of(checkpoints.locate("tiny-olmo"))


@pytest.mark.parametrize("name", MADE)
def test_a_generated_file_is_what_its_maker_writes(name):
    assert (FOLDER / f"{name}.jsonl").read_text("utf-8") == text_of(name)


def test_every_file_has_a_name_and_they_are_small():
    files = sorted(FOLDER.iterdir())
    assert files == sorted(path_of(name) for name in SETS)
    assert sum(file.stat().st_size for file in files) < 300_000
    assert set(text_sets()) == set(SETS)


@pytest.mark.parametrize("name", OF_TEXTS)
def test_a_set_is_read_by_name_with_its_labels(name, tokenizer):
    texts = Texts.read(name, tokenizer)
    said = SETS[name].about
    assert said.startswith(f"{len(texts)} ") and texts.longest <= 256
    assert (texts.labels is None) == (SETS[name].label is None) == ("labels:" not in said)
    assert all(label in said for label in texts.labels or ())


@pytest.mark.parametrize("name", OF_PAIRS)
def test_a_set_of_pairs_is_read_by_name(name, tokenizer):
    pairs = TextPairs.read(name, tokenizer)
    assert SETS[name].about.startswith(f"{len(pairs)} pairs") and pairs.others is not None


def test_a_name_that_is_none_is_refused_with_the_choices(tokenizer):
    with pytest.raises(WorkbenchError, match="no built-in set 'tiny-olmo/englsh'; choices: tiny-olmo/english, "):
        Texts.read("tiny-olmo/englsh", tokenizer)


def test_what_comes_again_is_predicted_better():
    model, tokenizer = checkpoints.load("tiny-olmo")
    texts = Texts.read("tiny-olmo/repeats", tokenizer).by_label()
    last = {}
    for label, some in texts.items():
        losses = token_losses(model, some)["loss"].values
        last[label] = np.mean(
            [row[length - 9 : length].mean() for row, length in zip(losses, some.lengths, strict=True)]
        )
    assert last["repeated"] < last["new"] - 4  # nats


@pytest.mark.parametrize("name", OF_PAIRS)
def test_the_model_prefers_the_right_answers_of_most_pairs(name):
    model, tokenizer = checkpoints.load("tiny-olmo")
    pairs = TextPairs.read(name, tokenizer)
    right = 0
    for texts, answers, others in (
        (pairs.clean, pairs.answers, pairs.others),
        (pairs.corrupted, pairs.others, pairs.answers),
    ):
        for ids, answer, other in zip(texts, answers, others, strict=True):
            logits = model.run(ids[None], logits_to_keep=1).logits[0, -1]
            wanted, unwanted = (torch.tensor(tokenizer.encode(text)) for text in (answer, other))
            right += int(logits[wanted] > logits[unwanted])
    assert right / (2 * len(pairs)) > 0.8
