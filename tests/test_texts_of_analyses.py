"""Every analysis gives the same numbers for four forms of texts, on the model's device, and ignores padding."""

import copy
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from texts_of_analyses import METRICS, ONE_LENGTH, SETS, SINGLE, OfTexts
from torch import Tensor

import workbench.analyses
from hooks import OlmoForCausalLM
from workbench import checkpoints
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.token_losses import token_losses
from workbench.errors import WorkbenchError
from workbench.texts import Texts

ALL = SETS | SINGLE | ONE_LENGTH | METRICS
LENGTHS = (14, 9, 14, 6, 9)
PROBED = (*LENGTHS, 12, 14, 7)  # a probe needs several texts of each label
PADDING = 0  # the padding token of the models


def encoding(rows: list[Tensor], side: str) -> dict[str, Tensor]:
    """Ids and mask as a tokenizer returns them."""

    def pad(parts: list[Tensor], value: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value, padding_side=side)

    return {"input_ids": pad(rows, PADDING), "attention_mask": pad([torch.ones_like(row) for row in rows], 0)}


FORMS: dict[str, Callable[[list[Tensor]], Any]] = {
    "padded on the left": lambda rows: encoding(rows, "left"),
    "padded on the right": lambda rows: encoding(rows, "right"),
    "Texts": lambda rows: Texts(*encoding(rows, "left").values()),
    "lists": lambda rows: {"input_ids": [row.tolist() for row in rows]},
}


OF_ALL = ("padded on the right", "Texts")
"""The forms that are given to every analysis: a mapping, and `Texts` padded on the left. What else may be in a mapping
is read by `as_texts` alone, so one analysis shows it.
"""


def rows_of(name: str, seed: int) -> list[Tensor]:
    """Random texts of lengths that the analysis accepts."""
    several = PROBED if "probe" in name else LENGTHS
    lengths = LENGTHS[:1] if name in SINGLE else (14, 14) if name in ONE_LENGTH else several
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 99, (length,), generator=generator) for length in lengths]


def numbers(result: Any) -> dict[str, np.ndarray]:
    """Every number of a result."""
    if isinstance(result, float):
        return {"": np.array(result)}
    if isinstance(result, dict):
        return {name: np.array(value) for name, value in result.items()}
    table = result if isinstance(result, pd.DataFrame) else result.table()
    return {name: table[name].to_numpy(np.float64) for name in table.select_dtypes("number")}


Two = tuple[OlmoForCausalLM, OlmoForCausalLM]


@pytest.fixture(scope="module")
def two(make_model: Callable[..., OlmoForCausalLM]) -> Two:
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    return make_model("olmo3", seed=0, **layers), make_model("olmo3", seed=1, **layers)


@pytest.fixture(scope="module")
def of_lists(two: Two) -> Callable[[str], dict[str, np.ndarray]]:
    """The numbers of an analysis of lists of tensors, with which those of all other forms are compared."""
    return cache(lambda name: numbers(ALL[name](*two, rows_of(name, 1), rows_of(name, 2))))


def test_every_analysis_of_texts_is_here() -> None:
    files = Path(workbench.analyses.__file__).parent.glob("[a-z]*.py")
    named = {path.stem for path in files if f"def {path.stem}(" in path.read_text("utf-8")}
    without_texts = {"compare_weights", "contrast", "head_circuits", "head_composition", "noise_floor", "trajectory"}
    assert named - without_texts <= {name.split(" ")[0] for name in ALL}


@pytest.mark.parametrize(
    ("name", "form"), [*product(ALL, OF_ALL), ("head_atlas", "padded on the left"), ("head_atlas", "lists")]
)
def test_all_forms_give_the_same_numbers(
    two: Two, of_lists: Callable[[str], dict[str, np.ndarray]], name: str, form: str
) -> None:
    wanted = of_lists(name)
    found = numbers(ALL[name](*two, FORMS[form](rows_of(name, 1)), FORMS[form](rows_of(name, 2))))
    assert wanted.keys() == found.keys() and wanted
    for column, values in wanted.items():
        np.testing.assert_allclose(found[column], values, rtol=1e-4, atol=1e-5, err_msg=column)


@pytest.mark.parametrize("name", ALL)
def test_a_tensor_is_a_sequence_of_its_rows(two: Two, name: str) -> None:
    rows, others = ([row[:6] for row in rows_of(name, seed)] for seed in (1, 2))
    wanted = numbers(ALL[name](*two, torch.stack(rows), torch.stack(others)))
    found = numbers(ALL[name](*two, rows, others))
    for column, values in wanted.items():
        np.testing.assert_allclose(found[column], values, rtol=1e-4, atol=1e-5, err_msg=column)


