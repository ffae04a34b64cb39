"""What a verb answers: its result, the same as text for people, how it went; the one shape that `--json` has, and the
record with which a command ends that is a job."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainers.base.paths import encodable
from trainers.base.problems import Problem
from trainers.base.version import __version__

JOB = "TROUPE_JOB"  # the variable that tells a command that it is a job: it is 1 then
MARK = "\x1e"  # what a record begins with (a JSON text sequence, RFC 7464); it ends with its line


class Answer(NamedTuple):
    """The answer of a verb. Numbers in `result` are numbers: bytes, seconds, steps; `text` shows them to people."""

    result: dict[str, Any] | None  # None where it failed before there was any
    text: str | None  # None where all has been shown
    code: int = 0
    problems: Sequence[Problem] = ()  # some wherever the exit code is not 0
    saved: bool | None = None  # of a command that was stopped: whether it has saved


def as_json(verb: str | None, answer: Answer) -> str:
    """The object that `--json` prints, as docs/json_schema.json describes it."""
    told = {
        "troupe": __version__,
        "verb": verb,
        "exit_code": answer.code,
        "result": answer.result,
        "errors": [problem.as_json() for problem in answer.problems],
    }
    return json.dumps(known(told), indent=1, allow_nan=False)


def as_record(answer: Answer) -> str:
    """The line that a job prints at its end, for whoever looks at what it has printed."""
    told = {
        "troupe": __version__,
        "exit_code": answer.code,
        "saved": answer.saved,
        "errors": [problem.as_json() for problem in answer.problems],
    }
    return MARK + json.dumps(known(told), allow_nan=False)


def record_in(printed: str) -> dict[str, Any] | None:
    """The last record among what a job has printed; None where it did not come to its end."""
    for line in reversed(printed.split("\n")):
        if line.startswith(MARK):
            with contextlib.suppress(ValueError):
                record = json.loads(line.removeprefix(MARK))
                if isinstance(record, dict) and "exit_code" in record:
                    return record
    return None


def without_records(printed: str) -> str:
    """What a job has printed for people."""
    return re.sub(f"^{MARK}.*\n?", "", printed, flags=re.MULTILINE)


def known(value: Any) -> Any:
    """The same with null for every number that JSON does not know (NaN and the infinities), and names whose bytes are
    not UTF-8 as they are shown."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: known(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [known(part) for part in value]
    return value
