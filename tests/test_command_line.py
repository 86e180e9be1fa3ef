"""The command line: the same numbers as the functions, tables, files, and exit codes that scripts can rely on."""

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pandas as pd
import pytest
import torch

from hooks import edits
from tests.preloaded import ROOT, Forked, python
from workbench import checkpoints
from workbench.analyses.logit_lens import logit_lens
from workbench.analyses.token_losses import token_losses
from workbench.command_line import COMMANDS, CONSOLE_SCRIPT, main, parser, submodule
from workbench.command_line import trajectory as trajectory_command
from workbench.report import Report, Section, as_html, as_text
from workbench.result_files import load_result

TEXT = "w5 w9 w12 w5 w9 w40 w3"
EXACTLY = {"comment": "#", "keep_default_na": False, "na_values": [""]}  # as `as_csv` says
PAGE = " ".join(f"w{1 + (7 * n * n + n) % 98}" for n in range(40))


@pytest.fixture(scope="module")
def series(tmp_path_factory, make_model: Callable, tokenizer) -> str:
    """A series of three random checkpoints, and a branch of the last one with another data order."""
    folder = tmp_path_factory.mktemp("series")
    for seed, name in enumerate(("step0", "step10", "step20", "step20-order2")):
        make_model("olmo2", seed=seed, max_position_embeddings=256).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder)
    (folder / "page.txt").write_text(PAGE)
    return str(folder)


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., pd.DataFrame]:
    """`table(*arguments)`: the first table of a successful command, as its --csv file; with `of="heads"`, the table in
    the file `…-heads.csv` beside it.
    """

    def run(*arguments: str, of: str = "") -> pd.DataFrame:
        (tmp_path / "csv").mkdir(exist_ok=True)
        assert main([*arguments, "--csv", str(tmp_path / "csv" / "out.csv")]) == 0
        return pd.read_csv(tmp_path / "csv" / f"out{'-' if of else ''}{of}.csv", **EXACTLY)

    return run


def beside(tmp_path: Path, of: str) -> pd.DataFrame:
    """Another table of the command that the fixture `table` ran last."""
    return pd.read_csv(tmp_path / "csv" / f"out-{of}.csv", **EXACTLY)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_parse(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    examples = [line.strip() for line in submodule(command).EXAMPLES.splitlines() if line.strip()]
    assert examples and all(example in shown for example in examples)
    for example in examples:
        words = shlex.split(re.sub(r" (<|\|\|) .*", "", example).replace("--html ", "--html ./"))
        assert words[:4] == ["python", "-m", "workbench", command]
        assert parser(words[3:]).parse_args(words[3:]).command == command


@pytest.mark.parametrize("program", ["python -m workbench", "olmo-workbench"])
def test_usage_and_examples_begin_with_the_name_of_the_call(program, monkeypatch, capsys):
    start = {
        "python -m workbench": str(ROOT / "workbench" / "__main__.py"),
        "olmo-workbench": "/usr/bin/olmo-workbench",
    }
    monkeypatch.setattr(sys, "argv", [start[program], "lens", "--help"])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {program} lens ")
    examples = [line.strip() for line in shown.partition("examples:\n")[2].partition("\n\n")[0].strip().splitlines()]
    assert examples and all(line.startswith(f"{program} lens ") for line in examples)


def test_the_console_script_has_the_name_that_is_looked_for():
    assert CONSOLE_SCRIPT in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["generate"],
        ["compare", "tiny-olmo"],
        ["check", "a", "--seed", "1.5"],
        ["trajectory", "a", "--workers", "0"],
        ["generate", "a", "--tokens", "0"],
    ],
)
def test_what_is_not_understood_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["check", "no-such-model"], "no-such-model"),
        (["lens", "w1 w2", "--position", "9"], "no position 9"),
        (["lens", ""], "0 tokens"),
        (["generate", "w1", "--tokens", "9999"], "do not fit"),
        (["attention", "w1 w2", "--head", "L9H0"], "no layer 9"),
        (["compare", "{}@step0", "{}@step0", "--text", "{}/step0/model.safetensors"], "not UTF-8 text"),
        (["trajectory", "{}", "--length", "1"], "rows of 1 tokens"),
        (["compare", "{}@step0", "{}@step0", "--text", "{}"], "cannot be read: Is a directory"),
        (["compare", "{}@step0", "{}@step0", "--text", 5000 * "x"], "File name too long"),
        (["check", 5000 * "x"], "File name too long"),
        (["trajectory", 5000 * "x"], "File name too long"),
        (["check", "{}", "--seed", f"{2**63}"], f"seed is {2**63}; it should be a whole number from 0 to"),
        (["check", "{}", "--seed", "-1"], "seed is -1"),
        (["check", "{}", "--seed", 5000 * "9"], "seed is 999"),
        (["attention", "w1 w2", "--seed", f"{2**64}"], "seed is"),
        (["generate", "w1 w2", "--seed", f"{2**64}"], "seed is"),
        (["generate", "w1 w2", "--tokens", 5000 * "9"], "max_new_tokens is 999"),
        (["lens", "caf\udce9"], r"the argument 'caf\udce9' is not text in utf-8"),
        (["check", "{}", "--html", "caf\udce9"], r"the argument 'caf\udce9' is not text in utf-8"),
        (["check", "{}", "--html", "/no/where"], "/no/where cannot be written: there is no folder /no"),
        (["check", "{}", "--csv", "{}"], "cannot be written: it is a folder"),
        (["check", "{}", "--csv", 5000 * "x"], "cannot be written: File name too long"),
        (["check", "{}", "--csv", "-", "--html", "-"], "--csv - and --html - are the same file"),
    ],
)
def test_what_cannot_be_done_is_said_and_ends_with_1(arguments, sentence, series, capsys):
    of_texts = ["--checkpoint", series] if arguments[0] in ("lens", "generate", "attention") else []
    assert main([word.format(series) for word in arguments] + of_texts) == 1
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1 and len(captured.err) < 1000
    assert captured.out == ""


