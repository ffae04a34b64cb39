"""The package `troupe`, the names that modules had before, and packages of others that are called as ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainers.base.old_names import MODULES
from trainers.families import registry

ROOT = Path(__file__).parents[2]


def python(*words: str, path: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_calls_are_imported_from_troupe(tmp_path: Path) -> None:
    code = (
        "import cluster, troupe\nfrom troupe import TroupeError, train\nassert troupe.train is cluster.train is train\n"
    )
    code += "assert all(getattr(troupe, name) is getattr(cluster, name) for name in cluster.__all__)"
    done = python("-c", code, path=str(ROOT), folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_another_package_of_one_of_our_names_is_told_and_not_taken(tmp_path: Path) -> None:
    """It comes first: for a call from Python that is an error, and the command takes ours."""
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "__init__.py").write_text('"""Trainers of pokemon."""\n')
    path = f"{tmp_path}:{ROOT}"
    done = python("-c", "from troupe import train", path=path, folder=ROOT / "docs")
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        f"ImportError: another distribution has replaced the package trainers ({tmp_path}/trainers/__init__.py); "
        "install troupe in its own virtual environment"
    )
    assert python("-m", "troupe", "--version", path=path, folder=ROOT / "docs").returncode == 0


def test_a_package_of_ours_that_another_distribution_has_overwritten_is_told_in_a_line(tmp_path: Path) -> None:
    for name in ("troupe", "cluster", "trainers", "searchspaces"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert python("-m", "troupe", "--version", path=str(tmp_path), folder=tmp_path).returncode == 0
    (tmp_path / "cluster" / "__init__.py").write_text('"""Clusters of galaxies."""\n')
    done = python("-m", "troupe", "--version", path=str(tmp_path), folder=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("troupe: another distribution has replaced the package cluster (")


def test_modules_are_found_by_their_old_names(tmp_path: Path) -> None:
    """As the very same: a class of the contract is one class, however it was imported."""
    lines = []
    for old, new in sorted(MODULES.items()):
        package, _, name = old.rpartition(".")
        lines += [f"import {old} as old, {new} as new", f"from {package} import {name} as third"]
        lines += [f"assert old is new is third and new.__spec__.name == {new!r}"]
    done = python("-W", "always", "-c", "\n".join(lines), path=str(ROOT), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [old for old, new in MODULES.items() if f"DeprecationWarning: {old} is {new} now" not in done.stderr] == []


def test_a_family_of_an_older_troupe_goes_on(tmp_path: Path) -> None:
    source = ROOT / "tests" / "families" / "curve"
    shutil.copytree(source, tmp_path / "older", ignore=shutil.ignore_patterns("__pycache__"))
    news = {new: old for old, new in MODULES.items()}
    for file in (tmp_path / "older").glob("*.py"):
        text = file.read_text()
        for new in sorted(news, key=len, reverse=True):
            text = text.replace(f"from {new} import", f"from {news[new]} import")
        assert "trainers.engine" in text
        file.write_text(text)
    with pytest.warns(DeprecationWarning, match="trainers.contract.family now"):
        assert registry.family_class("older", (tmp_path,)).__mro__[1].__module__ == "trainers.contract.family"
