"""Which part may import which: read from the source, so that no rule is broken where no test runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import cluster

ROOT = Path(__file__).parents[2]
PARTS = ("cluster", "trainers", "searchspaces", "troupe", "benchmarks", "tests")
ALLOWED_PRIVATE = ROOT / "tests" / "unit" / "test_documents.py"  # Ray's own check of a cluster file has no public name

BACKEND = ROOT / "cluster" / "backend"
PRIVATE_OF_RAY = {  # what has no public name there: looking for tokens again, nodes that are about to go, leaving it
    BACKEND / "auth.py": "_raylet", BACKEND / "nodes.py": "_private", BACKEND / "ray_internals.py": "_private",
}  # fmt: skip
KNOW_FAMILIES_AND_DATA = ("families", "data")  # packages of `trainers`; all others are for any family and any data


class Import(NamedTuple):
    name: str  # of the module, and of what is taken from it: `trainers.contract.family.Phase`
    at_start: bool  # when the module is imported, not when a function runs
    typing: bool  # only for type checkers


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(path)))


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


def rooms_of_any_family() -> list[Path]:
    """The files of `trainers` that know no family and no data source."""
    return [path for path in files("trainers") if path.parts[len(ROOT.parts) + 1] not in (
        *KNOW_FAMILIES_AND_DATA, "run.py", "__init__.py")]  # fmt: skip


def test_the_engine_knows_no_family_and_no_data_source() -> None:
    assert broken(rooms_of_any_family(), "trainers.families", "trainers.data") == []
    names = {folder.name for folder in family_folders()}
    for path in rooms_of_any_family():
        words = {node.value for node in nodes_of(path) if isinstance(node, ast.Constant)}
        assert not names & {word for word in words if isinstance(word, str)}, path


def test_data_sources_know_no_family_and_no_loop() -> None:
    assert broken(files("trainers/data"), "trainers.families", "trainers.engine") == []


@pytest.mark.parametrize("folder", family_folders(), ids=lambda folder: folder.name)
def test_a_family_imports_its_contract_data_and_networks_only(folder: Path) -> None:
    allowed = (
        "trainers.base.errors", "trainers.base.problems", "trainers.contract", "trainers.settings", "trainers.data",
        "trainers.drawing.fonts", "trainers.drawing.plots", f"trainers.families.{folder.name}", "trainers.verdict",
        "trainers.families.classification", "trainers.families.adversarial", "torch", "torchvision", "PIL", "numpy",
        "matplotlib", *sys.stdlib_module_names,
    )  # fmt: skip
    for path in sorted(folder.rglob("*.py")):
        for imported in imports_of(path):
            others = within(imported.name, "trainers.families") and imported.name.split(".")[3] == "networks"
            assert within(imported.name, *allowed) or others, f"{path.name} imports {imported.name}"


@pytest.mark.parametrize("folder", family_folders(), ids=lambda folder: folder.name)
def test_a_family_has_no_loop_over_steps_no_backward_no_device_and_no_rank(folder: Path) -> None:
    for path in sorted(folder.rglob("*.py")):
        nodes = nodes_of(path)
        attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not attributes & {"backward", "cuda", "rank", "world", "manual_seed"}, path
        assert not {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)} & {
            "open", "print",
        }, path  # fmt: skip


@pytest.mark.parametrize("folder", family_folders(), ids=lambda folder: folder.name)
def test_settings_of_a_family_are_read_without_torch(folder: Path) -> None:
    for imported in imports_of(folder / "config.py"):
        allowed = ("trainers.settings", "trainers.base.errors", "trainers.base.problems", "trainers.data.settings",
                   "trainers.families.classification.settings", "trainers.families.classification.residual",
                   "trainers.families.adversarial.settings")  # fmt: skip
        assert within(imported.name, *allowed, *sys.stdlib_module_names) or not imported.at_start, imported.name


def test_settings_and_errors_import_no_torch() -> None:
    light = [ROOT / "trainers" / name for name in (
        "run.py", "families/registry.py", "engine/control.py", "contract/streams.py", "runtime/processor.py",
        "storage/checkpoint.py", "storage/atomic_files.py")]  # fmt: skip
    light += files("trainers/base", "trainers/settings", "trainers/run_folders")
    assert broken(light, "torch", at_start=True) == []


BY_NAME = {  # modules that are imported by a name made at run time, by who does it
    "trainers.families.registry": r"trainers\.families\.\w+\.(config|training)",
    "trainers.data.sources": r"trainers\.data\.\w+",
}


def test_imports_go_one_way_without_a_circle() -> None:
    """Those for types and those by a name made at run time too: who reads one of two files that know each other must
    read both."""
    paths = files("cluster", "trainers", "searchspaces")
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    knows: dict[str, set[str]] = {}
    for name, path in names.items():
        seen = {imported.name for imported in imports_of(path)}
        seen |= {imported.rpartition(".")[0] for imported in seen}  # a module, or something in it
        seen |= {other for other in names if re.fullmatch(BY_NAME.get(name, ""), other)}
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


def package_of(name: str) -> str:
    """The package in which a module lies: `trainers.engine`; a part itself if it has no packages inside."""
    return ".".join(name.split(".")[: 2 if name.startswith(("cluster.", "trainers.")) else 1])


def imports_of_packages() -> dict[str, set[str]]:
    """The packages that each package imports."""
    paths = files("cluster", "trainers", "searchspaces", "troupe")
    packages = {package_of(".".join(path.relative_to(ROOT).with_suffix("").parts)) for path in paths}
    knows: dict[str, set[str]] = {package: set() for package in packages}
    for path in paths:
        here = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        seen = {package_of(imported.name) for imported in imports_of(path)}
        knows[here] |= seen & packages - {here}
    return knows


def test_arrows_between_packages_go_one_way_without_a_circle() -> None:
    knows = imports_of_packages()
    order: list[str] = []
    while rest := [package for package in sorted(knows) if package not in order]:
        free = [package for package in rest if knows[package] <= {*order}]
        assert free, f"a circle among {', '.join(rest)}"
        order += free


def drawn_packages() -> list[str]:
    """The packages in the drawing of docs/architecture.md, from the top."""
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## The packages")[2].partition("\n## ")[0]
    order, part = list[str](), ""
    for found in re.finditer(r"^ {4}([a-z]+)/  |^ {6}([a-z_]+)(?:\.py)?  ", text, re.MULTILINE):
        part = found[1] or part
        order.append(part if found[1] else f"{part}.{found[2]}")
    return order


def test_the_architecture_draws_a_package_above_those_that_it_imports() -> None:
    order, knows = drawn_packages(), imports_of_packages()
    place = {name: order.index(name if name in order else name.partition(".")[0]) for name in knows}
    wrong = [(name, other) for name, others in knows.items() for other in others if place[other] < place[name]]
    assert wrong == []


def test_a_package_has_at_most_a_dozen_files_and_says_what_lives_there() -> None:
    for path in files("cluster", "trainers", "searchspaces", "troupe"):
        if path.name == "__init__.py" and path.parent.parent.name in ("cluster", "trainers", "data"):
            text = ast.get_docstring(tree_of(path))
            assert text, path
            assert len(text.splitlines()) == 1, path
            files_there = [one for one in path.parent.glob("*.py") if one.name != "__init__.py"]
            assert len(files_there) <= 12, path.parent


def name_called(call: ast.Call) -> str:
    """The last part of the name of a function."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def importing(path: Path) -> list[str]:
    """What a file imports by a name that is made when it runs."""
    return [ast.unparse(node) for node in nodes_of(path) if isinstance(node, ast.Call)
            and name_called(node).endswith(("import_module", "__import__"))]  # fmt: skip


