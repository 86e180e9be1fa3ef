"""Imports point down: the layers of the project, read from the sources themselves."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LEVELS = {
    "app": 6,
    "workbench.__main__": 6,
    "workbench.server": 5,
    "workbench.guard": 5,
    "workbench.logins": 2,
    "workbench.command_line": 5,
    "workbench.page_options": 5,
    "workbench.report": 4,
    "workbench.tabs": 4,
    "workbench.generation": 3,
    "workbench.views": 3,
    "workbench.plots": 3,
    "workbench.analyses": 3,
    "workbench.checkpoints": 3,
    "workbench.tiny_olmo": 3,
    "workbench.results": 2,
    "workbench.text": 2,
    "workbench.texts": 2,
    "workbench.disk_cache": 2,
    "workbench.whole_files": 2,
    "workbench.streams": 2,
    "workbench.errors": 2,
    "workbench.mendable": 2,
    "workbench.progress": 2,
    "workbench.choices": 0,
    "workbench.imports": 0,
    "workbench.interrupts": 0,
    "hooks": 1,
}
ONLY_IN = {
    "gradio": ("app", "workbench.server", "workbench.tabs", "workbench.views"),
    "plotly": ("workbench.plots",),
}
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted([ROOT / "app.py", *ROOT.glob("hooks/**/*.py"), *ROOT.glob("workbench/**/*.py")])
    if path.exists()
}


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def part_of(module: str) -> str | None:
    """The part of the project a module lies in: `workbench.tabs.shell` -> `workbench.tabs`."""
    return next((part for part in LEVELS if within(module, part)), None)


def imports_of(module: str) -> set[str]:
    """The modules that a module imports, anywhere in its text, under their absolute names."""
    path, found = SOURCES[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {name if (name := f"{source}.{alias.name}") in SOURCES else source for alias in node.names}
    return found


def test_there_are_sources():
    assert {"hooks", "hooks.olmo", "hooks.taps", "workbench"} <= set(SOURCES)
    assert "torch" in imports_of("hooks.olmo")


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "workbench"])
def test_imports_point_down(module):
    part = part_of(module)
    assert part is not None, f"{module} has no place in the table of layers"
    for imported in imports_of(module):
        if within(imported, "hooks") or within(imported, "workbench") or imported == "app":
            other = part_of(imported)
            assert other is not None, f"{module} imports {imported}, which has no place in the table of layers"
            assert LEVELS[other] <= LEVELS[part], f"{module} imports {imported}, which lies above it"


def test_a_part_does_not_depend_on_itself_through_another():
    """Parts of one level may use each other in one direction only."""
    uses = {(part_of(module), part_of(name)) for module in SOURCES for name in imports_of(module)}
    pairs = {(one, other) for one, other in uses if one and other and one != other}
    assert [pair for pair in pairs if pair[::-1] in pairs] == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_some_libraries_are_imported_in_one_place(library):
    users = [name for name in SOURCES if any(within(imported, library) for imported in imports_of(name))]
    assert [name for name in users if not any(within(name, part) for part in ONLY_IN[library])] == []


def test_the_package_itself_imports_its_public_names_when_they_are_used():
    assert imports_of("workbench") == {"lazy_loader"}
