"""Imports of modules under their former names: they return the module under its new name."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

NEW_NAMES = {
    "workbench.text": "workbench.tokens",
    "workbench.analyses.common": "workbench.analyses.support.arguments",
    "workbench.analyses.memory": "workbench.analyses.support.memory",
    "workbench.analyses.metrics": "workbench.metrics",
    "workbench.analyses.sample_text": "workbench.analyses.support.sample_text",
}


class MovedModules(MetaPathFinder, Loader):
    """Import hook for former module names. The module is imported once; both names refer to the same object."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in NEW_NAMES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(NEW_NAMES[spec.name])
        spec.loader_state = module.__spec__  # kept, because the import system replaces it by `spec`
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Register the import hook, once."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
