"""The `troupe` commands of README.md, typed in their order; only the amount of work is made small."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
SMALL = ["width=4", "batch_size=16", "microbatch_size=4"]


def made_small(command: str) -> list[str]:
    """The same words with fewer steps, and small networks where the command may choose them."""
    words = [re.sub(r"^steps=(\d+)$", lambda found: f"steps={int(found[1]) // 50}", word) for word in command.split()]
    if words[0] == "train" and "--resume" not in words and "--help" not in words:
        words += SMALL + ([] if any(word.startswith("steps=") for word in words) else ["steps=12"])
    return words


def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 255, (70, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"pictures/{number}.png")
    commands = re.findall(r"^    troupe (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) > 12
    assert {command.split()[0] for command in commands} >= {"train", "verify", "sample", "export", "runs", "env"}
    for command in commands:
        if "--address" in command:  # tests/on_ray/test_address.py has a cluster for it
            continue
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *made_small(command), *data_dir(command)],
            cwd=tmp_path, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, f"troupe {command}\n{done.stdout}{done.stderr}"
        assert done.stdout.strip()


def data_dir(command: str) -> list[str]:
    return ["--data-dir", "data"] if command.split()[0] in ("train", "verify", "datasets") else []
