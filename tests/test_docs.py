"""The API reference is built from the docstrings without a warning, by the command of the Makefile."""

import re

from tests.preloaded import ROOT, python

TRANSFORMERS_CONFIGS = "for hooks.Olmo"  # transformers' annotations have names that are missing in its modules


def test_the_reference_is_built_without_a_warning(tmp_path):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (modules,) = re.findall(r"-m pdoc -d google -o docs ((?:.*\\\n)*.*)", makefile)
    quicker = ("--no-show-source", "--no-search")  # neither has warnings of its own
    built = python("-m", "pdoc", "-d", "google", *quicker, "-o", tmp_path, *modules.replace("\\", " ").split())
    warnings = [line for line in built.stderr.splitlines() if "Warn" in line and TRANSFORMERS_CONFIGS not in line]
    assert built.returncode == 0 and warnings == [], built.stderr
    for page in ("hooks", "hooks/sites", "workbench", "workbench/analyses/logit_lens", "workbench/results"):
        assert (tmp_path / f"{page}.html").exists(), page
