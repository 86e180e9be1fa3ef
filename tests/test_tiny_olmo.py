"""tiny-olmo: its rows, its tokenizer, its training, and the checkpoints that are committed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import OlmoConfig

from workbench.tiny_olmo import card, data, measure, probes, rows, tokenizer, train
from workbench.tiny_olmo.recipe import RECIPE, Recipe, config
from workbench.tiny_olmo.rows import Stage, TrainingTokens

SERIES = measure.SERIES
REVISIONS = [name for name, _, _ in measure.checkpoint_folders(SERIES)]
REQUIRED = {"step0", "step50", "step100", "step200", "step400", "step4000", "step6000"}
LIMIT = 80_000_000
SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
PROSE = (
    "A small model of language was trained on two processor cores in less than an hour. It reads a text from left to "
    "right and gives, for every place, a guess of the word that comes next. At first its guesses are no better than "
    "chance. Later it knows which words are common, then which words go together, and at last it begins to look back: "
    "when something in the text comes a second time, it expects that what followed the first time follows again."
)


@pytest.fixture
def source() -> TrainingTokens:
    """Text in which no token occurs twice, so every repetition in a row was made by the row."""
    text = np.random.default_rng(1).permutation(np.arange(1000, 60000)).astype(np.uint16)
    kept_out = np.random.default_rng(2).choice(text, 2000, replace=False)
    return rows.make_source({"english": text}, 60000, np.sort(kept_out))


@pytest.fixture
def few_tokens() -> TrainingTokens:
    """Text of few different tokens, for models that train in milliseconds."""
    text = np.random.default_rng(1).integers(0, 600, 5000).astype(np.uint16)
    return rows.make_source({"english": text, "code": text[::-1]}, 600, np.arange(500, 510))


def repeated(row: np.ndarray) -> np.ndarray:
    """The tokens that occur more than once in a row."""
    values, counts = np.unique(row, return_counts=True)
    return values[counts > 1]


def lags(row: np.ndarray) -> set[int]:
    """Distances from one copy of a token to its next copy in a row."""
    return {int(lag) for token in repeated(row) for lag in np.diff(np.flatnonzero(row == token))}


@pytest.mark.parametrize("random_tokens", [False, True])
def test_repeat_rows_repeat_a_span_after_gaps_that_vary(source: TrainingTokens, random_tokens: bool) -> None:
    rng = np.random.default_rng(0)
    drawn = [rows.repeat_row(source, 129, rng, random_tokens) for _ in range(200)]
    assert all(len(row) == 129 for row in drawn)
    assert all(len(repeated(row)) >= rows.SPAN[0] for row in drawn)
    assert len(set().union(*map(lags, drawn))) > 40  # spans and gaps of many lengths
    assert np.mean([len(lags(row)) > 1 for row in drawn]) > 0.5  # and gaps that differ within a row


@pytest.mark.parametrize("random_tokens", [False, True])
def test_kept_out_tokens_are_never_repeated(source: TrainingTokens, random_tokens: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        row = rows.repeat_row(source, 129, rng, random_tokens)
        assert not np.isin(repeated(row), source.kept_out).any()
        assert not (random_tokens and np.isin(row, source.kept_out).any())


def test_kept_out_ids_are_ordinary_tokens_and_always_the_same() -> None:
    kept_out = rows.kept_out_ids(tokenizer.VOCAB)
    assert len(set(kept_out)) == rows.KEPT_OUT
    assert kept_out.min() >= rows.FIRST_MERGE and kept_out.max() < tokenizer.VOCAB
    assert (kept_out == rows.kept_out_ids(tokenizer.VOCAB)).all()


def test_a_batch_depends_on_seed_order_and_step_alone(source: TrainingTokens) -> None:
    stage = Stage(until=10, length=64, rows=8, repeats=2.5, random=1)
    first = rows.batch(stage, source, (0, 1), 3)
    assert first.shape == (8, 65)  # one more, for the targets
    assert (first == rows.batch(stage, source, (0, 1), 3)).all()
    for seed, step in [((0, 2), 3), ((1, 1), 3), ((0, 1), 4)]:
        assert (first != rows.batch(stage, source, seed, step)).any()


def test_every_step_of_the_recipe_sees_as_many_tokens() -> None:
    assert {stage.rows * stage.length for stage in RECIPE.stages} == {4096}
    assert RECIPE.steps == 6000 and RECIPE.tokens(4600) == 4600 * 4096
    assert RECIPE.branch == RECIPE.stages[-2].until
    assert RECIPE.rate(RECIPE.warmup) == RECIPE.learning_rate
    assert RECIPE.rate(RECIPE.steps) == pytest.approx(RECIPE.learning_rate * RECIPE.final_share)


def test_texts_that_begin_alike_are_held_out_together() -> None:
    beginning = "Home and Garden: How to keep bees in a small garden. "
    assert len({data.is_held_out(beginning + end) for end in "abcdefgh"}) == 1
    share = np.mean([data.is_held_out(f"text number {number}") for number in range(5000)])
    assert 0.01 < share < 0.03


def test_no_document_is_the_beginning_of_another() -> None:
    assert data.without_repeats(["one", "one two", "three", "three", "one two"]) == ["one two", "three"]


def test_a_question_is_completed_with_its_right_answer() -> None:
    doc = {"query": "Question: What is wet?\nAnswer:", "choices": ["fire", "water"], "gold": 1}
    assert data.completed_question("csqa/rc_0shot", {"doc": doc}) == "Question: What is wet?\nAnswer: water"
    doc = {"sentence": "The cup fell as the _ shook.", "option1": "table", "option2": "cup", "answer": "1"}
    assert data.completed_question("winogrande/rc_0shot", {"doc": doc}) == "The cup fell as the table shook."


HOSTILE = [
    "",
    " ",
    "\n\n\n",
    "  leading and trailing  ",
    "tab\tand\r\nwindows line ends\r",
    "\x00\x01\x7f\x1b[0m",
    "caf\u00e9 cafe\u0301 \ufb01 \u212b",
    "\u4f60\u597d \u0645\u0631\u062d\u0628\u0627 \U0001f9ea\U0001f469\u200d\U0001f52c",
    "\ufeff\u200b\u202e\u2028",
    "don't  we 'll , stop . n't",
    "    def f(x):\n\t\treturn x  # 1234567890",
    "<|endoftext|> <|padding|>",
    "\ufffd",
    "a" * 5000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_the_tokenizer_gives_back_any_text(text: str) -> None:
    ours = tokenizer.load_tokenizer(SERIES)
    assert ours.decode(ours(text)["input_ids"]) == text


def test_the_tokenizer_adds_nothing_and_fits_the_model() -> None:
    ours = tokenizer.load_tokenizer(SERIES)
    assert len(ours) == tokenizer.VOCAB
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (0, 0, 1)
    assert ours("the")["input_ids"] == ours("the", add_special_tokens=False)["input_ids"]
    assert len(ours("the")["input_ids"]) == 1
    ids = torch.arange(2, 258)
    assert {len(ours.convert_ids_to_tokens([int(id)])[0]) for id in ids} == {1}  # every byte has a token


MINUTE = Recipe(
    stages=(
        Stage(until=3, length=16, rows=4, repeats=1, random=1),
        Stage(until=5, length=32, rows=2, repeats=0.5, random=0),
    ),
    warmup=2,
    branch=3,
)


def minute_run(source: TrainingTokens, out: Path, order: int = 1) -> train.TrainingRun:
    """A run of a model that trains in milliseconds."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    minute_config = OlmoConfig(vocab_size=600, tie_word_embeddings=True, pad_token_id=1, **shape)
    return train.start(MINUTE, minute_config, source, order, out)


