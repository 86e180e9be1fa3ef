"""Names of revisions and folders are parsed correctly."""

import pytest

from workbench.checkpoints.names import parse, split_id

B = 10**9
SPELLINGS = {
    "step1000-tokens4B": (1000, 4 * B, None, None, None),
    "step738020-tokens3094B": (738_020, 3094 * B, None, None, None),
    "stage1-step721901-tokens6056B": (721_901, 6056 * B, 1, None, None),
    "stage1-step1907359-tokens4001B": (1_907_359, 4001 * B, 1, None, None),
    "stage2-ingredient3-step11931-tokens50B": (11_931, 50 * B, 2, 3, None),
    "stage1-step99000": (99_000, None, 1, None, None),
    "stage3-step11921": (11_921, None, 3, None, None),
    "step_360": (360, None, None, None, None),
    "step0": (0, None, None, None, None),
    "step1000-unsharded": (1000, None, None, None, None),
    "step6000-order2": (6000, None, None, None, 2),
    "checkpoint-500": (500, None, None, None, None),
    "global_step500": (500, None, None, None, None),
    "iter_0000500": (500, None, None, None, None),
    "00500": (500, None, None, None, None),
    "step10-tokens1.5M": (10, 1_500_000, None, None, None),
    "main": (None, None, None, None, None),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name):
    read = parse(name)
    assert (read.step, read.tokens, read.stage, read.ingredient, read.order) == SPELLINGS[name]
    assert read.name == name


@pytest.mark.parametrize("name", ["refs", "footstep", "tokenizer", "v1.0", "stepladder", "tokens4B", "first-step", ""])
def test_what_names_no_step_is_none(name):
    assert parse(name) is None


def test_order_is_stage_then_ingredient_then_step_then_the_end():
    names = [
        "step0",
        "stage1-step10-tokens4B",
        "stage1-step9000",
        "stage2-ingredient1-step5",
        "stage2-ingredient1-step700",
        "stage2-ingredient2-step5",
        "main",
    ]
    assert sorted(reversed(names), key=lambda name: parse(name).sort_key) == names


def test_the_end_of_the_main_run_comes_after_other_data_orders():
    names = ["step4500", "step6000-order2", "step6000-order3", "step6000"]
    assert sorted(reversed(names), key=lambda name: parse(name).sort_key) == names


@pytest.mark.parametrize(
    ("checkpoint_id", "parts"),
    [
        ("tiny-olmo@step4000", ("tiny-olmo", "step4000")),
        ("allenai/OLMo-1B-hf@step20000-tokens84B", ("allenai/OLMo-1B-hf", "step20000-tokens84B")),
        ("tiny-olmo", ("tiny-olmo", None)),
        ("runs/me@home/a@step3", ("runs/me@home/a", "step3")),
        ("@odd", ("@odd", None)),
    ],
)
def test_ids_are_split_at_the_last_sign(checkpoint_id, parts):
    assert split_id(checkpoint_id) == parts
