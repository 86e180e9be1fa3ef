"""The source files of the project: their syntax trees and what they import."""

import ast
from functools import cache
from pathlib import Path

from workbench.imports import uncollected

ROOT = Path(__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted([ROOT / "app.py", *ROOT.glob("hooks/**/*.py"), *ROOT.glob("workbench/**/*.py")])
    if path.exists()
}


@cache
def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module's source."""
    with uncollected():
        return ast.parse(SOURCES[module].read_text())


@cache
def nodes_of(module: str) -> list[ast.AST]:
    """All nodes of a module's syntax tree."""
    return list(ast.walk(tree_of(module)))


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


@cache
def imports_of(module: str) -> set[str]:
    """The absolute names of all modules that a module imports, at any place in its source."""
    found = set()
    for node in nodes_of(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = source_of(module, node)
            found |= {name if (name := f"{source}.{alias.name}") in SOURCES else source for alias in node.names}
    return found


def source_of(module: str, node: ast.ImportFrom) -> str:
    """The absolute name of the module that a `from … import` in another module reads."""
    package = (module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]).split(".")
    parents = package[: len(package) - node.level + 1] if node.level else []
    return ".".join([*parents, *([node.module] if node.module else [])])
