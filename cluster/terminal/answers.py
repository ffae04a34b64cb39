"""The answer of a verb: result, text, exit code and problems; the JSON object of `--json`, and the record that a job
prints at its end."""

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

JOB = "TROUPE_JOB"  # environment variable that is 1 in a job
MARK = "\x1e"  # start of a record (a JSON text sequence, RFC 7464); it ends with its line


class Answer(NamedTuple):
    """The answer of a verb. Numbers in `result` are raw: bytes, seconds, steps; `text` formats them."""

    result: dict[str, Any] | None  # None if it failed before there was one
    text: str | None  # None if everything was printed already
    code: int = 0
    problems: Sequence[Problem] = ()  # not empty if the exit code is not 0
    saved: bool | None = None  # of a stopped command: whether it saved


def as_json(verb: str | None, answer: Answer) -> str:
    """The object that `--json` prints; docs/json_schema.json is its schema."""
    content = {
        "troupe": __version__,
        "verb": verb,
        "exit_code": answer.code,
        "result": answer.result,
        "errors": [problem.as_json() for problem in answer.problems],
    }
    return json.dumps(json_value(content), indent=1, allow_nan=False)


def as_record(answer: Answer) -> str:
    """The line that a job prints at its end, for programs that read its output."""
    record = {
        "troupe": __version__,
        "exit_code": answer.code,
        "saved": answer.saved,
        "errors": [problem.as_json() for problem in answer.problems],
    }
    return MARK + json.dumps(json_value(record), allow_nan=False)


def record_in(printed: str) -> dict[str, Any] | None:
    """The last record in the output of a job; None if it did not reach its end."""
    for line in reversed(printed.split("\n")):
        if line.startswith(MARK):
            with contextlib.suppress(ValueError):
                record = json.loads(line.removeprefix(MARK))
                if isinstance(record, dict) and "exit_code" in record:
                    return record
    return None


def without_records(printed: str) -> str:
    """The output of a job without records."""
    return re.sub(f"^{MARK}.*\n?", "", printed, flags=re.MULTILINE)


def json_value(value: Any) -> Any:
    """The value with None for numbers that JSON lacks (NaN and the infinities), and with names that are not UTF-8 in
    their displayed form."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: json_value(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(part) for part in value]
    return value
