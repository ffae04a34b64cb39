"""Names of 0.1.0 and 0.2.0: modules that custom families import still work; options and arguments are reported."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

CONTRACT = {
    "augment": "contract.augmentation", "checkpoint": "storage.checkpoint", "config": "settings.config",
    "errors": "base.errors", "evaluation": "contract.evaluation", "family": "contract.family",
    "fonts": "drawing.fonts", "pictures": "drawing.pictures", "plots": "drawing.plots", "problems": "base.problems",
    "rules": "settings.rules", "runfolder": "run_folders.run_folder", "schedules": "contract.schedules",
    "settings": "settings.fields", "streams": "contract.streams", "tensors": "storage.tensors",
}  # fmt: skip
OF_FOLDERS = ("decoding", "folders", "levels", "listing", "splitting", "unreadable", "values")
MODULES = {
    **{f"trainers.engine.{old}": f"trainers.{new}" for old, new in CONTRACT.items()},
    **{f"trainers.data.{name}": f"trainers.data.image_folders.{name}" for name in OF_FOLDERS},
    "trainers.registry": "trainers.families.registry", "trainers.version": "trainers.base.version",
}  # fmt: skip

OPTIONS = {"from": "init-from", "final": "retrain-best", "unchecked": "skip-checks"}  # of 0.1.0 and 0.2.0
ARGUMENTS = {"from_run": "init_from"}  # of Python calls


class OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a current module by its old name; asked last, after all other finders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} is {MODULES[spec.name]} now", DeprecationWarning, stacklevel=2)
        self.spec = importlib.import_module(MODULES[spec.name]).__spec__
        return sys.modules[MODULES[spec.name]]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import has replaced it by that of the old name


def find() -> None:
    """Enable the old module names in this process."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
