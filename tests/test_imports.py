"""Imports point down: the layers of the project, checked in the source files."""

import ast
import re
from functools import cache

import pytest

from tests.sources import SOURCES, imports_of, nodes_of, source_of, tree_of, within

LEVELS = {  # a part imports only from parts of its own level or lower levels
    "app": 12,
    "workbench.__main__": 12,
    "workbench.page.server": 11,
    "workbench.command_line": 11,
    "workbench.page.guard": 10,
    "workbench.page.tabs": 10,
    "workbench.page.build": 9,
    "workbench.page.components": 8,
    "workbench.page.compat": 8,
    "workbench.page.theme": 8,
    "workbench.page.session": 7,
    "workbench.report": 6,
    "workbench.views": 6,
    "workbench.generation": 6,
    "workbench.plots": 5,
    "workbench.metrics": 5,
    "workbench.interventions": 5,
    "workbench.edit_grammar": 5,
    "workbench.changes": 5,
    "workbench.tiny_olmo.leave_out": 5,  # checks what the corpus says
    "workbench.tiny_olmo": 4,
    "workbench.corpus": 4,
    "workbench.activations": 4,
    "workbench.features": 4,
    "workbench.analyses.support": 3,
    "workbench.analyses": 4,
    "workbench.checkpoints": 2,
    "workbench.page.logins": 1,
    "workbench.page.options": 1,
    "workbench.page": 1,  # its docstring
    "workbench.results": 1,
    "workbench.chat": 1,
    "workbench.result_files": 1,
    "workbench.colours": 1,
    "workbench.texts": 1,
    "workbench.text_files": 1,
    "workbench.text_rows": 1,
    "workbench.padded_ids": 1,
    "workbench.text_pairs": 1,
    "workbench.embedded_texts": 1,
    "workbench.tokens": 1,
    "workbench.disk_cache": 1,
    "workbench.whole_files": 1,
    "workbench.streams": 1,
    "workbench.errors": 1,
    "workbench.mendable": 1,
    "workbench.progress": 1,
    "hooks": 0,
    "workbench.moved": 0,
    "workbench.deferred": 0,
    "workbench.versions": 0,
    "workbench.choices": 0,
    "workbench.imports": 0,
    "workbench.interrupts": 0,
}
PAGE_WITH_COMPONENTS = tuple(f"workbench.page.{part}" for part in ("build", "compat", "components", "tabs", "theme"))
ONLY_IN = {
    "gradio": (*PAGE_WITH_COMPONENTS, "workbench.page.server"),
    "plotly": ("workbench.plots",),
}
OURS = ("app", "hooks", "workbench")
BEFORE_THE_DOOR = [name for name in SOURCES if name not in ("hooks.compat", "workbench.page.compat")]


def part_of(module: str) -> str | None:
    """The part of the project that a module belongs to: `workbench.page.build.page` -> `workbench.page.tabs`."""
    return next((part for part in LEVELS if within(module, part)), None)


def test_there_are_sources():
    assert {"hooks", "hooks.olmo", "hooks.taps", "workbench"} <= set(SOURCES)
    assert "torch" in imports_of("hooks.olmo")


def test_every_module_has_a_place_in_the_table():
    names = {name for module in SOURCES for name in imports_of(module) if name.partition(".")[0] in OURS}
    assert {name for name in {*SOURCES, *names} if part_of(name) is None} == {"workbench"}, "has no place in LEVELS"
    assert [module for module in SOURCES if "workbench" in imports_of(module)] == [], "import the whole package"


def test_imports_point_down():
    levels = {name: LEVELS[part] for module in SOURCES for name in imports_of(module) if (part := part_of(name))}
    upwards = [
        f"{module} imports {name}"
        for module in SOURCES
        if (part := part_of(module))
        for name in imports_of(module)
        if levels.get(name, 0) > LEVELS[part]
    ]
    assert upwards == [], "which lie above them"


def test_a_part_does_not_depend_on_itself_through_another():
    """Parts of one level may use each other in one direction only."""
    uses = {(part_of(module), part_of(name)) for module in SOURCES for name in imports_of(module)}
    pairs = {(one, other) for one, other in uses if one and other and one != other}
    assert [pair for pair in pairs if pair[::-1] in pairs] == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_some_libraries_are_imported_in_one_place(library):
    users = [name for name in SOURCES if any(within(imported, library) for imported in imports_of(name))]
    assert [name for name in users if not any(within(name, part) for part in ONLY_IN[library])] == []


def test_private_parts_of_libraries_are_behind_one_door():
    """Attributes with a leading underscore of other packages' objects are used only in the two `compat.py`."""
    assert {module: read for module in BEFORE_THE_DOOR if (read := private_parts_of(module))} == {}


