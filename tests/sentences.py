"""What people read of problems: every sentence that a test has seen stands in `golden/sentences.json`, by its test.

Tests say codes and fields; the fixture `sentences` compares the sentences with the file. To reword some, change the
product, run `pytest --write-sentences`, and read the difference of the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from trainers.base.problems import Problem, sentence

FILE = Path(__file__).parent / "golden" / "sentences.json"


class Sentences:
    """Those of one test, in the order in which it sees them."""

    def __init__(self, known: list[str] | None, folder: Path) -> None:
        self.known, self.folder = known, folder
        self.seen: list[str] = []

    def __call__(self, problems: Iterable[Problem | str]) -> None:
        """See the sentences of problems, or lines that people read; where they are compared, they must be known."""
        lines = [sentence(one) if isinstance(one, Problem) else one for one in problems]
        self.seen += [self._anywhere(line) for line in lines]
        if self.known is not None:
            assert self.seen == self.known[: len(self.seen)], "another sentence: `pytest --write-sentences` stores it"

    def _anywhere(self, line: str) -> str:
        """A line as it is on every machine and in every folder."""
        line = line.replace(str(self.folder), "TMP")
        return re.sub(r"/tmp/pytest-of-\w+/pytest-\d+(/popen-gw\d+)?", "TMP", line)


class Golden:
    """The file: read once, and written at the end where that is asked for."""

    def __init__(self, write: bool) -> None:
        self.write = write
        self.stored: dict[str, list[str]] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
        self.new: dict[str, list[str]] = {}

    def of(self, test: str, folder: Path) -> Sentences:
        return Sentences(None if self.write else self.stored.get(test, []), folder)

    def passed(self, test: str, sentences: Sentences) -> None:
        """A test has passed: it must have seen all that is stored for it."""
        self.new[test] = sentences.seen
        assert sentences.known in (None, sentences.seen), "fewer sentences: `pytest --write-sentences` stores them"

    def end(self) -> None:
        """Write the sentences of the tests that passed in the place of those before; the others stay."""
        if self.write and self.new:
            whole = {test: seen for test, seen in sorted({**self.stored, **self.new}.items()) if seen}
            FILE.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def name_of(request: pytest.FixtureRequest) -> str:
    """A test, by its file and its name."""
    return str(request.node.nodeid).removeprefix("tests/")