def weights(run: train.TrainingRun) -> dict[str, torch.Tensor]:
    """A copy of a run's weights."""
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights agree bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_is_deterministic_and_goes_on_where_it_stopped(few_tokens: TrainingTokens, tmp_path: Path) -> None:
    whole = minute_run(few_tokens, tmp_path)
    losses = list(train.train(whole, 5))
    assert whole.step == 5 and len(losses) == 5
    stopped = minute_run(few_tokens, tmp_path)
    assert list(train.train(stopped, 2)) == losses[:2]
    train.save_state(stopped, stopped.state_file)
    resumed = minute_run(few_tokens, tmp_path)
    assert resumed.step == 2
    assert list(train.train(resumed, 5)) == losses[2:]
    assert same(weights(resumed), weights(whole))


def test_another_order_branches_off_the_main_run(few_tokens: TrainingTokens, tmp_path: Path) -> None:
    main = minute_run(few_tokens, tmp_path)
    list(train.train(main, MINUTE.branch))
    train.save_due(main)
    branch = minute_run(few_tokens, tmp_path, order=2)
    assert branch.step == MINUTE.branch and same(weights(branch), weights(main))
    assert list(train.train(branch, 5)) != list(train.train(main, 5))


def test_a_saved_checkpoint_is_the_model_in_bfloat16(few_tokens: TrainingTokens, tmp_path: Path) -> None:
    run = minute_run(few_tokens, tmp_path)
    train.save_checkpoint(run)
    saved = measure.load_float32(tmp_path / "checkpoints" / "step0").state_dict()
    assert same(saved, {name: tensor.bfloat16().float() for name, tensor in run.model.state_dict().items()})


