"""Interventions in words: each line makes the edits that it says, and is written as it is read."""

import json

import pytest
import torch

from hooks import edits
from workbench import metrics
from workbench.analyses.linear_probe import probe_layer
from workbench.analyses.support.part_swap import Part
from workbench.analyses.trajectory import trajectory
from workbench.checkpoints import series
from workbench.errors import WorkbenchError
from workbench.interventions import Target, canonical, check_text, edits_of, read, set_or_file, toward
from workbench.metrics import mean_loss
from workbench.metrics.of_heads import _need, _of_part
from workbench.results import Curves, Grid, Scores, change
from workbench.texts import Texts

OTHER = "w9 w8 w7 w6 w5 w4 w3 w2"

SPELLINGS = {
    "L2H3 off": ["l2h3 OFF", "zero blocks.2.attn.z heads=3", "blocks.2.attn.z heads=3 off"],
    "L0H1H2 × 0.5": ["L0H1H2 x 0.5", "L0H1H2*0.5", "scale blocks.0.attn.z .5 heads=1,2"],
    "MLP 3 × -2": ["L3 MLP × −2", "mlp 3 x -2", "scale blocks.3.mlp_out -2"],
    "attention 1 off": ["L1 attention off", "zero blocks.1.attn_out"],
    "tokens 2,5 at layer 1 off": ["token 2, 5 at layer 1 off", "zero blocks.1.resid_post positions=2,5"],
    "token 0 at the embedding × 0.25": ["token 0 at embedding *.25", "scale embed .25 positions=0"],
    "L2H3 at token 4 off": ["zero blocks.2.attn.z heads=3 positions=4"],
    f'L1H0 from "{OTHER}"': [f"L1H0 from '{OTHER}'", f'patch blocks.1.attn.z "{OTHER}" heads=0'],
    "+8 w9 at layer 2": ["add blocks.2.resid_post 8 w9", "+ 8 w9 at layer 2"],
    "-8 w9 at layer 2": ["add blocks.2.resid_post -8 w9"],
    "zero blocks.*.attn.z heads=0,1": ["blocks.*.attn.z heads=0,1 off"],
    f'patch blocks.*.mlp_out "{OTHER}" positions=1': [f'blocks.*.mlp_out positions=1 from "{OTHER}"'],
    "add embed 2 w5 positions=3": [],
    "zero blocks.1.attn.pattern heads=1": [],
    "+4 label a/set/odd at layer 2": ["+ 4 Label a/set/odd at  layer 2"],
    "-2 probe a/set/odd against even at the embedding": ["- 2 PROBE a/set/odd against even at embedding"],
    "-0.5 label a/set/odd against two words at the embedding": ["-.5 label a/set/odd against two words at embedding"],
}


def labelled_set(name, tokenizer):
    """The sets of these tests: words of several lengths, with three labels."""
    assert name == "a/set"
    return Texts.of(
        tokenizer, ["w1 w2", "w3 w4 w5", "w6 w7", "w8", "w9 w1"], ["odd", "two words", "odd", "even", "even"]
    )


@pytest.mark.parametrize("line", SPELLINGS)
def test_a_line_is_written_as_it_is_read(line, tokenizer):
    (found,) = read(line, tokenizer, labelled_set)
    assert str(found) == line and read(str(found), tokenizer, labelled_set) == (found,)
    assert [canonical(one, tokenizer, labelled_set) for one in SPELLINGS[line]] == [line] * len(SPELLINGS[line])


def test_numbers_and_prompts_keep_every_digit_and_mark(tokenizer):
    prompt = 'w1 "w2"\nw3\\ \u2028 w4 # off'
    lines = canonical(f"MLP 1 × 0.12345678901\nL1H1 from {json.dumps(prompt, ensure_ascii=False)}", tokenizer)
    scale, patch = read(lines, tokenizer)
    assert scale.number == 0.12345678901 and patch.text == prompt and canonical(lines, tokenizer) == lines


