"""Families are found by their folders, in the package and outside of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sentences import Sentences

from trainers.base.errors import USAGE, TroupeError
from trainers.base.problems import Problem
from trainers.families import registry
from trainers.settings.config import Config

CONFIG = """
from trainers.settings.config import Config as Base, setting

class Config(Base):
    summary = "a family of this test"
    width: int = setting({width}, "how wide", at_least=1)
"""
TRAINING = """
from trainers.contract.family import Family
from trainers.families.{name}.networks import Net

class Own(Family):
    def networks(self):
        return {{"net": Net(self.config.width)}}
"""
NETWORKS = """
from torch import nn

class Net(nn.Linear):
    def __init__(self, width):
        super().__init__(width, 1)
"""


@pytest.fixture(autouse=True)
def no_traces() -> Iterator[None]:
    """Take families of these tests out of `sys.modules` again."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("trainers.families."):
            del sys.modules[name]


def make(root: Path, name: str, width: int = 3, config: str = CONFIG, training: str = TRAINING) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.py").write_text(config.replace("{width}", str(width)))
    (folder / "training.py").write_text(training.format(name=name))
    (folder / "networks.py").write_text(NETWORKS)
    return folder


def mistake_of(name: str, root: Path, part: str = "config") -> Problem:
    with pytest.raises(TroupeError) as caught:
        registry.config_class(name, [root]) if part == "config" else registry.family_class(name, [root])
    assert caught.value.code == USAGE
    (problem,) = caught.value.problems
    assert "\n" not in str(caught.value)
    return problem


def test_the_families_of_the_package_are_found_by_their_folders() -> None:
    found = registry.families()
    assert "dcgan" in found
    assert set(found) == {path.parent.name for path in registry.BUILT_IN.glob("*/training.py")}
    for name in found:
        assert issubclass(registry.config_class(name), Config)


def test_a_family_from_outside_is_found_and_imports_its_own_networks(tmp_path: Path) -> None:
    make(tmp_path, "outside_one", width=5)
    assert registry.families([tmp_path])["outside_one"] == tmp_path / "outside_one"
    config = registry.config_class("outside_one", [tmp_path])()
    family = registry.family_class("outside_one", [tmp_path])(config, {})
    assert family.networks()["net"].weight.shape == (1, 5)
    assert registry.config_class("outside_one", [tmp_path]) is type(config)


def test_families_of_one_name_in_two_places_are_not_mixed_up(tmp_path: Path) -> None:
    for place, width in (("here", 3), ("there", 4)):
        make(tmp_path / place, "outside_one", width)
    for place, width in (("here", 3), ("there", 4), ("here", 3)):
        config = registry.config_class("outside_one", [tmp_path / place])()
        family = registry.family_class("outside_one", [tmp_path / place])(config, {})
        assert family.networks()["net"].weight.shape == (1, width)


def test_a_family_may_build_on_the_config_of_another_with_a_longer_name(tmp_path: Path) -> None:
    make(tmp_path, "xouter")
    derived = "from trainers.families.xouter.config import Config as Base\n\nclass Config(Base):\n    pass\n"
    make(tmp_path, "outer", config=derived)
    registry.config_class("xouter", [tmp_path])
    assert registry.config_class("outer", [tmp_path]).__module__ == "trainers.families.outer.config"


def test_folders_that_are_no_families_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.py").write_text("raise AssertionError")
    (tmp_path / "file.py").write_text("raise AssertionError")
    assert set(registry.families([tmp_path])) == set(registry.families())


def test_a_name_that_is_taken_is_refused(tmp_path: Path, sentences: Sentences) -> None:
    make(tmp_path, "dcgan")
    problem = mistake_of("dcgan", tmp_path)
    assert (problem.code, problem.about, problem.value) == ("name-in-use", "--families", str(tmp_path))
    assert "dcgan" in problem.reason
    sentences([problem])


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, sentences: Sentences) -> None:
    problem = mistake_of("dcgan", tmp_path / "no")
    assert (problem.code, problem.about, problem.value) == ("missing-folder", "--families", str(tmp_path / "no"))
    sentences([problem])


def test_an_unknown_family_is_answered_with_the_nearest_one(tmp_path: Path, sentences: Sentences) -> None:
    make(tmp_path, "outside_one")
    near, far = mistake_of("outside_on", tmp_path), mistake_of("xyzzy", tmp_path)
    assert [(one.code, one.about) for one in (near, far)] == [
        ("unknown-family", "outside_on"), ("unknown-family", "xyzzy"),
    ]  # fmt: skip
    assert ["outside_one" in one.hint for one in (near, far)] == [True, False]
    sentences([near, far])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def (", "SyntaxError: "),
        ("raise ValueError('first\\nsecond')", "ValueError: first second"),
        ("", "found 0"),
        (CONFIG + "class Other(Config):\n    pass\n", "found 2"),
    ],
    ids=["import", "syntax", "error", "nothing", "two"],
)
def test_a_broken_config_is_told_in_one_line(tmp_path: Path, config: str, reason: str, sentences: Sentences) -> None:
    folder = make(tmp_path, "outside_broken", config=config)
    problem = mistake_of("outside_broken", tmp_path)
    assert (problem.code, problem.about) == ("own-code", str(folder / "config.py"))
    assert reason in problem.reason
    sentences([problem])


@pytest.mark.parametrize(
    ("training", "reason"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("x = 1 / 0", "ZeroDivisionError: division by zero"),
        ("", "found 0"),
    ],
    ids=["import", "error", "nothing"],
)
def test_a_broken_training_part_is_told_in_one_line(
    tmp_path: Path, training: str, reason: str, sentences: Sentences
) -> None:
    folder = make(tmp_path, "outside_broken", training=training)
    problem = mistake_of("outside_broken", tmp_path, "training")
    assert (problem.code, problem.about) == ("own-code", str(folder / "training.py"))
    assert reason in problem.reason
    sentences([problem])


def test_a_family_that_was_mended_can_be_loaded(tmp_path: Path) -> None:
    folder = make(tmp_path, "outside_broken", config="import nothing_of_this_name")
    mistake_of("outside_broken", tmp_path)
    (folder / "config.py").write_text(CONFIG.format(width=3) + "# mended\n")
    assert registry.config_class("outside_broken", [tmp_path])().summary