DYNAMIC = {  # families and data sources by their folders, a function that a pool was told of, what may be missing
    "trainers/families/registry.py", "trainers/data/sources.py", "cluster/backend/process_pool.py",
    "trainers/drawing/decoration.py", "trainers/data/image_folders/decoding.py", "trainers/base/old_names.py",
    "troupe/__init__.py", "troupe/__main__.py",
}  # fmt: skip


def test_what_is_imported_by_a_name_made_at_run_time_is_known() -> None:
    paths = files("cluster", "trainers", "searchspaces", "troupe")
    assert {str(path.relative_to(ROOT)) for path in paths if importing(path)} <= DYNAMIC


def test_no_two_public_functions_or_classes_of_one_name_do_different_things() -> None:
    """Names that can be searched for. A verb is a call from Python, its answer on the command line, and its work."""
    found: dict[str, set[str]] = {}
    for path in files("cluster", "trainers"):
        own = path.parent.parent.name == "families" and path.stem in ("config", "networks", "training")
        for node in tree_of(path).body if not own else ():
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                found.setdefault(node.name, set()).add(str(path.relative_to(ROOT)))
    verbs = {*cluster.__all__, "main"}
    assert {name: places for name, places in found.items() if len(places) > 1 and name not in verbs} == {}


def test_the_formatter_is_switched_off_at_tables_of_data_only() -> None:
    """Where a table would be a column of words; at most twenty times."""
    found = 0
    for path in files("cluster", "trainers", "searchspaces", "troupe"):
        lines = path.read_text().splitlines()
        tables = {node.end_lineno for node in tree_of(path).body if isinstance(node, (ast.Assign, ast.AnnAssign))}
        skipped = [number for number, line in enumerate(lines, 1) if "fmt: " in line]
        assert {*skipped} <= tables, path
        found += len(skipped)
    assert found <= 20


