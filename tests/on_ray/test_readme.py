"""The `troupe` commands of README.md, typed in their order; only the amount of work is made small."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainers.data.images import Part
from trainers.data.packed import pack
from trainers.data.torchvision_sets import KNOWN

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
SMALL = {
    "dcgan": ["width=4", "batch_size=16", "microbatch_size=4"],
    "wgan_gp": ["width=4", "batch_size=16", "microbatch_size=4", "judged=100"],
    "classifier": ["batch_size=16", "microbatch_size=4"],
    "cifar_speed": ["widths=4:8:8", "batch_size=16", "microbatch_size=4", "learning_rate=0.01"],
    "wide_resnet": [],  # --dry-run does nothing
}


def made_small(command: str) -> list[str]:
    """The same words with fewer steps, and small networks where the command may choose them."""
    words = [re.sub(r"^steps=(\d+)$", lambda found: f"steps={int(found[1]) // 50}", word) for word in command.split()]
    if words[0] == "train" and "--resume" not in words and "--help" not in words:
        words = (
            [word for word in words if not word.startswith("epochs=")]
            + SMALL[words[1]]
            + ([] if any(word.startswith("steps=") for word in words) else ["steps=12"])
        )
    return words


def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 255, (70, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"pictures/{number}.png")
    random = np.random.default_rng(0)
    parts = [Part(random.integers(0, 255, (count, 32, 32, 3), np.uint8), np.arange(count) % 10) for count in (60, 20)]
    pack(tmp_path / "data/cifar10", "cifar10", *parts, KNOWN["cifar10"].class_names)
    commands = re.findall(r"^    troupe (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) > 12
    assert {command.split()[0] for command in commands} >= {
        "train",
        "verify",
        "evaluate",
        "sample",
        "export",
        "runs",
        "env",
    }
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
    return ["--data-dir", "data"] if command.split()[0] in ("train", "verify", "evaluate", "datasets") else []