def test_lines_that_are_off_are_left_out_and_order_is_kept(tokenizer):
    text = "# L0H0 off\n\n  MLP 1 off  \n#MLP 2 off\nL0H0 × 2"
    assert canonical(text, tokenizer) == "MLP 1 off\nL0H0 × 2"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("L2H3 off", lambda model, run: edits.zero("blocks.2.attn.z", heads=[3])),
        ("MLP 1 × 0.5", lambda model, run: edits.scale("blocks.1.mlp_out", 0.5)),
        ("attention 0 off", lambda model, run: edits.zero("blocks.0.attn_out")),
        ("tokens 2,5 at layer 1 off", lambda model, run: edits.zero("blocks.1.resid_post", positions=[2, 5])),
        ("L2H3 at token 4 × 3", lambda model, run: edits.scale("blocks.2.attn.z", 3, heads=[3], positions=[4])),
        (f'L1H2 from "{OTHER}"', lambda model, run: edits.patch("blocks.1.attn.z", run, heads=[2])),
        (f'blocks.*.mlp_out from "{OTHER}"', lambda model, run: edits.patch("blocks.*.mlp_out", run)),
        (
            "+4 w9 at layer 2",
            lambda model, run: edits.add(
                "blocks.2.resid_post", 4 * torch.nn.functional.normalize(model.lm_head.weight[9].detach(), dim=0)
            ),
        ),
    ],
)
def test_a_line_makes_the_edit_that_it_says(model, tokenizer, line, expected):
    ids = torch.tensor([tokenizer("w5 w17 w3 w42 w8 w5 w17 w3").input_ids])
    run = model.run(torch.tensor([tokenizer(OTHER).input_ids]), capture=["blocks.*.attn.z", "blocks.*.mlp_out"])
    with model.tapped(edits=edits_of(model, read(line, tokenizer))):
        found = model.run(ids).logits
    assert torch.allclose(found, model.run(ids, edits=expected(model, run)).logits, atol=1e-6)
    assert not torch.allclose(found, model.run(ids).logits, atol=1e-4)


def test_a_direction_raises_its_token(model):
    ids = torch.tensor([[5, 17, 3, 42]])
    changed = model.run(ids, edits=edits.add("blocks.3.resid_post", toward(model, 9, 50.0)))
    before, after = (run.logits[0, -1].softmax(-1)[9] for run in (model.run(ids), changed))
    assert after > before and toward(model, 9, -2.0).norm().item() == pytest.approx(2)


def test_the_direction_of_a_probe_is_added_at_all_tokens(model, tokens, tokenizer):
    strings = [f"w{number} w{number % 4}" for number in range(1, 21)]
    texts = Texts.of(tokenizer, strings, ["odd" if number % 2 else "even" for number in range(1, 21)])
    change = read("-3 probe a/set/odd at layer 1", tokenizer, lambda name, tokenizer: texts)
    wanted = probe_layer(model, texts, layer=1).direction("odd").edit(-3)
    found, expected = (model.run(tokens, edits=each).logits for each in (edits_of(model, change), [wanted]))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    few = read("+1 probe a/set/odd at layer 1", tokenizer, labelled_set)
    with pytest.raises(WorkbenchError, match=r"“\+1 probe a/set/odd at layer 1” cannot be done: label .* has"):
        edits_of(model, few)


