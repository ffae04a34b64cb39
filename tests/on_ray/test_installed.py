"""What `pip install` puts elsewhere, and no checkout beside it: a wheel, in an environment of its own, where the folder
in which commands are typed has a package `cluster` of its own."""

from __future__ import annotations

import json
import re
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import Commands, Done
from PIL import Image

from trainers.base.version import __version__

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "tests", "benchmarks", "docs")
SMALL = {"dcgan": ("width=4", "batch_size=16", "microbatch_size=4", "num_eval_samples=100"),
         "wgan_gp": ("width=4", "batch_size=16", "microbatch_size=4", "num_eval_samples=100"),
         "classifier": ("batch_size=16", "microbatch_size=4")}  # fmt: skip
LATER = ("cifar_speed", "cifar10", "wide_resnet", "--address")  # commands that want what is not here


class Installed:
    """The installed command, in a folder with packages that have the names of ours."""

    def __init__(self, room: Path) -> None:
        self.commands = Commands(room / "here")
        self.python = room / "venv" / "bin" / "python"
        for name in ("cluster", "trainers"):
            (self.commands.folder / name).mkdir(parents=True)
            (self.commands.folder / name / "__init__.py").write_text("raise RuntimeError('somebody else')\n")
        source = room / "source"
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
        done([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(room), str(source)])
        (wheel,) = room.glob("*.whl")
        shutil.rmtree(source)
        venv.create(room / "venv", symlinks=True)
        (packages,) = (room / "venv" / "lib").glob("python3*/site-packages")
        (packages / "others.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
        done([*pip[:3], "--python", str(self.python), *pip[3:], "install", "--no-deps", "--no-index", str(wheel)])

    def troupe(self, *words: str, seconds: float = 120, path: str = "") -> Done:
        command = self.commands.call(str(self.python.with_name("troupe")), *words, environment={"PYTHONPATH": path})
        return command.wait(seconds)


def done(words: list[str]) -> None:
    subprocess.run(words, check=True, timeout=120, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    installed = Installed(tmp_path_factory.mktemp("elsewhere"))
    yield installed
    installed.commands.clean()


def test_a_wheel_has_all_that_it_needs_and_is_not_confused_by_names_of_its_user(installed: Installed) -> None:
    """Families and their recipes, the built-in data, search spaces, and the parts of the page."""
    told = subprocess.run(
        [installed.python, "-c", "import cluster, trainers, searchspaces; print(cluster.__file__, trainers.__file__)"],
        cwd=installed.python.parent, env={}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert told.count(str(installed.python.parents[1])) == 2
    run = ("train", "classifier", "model=mlp_bn", "data=digits", "steps=4", "evaluate_every=2", "--name", "one")
    for words in (
        ("families",), ("recipes", "mnist_mlp_bn"), run, ("evaluate", "one", "--out", "seen"), ("report", "one"),
        ("verify", "classifier", "workers=2"), ("search", "classifier", "data=digits", "epochs=1", "--dry-run"),
    ):  # fmt: skip
        ended = installed.troupe(*words)
        assert (ended.code, ended.err) == (0, ""), (words, ended)
    result = json.loads((installed.commands.path("one") / "result.json").read_text())
    assert result["not_made"] == []
    assert json.loads(installed.troupe("--version", "--json").out)["result"]["version"] == __version__


def test_workers_of_what_is_installed_take_nothing_of_a_folder_that_precedes_it(installed: Installed) -> None:
    path = str(installed.commands.folder)
    run = ("train", "dcgan", *SMALL["dcgan"], "data=digits", "steps=2", "workers=2", "--name", "two")
    ended = installed.troupe(*run, path=path)
    assert (ended.code, ended.err) == (0, ""), ended
    ended = installed.troupe("verify", "dcgan", "workers=2", path=path)
    assert ("conditional, ddp" in ended.out, ended.err) == (True, ""), ended


@pytest.mark.long
def test_the_commands_of_the_readme_run_where_nothing_but_a_wheel_is(installed: Installed) -> None:
    folder = installed.commands.folder
    (folder / "pictures").mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 255, (70, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"pictures/{number}.png")
    typed = re.findall(r"^    troupe (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    typed = [command for command in typed if not any(word in command for word in LATER)]
    assert len(typed) > 12
    assert "workers=2" in typed[0]
    for command in typed:
        words = [re.sub(r"^steps=(\d+)$", lambda found: f"steps={int(found[1]) // 100}", word)
                 for word in command.split()]  # fmt: skip
        if words[0] in ("train", "verify") and words[1] in SMALL and "--help" not in words:
            words += [*SMALL[words[1]], *([] if "steps" in command or words[0] == "verify" else ["steps=12"])]
        ended = installed.troupe(*words, seconds=240)
        assert ended.code == 0, (command, ended)
        assert ended.out.strip(), command
