"""The commands that read a set of texts: the numbers of the analyses, a row a label, one table a file."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hooks import edits
from workbench import checkpoints
from workbench.analyses.ablation import ablation
from workbench.analyses.activation_patching import activation_patching
from workbench.analyses.circuit import circuit
from workbench.analyses.compare_attention import compare_attention
from workbench.analyses.compare_behaviour import behaviour_summary, compare_behaviour
from workbench.analyses.direct_logit_attribution import mean_attribution
from workbench.analyses.head_atlas import head_atlas
from workbench.analyses.logit_lens import logit_lens
from workbench.analyses.support.labels import labels_of
from workbench.analyses.support.mean_loss import loss_sums
from workbench.analyses.support.translators import TunedLens
from workbench.analyses.text_overview import mean_losses, text_overview
from workbench.analyses.token_losses import token_losses
from workbench.analyses.tuned_lens import tuned_lens
from workbench.command_line import main
from workbench.command_line.spelling import in_options
from workbench.errors import WorkbenchError
from workbench.text_pairs import TextPairs
from workbench.texts import Texts

EXACTLY = {"comment": "#", "keep_default_na": False, "na_values": [""]}
ROWS = [("w5 w6 w7", "a"), ("w8 w9", "b"), ("w1 w2 w3 w4", "a"), ("w7 w9 w2", "b"), ("w3", "a")]


@pytest.fixture(scope="module")
def given(tmp_path_factory, make_model: Callable, tokenizer):
    """A checkpoint, a file of labelled texts and a file of pairs."""
    folder = tmp_path_factory.mktemp("sets")
    make_model("olmo2", num_hidden_layers=2).save_pretrained(folder / "step0")
    tokenizer.save_pretrained(folder / "step0")
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"prompt": t, "kind": k}) for t, k in ROWS))
    (folder / "pairs.csv").write_text("clean,corrupted,answer,other\nw1 w2,w3 w2,w7,w8\nw4 w5,w6 w5,w9,w7\n")
    return folder


def run(given: Path, *arguments: str) -> int:
    return main([*arguments, "--checkpoint", str(given / "step0"), "--no-progress"])


def tables(given: Path, tmp_path: Path, *arguments: str) -> dict[str, pd.DataFrame]:
    """The CSV files of a command, by what follows `out` in their names."""
    assert run(given, *arguments, "--csv", str(tmp_path / "out.csv")) == 0
    return {path.stem.removeprefix("out"): pd.read_csv(path, **EXACTLY) for path in sorted(tmp_path.glob("out*.csv"))}


def labelled(given: Path) -> list[str]:
    return ["--texts", str(given / "texts.jsonl"), "--text-column", "prompt", "--label", "kind"]


def read(given: Path, rows: slice = slice(None)):
    model, tokenizer = checkpoints.load(str(given / "step0"))
    texts = Texts.read(given / "texts.jsonl", tokenizer, "prompt", "kind")[rows]
    return model, tokenizer, texts


def test_texts_lists_each_text_and_the_mean_of_each_label(given, tmp_path):
    found = tables(given, tmp_path, "texts", *labelled(given))
    assert set(found) == {"", "-texts"}
    model, _, texts = read(given)
    rows = found["-texts"]
    assert rows["content"].tolist() == [text for text, _ in ROWS] and rows["label"].tolist() == [k for _, k in ROWS]
    for n, ids in enumerate(texts):
        logits = model.run(ids[None]).logits[0]
        assert rows["answer"][n] == f"w{int(logits[-1].argmax())}"
        if len(ids) > 1:
            wanted = torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).item()
            assert rows["loss"][n] == pytest.approx(wanted, abs=1e-4)
    assert np.isnan(rows["loss"][4])  # one token
    assert "." not in (tmp_path / "out-texts.csv").read_text().splitlines()[-1].split(",")[1]  # whole numbers
    means = found[""].set_index("name")
    assert means["texts"].to_dict() == {"all texts": 4, "a": 2, "b": 2}
    losses = token_losses(model, texts[[0, 2]])["loss"].values
    assert means["value"]["a"] == pytest.approx(np.nanmean(losses), abs=1e-4)


def test_means_leave_out_losses_that_are_no_numbers_and_say_so(given, capsys):
    model, _, texts = read(given)
    overview = text_overview(model, texts)
    overview.loc[1, "loss"] = np.nan
    assert mean_losses(overview).texts == (3, 2, 1)
    overview["loss"] = np.nan
    with pytest.raises(WorkbenchError, match="no text has a loss"):
        mean_losses(overview)


def test_a_broken_model_is_said_with_the_numbers_of_the_texts(given, monkeypatch, capsys):
    from workbench.command_line import texts as command

    def broken(model, texts, **options):
        table = text_overview(model, texts, **options)
        table.loc[[0, 3], "loss"] = np.nan
        return table

    monkeypatch.setattr(command, "text_overview", broken)
    assert run(given, "texts", *labelled(given)) == 0
    said = f"2 texts (0, 3: {given / 'texts.jsonl'}, lines 1, 4)."
    assert f"loss is not a number (check the checkpoint): {said}" in " ".join(capsys.readouterr().out.split())


def test_losses_that_are_no_numbers_are_named_by_file_and_line(given):
    model, _, texts = read(given)
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[9] = torch.nan
    for some, numbers in ((texts, "1, 3"), (texts.by_label()["b"], "0, 1")):
        with pytest.raises(WorkbenchError) as refused:
            loss_sums(model, some)
        sentence = f"the loss of 2 texts ({numbers}: {given / 'texts.jsonl'}, lines 2, 4) is not a finite number"
        assert str(refused.value).startswith(sentence)
    with pytest.raises(WorkbenchError, match=r"the loss of text 1 \(.*texts.jsonl, line 4\) is not"):
        loss_sums(model, texts[[2, 3]])
    with pytest.raises(WorkbenchError, match=r"the loss of text 1 is not"):
        loss_sums(model, Texts(texts.ids[:3], texts.mask[:3]))


def test_ablate_has_the_numbers_of_each_label(given, tmp_path):
    rows = "\n".join(json.dumps({"prompt": text, "kind": kind}) for text, kind in ROWS[:4])
    (tmp_path / "texts.jsonl").write_text(rows)
    options = ["--texts", str(tmp_path / "texts.jsonl"), "--text-column", "prompt", "--label", "kind"]
    found = tables(given, tmp_path, "ablate", *options, "--method", "zero", "--answer", "w5")[""]
    model, tokenizer, texts = read(given, slice(4))
    wanted = ablation(model, texts.by_label()["b"], "w5", method="zero", tokenizer=tokenizer)
    mine = found[found["label"] == "b"]
    np.testing.assert_allclose(mine["loss"], wanted["loss"].values.ravel(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mine["loss_standard_error"], wanted["loss"].errors.ravel(), rtol=1e-3, atol=1e-5)
    assert set(mine["texts"]) == {2} and list(dict.fromkeys(found["label"])) == ["all texts", "a", "b"]


def test_attribute_adds_up_for_each_label(given, tmp_path):
    found = tables(given, tmp_path, "attribute", *labelled(given), "--answer", "w5", "--against", "w6")[""]
    model, _, texts = read(given)
    for label, some in texts.by_label().items():
        logits = torch.stack([model.run(ids[None]).logits[0, -1] for ids in some])
        assert found[found["label"] == label]["value"].sum() == pytest.approx(
            (logits[:, 5] - logits[:, 6]).mean().item(), abs=1e-3
        )
    likeliest = mean_attribution(model, texts)
    best = torch.stack([model.run(ids[None]).logits[0, -1].max() for ids in texts]).mean().item()
    assert likeliest.total == pytest.approx(best, abs=1e-4) and likeliest.texts == 5


@pytest.mark.parametrize("options", [[], ["--estimate"]])
def test_patch_has_the_numbers_of_the_pairs(given, tmp_path, options):
    found = tables(given, tmp_path, "patch", "--texts", str(given / "pairs.csv"), *options)[""]
    assert len(found) == 2 * 2 and set(found["texts"]) == {2} and found["logit_difference_standard_error"].notna().all()
    if not options:
        model, tokenizer = checkpoints.load(str(given / "step0"))
        pairs = TextPairs.read(given / "pairs.csv", tokenizer)
        wanted = activation_patching(
            model, pairs.clean, pairs.corrupted, pairs.answers, pairs.others, tokenizer=tokenizer
        )
        np.testing.assert_allclose(found["kl"], wanted["kl"].values.ravel(), rtol=1e-4, atol=1e-5)


def test_circuit_has_the_edges_of_the_pairs_and_their_proof(given, tmp_path, capsys):
    options = ["--texts", str(given / "pairs.csv"), "--steps", "2", "--exact", "3", "--draws", "2"]
    found = tables(given, tmp_path, "circuit", *options)
    edges, proof = found[""], found["-what-circuits-keep-of-the-effect"]
    model, tokenizer = checkpoints.load(str(given / "step0"))
    pairs = TextPairs.read(given / "pairs.csv", tokenizer)
    prompts = (pairs.clean, pairs.corrupted, pairs.answers, pairs.others)
    wanted = circuit(model, *prompts, steps=2, exact=3, tokenizer=tokenizer)
    np.testing.assert_allclose(edges["value"], wanted.top(len(wanted.names)).values, rtol=1e-3, atol=1e-5)
    assert edges["exact"].notna().sum() == 3 and edges["exact"][:3].notna().all()
    assert proof["best edges"].iloc[[0, -1]].tolist() == pytest.approx([0, 1], abs=1e-3)
    assert proof["edges"].iloc[-1] == len(edges) == len(wanted.names)
    assert f" of {len(edges)} edges, and " in capsys.readouterr().out


LONGER = "w5 w6 w7 w1,a\nw8 w9,b\nw1 w2 w3 w4,a\nw7 w9 w2,b\n"


@pytest.fixture
def longer(given, tmp_path):
    """The arguments for a set whose texts have two tokens or more, and the set."""
    (tmp_path / "longer.csv").write_text(f"prompt,kind\n{LONGER}")
    arguments = ["--texts", str(tmp_path / "longer.csv"), "--text-column", "prompt", "--label", "kind"]
    tokenizer = checkpoints.load(str(given / "step0"))[1]
    return arguments, Texts.read(tmp_path / "longer.csv", tokenizer, "prompt", "kind")


def test_attention_has_the_means_of_each_label(given, longer, tmp_path):
    arguments, texts = longer
    (found,) = tables(given, tmp_path, "attention", *arguments, "--by", "first").values()
    model = checkpoints.load(str(given / "step0"))[0]
    for label, some in {"all texts": texts, **texts.by_label()}.items():
        wanted = head_atlas(model, some, samples=0)["first"].rank()
        rows = found[found["label"] == label].merge(wanted, on=["layer", "head"])
        np.testing.assert_allclose(rows["first"], rows["value"], rtol=1e-4)
        np.testing.assert_allclose(rows["first_standard_error"], rows["standard_error"], rtol=1e-4)
        assert set(rows["texts_x"]) == {len(some)}
    assert found["layer"].dtype.kind == "i" and found["texts"].dtype.kind == "i"


def test_lens_has_the_means_at_one_position(given, longer, tmp_path):
    arguments, texts = longer
    (found,) = tables(given, tmp_path, "lens", *arguments, "--edit", "L1H2 off").values()
    model = checkpoints.load(str(given / "step0"))[0]
    with model.tapped(edits=edits.zero("blocks.1.attn.z", heads=[2])):
        each = [logit_lens(model, ids) for ids in texts]
    rows = found[found["label"] == "all texts"].set_index("layer")
    for name in ("probability", "entropy", "kl"):
        values = np.stack([lens[name].values[:, -1] for lens in each]).astype(np.float64)
        np.testing.assert_allclose(rows[name], values.mean(0), rtol=1e-3, atol=1e-5)
        error = values.std(0, ddof=1) / len(each) ** 0.5
        np.testing.assert_allclose(rows[f"{name}_standard_error"], error, rtol=1e-2, atol=1e-5)
    likeliest = np.stack([lens["probability"].text[:, -1] for lens in each])
    np.testing.assert_allclose(rows["agreement"], (likeliest == likeliest[:, -1:]).mean(0), atol=1e-6)
    assert rows["agreement"].iloc[-1] == 1 and set(found["label"]) == {"all texts", "a", "b"}


def test_lens_reads_a_set_through_a_tuned_lens(given, longer, tmp_path):
    arguments, texts = longer
    lens = TunedLens(0.1 * torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 32))
    folder = str(lens.save(tmp_path / "lens"))
    (found,) = tables(given, tmp_path, "lens", *arguments, "--tuned", folder).values()
    model = checkpoints.load(str(given / "step0"))[0]
    wanted = np.mean([tuned_lens(model, ids, lens)["kl"].values[:, -1] for ids in texts], axis=0)
    rows = found[found["label"] == "all texts"]
    np.testing.assert_allclose(rows["kl"], wanted, rtol=1e-3, atol=1e-5)
    assert "lens: a tuned lens" in (tmp_path / "out.csv").read_text()


def test_compare_has_the_means_of_each_label(given, longer, tmp_path, make_model, tokenizer):
    arguments, texts = longer
    make_model("olmo2", seed=5, num_hidden_layers=2).save_pretrained(tmp_path / "step9")
    tokenizer.save_pretrained(tmp_path / "step9")
    pair = [str(given / "step0"), str(tmp_path / "step9")]
    command = ["compare", *pair, *arguments, "--only", "predictions", "attention", "--no-progress"]
    assert main([*command, "--csv", str(tmp_path / "out.csv")]) == 0
    found = pd.read_csv(tmp_path / "out.csv", **EXACTLY)
    a, b = (checkpoints.load(name)[0] for name in pair)
    for label, some in {"all texts": texts, **texts.by_label()}.items():
        wanted = behaviour_summary(compare_behaviour(a, b, some))
        rows = found[found["label"] == label]
        np.testing.assert_allclose(rows["mean"], wanted.values, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(rows["standard_error"], wanted.errors, rtol=1e-3, atol=1e-5)
    attention = pd.read_csv(tmp_path / "out-attention.csv", **EXACTLY)
    moved = compare_attention(a, b, texts)["moved"]
    np.testing.assert_allclose(attention["moved"], moved.values.ravel(), rtol=1e-3, atol=1e-5)
    tokens = pd.read_csv(tmp_path / "out-loss-by-token.csv", **EXACTLY)
    assert set(tokens["line"]) == {f"text {n}" for n in range(4)}


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["lens", "w1 w2", "--texts", "{}/texts.jsonl"], "give one of them"),
        (["attention"], "give a TEXT, or --texts"),
        (["attention", "--texts", "{}/texts.jsonl", "--head", "L0H0"], "--head is for one text"),
        (["lens", "--texts", "{}/texts.jsonl", "--chat"], "--chat is for one text"),
        (["lens", "--texts", "{}/pairs.csv", "--text-column", "clean", "--position", "2"], "has 2 tokens, so no pos"),
    ],
)
def test_a_text_or_a_set(given, command, sentence, capsys):
    assert run(given, *(word.format(given) for word in command)) == 1
    assert sentence in capsys.readouterr().err


def test_several_tables_are_several_files_and_the_first_is_printed(given, tmp_path, capsys):
    assert run(given, "texts", *labelled(given), "--csv", "-") == 0
    captured = capsys.readouterr()
    assert '"all texts"' in captured.out and "content" not in captured.out
    assert captured.err == '- has the first table only; --csv FILE also writes "Texts", each to a file of its own\n'


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["texts", "--texts", "no.csv"], "no.csv cannot be read"),
        (["texts", "--texts", "tiny-olmo/none"], "no built-in set 'tiny-olmo/none'; choices: tiny-olmo/english"),
        (["texts", "--texts", "{}/texts.jsonl"], "line 1: no column 'text'; columns: prompt, kind"),
        (["ablate", "--texts", "{}/texts.jsonl", "--text-column", "prompt", "--label", "x"], "line 1: no column 'x'"),
        (["patch", "--texts", "{}/texts.jsonl"], "line 1: no column 'clean'"),
        (["patch", "--texts", "{}/pairs.csv", "--site", "nowhere"], "no site 'nowhere'"),
        (["attribute", "--texts", "{}/texts.jsonl", "--text-column", "prompt", "--answer", "w1 w2"], "is 2 tokens"),
        (
            ["probe", "--texts", "{}/texts.jsonl", "--text-column", "prompt"],
            "the texts have no labels; name the column of the labels with --label\n",
        ),
    ],
)
def test_what_cannot_be_done_is_said(given, arguments, sentence, capsys):
    assert run(given, *[word.format(given) for word in arguments]) == 1
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.out == ""


def test_texts_that_are_too_long_are_named_and_can_be_cut(given, tmp_path, capsys):
    path = tmp_path / "long.txt"
    path.write_text("w1 w2\n" + "w5 " * 100 + "\n")
    assert run(given, "texts", "--texts", str(path)) == 1
    assert "long.txt, line 2: the text has 100 tokens and the model takes at most 64; shorten it, or cut all texts" in (
        said := capsys.readouterr().err
    )
    assert said.endswith("first 64 tokens with --cut 64\n")
    assert run(given, "texts", "--texts", str(path), "--cut", "64") == 0


def test_sentences_for_python_are_said_in_options(given):
    model, texts, labels = read(given)[0], Texts(torch.ones(1, 5, dtype=torch.long)), "name the column of the labels"
    for call, said in (
        (lambda: texts.by_label(), f"the texts have no labels; {labels} with --label"),
        (lambda: labels_of(texts), f"the texts have no labels; {labels} with --label"),
        (lambda: ablation(model, texts, method="resample"), "no other text to resample from; give more texts"),
        (
            lambda: ablation(model, [torch.ones(n, dtype=torch.long) for n in (3, 4)], method="resample"),
            "position by position; cut them to equal length, or use --method mean",
        ),
    ):
        with pytest.raises(WorkbenchError) as refused:
            call()
        assert in_options(str(refused.value)).endswith(said)
