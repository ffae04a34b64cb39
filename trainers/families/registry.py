"""Finds families by their folders: to add a family, add a folder. Does not import torch."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import ValidationError

from trainers.base import old_names
from trainers.base.errors import USAGE, TroupeError, describe_error, did_you_mean
from trainers.base.problems import Problem
from trainers.families.old_contract import renamed_in
from trainers.runtime.global_state import with_default_globals
from trainers.settings.config import Config

Kind = TypeVar("Kind")
BUILT_IN = Path(__file__).parent


def families(extra: Sequence[Path] = ()) -> dict[str, Path]:
    """The folder of each family, by name; custom families may not use a built-in name."""
    folders: dict[str, Path] = {}
    for root in (BUILT_IN, *extra):
        if not os.path.isdir(root):
            raise TroupeError(Problem("missing-folder", "--families", "no such folder", value=str(root)), USAGE)
        for folder in sorted(root.iterdir()):
            if (folder / "config.py").exists() and (folder / "training.py").exists():
                if folder.name in folders:
                    reason = f"there is already a family named {folder.name}"
                    raise TroupeError(Problem("name-in-use", "--families", reason, value=str(root)), USAGE)
                folders[folder.name] = folder
    return folders


def config_class(name: str, extra: Sequence[Path] = ()) -> type[Config]:
    """The settings of a family. Raises TroupeError (exit code 2) for an unknown one."""
    folders = families(extra)
    if name not in folders:
        models = [f"{family} {setting}" for family in families() if (setting := config_class(family).suggestion(name))]
        reason, hint = "no such family", f"did you mean {models[0]}?" if models else did_you_mean(name, folders)
        for root in extra:
            for part, other in (("training.py", "config.py"), ("config.py", "training.py")):
                if (root / name / other).exists() and not (root / name / part).exists():
                    reason, hint = f"no such family: {root / name} has a {other}, but no {part}", ""
        hint = "; ".join(filter(None, [hint, "`troupe families` lists them"]))
        raise TroupeError(Problem("unknown-family", name, reason, hint), USAGE)
    kind, file = _only_class(name, folders[name], "config", Config), str(folders[name] / "config.py")
    metrics: Any = kind.metrics
    if not isinstance(metrics, Mapping) or not {*metrics.values()} <= {"max", "min"}:
        reason = 'must map each metric to "max" or "min", as in {"accuracy": "max", "loss": "min"}'
        raise TroupeError(Problem("own-code", file, f"metrics={metrics!r:.60}: {reason}"), USAGE)
    try:
        kind(**{key: field.get_default() for key, field in kind.model_fields.items()})
    except ValidationError as error:
        reasons = [
            f"{'.'.join(map(str, one['loc']))}: the default {one['input']!r:.60} is wrong ({one['msg']})"
            for one in error.errors()
        ]
        raise TroupeError([Problem("own-code", file, reason) for reason in reasons], USAGE) from None
    return kind


def class_of_run(stored: Mapping[str, Any], name: str, extra: Sequence[Path] = ()) -> type[Config]:
    """The settings of a run's family, by the contents of its folder. Raises TroupeError (exit code 2), with the folder
    of the family that the run was started with, if there is no such family."""
    family = str(stored["family"])
    if family in families(extra):
        return config_class(family, extra)
    folders = " ".join(f"--families {path}" for path in stored.get("families", ())) or "--families PATH, its folder"
    reason = f"was started with a custom family, {family}"
    raise TroupeError(Problem("unknown-family", name, reason, f"use {folders}"), USAGE)


def family_class(name: str, extra: Sequence[Path] = ()) -> type:
    """The training part of a family. Imports torch."""
    from trainers.contract.family import Family

    return _only_class(name, families(extra)[name], "training", Family)


def _only_class(name: str, folder: Path, part: str, base: type[Kind]) -> type[Kind]:
    """The subclass of `base` that a module of a family defines. Raises TroupeError (exit code 2) unless it is one."""
    found = [
        value
        for value in vars(_module(name, folder, part)).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__.endswith(f".{name}.{part}")
    ]
    if len(found) != 1:
        reason = f"must define one subclass of {base.__name__}, found {len(found)}"
        raise TroupeError(Problem("own-code", str(folder / f"{part}.py"), reason), USAGE)
    _refuse_renamed(found[0], base.__name__, str(folder / f"{part}.py"))
    return found[0]


def _refuse_renamed(family: type, owner: str, file: str) -> None:
    """Raise TroupeError for each old name that the class, or one of another package that it extends, defines: of the
    contract's class `owner`, and of classes of built-in families that it extends."""
    names = dict.fromkeys(name for base in family.__mro__ for name in vars(base))
    own_package = family.__module__.rpartition(".")[0]
    shared = [base.__name__ for base in family.__mro__ if base.__module__.rpartition(".")[0] != own_package]
    owners = dict.fromkeys([owner, *shared])
    if problems := [problem for one in owners for problem in old_names.renamed(one, names, file)]:
        raise TroupeError(problems, USAGE)


def _module(name: str, folder: Path, part: str) -> ModuleType:
    """`config` or `training` of a family; custom families get their own package.

    A module is imported once in a process that may execute several runs. So global switches of its caller do not affect
    what it computes on import, and switches that it sets are restored (`global_state.with_default_globals`).
    """
    package = f"trainers.families.{name}"  # so that `from trainers.families.NAME.networks import ...` works for all
    if folder.parent == BUILT_IN:
        return _imported(package, part)
    if package not in sys.modules or list(sys.modules[package].__path__) != [str(folder)]:
        for loaded in [key for key in sys.modules if key == package or key.startswith(package + ".")]:
            del sys.modules[loaded]
        spec = importlib.util.spec_from_loader(package, None, is_package=True)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        module.__path__ = [str(folder)]
        sys.modules[package] = module
    if f"{package}.{part}" not in sys.modules and (problems := renamed_in(folder)):
        raise TroupeError(problems, USAGE)
    try:
        return _imported(package, part)
    except (Exception, SystemExit) as error:
        raise TroupeError(Problem("own-code", f"{folder / part}.py", describe_error(error)), USAGE) from error


def _imported(package: str, part: str) -> ModuleType:
    name = f"{package}.{part}"
    if part == "training" and name not in sys.modules:
        return with_default_globals(importlib.import_module)(name)
    return importlib.import_module(name)
