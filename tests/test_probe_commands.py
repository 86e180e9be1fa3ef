"""`probe` and `steer` print the numbers of their functions, on texts that they keep apart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from workbench import checkpoints, trajectory
from workbench.analyses.directions import label_direction
from workbench.analyses.linear_probe import linear_probe, probe_layer
from workbench.analyses.steering import steering
from workbench.command_line import main
from workbench.command_line.steer import halves
from workbench.errors import WorkbenchError
from workbench.metrics import probe_accuracy
from workbench.result_files import load_result
from workbench.texts import Texts

STEER = ("--toward", "odd", "--layer", "1", "--answers", "w5", "--instead", "w6", "w7")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Any], tokenizer: Any) -> Path:
    """A series of two random checkpoints, and labelled texts: the last word tells the label."""
    folder = tmp_path_factory.mktemp("series")
    for seed, name in enumerate(("step0", "step10")):
        make_model("olmo2", seed=seed, max_position_embeddings=256).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder)
    words = np.random.default_rng(0).integers(10, 99, (24, 5))
    with (folder / "texts.jsonl").open("w") as file:
        for number, row in enumerate(words):
            text = " ".join(f"w{word}" for word in [*row, 1 + number % 2])
            file.write(json.dumps({"text": text, "kind": ("even", "odd")[number % 2]}) + "\n")
    (folder / "page.txt").write_text(" ".join(f"w{1 + (7 * n * n + n) % 98}" for n in range(40)))
    return folder


@pytest.fixture
def saved(folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """`saved(*arguments)`: the results of a successful command on the labelled texts."""

    def run(*arguments: str) -> Any:
        file = tmp_path / "out.npz"
        given = ["--texts", str(folder / "texts.jsonl"), "--label", "kind", "--checkpoint", str(folder)]
        assert main([*arguments, *given, "--save", str(file)]) == 0
        return load_result(file)

    return run


@pytest.fixture
def opened(folder: Path) -> tuple[Any, Texts]:
    model, tokenizer = checkpoints.load(str(folder))
    return model, Texts.read(folder / "texts.jsonl", tokenizer, label="kind")


def test_probe_gives_the_numbers_of_its_functions(
    folder: Path, saved: Callable[..., Any], opened: tuple[Any, Texts], capsys: pytest.CaptureFixture[str]
) -> None:
    found = saved("probe", "--folds", "3", "--along", str(folder), "--layer", "embed")
    shown = capsys.readouterr().out
    curves = linear_probe(*opened, folds=3)
    np.testing.assert_array_equal(found["accuracy"].values, curves.values)
    probe = probe_layer(*opened, layer="embed", folds=3)
    np.testing.assert_array_equal(found["confusion"].values, probe.confusion.values)
    assert probe.accuracy == 1 and "0 of 24 texts are read wrongly at embed" in shown
    along = trajectory(checkpoints.series(str(folder)), probe_accuracy(opened[1], folds=3), cache=None)
    np.testing.assert_array_equal(found["along"].values, along.values)
    assert found["along"].row_name == "layer" and found["along"].columns == ("step0", "step10")


def test_steer_makes_the_direction_of_other_texts_than_its_prompts(
    folder: Path, saved: Callable[..., Any], opened: tuple[Any, Texts], capsys: pytest.CaptureFixture[str]
) -> None:
    page = ("--text", str(folder / "page.txt"), "--write", "w3 w4", "--tokens", "3")
    found = saved("steer", *STEER, "--strengths", "-1", "2", "--controls", "2", *page)
    assert "direction" not in capsys.readouterr().out.splitlines()[0]
    model, texts = opened
    made_of, prompts = halves(texts, "odd", None)
    assert len(made_of) == len(prompts) == 12
    direction = label_direction(model, made_of, "odd", layer=1)
    expected = steering(model, prompts, direction, [5], [6, 7], strengths=(-1, 2), controls=2)
    for name in expected:
        np.testing.assert_allclose(found[name].values, expected[name].values, rtol=1e-5)
    assert found["loss"].values.shape == (4, 2)
    assert found["written"].rows == ("w3w4", "w3w4 (random 1)")  # the labels of its tokens
    assert found["written"].columns == ("-1", "0", "2")


def test_a_csv_of_steer_is_read_back(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    given = ["--texts", str(folder / "texts.jsonl"), "--label", "kind", "--checkpoint", str(folder)]
    short = ["--strengths", "1", "--controls", "1", "--text", str(folder / "page.txt")]
    assert main(["steer", *STEER, *given, *short, "--csv", str(out)]) == 0
    table = pd.read_csv(out, comment="#")
    assert list(table["strength"]) == [1.0] * 4 and {"log_odds", "probability", "answers", "loss"} <= set(table)


def test_halves_have_no_text_in_common() -> None:
    texts = Texts(torch.arange(1, 8)[:, None], labels=tuple("abcabab"))
    made_of, prompts = halves(texts, "a", "b")
    assert [made_of.ids.flatten().tolist(), prompts.ids.flatten().tolist()] == [[1, 2, 6, 7], [4, 5]]
    assert set(made_of.labels + prompts.labels) == {"a", "b"}
    with pytest.raises(WorkbenchError, match="1 text has the label 'c'"):
        halves(texts, "c", "a")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["probe", "--folds", "20"], "has 12 texts; with 20 folds"),
        (["probe", "--layer", "9"], "no layer 9; choices: embed, 0 to 3"),
        (["probe", "--position", "-7"], "texts.jsonl, line 1) has 6 tokens, so no position -7"),
        (["probe", "--along", "no-such-series"], "no-such-series"),
        (["steer", *STEER[2:], "--toward", "prime"], "no text has the label 'prime'; labels: even, odd"),
        (["steer", *STEER, "--instead", "w5"], "is given twice"),
        (["steer", *STEER, "--instead", ""], "an answer is empty"),
        (["steer", *STEER, "--strengths", "nan"], "strengths are [nan]"),
    ],
)
def test_what_cannot_be_done_is_said(
    folder: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--texts", str(folder / "texts.jsonl"), "--label", "kind", "--checkpoint", str(folder)]
    assert main([*arguments, *given]) == 1
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_texts_without_labels_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--texts", str(folder / "texts.jsonl"), "--checkpoint", str(folder)]) == 1
    assert "the texts have no labels" in capsys.readouterr().err