def private_parts_of(module: str) -> set[str]:
    """Attributes with a leading underscore that a module reads from objects that are not its own."""
    own = {node.name for node in nodes_of(module) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return {
        ast.unparse(node)
        for node in nodes_of(module)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if node.attr not in own and ast.unparse(node.value) not in ("self", "cls", "os")
    }


def test_private_names_of_libraries_are_not_imported():
    """No `from torch._x import y`, `from gradio.x import _y` or `getattr(x, "_y")` outside the two `compat.py`."""
    assert {module: names for module in BEFORE_THE_DOOR if (names := private_names_in(module))} == {}


def private_names_in(module: str) -> list[str]:
    """Names with one leading underscore that a module imports from libraries or looks up in an object."""
    imported = [name for name in imports_of(module) if name.partition(".")[0] not in OURS]
    named = [
        alias.name
        for node in nodes_of(module)
        if isinstance(node, ast.ImportFrom) and source_of(module, node) not in SOURCES
        for alias in node.names
    ]
    looked_up = [
        str(node.args[1].value)
        for node in nodes_of(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr")
        if isinstance(node.args[1], ast.Constant)
    ]
    parts = [part for name in (*imported, *named, *looked_up) for part in name.split(".")]
    return [part for part in parts if re.match(r"_[^_]", part)]


def test_a_class_or_a_type_has_a_name_of_its_own():
    """Names of classes and of types are found in one module only; type variables and constants are not looked at."""
    places: dict[str, list[str]] = {}
    for module in SOURCES:
        for name in types_in(tree_of(module)):
            places.setdefault(name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


SAME_FUNCTION = {  # public functions that several modules define by one name
    "the parts of a command": ("add_arguments", "run", "build", "card", "count", "influence", "train", "load"),
    "the parts of a program": ("arguments", "main"),
    "a tab builds its components": ("build",),
    "the parts of a file format": ("read", "write"),
    "the same edit, of an activation and of a feature": ("replace", "scale"),
    "an analysis, and its metric along a run": (
        "circuit_effect",
        "composition",
        "edge_scores",
        "effective_rank",
        "residual_norms",
        "steering_effect",
    ),
    "scores: of attention; of a graph": ("scores",),
}


def test_a_function_has_a_name_of_its_own():
    """Public functions of modules; if this fails, choose a name that says what the new function returns."""
    places: dict[str, list[str]] = {}
    for module in SOURCES:
        for node in tree_of(module).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    allowed = {name for names in SAME_FUNCTION.values() for name in names}
    assert {name: modules for name, modules in places.items() if len(modules) > 1 and name not in allowed} == {}


SAME_PRIVATE_FUNCTION = {  # private functions that several modules define by one name, each for its own analysis
    "the work of an analysis, of its effect, of its scores": ("_work", "_work_of_effect", "_work_of_scores"),
    "bytes for each token that is run at a time; at the peak": ("_bytes", "_per_token", "_peak"),
    "what is run at a time, given those bytes": ("_tokens", "_batches", "_sizes"),
    "the clean and the corrupted run of patching": ("_runs",),
}


def test_a_private_function_has_a_name_of_its_own():
    """Private functions of modules: a reader who searches for one finds it, and the same thing is not written twice."""
    places: dict[str, list[str]] = {}
    for module in SOURCES:
        for node in tree_of(module).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and re.match("_[^_]", node.name):
                places.setdefault(node.name, []).append(module)
    allowed = {name for names in SAME_PRIVATE_FUNCTION.values() for name in names}
    doubled = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert {name: modules for name, modules in doubled.items() if name not in allowed} == {}
    assert allowed <= doubled.keys(), "an exception that is not needed any more"


SAME_NAME = {  # what other modules import by one name from several modules, each time another thing
    "residual_norms": "an analysis; its metric along a run, which `workbench.metrics` passes on",
    "load": "a checkpoint; a dictionary of features; a checkpoint by the options of a command",
    "build": "an index of a training text; the page",
}


def test_a_name_that_is_imported_means_one_thing():
    """What modules import by name, a function or a constant too, is defined in one module for each name."""
    meant: dict[str, set[str]] = {}
    for module in SOURCES:
        for name, source in names_imported(module):
            meant.setdefault(name, set()).add(defining(source, name))
    doubled = {name: sorted(modules) for name, modules in meant.items() if len(modules) > 1}
    assert {name: modules for name, modules in doubled.items() if name not in SAME_NAME} == {}
    assert doubled.keys() == SAME_NAME.keys(), "an exception that is not needed any more"


@cache
def names_imported(module: str) -> tuple[tuple[str, str], ...]:
    """(name, module) for each `from module import name` in a module's source that reads from this project."""
    return tuple(
        (alias.name, source)
        for node in nodes_of(module)
        if isinstance(node, ast.ImportFrom) and (source := source_of(module, node)) in SOURCES
        for alias in node.names
        if f"{source}.{alias.name}" not in SOURCES
    )


def defining(module: str, name: str) -> str:
    """The module that a name comes from, through packages that only pass it on."""
    passed_on = dict(names_imported(module)).get(name)
    return module if passed_on is None else defining(passed_on, name)


def types_in(tree: ast.Module) -> set[str]:
    """The names of a module's classes and type aliases."""
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and "TypeVar(" not in ast.unparse(node)]
    names = {target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)}
    return classes | {name for name in names if re.match(r"[A-Z]\w*[a-z]", name)}


def test_the_package_itself_imports_its_public_names_when_they_are_used():
    assert imports_of("workbench") == {"lazy_loader", "workbench.deferred", "workbench.moved"}
