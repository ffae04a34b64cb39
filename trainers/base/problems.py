"""What is wrong, as data, and the one place where that becomes a sentence.

Whoever finds a problem says its code, what it is about, the value that was given, the reason and the way out. Whoever
decides by it looks at these fields. `sentence` is for people, at the edge. docs/json.md lists the codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    code: str  # what kind of problem, for programs: words in lower case, joined by hyphens
    about: str = ""  # the setting (`steps`), the option (`--name`), the run, the file or the part that it is about
    reason: str = ""  # what is wrong
    hint: str = ""  # the way out, where there is one
    value: Any = None  # what was given for the setting or the option
    source: str = ""  # the file in which it was given, where that was no command line
    resumes: bool = False  # whether the run or search can be resumed, once the hint was followed
    run: str = ""  # the run or the search that it has ended, where it has
    kept: bool = True  # whether anything of that is kept

    def as_json(self) -> dict[str, Any]:
        """All fields, as `--json` prints them, and the sentence as `text`."""
        return {**asdict(replace(self, value=as_plain(self.value))), "text": sentence(self)}


def sentence(problem: Problem) -> str:
    """A problem in one line, for people."""
    subject = problem.about
    if problem.value is not None:
        subject += f"{' ' if subject.startswith('--') else '='}{show_value(problem.value)}"
    text = f"{subject}: {problem.reason}" if subject else problem.reason
    ways = [problem.hint] if problem.hint else []
    if not problem.kept:
        ways.append("nothing of the run is kept, as it had not started")
    if problem.resumes and problem.kept:
        resume = " ".join(filter(None, ["continue with --resume", problem.run]))
        ways = [f"{problem.hint}, then {resume}"] if problem.hint else [resume]
    source = f" (in {problem.source})" if problem.source else ""
    return "; ".join([text, *ways]) + source


def sentences(problems: Iterable[Problem]) -> list[str]:
    """Problems in a line each."""
    return [sentence(problem) for problem in problems]


def of(problems: Iterable[Problem], option: str) -> list[Problem]:
    """Problems with a name, as those of the option that gave the name: `mine: no such run` is `--resume mine: ...`.
    Those that have a value are of another option already."""
    return [replace(one, about=option, value=one.about) if one.value is None else one for one in problems]


def as_plain(value: Any) -> Any:
    """A value as JSON knows it: numbers, texts, true, false, null and lists as they are, all else as it is shown."""
    if isinstance(value, (tuple, list)):
        return [as_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else show_value(value)


def show_value(value: Any) -> str:
    """A value as it is given on a command line: `true`, `1:2:4`, `none`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return ":".join(show_value(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "none" if value is None else str(value)