@pytest.mark.parametrize("place", ["layer 2", "the embedding"])
def test_the_direction_of_a_label_is_added_at_all_tokens(model, tokens, tokenizer, place):
    site = "embed" if place == "the embedding" else "blocks.2.resid_post"
    texts = labelled_set("a/set", tokenizer)
    last = {}
    for ids, label in zip(texts, texts.labels, strict=True):
        last.setdefault(label, []).append(model.run(ids[None], capture=site)[site][0, -1])
    odd, even, other = (torch.stack(last[label]) for label in ("odd", "even", "two words"))
    for against, rest in (("", torch.cat([other, even])), (" against even", even)):
        change = read(f"-3 label a/set/odd{against} at {place}", tokenizer, labelled_set)
        wanted = edits.add(site, -3 * (odd.mean(0) - rest.mean(0)))
        found, by_hand = (model.run(tokens, edits=each).logits for each in (edits_of(model, change), [wanted]))
        torch.testing.assert_close(found, by_hand, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(found, model.run(tokens).logits, atol=1e-3)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("+1 label a/set/none at layer 1", "none"),
        ("+1 label a/set/odd against none at layer 1", "none"),
        ("+much label a/set/odd at layer 1", "'much' in .* is not a number"),
        ("+1 label odd at layer 1", "is not an edit"),
        ("+1 label a/set/odd", "is not an edit"),
    ],
)
def test_a_label_that_no_text_has_is_refused(line, said, tokenizer):
    with pytest.raises(WorkbenchError, match=said):
        read(line, tokenizer, labelled_set)


def test_sets_are_built_in_or_for_the_command_line_files(tmp_path, tokenizer):
    path = tmp_path / "set.csv"
    path.write_text("text,label\nw1 w2,a\nw3,b\n")
    with pytest.raises(WorkbenchError, match="with labels; choices: tiny-olmo/english, tiny-olmo/repeats"):
        read(f"+1 label {path}/a at layer 1", tokenizer)
    (change,) = read(f"+1 label {path}/a at layer 1", tokenizer, set_or_file)
    assert change.labels.texts.labels == ("a", "b") and str(change) == f"+1 label {path}/a at layer 1"
    with pytest.raises(WorkbenchError, match="tiny-olmo/code' with labels; choices"):
        set_or_file("tiny-olmo/code", tokenizer)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("burn it", "'burn it' is not an edit; write one like L2H5 off"),
        ("L2H5", "is not an edit"),
        ("zero", "is not an edit"),
        ("zero blocks.0.attn.z off", "is not an edit"),
        ("scale blocks.0.mlp_out", "is not an edit"),
        ("MLP 9999999 off", "is not an edit"),
        ("L" + "9" * 5000 + "H1 off", "is not an edit"),
        ("MLP 1 × much", "'much' in 'MLP 1 × much' is not a number"),
        ("MLP 1 x nan", "'nan' in .* is not finite"),
        ("+inf w9 at layer 2", "'inf' in .* is not finite"),
        ("+8 w1w2 at layer 2 off", "is not an edit"),
        ("zero blocks.0.attn.z heads=a", "heads=a in .* is not a list of heads"),
        ("zero blocks.0.mlp_out positions=-1", "positions=-1 in .* is not a list of positions"),
        ("token 1 1 at layer 2 off", "'1 1' in .* is not a list of tokens"),
        ("L1H1 from w1 w2", "needs quotes"),
        ('L1H1 from ""', "is empty"),
    ],
)
def test_a_line_that_is_no_change_is_refused_with_a_sentence(line, said, tokenizer):
    with pytest.raises(WorkbenchError, match=said):
        read(line, tokenizer)


@pytest.mark.parametrize("line", ["+8 w9 at layer 2", 'L1H1 from "w1 w2"', "+1 label a/set/odd at layer 1"])
def test_a_text_in_a_line_needs_a_tokenizer(line):
    assert read("L2H5 off")[0].target == Target("blocks.2.attn.z", (5,))
    with pytest.raises(WorkbenchError, match="pass tokenizer="):
        read(line)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("MLP 4 off", "“MLP 4 off” needs layer 4; the layers of this model are 0 to 3"),
        ("L9H0 × 2", "needs layer 9"),
        ("L0H4 off", "“L0H4 off” does not fit this model: head 4 is outside"),
        ("zero blocks.0.soul", "no site 'blocks.0.soul'"),
        ("zero blocks.0.mlp_out heads=1", "has no heads"),
    ],
)
def test_a_change_that_does_not_fit_the_model_is_refused(make_model, line, said):
    model = make_model("olmo2")
    with pytest.raises(WorkbenchError, match=said):
        edits_of(model, read(line))


