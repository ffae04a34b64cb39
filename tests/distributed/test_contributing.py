"""The walk through adding a family in CONTRIBUTING.md, followed to the letter."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import Commands

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_walk_in_contributing_works(troupe: Commands) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = re.findall(r"`(my_families/\S+)`\n\n```python\n(.*?)```", text, re.DOTALL)
    assert len(files) == 2
    for name, content in files:
        (troupe.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (troupe.folder / name).write_text(content)
    commands = re.findall(r"^\$ troupe (.*)$", text, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["families", "verify", "train"]
    for command in commands:
        done = troupe.run(*command.split(), seconds=240)
        assert done.code == 0, done
    rows = [json.loads(line) for line in (troupe.path("bottleneck-1") / "metrics.jsonl").read_text().splitlines()]
    errors = [row["eval_error"] for row in rows if "eval_error" in row]
    assert len(errors) == 2
    assert errors[1] < errors[0]