def test_text_that_is_none_is_said(series, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"caf\xe9"), errors="surrogateescape"))
    assert main(["lens", "-", "--checkpoint", series]) == 1
    assert capsys.readouterr().err == "standard input is not UTF-8 text\n"


@pytest.mark.parametrize("name", ["same", "./same", "folder/../same", "link"])
def test_one_file_for_two_outputs_is_refused_before_anything_is_computed(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("link").symlink_to("same")
    monkeypatch.setattr(checkpoints, "load", lambda *_, **__: pytest.fail("something was computed"))
    assert main(["check", "tiny-olmo", "--csv", "same", "--html", name]) == 1
    assert "the same file" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["folder", "link"]


@pytest.mark.parametrize("option", ["--csv", "--html"])
def test_output_into_nothing_is_refused_before_anything_is_computed(option, tmp_path, monkeypatch, capsys):
    (tmp_path / "dangling").symlink_to("nothing")
    monkeypatch.setattr(checkpoints, "load", lambda *_, **__: pytest.fail("something was computed"))
    assert main(["check", "tiny-olmo", option, str(tmp_path / "dangling")]) == 1
    assert "a link to nothing, which does not exist" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_output_that_is_full_is_said(series, capsys, monkeypatch):
    arguments = ["lens", TEXT, "--checkpoint", f"{series}@step20"]
    assert main([*arguments, "--csv", "/dev/full"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "/dev/full cannot be written: No space left on device\n" and captured.out == ""
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(arguments) == 1
    assert capsys.readouterr().err == "standard output cannot be written: No space left on device\n"


def test_without_an_output_nothing_is_computed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["check", "tiny-olmo"]) == 1
    assert "standard output is closed" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--csv", "--html"])
def test_a_file_that_cannot_be_finished_stays_what_it_was(option, series, tmp_path, monkeypatch):
    """After Ctrl-C during writing, the old file is unchanged and no other file is left."""

    def interrupted(*_):
        raise KeyboardInterrupt

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", interrupted)
    assert main(["lens", TEXT, "--checkpoint", f"{series}@step20", option, str(path)]) == 130
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_the_command_runs_as_a_module_and_without_gradio():
    code = (
        "import sys; from workbench.command_line import *; [*map(submodule, COMMANDS)]; print('gradio' in sys.modules)"
    )
    assert python("-c", code).stdout == "False\n"
    done = python("-m", "workbench", "check", "nothing")
    assert (done.returncode, done.stdout) == (1, "") and "'nothing'" in done.stderr


@pytest.mark.parametrize("module", ["app", "workbench.command_line"])
def test_help_does_not_wait_for_torch(module):
    code = f"import sys, atexit; from {module} import main; sys.argv[1:] = ['--help']; "
    code += "atexit.register(lambda: print('torch' in sys.modules)); main()"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert shown.startswith("usage:") and shown.endswith("False\n")


def test_csv_to_a_dash_is_all_that_is_printed(series, table, capsys):
    arguments = ["lens", TEXT, "--checkpoint", f"{series}@step20"]
    written = table(*arguments)
    capsys.readouterr()
    assert main([*arguments, "--csv", "-"]) == 0
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(capsys.readouterr().out), **EXACTLY), written)


