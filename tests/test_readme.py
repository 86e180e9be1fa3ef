"""Every block of the README is run: its Python, its commands, and its worked example in a copy of the project."""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from socket import socket

import httpx
import pytest

import app
from hooks import OlmoForCausalLM
from tests.preloaded import Forked, python
from workbench import checkpoints, embedded_texts
from workbench.analyses.trajectory import trajectory
from workbench.checkpoints.names import split_id
from workbench.command_line import main
from workbench.embedded_texts import SETS, path_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
FILES = {text.splitlines()[0][2:]: text.partition("\n")[2] for kind, text in BLOCKS if text.startswith("# ")}
COMMANDS = [line.partition("  #")[0] for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
BEHIND_ANOTHER_NAME = {".venv/bin/python": sys.executable, "python": sys.executable}
OURS = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def ran(*command: str, where: Path = ROOT) -> str:
    """The output of a successful command."""
    done = subprocess.run(command, cwd=where, env=OURS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_block_is_of_a_kind_that_is_run():
    assert {kind for kind, _ in BLOCKS} == {"python", "bash"}
    prose = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"^ {4,}\S", prose, flags=re.MULTILINE), "no test runs an indented block"


@pytest.fixture
def short_sets(request, monkeypatch, tmp_path):
    """The built-in sets of texts with every third text, or another share, for examples that are shown and not read."""
    every = getattr(request, "param", 3)
    for name in SETS:
        lines = path_of(name).read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / path_of(name).name).write_text("".join(lines[::every]), encoding="utf-8")
    monkeypatch.setattr(embedded_texts, "FOLDER", tmp_path)