def test_a_function_fits_on_a_screen() -> None:
    """At most 60 lines; Ruff holds their complexity and their statements."""
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in files("cluster", "trainers", "searchspaces", "troupe")
        for node in nodes_of(path)
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert long == []


def test_dcgan_stays_short() -> None:
    assert sum(len(path.read_text().splitlines()) for path in files("trainers/families/dcgan")) < 150


def test_the_engine_knows_no_words_of_classifiers() -> None:
    for path in rooms_of_any_family():
        if path.parent.name == "verdict":
            continue
        text = path.read_text().lower()
        for word in ("confusion.png", "class_names", "mistakes.png", '"confusion"', '"mistakes"', "accuracy)"):
            assert word not in text, f"{path.name}: {word}"


def test_search_spaces_are_plain_values() -> None:
    assert [imported for path in files("searchspaces") for imported in imports_of(path)] == []


CALL_EACH = """
import cluster
for name in [name for name in cluster.__all__ if name != "TroupeError"]:
    try:
        getattr(cluster, name)(no_such_argument=1)
    except (TypeError, cluster.TroupeError) as error:
        assert str(error)
    else:
        raise AssertionError(name)
"""


@pytest.mark.slow
def test_every_module_is_imported_and_no_package_takes_the_place_of_a_call() -> None:
    """A package `cluster.train` would be bound over the call of that name."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in files("cluster", "trainers", "searchspaces", "troupe")
        if path.name != "__main__.py" and path.parent.name != "ours"  # these stand for packages
    ]  # fmt: skip
    code = f"import {', '.join(modules)}\n" + CALL_EACH
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_package_files_hold_a_line_and_no_code_but_that_of_cluster() -> None:
    for path in files("trainers", "searchspaces", "cluster"):
        if path.name == "__init__.py" and path.parent.parent != ROOT:
            assert len(tree_of(path).body) <= 1, path
    assert broken([ROOT / "cluster" / "__init__.py"], "cluster", "trainers", at_start=True) == []


WITH_RAY = {"worker.py", "trainable.py", "tune_hooks.py"}  # imported where a worker, a trial or Ray Tune runs


def test_the_cluster_imports_torch_and_ray_only_when_they_are_needed() -> None:
    paths = [path for path in files("cluster") if path.name not in WITH_RAY]
    assert broken(paths, "torch", "ray", "torchvision", "safetensors", at_start=True) == []


def test_no_part_of_the_cluster_brings_ray_in_by_being_imported_nor_torch_but_for_pools_and_workers() -> None:
    paths = [
        path
        for path in files("cluster")
        if path.stem not in ("__init__", "__main__", "worker", "trainable", "tune_hooks", "process_pool")
        and path.parent.name != "ours"
    ]
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
        if "ray" in path.read_text():
            attributes = (node for node in nodes_of(path) if isinstance(node, ast.Attribute))
            names += [ast.unparse(node) for node in attributes if node.attr.startswith("_")]
        for name in names:
            first, *rest = name.replace("self.ray", "ray").split(".")
            if rest[:1] == [PRIVATE_OF_RAY.get(path)]:
                continue
            if first == "ray" and any(part.startswith("_") and not part.startswith("__") for part in rest):
                found.append(f"{path.relative_to(ROOT)}: {name}")
    assert found == []
