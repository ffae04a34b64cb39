"""What a verb answers: its result, the same as text for people, how it went; and the one shape that `--json` has."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainers.engine.paths import encodable
from trainers.version import __version__


class Answer(NamedTuple):
    """The answer of a verb. Numbers in `result` are numbers: bytes, seconds, steps; `text` shows them to people."""

    result: dict[str, Any] | None  # None where it failed before there was any
    text: str | None  # None where all has been shown
    code: int = 0
    mistakes: Sequence[str] = ()  # a line each; some wherever the exit code is not 0


def as_json(verb: str | None, answer: Answer) -> str:
    """The object that `--json` prints, as docs/json_schema.json describes it."""
    told = {
        "troupe": __version__, "verb": verb, "exit_code": answer.code, "result": answer.result,
        "mistakes": list(answer.mistakes),
    }  # fmt: skip
    return json.dumps(known(told), indent=1, allow_nan=False)


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