@pytest.mark.usefixtures("short_sets")
def test_its_python_runs(monkeypatch, tmp_path):
    """Published checkpoints are replaced by a random model, after a check of their names and options."""
    monkeypatch.setitem(trajectory.__kwdefaults__, "cache", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    load, series, from_pretrained = checkpoints.load, checkpoints.series, OlmoForCausalLM.from_pretrained
    published = []

    def load_stand_in(name, **options):
        inspect.signature(load).bind(name, **options)
        published.extend([split_id(name)] if "allenai/" in str(name) else [])
        return load("tiny-olmo@step0" if "allenai/" in str(name) else name)

    def model_stand_in(name, **options):
        published.append((name, options))
        return from_pretrained(ROOT / "workbench/tiny_olmo/checkpoints/step0")

    monkeypatch.setattr(checkpoints, "load", load_stand_in)
    monkeypatch.setattr(checkpoints, "series", lambda name: series("tiny-olmo" if "allenai/" in name else name))
    monkeypatch.setattr(OlmoForCausalLM, "from_pretrained", model_stand_in)
    names: dict[str, object] = {}
    for kind, text in BLOCKS:
        if kind == "python" and not text.startswith("# "):
            exec(compile(text, "README.md", "exec"), names)
    assert names["run"].logits is not None
    assert ("allenai/OLMo-1B-hf", "step20000-tokens84B") in published


@pytest.mark.parametrize("short_sets", [7], ids=[""], indirect=True)
@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_run(command, short_sets, tmp_path, monkeypatch, capsys):
    """Each command as written, or the part of it that changes nothing on this machine."""
    words = [BEHIND_ANOTHER_NAME.get(word, word) for word in shlex.split(command)]
    match words[1:]:
        case [("app" | "test") as target]:
            plan = ran("make", "-n", target, "PYTHON=python3")
            assert {"app": "python app.py", "test": "python -m pytest"}[target] in plan
        case ["-m", "venv", ".venv"] | ["-m", "pip", "install", "-r", "requirements.txt"]:
            plan = ran("make", "-n", "-B", ".venv/.installed", "PYTHON=python3")
            assert " ".join(words[2:4]) in plan.replace("install -q", "install")
        case ["-m", "workbench", *arguments]:
            monkeypatch.chdir(tmp_path)
            if arguments == ["--help"]:
                assert "trajectory" in ran(*words)
            else:
                assert main(arguments) == 0 and capsys.readouterr().out
        case ["-m", "playwright", *_]:
            ran(*words, "--dry-run")
        case ["-m", "pytest", *_]:
            ran(*words, "--version")
        case ["-m", "tests.benchmarks", *_]:
            assert python(*words[1:]).returncode == 0
        case ["app.py"]:
            assert answers(words)
        case ["app.py", *arguments]:
            monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
            assert app.arguments().series
        case _:
            pytest.fail(f"nothing here runs {command!r}")


def answers(command: list[str]) -> bool:
    """Whether a server that is started on a free port serves the page."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Forked([*command, "--port", str(port)], ROOT, OURS)
    try:
        for _ in range(240):
            try:
                return "OLMo workbench" in httpx.get(f"http://127.0.0.1:{port}/").text
            except httpx.TransportError:
                assert server.poll() is None, "the server ended"
                time.sleep(0.25)
    finally:
        server.terminate()
        server.wait()
    return False


def test_an_analysis_is_added_as_it_says(tmp_path):
    """In a copy of the project: its test and the tests of all analyses and tabs pass, and the page has the new tab and
    can draw it."""
    for folder in ("hooks", "workbench", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=without)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for (name, table), line in zip(TABLES.items(), LINES, strict=True):
        assert f"`{name}`" in README and f"`{table}`" in README
        rows = (tmp_path / name).read_text(encoding="utf-8")
        head, found, tail = re.split(rf"^({table}: .*\n)", rows, flags=re.MULTILINE)
        added = f"{head}{found}    {line}\n{tail}"
        (tmp_path / name).write_text(f"{IMPORT}\n{added}", encoding="utf-8")
    with (tmp_path / "workbench/page/tabs/__init__.py").open("a", encoding="utf-8") as tabs:
        tabs.write(
            "from workbench.page.tabs import updates\n\nTABS = (*(tab for tab in TABS if tab != updates), updates)\n"
        )
    (tmp_path / "tests" / "test_page.py").write_text(PAGE)
    quietly = ("-p", "no:cacheprovider", "-W", "ignore::ResourceWarning")  # Gradio's event loops are left open
    quietly += ("-W", "ignore:Module already imported")
    tests = [f"tests/test_{name}.py" for name in HOLDING]
    done = python("-c", AFRESH, "-q", *quietly, "-k", CHOSEN, *tests, cwd=tmp_path, env=OURS)
    assert done.returncode == 0, done.stdout + done.stderr
    ran(sys.executable, "-m", "ruff", "check", "--select", "F,E,I,UP,B", *FILES, where=tmp_path)


TABLES = {"tests/test_every_analysis.py": "ANALYSES", "tests/texts_of_analyses.py": "SINGLE"}
LINES = re.findall(r"^`(\"relative_update\": .*)`$", README, flags=re.MULTILINE)
IMPORT = "from workbench.analyses.relative_update import relative_update"
HOLDING = ("relative_update", "page", "every_analysis", "texts_of_analyses", "memory", "tabs", "imports")
CHOSEN = "relative_update or the_page_has_it or is_among_these or every_tab_says or test_imports"
AFRESH = """
import sys
import pytest

for name in [name for name in sys.modules if name.partition(".")[0] in ("hooks", "workbench", "tests")]:
    del sys.modules[name]
sys.exit(pytest.main(sys.argv[1:]))
"""
"""Runs pytest in an interpreter that has imported the project already, but not the copy of it in this folder."""


def without(folder: str, names: list[str]) -> set[str]:
    """Files that a copy leaves out: bytecode, weights of the embedded series, and an existing copy of the example."""
    followed = {Path(name).name for name in FILES}
    return {
        name
        for name in names
        if name == "__pycache__" or name in followed or (name == "checkpoints" and "tiny_olmo" in folder)
    }


PAGE = """
import gradio as gr
from small_series import small_bench
from workbench.page.build.page import build
from workbench.page.build.panel import Panel
from workbench.page.session.requests import Query, Selection, TabRequest
from workbench.page.tabs import TABS, updates


def test_the_page_has_it(make_model, tokenizer, tmp_path):
    bench = small_bench(tmp_path, make_model, tokenizer)
    assert TABS[-1] is updates
    assert "Updates" in str(build(bench, TABS).config)
    view = updates.updates_view(bench, TabRequest(Query(bench.default, "w1 w2 w3", 1), Selection()))
    with gr.Blocks():
        figure, about = Panel("other").show(bench, view)
    assert len(figure.data) == 1 and "relative_update(" in about["code"]
"""


def test_what_it_links_to_is_there():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
