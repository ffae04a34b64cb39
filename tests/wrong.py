"""What was wrong with a command that was carried out in this process, as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from cluster.cli import main
from cluster.terminal.answers import Answer
from trainers.base.problems import Problem, sentence


class Wrong:
    """The problems of the newest command."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.problems: Sequence[Problem] = []
        caught = main.caught

        def noted(arguments: Sequence[str], do: Callable[[], Answer]) -> Answer:
            answer = caught(arguments, do)
            self.problems = answer.problems
            return answer

        patched.setattr(main, "caught", noted)

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """The code of each, and what it is about."""
        return [(one.code, one.about) for one in self.problems]

    @property
    def lines(self) -> list[str]:
        """What stands on stderr where nothing else is told there."""
        return [f"troupe: {sentence(one)}" for one in self.problems]
