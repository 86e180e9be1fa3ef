"""The API reference is built from the docstrings without a warning."""

import subprocess
import sys

import pytest

from tests.test_imports import ROOT

TRANSFORMERS_CONFIGS = "for hooks.Olmo"  # transformers' own classes, whose annotations name what their modules lack


@pytest.mark.slow
def test_the_reference_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "pdoc", "-d", "google", "-o", tmp_path, "hooks", "workbench", "!workbench.moved"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    warnings = [line for line in built.stderr.splitlines() if "Warn" in line and TRANSFORMERS_CONFIGS not in line]
    assert built.returncode == 0 and warnings == [], built.stderr
    assert "logit_lens" in (tmp_path / "workbench.html").read_text(encoding="utf-8")
    assert (tmp_path / "workbench/analyses/logit_lens.html").exists()
