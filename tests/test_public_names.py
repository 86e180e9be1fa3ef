"""The public names of the two packages, and their declared dependencies."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib

import pytest

import hooks
import workbench
from tests.sources import ROOT, SOURCES, imports_of
from workbench.moved import NEW_NAMES

NAMES = {
    "hooks": (
        "Capture Edit HeadStatistics HooksError Olmo2Config Olmo3Config OlmoConfig OlmoForCausalLM OlmoModel Run edits "
        "stoppable"
    ),
    "workbench": (
        "Activations Checkpoint Conversation Curves Direction Grid Maps Measures Points SAMPLE_TEXT Scores Series "
        "TextPairs Texts TunedLens Turn Weights WorkbenchError ablation activation_patching attention_difference "
        "attention_maps attribution_patching behaviour_summary by_label check checkpoints circuit compare_attention "
        "compare_behaviour compare_weights copying_scores corpus direct_logit_attribution effective_rank estimate "
        "faithfulness features finals generate head_atlas head_circuits head_composition head_direction "
        "hidden_state_pca interventions label_direction lens_divergence linear_probe load load_result logit_lens "
        "main_run mean_attribution mean_lens mean_losses metrics noise_floor open_weights patchscope path_patching "
        "plot probe_layer record representation_similarity residual_norms save_results series singular_directions "
        "steered_texts steering steering_effect text_overview text_sets token_direction token_inspection "
        "token_losses token_saliency tokenizer_of train_tuned_lens trajectory transplant transplant_parts "
        "tuned_lens turns_of"
    ),
}
CALLED_OTHERWISE = {"PyYAML": "yaml", "scikit-learn": "sklearn"}  # distributions and their import names
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def distributions(requirements):
    names = {re.split(r"[=<>\[; ]", line)[0] for line in requirements if line and not line.startswith("#")}
    return {CALLED_OTHERWISE.get(name, name.replace("-", "_")) for name in names}


@pytest.mark.parametrize("package", [hooks, workbench])
def test_the_public_names_are_these(package):
    assert sorted(package.__all__) == NAMES[package.__name__].split()
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name).__doc__


@pytest.mark.parametrize("name", NAMES["workbench"].split())
def test_a_public_name_is_the_thing_and_not_its_file(name):
    """A public name is not replaced by the module of the same name, in any order of imports."""
    found = getattr(workbench, name)
    module = getattr(found, "__module__", None)
    if module is not None:
        importlib.import_module(module)
        assert getattr(workbench, name) is found is getattr(importlib.import_module(module), name)
    assert (module is None) == (
        name in ("SAMPLE_TEXT", "checkpoints", "corpus", "features", "interventions", "metrics")
    )


def test_the_stub_of_the_package_says_the_same():
    tree = ast.parse((ROOT / "workbench/__init__.pyi").read_text())
    listed = next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
    assert sorted(listed) == NAMES["workbench"].split()


def test_the_package_alone_imports_next_to_nothing():
    program = "import sys, workbench; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "transformers", "gradio", "numpy", "pandas", "plotly"} & set(loaded.stdout.split())


@pytest.mark.parametrize(("former", "name"), NEW_NAMES.items())
def test_a_moved_module_is_found_under_its_former_name(former, name):
    package, _, last = former.rpartition(".")
    module = importlib.import_module(name)
    assert importlib.import_module(former) is module is getattr(importlib.import_module(package), last)
    assert module.__name__ == module.__spec__.name == name


def test_every_imported_package_is_declared():
    imported = {name.partition(".")[0] for module in SOURCES for name in imports_of(module)}
    needed = imported - set(sys.stdlib_module_names) - {"app", "hooks", "workbench"}
    of_extras = {extra: distributions(names) for extra, names in PROJECT["project"]["optional-dependencies"].items()}
    optional = of_extras["corpus-published"]  # imported where it is used, with a sentence that names the extra
    assert needed - optional == distributions(PROJECT["project"]["dependencies"])
    pinned = distributions((ROOT / "requirements.txt").read_text().splitlines())
    extras = set().union(*of_extras.values())
    assert needed | extras - {"olmo_workbench"} == pinned


def test_the_installed_command_is_the_command_line():
    module, _, function = PROJECT["project"]["scripts"]["olmo-workbench"].partition(":")
    run = getattr(importlib.import_module(module), function)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["olmo-workbench", "--help"])
        patch.setattr("workbench.interrupts.exit_on_interrupt", lambda: None)
        patch.setattr("workbench.__main__.exit_on_interrupt", lambda: None)
        run()
    assert ended.value.code == 0