@pytest.mark.parametrize("name", SETS | ONE_LENGTH | METRICS)
def test_a_tensor_that_seems_padded_is_refused(two: Two, name: str) -> None:
    ids = encoding(rows_of("probe_accuracy" if "probe" in name else "token_losses", 1), "left")["input_ids"]
    with pytest.raises(WorkbenchError, match="text 1 begins or ends with the padding token 0"):
        ALL[name](*two, ids, ids.flip(1))


class Reached(Exception):
    """A forward pass was started."""


READ_FIRST = ("head_needed", "activation_patching by position")
"""Analyses that read weights or tokens before they run a model."""


@pytest.fixture(scope="module")
def on_meta(make_model: Callable[..., OlmoForCausalLM]) -> tuple[OlmoForCausalLM, OlmoForCausalLM]:
    """Two models on the meta device; not to be changed."""
    return make_model("olmo2").to("meta"), make_model("olmo2").to("meta")


@pytest.mark.parametrize("name", [name for name in ALL if name not in READ_FIRST])
def test_ids_go_to_the_models_device(
    on_meta: tuple[OlmoForCausalLM, OlmoForCausalLM], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The meta device serves as a second device; its tensors hold no numbers, so the test ends at the first run."""

    def run(self: OlmoForCausalLM, input_ids: Tensor | None = None, *arguments: object, **options: object) -> None:
        assert input_ids is not None and input_ids.device.type == "meta"
        raise Reached

    monkeypatch.setattr(OlmoForCausalLM, "run", run)
    with pytest.raises(Reached):
        ALL[name](*on_meta, rows_of(name, 1), rows_of(name, 2))


def test_padding_by_the_embedded_tokenizer_changes_no_loss() -> None:
    model, tokenizer = checkpoints.load("tiny-olmo")
    strings = [
        "The cat sat on the mat.",
        "A longer text, about the harbour before dawn, and all of its gulls.",
    ]
    batch = tokenizer(strings, padding=True, return_tensors="pt")
    losses = token_losses(model, batch)["loss"].values
    for string, found in zip(strings, losses, strict=True):
        ids = tokenizer(string, return_tensors="pt").input_ids
        logits = model(ids, use_cache=False).logits.float()
        wanted = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")
        np.testing.assert_allclose(found[1 : ids.shape[1]], wanted.numpy(force=True), rtol=1e-4, atol=1e-4)
        assert np.isnan(found[ids.shape[1] :]).all() and np.isnan(found[0])


def test_means_over_queries_weigh_every_query_the_same(two: Two) -> None:
    rows = rows_of("head_atlas", 1)
    together = head_atlas(two[0], rows, samples=0)["entropy"].values
    apart = [head_atlas(two[0], row, samples=0)["entropy"].values * (len(row) - 1) for row in rows]
    np.testing.assert_allclose(together, sum(apart) / sum(len(row) - 1 for row in rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("analysis", [pytest.param(call, id=name) for name, call in SINGLE.items()])
def test_one_text_is_one_text(two: Two, analysis: OfTexts) -> None:
    for several in (torch.ones(2, 5, dtype=torch.long), Texts(torch.ones(2, 5, dtype=torch.long))):
        with pytest.raises(WorkbenchError, match="one text, not"):
            analysis(*two, several, several)


BROKEN = 98  # a token whose embedding is NaN
BY_TEXT = ("text_overview", "token_losses")
"""Analyses with a number for each text or token: only those of the broken text are NaN."""


@pytest.mark.parametrize("name", sorted({*SETS, *METRICS} - {"transplant of weights"}))  # whose model B is whole
def test_a_text_without_numbers_is_refused_or_marked(two: Two, name: str) -> None:
    """A mean over texts is never that of the others alone, and never the traceback of a library."""
    broken = copy.deepcopy(two[0])
    with torch.no_grad():
        broken.model.embed_tokens.weight[BROKEN] = float("nan")
    rows = [row.clamp_max(BROKEN - 1) for row in rows_of(name, 1)]
    rows[3][2] = BROKEN
    if name in BY_TEXT:
        found = ALL[name](broken, two[1], rows, rows)
        losses = found["loss"].to_numpy()[:, None] if isinstance(found, pd.DataFrame) else found["loss"].values[:, 1:]
        wrong = np.isnan(losses).any(1)
        assert wrong[3]
        if isinstance(found, pd.DataFrame):
            assert wrong.sum() == 1
        return
    with pytest.raises(WorkbenchError, match=r"(text|pair) 3 is not a finite number|NaN"):
        ALL[name](broken, two[1], rows, rows_of(name, 2))