def test_a_change_that_does_not_fit_the_prompt_is_refused(tokenizer):
    check_text(read(f'token 7 at layer 1 off\nL0H0 from "{OTHER}"', tokenizer), 8)
    with pytest.raises(WorkbenchError, match="needs token 7; the tokens of this prompt are 0 to 6"):
        check_text(read("tokens 3,7 at layer 1 off"), 7)
    with pytest.raises(WorkbenchError, match="patches from 8 tokens; this prompt has 7"):
        check_text(read(f'L0H0 from "{OTHER}"', tokenizer), 7)


def test_a_metric_of_changed_checkpoints(tmp_path, make_model, tokenizer):
    models = {step: make_model("olmo2", seed=step).eval() for step in (0, 10)}
    for step, model in models.items():
        model.save_pretrained(tmp_path / f"step{step}")
    tokenizer.save_pretrained(tmp_path)
    tokens, changes = torch.tensor([[5, 17, 3, 42, 8]]), read("L1H2 off\nMLP 2 × 0.5\n+3 w9 at layer 0", tokenizer)
    run = series(str(tmp_path))
    curve = trajectory(run, metrics.intervened(metrics.held_out_loss(tokens), changes), cache=tmp_path / "cache")
    plain = trajectory(run, metrics.held_out_loss(tokens), cache=tmp_path / "cache")
    assert "with L1H2 off, MLP 2 × 0.5, +3 w9 at layer 0" in curve.title
    for place, model in enumerate(models.values()):
        assert plain.values[0, place] == pytest.approx(mean_loss(model, tokens), abs=1e-5)
        with model.tapped(edits=edits_of(model, changes)):
            assert curve.values[0, place] == pytest.approx(mean_loss(model, tokens), abs=1e-5)
    far = trajectory(run, metrics.intervened(metrics.kl_to_last(tokens), changes), cache=tmp_path / "cache")
    assert far.values[0, 0] > 1e-3 and far.values[0, -1] == pytest.approx(0, abs=1e-6)
    with pytest.raises(WorkbenchError, match="do not affect it"):
        metrics.intervened(metrics.weight_change(), changes)


def test_a_copy_with_other_weights_keeps_the_edits_around_it(make_model):
    """An MLP that is switched off makes no difference in either model, whichever weights it has."""
    one, other = (make_model("olmo2", seed=seed) for seed in (0, 1))
    tokens, part = torch.tensor([[5, 17, 3, 42, 8]]), Part("mlp", 1)
    given = _of_part(other, tokens, part)
    assert abs(_need(one, tokens, part, given).values).max() > 1e-4
    with one.tapped(edits=edits.zero("blocks.1.mlp_out")):
        assert _need(one, tokens, part, given).values == pytest.approx(0, abs=1e-6)


def test_a_change_of_a_result_is_the_difference_of_its_numbers():
    after, before = (Grid([[high, 2.0]], [0], ["a", "b"], text=[["x", "y"]], log=True) for high in (5.0, 3.0))
    moved = change(after, before)
    assert moved.values.tolist() == [[2.0, 0.0]] and moved.signed and not moved.log and moved.text is not None
    assert change(Scores([3.0], ["a"], total=4.0), Scores([1.0], ["a"], total=1.0)).total == 3.0
    lines = Curves([[1.0, 2.0]], ["a"], [0, 1], errors=[[0.1, 0.1]])
    means = Grid([[1.0, 2.0]], [0], ["a", "b"], errors=[[0.1, 0.1]], texts=3)
    for known in (lines, means):
        assert change(known, known).values.tolist() == [[0.0, 0.0]] and change(known, known).errors is None
    with pytest.raises(ValueError, match="cannot be subtracted"):
        change(after, Grid([[1.0]], [0], ["a"]))
