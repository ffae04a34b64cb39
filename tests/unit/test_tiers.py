"""Which tests a command line runs, in a small folder of tests with the same tiers; and which of them run together."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiers
from groups import WITH_POOL, fast_group_of, group_of

TESTS = {
    "unit/test_one.py": """
import pytest

def test_fast(): pass

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.slow
@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.long)])
def test_sizes(size): pass
""",
    "on_ray/test_two.py": """
import pytest

pytestmark = pytest.mark.ray

def test_ray(): pass

@pytest.mark.long
def test_rare(): pass
""",
    "faults/test_three.py": """
import pytest

pytestmark = [pytest.mark.faults, pytest.mark.long]

def test_random(): pass
""",
}
CONFTEST = """
from tiers import add_options as pytest_addoption, pytest_collection_modifyitems, pytest_ignore_collect
"""
FAST = {"test_fast"}
ALL = {*FAST, "test_slow", "test_sizes[1]", "test_ray"}
LONG = {*ALL, "test_sizes[2]", "test_rare", "test_random"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")  # a checkout may lie in a folder of any name
    for path, content in {**TESTS, "conftest.py": CONFTEST}.items():
        (folder / "tests" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tests" / path).write_text(content)
    shutil.copy(tiers.__file__, folder / "tests" / "tiers.py")
    markers = "\n".join(f"  {marker}" for marker in tiers.MARKERS)
    (folder / "pytest.ini").write_text(f"[pytest]\ntestpaths = tests\npythonpath = tests\nmarkers =\n{markers}\n")
    return folder


COLLECTED = """
import contextlib, io, json, pathlib, shlex, sys

import pytest

found = {}
for words in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *shlex.split(words)])
    found[words] = [line.partition("::")[2] for line in out.getvalue().splitlines() if "::" in line]
    for name, module in list(sys.modules.items()):  # the next one reads these tests anew
        if str(getattr(module, "__file__", None) or "").startswith(str(pathlib.Path.cwd())):
            del sys.modules[name]
print(json.dumps(found))
"""
CASES = [
    ("", FAST),
    ("--all", ALL),
    ("--long", LONG),
    ("--long --all", LONG),
    ("tests", FAST),
    ("tests/unit", FAST),
    ("tests/unit/test_one.py", FAST),
    ("tests/on_ray", {"test_ray"}),
    ("tests/on_ray/test_two.py", {"test_ray", "test_rare"}),
    ("tests/on_ray/test_two.py tests/unit", {*FAST, "test_ray", "test_rare"}),
    ("--all tests/on_ray/test_two.py", {"test_ray"}),
    ("tests/faults/test_three.py", {"test_random"}),
    ("tests/unit/test_one.py::test_slow", {"test_slow"}),
    ("tests/unit/test_one.py::test_sizes", {"test_sizes[1]", "test_sizes[2]"}),
    ("--all tests/unit/test_one.py::test_sizes[2]", {"test_sizes[2]"}),
    ("-m long", {"test_sizes[2]", "test_rare", "test_random"}),
    ("-m ray", {"test_ray"}),
    ("--all -m slow", {"test_slow", "test_sizes[1]"}),
]


@pytest.fixture(scope="module")
def collected(folder: Path) -> dict[str, list[str]]:
    """What each of the command lines runs; one process asks for all."""
    done = subprocess.run(
        [sys.executable, "-c", COLLECTED], input=json.dumps([words for words, _ in CASES]), cwd=folder,
        capture_output=True, text=True, check=True, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(("words", "run"), CASES)
def test_a_command_line_runs_its_tier_and_what_it_names(
    collected: dict[str, list[str]], words: str, run: set[str]
) -> None:
    assert sorted(collected[words]) == sorted(run)


def test_what_shares_a_ray_runs_in_one_process_and_so_do_the_tests_that_share_runs() -> None:
    for name, paths in {"ray": ("on_ray/a.py", "on_ray/b.py", "contract/test_on_ray.py"),
                        "faults": ("faults/a.py", "faults/b.py")}.items():  # fmt: skip
        assert {group_of(f"tests/{path}::test_it[dcgan]") for path in paths} == {name}
    one, other = (
        "tests/contract/test_contract.py::test_one[dcgan-tiny]",
        "tests/unit/test_words.py::test_one[dcgan-tiny]",
    )
    assert group_of(one) == group_of(one.replace("test_one", "test_two")) != group_of(one.replace("dcgan", "wgan"))
    assert group_of(other) != group_of(other.replace("test_one", "test_two"))


def test_fast_tests_of_a_file_run_in_one_process_and_so_do_those_that_share_a_pool() -> None:
    assert {fast_group_of(f"tests/{path}::test_it[1]") for path in WITH_POOL} == {"pool"}
    one, other = "tests/unit/test_words.py::test_one[dcgan-tiny]", "tests/unit/test_trial.py::test_one"
    assert fast_group_of(one) == fast_group_of(one.replace("dcgan", "wgan")) != fast_group_of(other)


def test_the_files_with_a_pool_are_known() -> None:
    """Of the fast tests, those of one process alone start workers."""
    tests = Path(__file__).parents[1]
    found = {
        str(path.relative_to(tests))
        for part in ("contract", "distributed", "unit")
        for path in (tests / part).glob("test_*.py")
        if re.search(r"\bpool: LocalGroup", path.read_text())
    }
    assert found == set(WITH_POOL)
