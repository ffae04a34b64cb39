"""Problems as data, and the only place where they become sentences.

A problem has a code, a subject, the given value, a reason and a hint. Code that branches on a problem reads these
fields; `sentence` is only for output to users. docs/json.md lists the codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One problem."""

    code: str  # kind of problem, for programs: lower-case words joined by hyphens
    about: str = ""  # subject: a setting (`steps`), an option (`--name`), a run, a file or a part
    reason: str = ""  # what is wrong
    hint: str = ""  # what to do, if anything
    value: Any = None  # given for the setting or the option
    source: str = ""  # file in which it was given, if not the command line
    resumes: bool = False  # whether the run or search can be resumed after following the hint
    run: str = ""  # the run or search that it ended, if any
    kept: bool = True  # whether anything of the run is kept

    def as_json(self) -> dict[str, Any]:
        """All fields, as `--json` prints them, and the sentence as `text`."""
        return {**asdict(replace(self, value=as_plain(self.value))), "text": sentence(self)}


def sentence(problem: Problem) -> str:
    """A problem in one line, for users."""
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
    """Problems, one line each."""
    return [sentence(problem) for problem in problems]


def attributed(problems: Iterable[Problem], option: str) -> list[Problem]:
    """Problems about a name, attributed to the option that gave it: `mine: no such run` becomes `--resume mine: ...`.
    Problems with a value already belong to another option."""
    return [replace(one, about=option, value=one.about) if one.value is None else one for one in problems]


def as_plain(value: Any) -> Any:
    """A value as JSON: numbers, strings, booleans, null and lists unchanged, everything else as its shown text."""
    if isinstance(value, (tuple, list)):
        return [as_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else show_value(value)


def show_value(value: Any) -> str:
    """A value in command-line syntax: `true`, `1:2:4`, `none`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return ":".join(show_value(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "none" if value is None else str(value)
