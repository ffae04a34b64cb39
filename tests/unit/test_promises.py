"""Every promise names files that are there, and a tier that runs a test of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
TIERS = {"`pytest`": (), "`--all`": ("--all",), "`--long`": ("--long",)}


class Promise(NamedTuple):
    text: str
    shown_by: tuple[str, ...]
    tier: str

    @property
    def tests(self) -> list[str]:
        return [path for path in self.shown_by if path.startswith("tests/")]


def promises() -> list[Promise]:
    text = (ROOT / "docs" / "promises.md").read_text()
    table = text[text.index("| promise |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return [Promise(text, tuple(re.findall(r"`([^`]+)`", shown)), tier) for text, shown, tier in rows]


COLLECT = """
import json, sys
import pytest

class Ids:
    def pytest_collection_finish(self, session):
        found.append([item.nodeid for item in session.items])

found = []  # pytest escapes ids once more with each collection: they must be plain ASCII
for options in json.loads(sys.argv[1]):
    assert pytest.main(["--collect-only", "-qq", "-n", "0", "-p", "no:cacheprovider", *options], [Ids()]) == 0
json.dump(found, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, frozenset[str]]:
    """The ids of the tests that each tier runs; one process imports them for all three."""
    ids = tmp_path_factory.mktemp("collected") / "ids.json"
    words = (sys.executable, "-c", COLLECT, json.dumps(list(TIERS.values())), str(ids))
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return dict(zip(TIERS, map(frozenset, json.loads(ids.read_text())), strict=True))


def holds(place: str, test: str) -> bool:
    """Whether a test is in a file, in a folder, or the one that is named."""
    return test.startswith((f"{place}/", f"{place}::", f"{place}[")) or test == place


def test_what_a_promise_names_is_there() -> None:
    assert len(promises()) > 70
    for promise in promises():
        assert promise.shown_by, promise.text
        for path in promise.shown_by:
            assert (ROOT / path.partition("::")[0]).exists(), f"{promise.text}: {path}"


def test_a_promise_without_a_test_is_one_of_a_benchmark() -> None:
    for promise in promises():
        assert promise.tier in (TIERS if promise.tests else ("benchmark",)), promise.text


@pytest.mark.slow
def test_the_tier_of_a_promise_runs_a_test_of_it(collected: dict[str, frozenset[str]]) -> None:
    for promise in promises():
        if promise.tests:
            found = [test for test in collected[promise.tier] for path in promise.tests if holds(path, test)]
            assert found, f"{promise.text}: nothing of {promise.tests} runs with {promise.tier}"


@pytest.mark.slow
def test_a_tier_runs_all_that_a_lower_one_runs_and_more(collected: dict[str, frozenset[str]]) -> None:
    fast, most, everything = collected.values()
    assert fast < most < everything
    assert not any(test.startswith(("tests/on_ray/", "tests/faults/")) for test in fast)
    assert any(test.startswith("tests/on_ray/") for test in most)
