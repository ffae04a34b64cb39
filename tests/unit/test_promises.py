"""Every promise names files that are there, and a tier that runs a test of them."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
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


@cache
def collected(*options: str) -> frozenset[str]:
    """The ids of the tests that a tier runs."""
    words = (sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    return frozenset(line for line in done.stdout.splitlines() if "::" in line)


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
def test_the_tier_of_a_promise_runs_a_test_of_it() -> None:
    for promise in promises():
        if promise.tests:
            found = [test for test in collected(*TIERS[promise.tier]) for path in promise.tests if holds(path, test)]
            assert found, f"{promise.text}: nothing of {promise.tests} runs with {promise.tier}"


@pytest.mark.slow
def test_a_tier_runs_all_that_a_lower_one_runs_and_more() -> None:
    fast, most, everything = (collected(*options) for options in TIERS.values())
    assert fast < most < everything
    assert not any(test.startswith(("tests/on_ray/", "tests/faults/")) for test in fast)
    assert any(test.startswith("tests/on_ray/") for test in most)