def test_csv_says_where_it_comes_from_as_the_page_does(series, tmp_path):
    out = tmp_path / "out.csv"
    assert main(["lens", TEXT, "--checkpoint", f"{series}@step20", "--csv", str(out)]) == 0
    head = [line for line in out.read_text().splitlines() if line.startswith("#")]
    assert head[0] == f"# read with pandas.read_csv(file, skiprows={len(head)})"
    facts = ("command: python -m workbench lens", f"checkpoint: {series}@step20", "dtype: float32", f"text: {TEXT}")
    assert all(any(line.startswith(f"# {fact}") for line in head) for fact in facts)
    assert {"torch", "transformers", "python"} <= {line[2:].partition(":")[0] for line in head}


def test_a_page_to_a_dash_is_all_that_is_printed(series, capsys):
    assert main(["lens", TEXT, "--checkpoint", f"{series}@step20", "--html", "-"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("<!doctype html>") and printed.endswith("</html>")


def test_a_reader_who_stops_early_is_no_error(series, tmp_path):
    pipe, errors = str(tmp_path / "pipe"), tmp_path / "errors"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    command = ["python", "-m", "workbench", "attention", TEXT, "--checkpoint", str(series)]
    running = Forked(command, ROOT, os.environ, [pipe, str(errors)])
    os.close(reader)
    assert (running.wait(timeout=300), errors.read_text()) == (0, "")


def test_generate_continues_the_text_the_same_way_for_one_seed(series, table, capsys):
    arguments = ["generate", TEXT, "--checkpoint", series, "--tokens", "6", "--seed", "3"]
    first, again = table(*arguments), table(*arguments)
    assert capsys.readouterr().out.startswith(TEXT)
    assert first["given"].tolist() == [True] * 7 + [False] * 6 and first.equals(again)
    assert (first["probability"][1:].map(math.log) + first["surprisal"][1:]).abs().max() < 1e-4
    assert not table(*arguments[:-1], "4").equals(first)


def test_generate_without_temperature_takes_the_likeliest(series, table):
    found = table("generate", TEXT, "--checkpoint", series, "--tokens", "5", "--temperature", "0")
    new = found[~found["given"]]
    assert len(new) == 5 and (new["token"] == new["likeliest_1"]).all()


def test_lens_writes_the_numbers_of_the_analysis(series, table):
    model, tokenizer = checkpoints.load(f"{series}@step20")
    tokens = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    expected = logit_lens(model, tokens, tokenizer=tokenizer).table()
    found = table("lens", TEXT, "--checkpoint", f"{series}@step20")
    assert (found["kl"] - expected["kl"]).abs().max() < 1e-5
    assert list(found["probability_text"]) == list(expected["probability_text"])
    assert found[found["layer"] == "3"]["kl"].abs().max() < 1e-5


@pytest.mark.parametrize("command", ["generate", "lens", "attention"])
def test_edits_change_what_a_command_shows(command, series, table, tmp_path):
    arguments = [command, TEXT, "--checkpoint", f"{series}@step20"]
    arguments += ["--temperature", "0"] if command == "generate" else []
    plain, changed = table(*arguments), table(*arguments, "--edit", "L0H1 off", "--edit", "MLP 1 × 0.5")
    number = {"generate": "surprisal", "lens": "probability", "attention": "entropy"}[command]
    both = plain[number].dropna().to_numpy(), changed[number].dropna().to_numpy()
    assert both[0].shape != both[1].shape or abs(both[0] - both[1]).max() > 1e-4
    if command == "lens":
        model, tokenizer = checkpoints.load(f"{series}@step20")
        made = [edits.zero("blocks.0.attn.z", heads=[1]), edits.scale("blocks.1.mlp_out", 0.5)]
        with model.tapped(edits=made):
            expected = logit_lens(model, tokenizer(TEXT, return_tensors="pt")["input_ids"]).table()
        assert (changed["kl"] - expected["kl"]).abs().max() < 1e-5
    out = tmp_path / "edited.csv"
    assert main([*arguments, "--edit", "l0h1 off", "--csv", str(out)]) == 0
    assert "# edits: L0H1 off" in out.read_text()


@pytest.mark.parametrize(("edit", "said"), [("MLP 9 off", "the layers of this model are"), ("burn it", "not an edit")])
def test_an_edit_that_does_not_fit_is_said(edit, said, series, capsys):
    assert main(["lens", TEXT, "--checkpoint", f"{series}@step20", "--edit", edit]) == 1
    assert said in capsys.readouterr().err


def test_attention_lists_heads_in_order_and_rows_that_sum_to_one(series, table, tmp_path):
    heads = table("attention", TEXT, "--checkpoint", series, "--by", "previous", "--head", "L1H2", "--head", "L3H0")
    assert len(heads) == 16 and heads["previous"].is_monotonic_decreasing
    for name in ("L1H2", "L3H0"):
        rows = beside(tmp_path, f"what-{name.lower()}-attends-to").groupby("query")["value"].sum()
        assert len(rows) == 7 and (rows - 1).abs().max() < 1e-5


def test_a_checkpoint_does_not_differ_from_itself(series, table, tmp_path):
    table("compare", f"{series}@step10", f"{series}@step10", "--text", f"{series}/page.txt", "--length", "20")
    for of, columns in (
        ("loss-by-token", ("loss_difference", "kl", "flip")),
        ("attention", ("moved",)),
        ("weights", ("relative_change",)),
    ):
        found = beside(tmp_path, of)
        for column in columns:
            assert found[column].notna().any() and found[column].abs().max() < 1e-5, column


def test_compare_gives_the_same_with_one_in_memory(series, table):
    arguments = ["compare", f"{series}@step0", f"{series}@step10", "--text", f"{series}/page.txt", "--length", "20"]
    for of in ("", "loss-by-token", "attention"):
        both, one = table(*arguments, of=of), table(*arguments, "--one-at-a-time", of=of)
        pd.testing.assert_frame_equal(both, one, rtol=1e-4, atol=1e-5)


def test_the_noise_floor_is_the_difference_of_the_finals(series, table, tmp_path):
    text = ["--text", f"{series}/page.txt"]
    pair = table("compare", f"{series}@step20", f"{series}@step20-order2", "--noise-floor", *text)
    measured = beside(tmp_path, "weights")
    assert (measured["relative_change"] - measured["noise floor"]).abs().max() < 1e-4 * measured["noise floor"].max()
    means = pair.dropna(subset="noise floor")
    assert len(means) == 6 and (means["mean"].abs() - means["noise floor"]).abs().max() < 1e-4


def test_a_noise_floor_needs_finals(series, tmp_path, capsys):
    shutil.copytree(Path(series) / "step0", tmp_path / "step0")
    shutil.copy(Path(series) / "tokenizer.json", tmp_path)
    assert main(["compare", f"{tmp_path}@step0", f"{tmp_path}@step0", "--noise-floor"]) == 1
    assert "data order" in capsys.readouterr().err


def test_trajectory_has_the_loss_of_every_checkpoint_of_the_main_run(series, table, tmp_path):
    arguments = ["trajectory", series, "--text", f"{series}/page.txt", "--length", "20", "--cache", str(tmp_path / "c")]
    summary = table(*arguments, "--metrics", "loss", "induction")
    assert list(summary["revision"]) == ["step0", "step10", "step20"]
    for name, loss in zip(summary["revision"], summary["loss"], strict=True):
        model, tokenizer = checkpoints.load(f"{series}@{name}")
        tokens = tokenizer(PAGE, return_tensors="pt")["input_ids"].reshape(2, 20)
        assert abs(torch.tensor(token_losses(model, tokens)["loss"].values).nanmean().item() - loss) < 1e-4
    assert len(beside(tmp_path, "induction-score-of-each-head")) == 3 * 16
    assert table(*arguments, "--metrics", "loss", "--checkpoints", "2")["step"].dropna().tolist()[:2] == [0, 20]


def test_trajectory_over_a_set_has_its_loss(series, table, tmp_path, capsys):
    (tmp_path / "set.txt").write_text("w1 w2 w3\nw4 w5\n")
    arguments = ["trajectory", series, "--texts", str(tmp_path / "set.txt"), "--metrics", "loss", "--cache", "none"]
    model, _ = checkpoints.load(f"{series}@step20")
    losses = token_losses(model, [torch.tensor([1, 2, 3]), torch.tensor([4, 5])])["loss"].values
    assert abs(table(*arguments)["loss"].iloc[-1] - losses[losses == losses].mean()) < 1e-4
    assert main([*arguments, "--text", f"{series}/page.txt"]) == 1
    assert "give one of them" in capsys.readouterr().err


def test_trajectory_of_labelled_texts_has_a_line_for_each_label(series, table, tmp_path):
    (tmp_path / "set.csv").write_text("text,kind\nw1 w2 w3,a\nw4 w5,b\nw6 w7 w3,a\n")
    arguments = ["--texts", str(tmp_path / "set.csv"), "--label", "kind", "--metrics", "loss", "change"]
    found = table("trajectory", series, *arguments, "--cache", "none")
    model, _ = checkpoints.load(f"{series}@step20")
    one, other = ([torch.tensor([1, 2, 3]), torch.tensor([6, 7, 3])], torch.tensor([[4, 5]]))
    for label, texts in (("a", one), ("b", other)):
        losses = token_losses(model, texts)["loss"].values
        assert abs(found[f"loss {label}"].iloc[-1] - losses[losses == losses].mean()) < 1e-4
    lines = beside(tmp_path, "held-out-loss")
    assert set(lines["line"]) == {"all texts", "a", "b"} and {"standard_error", "texts"} < set(lines)
    assert lines["texts"].dtype.kind == "i" and set(lines["texts"]) == {1, 2, 3}


def test_a_cache_that_cannot_be_written_keeps_nothing_and_says_so(series, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["trajectory", series, "--text", f"{series}/page.txt", "--metrics", "loss", "rank"]
    with pytest.warns(UserWarning, match="file cannot be written: the results are not kept"):
        assert main([*arguments, "--cache", str(tmp_path / "file"), "--csv", str(tmp_path / "out.csv")]) == 0
    assert "# warning: the cache" in (tmp_path / "out.csv").read_text()
    assert main([*arguments, "--cache", "none", "--csv", str(tmp_path / "none.csv")]) == 0
    read = [pd.read_csv(tmp_path / name, **EXACTLY) for name in ("out.csv", "none.csv")]
    pd.testing.assert_frame_equal(*read)


def test_more_workers_than_checkpoints_are_not_started(series, monkeypatch):
    asked = []
    monkeypatch.setattr(trajectory_command, "trajectory", lambda run, *_, workers, **__: asked.append(workers) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["trajectory", series, "--workers", 30 * "9"])
    assert asked == [3]


def test_check_says_what_is_broken_by_its_exit_code(tmp_path, make_model, capsys):
    assert main(["check", "tiny-olmo"]) == 0
    assert "checks passed" in capsys.readouterr().out
    model = make_model("olmo2")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    with pytest.warns(UserWarning, match="tokenizer"):
        assert main(["check", str(tmp_path / "broken")]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_report_holds_plotly_once_and_asks_for_nothing(chromium, series, tmp_path):
    page = tmp_path / "report.html"
    assert main(["attention", TEXT, "--checkpoint", f"{series}@step10", "--html", str(page)]) == 0
    written = page.read_text()
    assert written.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", written)
    command = f"python -m workbench attention &#x27;{TEXT}&#x27; --checkpoint {series}@step10"
    for fact in (command, f"{series}@step10", "float32", "torch", "transformers", "seed"):
        assert fact in written[written.index("Provenance") :]
    context = chromium.new_context(offline=True)
    tab, problems = context.new_page(), []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: None if request.url == page.as_uri() else problems.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_function("document.querySelectorAll('.plotly-graph-div .main-svg').length >= 5")
    context.close()
    assert problems == []


def test_a_report_reads_nothing_as_markup():
    hostile = "<script>alert(1)</script>"
    report = Report(
        hostile, [Section(hostile, pd.DataFrame({hostile: [hostile]}), note=hostile)], {"x": hostile}, hostile
    )
    assert "<script>" not in as_html(report)


def test_numbers_stand_to_the_right_and_long_tables_are_cut():
    table = pd.DataFrame({"token": ["a", "bcd"], "loss": [1.23456, float("nan")]})
    assert as_text(Report("", [Section("Losses", table)])).splitlines() == [
        "Losses",
        "token   loss",
        "a      1.235",
        "bcd",
    ]
    long = Report("", [Section("Many", pd.DataFrame({"n": range(50)}))])
    assert as_text(long).splitlines()[-1] == "… 10 more rows"


@pytest.mark.parametrize("columns", [1, 5, 30])
def test_a_wide_table_goes_on_below_with_its_first_column(columns):
    table = pd.DataFrame({"step": [10, 20]} | {f"column {n}": [n / 7, float(n)] for n in range(columns)})
    lines = as_text(Report("", [Section("Wide", table)])).splitlines()[1:]
    heads, tens, twenties = lines[::3], lines[1::3], lines[2::3]
    assert max(map(len, lines)) <= 100 and all(line.lstrip().startswith("10 ") for line in tens)
    assert re.findall(r"column \d+", " ".join(heads)) == list(table)[1:]
    assert [word for line in twenties for word in line.split()[1:]] == [str(n) for n in range(columns)]


def of_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, **EXACTLY)


def test_a_saved_result_is_shown_again_with_its_provenance(series, tmp_path, capsys):
    command = ["lens", TEXT, "--checkpoint", f"{series}@step10"]
    first, again, saved = (str(tmp_path / name) for name in ("first.csv", "again.csv", "lens.npz"))
    assert main([*command, "--csv", first, "--save", saved]) == 0
    capsys.readouterr()
    assert main(["show", saved, "--csv", again, "--html", str(tmp_path / "page.html")]) == 0
    assert "lens.npz" in capsys.readouterr().out and "plotly" in (tmp_path / "page.html").read_text()
    pd.testing.assert_frame_equal(of_csv(again), of_csv(first))
    said = [[line for line in Path(path).read_text().splitlines() if line.startswith("# ")] for path in (first, again)]
    assert said[0] == said[1] and f"# checkpoint: {series}@step10" in said[0]


def test_several_results_are_saved_by_name(series, tmp_path):
    saved = str(tmp_path / "heads.npz")
    command = ["attention", TEXT, "--checkpoint", f"{series}@step10", "--head", "L1H2", "--head", "L1H2"]
    assert main([*command, "--save", saved]) == 0
    found = load_result(saved)
    assert list(found) == ["heads", "L1H2"] and found["L1H2"].provenance["text"] == TEXT
    assert main(["show", saved, "--save", str(tmp_path / "copy.npz")]) == 0
    assert list(load_result(tmp_path / "copy.npz")) == list(found)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--save", "-"], "--save - would print bytes"),
        (["--save", "a", "--csv", "./a"], "--csv a and --save a are the same file"),
        (["--save", "no/a"], "no/a cannot be written: there is no folder"),
    ],
)
def test_where_results_cannot_be_saved_is_known_before(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["lens", TEXT, "--checkpoint", "tiny-olmo", *arguments]) == 1
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())
    (tmp_path / "text").write_text("no result")
    assert main(["show", "text"]) == 1
    assert "text is not a saved result" in capsys.readouterr().err
