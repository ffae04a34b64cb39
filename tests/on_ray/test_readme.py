"""The `troupe` commands of README.md, typed in their order; only the amount of work is made small."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from clusters import Cluster
from commands import Commands
from PIL import Image

from trainers.data.images import Part
from trainers.data.packed import pack
from trainers.data.torchvision_sets import KNOWN

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
SMALL = {
    "dcgan": ["width=4", "batch_size=16", "microbatch_size=4", "num_eval_samples=100"],
    "wgan_gp": ["width=4", "batch_size=16", "microbatch_size=4", "num_eval_samples=100"],
    "classifier": ["batch_size=16", "microbatch_size=4"],
    "cifar_speed": ["widths=4:8:8", "batch_size=16", "microbatch_size=4", "learning_rate=0.01"],
    "wide_resnet": [],  # --dry-run does nothing
}
JOINING = ("train --resume dcgan-1 steps=", "train cifar_speed ", "search ")  # have two workers, or trials


def made_small(command: str) -> list[str]:
    """The same words with fewer steps, and small networks where the command may choose them."""
    words = [re.sub(r"^steps=(\d+)$", lambda found: f"steps={int(found[1]) // 100}", word) for word in command.split()]
    if words[0] == "train" and "--resume" not in words and "--help" not in words:
        words = (
            [word for word in words if not word.startswith("epochs=")]
            + SMALL[words[1]]
            + ([] if any(word.startswith("steps=") for word in words) else ["steps=12"])
        )
    return [*words, *SMALL[words[1]]] if words[0] == "verify" else words


def test_every_command_of_the_readme_works(troupe: Commands, cluster: Cluster) -> None:
    """The first one is the installed command, and starts a Ray of its own; later ones that need a Ray join one."""
    folder = troupe.folder
    (folder / "pictures").mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 255, (70, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"pictures/{number}.png")
    random = np.random.default_rng(0)
    parts = [Part(random.integers(0, 255, (count, 32, 32, 3), np.uint8), np.arange(count) % 10) for count in (60, 20)]
    pack(folder / "data/cifar10", "cifar10", *parts, KNOWN["cifar10"].class_names)
    commands = re.findall(r"^    troupe (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    commands = [command for command in commands if "--address" not in command]  # test_address.py has those
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
    assert "workers=2" in commands[0]
    for command in commands:
        words = [*made_small(command), *data_dir(command)]
        joined = cluster if command.startswith(JOINING) else None
        done = troupe.start(*words, really=command is commands[0], on=joined).wait(240)
        assert done.code == 0, (command, done)
        assert done.out.strip(), command


def data_dir(command: str) -> list[str]:
    return ["--data-dir", "data"] if command.split()[0] in ("train", "verify", "evaluate", "datasets") else []
