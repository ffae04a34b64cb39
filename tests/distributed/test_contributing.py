"""The walk through adding a family in CONTRIBUTING.md, followed to the letter."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_walk_in_contributing_works(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = re.findall(r"`(my_families/\S+)`\n\n```python\n(.*?)```", text, re.DOTALL)
    assert len(files) == 2
    for name, content in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    commands = re.findall(r"^\$ troupe (.*)$", text, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["families", "verify", "train"]
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *command.split()], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "runs/bottleneck-1/metrics.jsonl").read_text().splitlines()]
    errors = [row["eval_error"] for row in rows if "eval_error" in row]
    assert len(errors) == 2
    assert errors[1] < errors[0]