def test_scores_of_perfect_heads_are_one() -> None:
    ids = np.sort(np.random.default_rng(0).choice(5000, 300, replace=False))
    held_out = rows.make_source({"english": np.arange(5000)}, 5000, ids)
    random = probes.make_probes(held_out, rows=6).random
    length = random.rows.shape[1]
    pattern = torch.zeros(1, 6, 2, length, length)  # layer row head query key
    pattern[:, :, 0, range(1, length), range(length - 1)] = 1
    for row, tokens in enumerate(random.rows):
        for query in range(random.second[row], random.second[row] + random.span - 1):
            key = np.flatnonzero(tokens == tokens[query])[0] + 1
            pattern[0, row, 1, query, key] = 1
    assert measure.best_head(measure.previous_token_scores(pattern)) == ("L0H0", 1.0)
    assert measure.best_head(measure.second_copy_weights(pattern, random)) == ("L0H1", 1.0)


def test_probes_hold_two_copies_after_gaps_that_vary() -> None:
    held_out = rows.make_source({"english": np.arange(5000)}, 5000, np.arange(3000, 3300))
    made = probes.make_probes(held_out, rows=40)
    for repeats in (made.random, made.text):
        for tokens, first, second in zip(repeats.rows, repeats.first, repeats.second, strict=True):
            assert (tokens[first : first + repeats.span] == tokens[second : second + repeats.span]).all()
        assert len(set(repeats.second - repeats.first)) > 15
    assert np.isin(made.random.rows, held_out.kept_out).all()


def test_the_series_is_complete_and_small() -> None:
    assert set(REVISIONS) >= REQUIRED and len(REVISIONS) >= 12
    assert sum(name.startswith("step6000-order") for name in REVISIONS) == 2
    assert sum(path.stat().st_size for path in SERIES.rglob("*") if path.is_file()) <= LIMIT


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_committed_checkpoint_has_the_stated_shape(revision: str) -> None:
    tensors = load_file(SERIES / revision / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert sum(tensor.numel() for tensor in tensors.values()) == 2_555_904
    model, shape = measure.load_float32(SERIES / revision), config()
    assert all(getattr(model.config, name) == getattr(shape, name) for name in SHAPE)
    assert all(torch.isfinite(tensor.float()).all() for tensor in tensors.values())
    assert "/" not in (SERIES / revision / "config.json").read_text()


def test_the_cards_tables_are_what_was_measured() -> None:
    records = json.loads((SERIES / "series.json").read_text())["checkpoints"]
    assert [record["revision"] for record in records] == REVISIONS
    text = (measure.FOLDER / "README.md").read_text()
    assert card.with_tables(text, records) == text


@pytest.fixture(scope="module")
def small_probes() -> probes.Probes:
    """The probes of the series, made of held-out random tokens and of `PROSE`, since tests have no corpus."""
    ids = np.array(tokenizer.load_tokenizer(SERIES)(PROSE)["input_ids"] * 3)
    held_out = rows.make_source({"english": ids, "code": ids}, tokenizer.VOCAB, rows.kept_out_ids(tokenizer.VOCAB))
    return probes.make_probes(held_out, rows=8)


def test_heads_form_along_the_series(small_probes: probes.Probes) -> None:
    first, last = (measure.measure(measure.load_float32(SERIES / name), small_probes) for name in ("step0", "step6000"))
    assert first.previous_score < 0.1 and first.induction_score < 0.1
    assert last.previous_score > 0.8 and last.induction_score > 0.5
    assert last.second_copy_loss < last.first_copy_loss - 0.5
    assert abs(first.second_copy_loss - first.first_copy_loss) < 0.3
