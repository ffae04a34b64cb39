"""Which part may import which: read from the source, so that no rule is broken where no test runs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("cluster", "trainers", "searchspaces", "benchmarks", "tests")
ALLOWED_PRIVATE = ROOT / "tests" / "unit" / "test_documents.py"  # Ray's own check of a cluster file has no public name

TOKENS = ROOT / "cluster" / "tokens.py"  # nor has what makes Ray look for tokens anew: `ray._raylet`, there only
NODES = ROOT / "cluster" / "nodes.py"  # nor have the nodes that are about to go
INSIDE = ROOT / "cluster" / "inside_ray.py"


class Import(NamedTuple):
    name: str  # of the module, and of what is taken from it: `trainers.engine.family.Phase`
    at_start: bool  # when the module is imported, not when a function runs
    typing: bool  # only for type checkers


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    return tuple(_imports(tree_of(path).body, True, False))


def _imports(body: list[ast.stmt], at_start: bool, typing: bool) -> Iterator[Import]:
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (Import(alias.name, at_start, typing) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, "imports are absolute"
            yield from (Import(f"{statement.module}.{alias.name}", at_start, typing) for alias in statement.names)
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _imports(statement.body, False, typing)
        else:
            for_checkers = isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)
            for name in ("body", "orelse", "finalbody"):
                yield from _imports(getattr(statement, name, []), at_start, typing or (for_checkers and name == "body"))
            for handler in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
                yield from _imports(handler.body, at_start, typing)


def files(*parts: str) -> list[Path]:
    found = [path for part in parts for path in sorted((ROOT / part).rglob("*.py"))]
    assert found, parts
    return found


def within(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def broken(paths: list[Path], *forbidden: str, at_start: bool = False) -> list[str]:
    """`file imports module` for each import of a forbidden module."""
    return [
        f"{path.relative_to(ROOT)} imports {imported.name}"
        for path in paths
        for imported in imports_of(path)
        if within(imported.name, *forbidden) and (not at_start or (imported.at_start and not imported.typing))
    ]


def family_folders() -> list[Path]:
    return sorted(path.parent for path in (ROOT / "trainers" / "families").glob("*/config.py"))


def test_the_reader_of_imports_sees_them_all(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(
        "import a.b\nfrom c import d\ntry:\n    import e\nexcept ImportError:\n    import f\n"
        "if TYPE_CHECKING:\n    import g\nelse:\n    import h\nclass K:\n    import i\n"
        "    def m(self):\n        with x:\n            import j\n"
    )
    assert {(i.name, i.at_start, i.typing) for i in imports_of(path)} == {
        ("a.b", True, False), ("c.d", True, False), ("e", True, False), ("f", True, False), ("g", True, True),
        ("h", True, False), ("i", True, False), ("j", False, False),
    }  # fmt: skip


def test_trainers_know_neither_ray_nor_the_cluster() -> None:
    assert broken(files("trainers"), "ray", "cluster", "searchspaces") == []


def test_the_engine_knows_no_family_and_no_data_source() -> None:
    assert broken(files("trainers/engine"), "trainers.families", "trainers.data", "trainers.registry") == []
    names = {folder.name for folder in family_folders()}
    for path in files("trainers/engine"):
        words = {node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant)}
        assert not names & {word for word in words if isinstance(word, str)}, path


def test_data_sources_know_no_family_and_no_loop() -> None:
    assert broken(files("trainers/data"), "trainers.families", "trainers.registry", "trainers.engine.loop") == []


@pytest.mark.parametrize("folder", family_folders(), ids=lambda folder: folder.name)
def test_a_family_imports_its_contract_data_and_networks_only(folder: Path) -> None:
    allowed = (
        "trainers.engine.augment", "trainers.engine.config", "trainers.engine.errors", "trainers.engine.evaluation",
        "trainers.engine.family", "trainers.engine.fonts", "trainers.engine.plots", "trainers.engine.problems",
        "trainers.engine.rules", "trainers.engine.schedules", "trainers.engine.settings", "trainers.engine.streams",
        "trainers.data", f"trainers.families.{folder.name}", "PIL", "numpy", "matplotlib",
        "trainers.families.classification", "trainers.families.adversarial", "trainers.verdict", "torch", "torchvision",
        *sys.stdlib_module_names,
    )  # fmt: skip
    for path in sorted(folder.rglob("*.py")):
        for imported in imports_of(path):
            others = within(imported.name, "trainers.families") and imported.name.split(".")[3] == "networks"
            assert within(imported.name, *allowed) or others, f"{path.name} imports {imported.name}"


@pytest.mark.parametrize("folder", family_folders(), ids=lambda folder: folder.name)
def test_a_family_has_no_loop_over_steps_no_backward_no_device_and_no_rank(folder: Path) -> None:
    for path in sorted(folder.rglob("*.py")):
        nodes = list(ast.walk(tree_of(path)))
        attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not attributes & {"backward", "cuda", "rank", "world", "manual_seed"}, path
        assert not {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)} & {
            "open", "print",
        }, path  # fmt: skip


@pytest.mark.parametrize("folder", family_folders(), ids=lambda folder: folder.name)
def test_settings_of_a_family_are_read_without_torch(folder: Path) -> None:
    for imported in imports_of(folder / "config.py"):
        allowed = ("trainers.engine.config", "trainers.engine.settings", "trainers.engine.errors",
                   "trainers.engine.problems", "trainers.engine.rules", "trainers.data.settings",
                   "trainers.families.classification.settings",
                   "trainers.families.adversarial.settings")  # fmt: skip
        assert within(imported.name, *allowed, *sys.stdlib_module_names) or not imported.at_start, imported.name


def test_settings_and_errors_import_no_torch() -> None:
    light = [ROOT / "trainers" / name for name in ("registry.py", "run.py", "engine/settings.py", "engine/errors.py",
             "engine/problems.py", "engine/runfolder.py", "engine/checkpoint.py", "engine/control.py",
             "engine/streams.py", "engine/durable.py", "engine/processor.py", "engine/config.py")]  # fmt: skip
    assert broken(light, "torch", at_start=True) == []


def test_imports_go_one_way_without_a_circle() -> None:
    """Those for types only too: who reads one of two files that know each other must read both."""
    paths = files("cluster", "trainers", "searchspaces")
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    knows: dict[str, set[str]] = {}
    for name, path in names.items():
        seen = {imported.name for imported in imports_of(path)}
        seen |= {imported.rpartition(".")[0] for imported in seen}  # a module, or something in it
        knows[name] = seen & set(names) - {name}
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(knows[name]):
                follow(other, (*way, name))
            done.add(name)

    for name in sorted(names):
        follow(name, ())


@pytest.mark.parametrize("path", files("trainers/engine", "cluster"), ids=lambda path: path.name)
def test_no_file_of_the_engine_or_the_cluster_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_dcgan_stays_short() -> None:
    assert sum(len(path.read_text().splitlines()) for path in files("trainers/families/dcgan")) < 150


def test_the_engine_knows_no_words_of_classifiers() -> None:
    for path in files("trainers/engine"):
        text = path.read_text().lower()
        for word in ("confusion.png", "class_names", "mistakes.png", '"confusion"', '"mistakes"', "accuracy)"):
            assert word not in text, f"{path.name}: {word}"


def test_search_spaces_are_plain_values() -> None:
    assert [imported for path in files("searchspaces") for imported in imports_of(path)] == []


def test_package_files_are_empty_but_that_of_cluster() -> None:
    for path in files("trainers", "searchspaces", "cluster"):
        if path.name == "__init__.py" and path.parent.name != "cluster":
            assert path.read_text() == "", path
    at_once = broken([ROOT / "cluster" / "__init__.py"], "cluster", "trainers", at_start=True)
    assert at_once == ["cluster/__init__.py imports cluster.folder.leave_folder"], "before other modules are looked for"


IN_WORKERS = {"worker.py", "trial.py"}  # imported where a worker or a trial lives


def test_the_cluster_imports_torch_and_ray_only_when_they_are_needed() -> None:
    paths = [path for path in files("cluster") if path.name not in IN_WORKERS]
    assert broken(paths, "torch", "ray", "torchvision", "safetensors", at_start=True) == []


def test_no_part_of_the_cluster_brings_ray_in_by_being_imported_nor_torch_but_for_pools_and_workers() -> None:
    paths = [path for path in files("cluster") if path.stem not in ("__init__", "worker", "trial", "local")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    code = f"import sys, {', '.join(modules)}\nassert not {{'torch', 'ray'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_uses_private_parts_of_ray() -> None:
    found = []
    for path in files(*PARTS):
        if path == ALLOWED_PRIVATE:
            continue
        names = [imported.name for imported in imports_of(path)]
        attributes = (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute))
        names += [ast.unparse(node) for node in attributes if node.attr.startswith("_")]
        for name in names:
            first, *rest = name.replace("self.ray", "ray").split(".")
            if (path, rest[:1]) in ((TOKENS, ["_raylet"]), (NODES, ["_private"]), (INSIDE, ["_private"])):
                continue
            if first == "ray" and any(part.startswith("_") and not part.startswith("__") for part in rest):
                found.append(f"{path.relative_to(ROOT)}: {name}")
    assert found == []
