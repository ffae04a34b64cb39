"""A custom family written for the old names of the contract is told all of them at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from cluster.cli import main
from trainers.base.errors import USAGE, TroupeError
from trainers.base.old_names import CONTRACT_NAMES
from trainers.contract import evaluation
from trainers.contract.family import Family, Loss, MicroBatch, Phase, Watch
from trainers.families import registry
from trainers.families.adversarial.learning import Wasserstein
from trainers.families.old_contract import renamed_in
from trainers.settings import config

CONFIG = """
from trainers.data import settings
from trainers.settings.config import Asked

class Prompted(Asked):
    pass

class Base(settings.ImageConfig):
    learns_from = "images"
    asked = Prompted

    @classmethod
    def wrong(cls, good, family):
        return super().wrong(good, family)

class Config(Base):
    def misfit(self, facts):
        return [] if self.places(facts) else ["too few"]
"""
TRAINING = """
from trainers.contract import family
from trainers.contract.family import Loss, MicroBatch, Phase
from trainers.families.older.networks import Drawn

class Report:
    report = "a helper of the family's own"
    kept = begin = None

class Older(family.Family):
    beat = None

    def begin(self, networks, data):
        return {}

    def phases(self, step):
        fresh = self.config.draws(step)
        return (Phase("one", ("net",), "adam", self.loss, fresh=bool(fresh), leaves=()),)

    def loss(self, networks, microbatch):
        return Loss(networks["net"](microbatch.carried["x"]) + self.kept["mean"])

    def second(self, networks, samples: MicroBatch):
        samples.kept["x"] = {}.get("kept")
        return Report().report
"""
TOLD = {
    "config.py": [
        "3 Asked SampleSettings", "9 Config.learns_from input_kind", "10 Config.asked sample_settings",
        "13 Config.wrong validate_settings", "17 Config.misfit validate_data", "18 Config.places num_samples",
    ],
    "training.py": [
        "11 Family.beat heartbeat", "13 Family.begin setup", "17 Config.draws batches_per_step",
        "18 Phase.fresh new_batch", "18 Phase.leaves keeps_graph_of", "21 MicroBatch.carried state",
        "21 Family.kept buffers", "24 MicroBatch.kept intermediates",
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_traces() -> Iterator[None]:
    """Take families of these tests out of `sys.modules` again."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("trainers.families.", "library_of_others")):
            del sys.modules[name]


def make(root: Path, config: str = CONFIG, training: str = TRAINING) -> Path:
    folder = root / "older"
    folder.mkdir()
    (folder / "config.py").write_text(config)
    (folder / "training.py").write_text(training)
    return folder


def lines(folder: Path) -> list[str]:
    """Each problem as the command shows it."""
    told = [(file, *line.split()) for file, some in TOLD.items() for line in some]
    return [f"{folder / file}, line {line}: {old} was renamed; use {new}" for file, line, old, new in told]


def test_all_old_names_of_both_files_are_told_at_once(tmp_path: Path) -> None:
    folder = make(tmp_path)
    with pytest.raises(TroupeError) as caught:
        registry.config_class("older", [tmp_path])
    assert caught.value.code == USAGE
    assert {one.code for one in caught.value.problems} == {"renamed"}
    assert sorted(caught.value.mistakes) == sorted(lines(folder))


def test_the_command_tells_them_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path)
    assert main.command(["train", "older", "--families", str(tmp_path)]) == USAGE
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(f"troupe: {line}" for line in lines(folder))


def test_a_family_is_told_what_a_library_defines_that_it_extends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library_of_others.py").write_text(
        "from trainers.contract.family import Family\nclass Shared(Family):\n"
        "    def scored(self, microbatch): pass\n    frozen = None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = make(
        tmp_path,
        "from trainers.data.settings import ImageConfig\nclass Config(ImageConfig): pass\n",
        "from library_of_others import Shared\nclass Mine(Shared): pass\n",
    )
    registry.config_class("older", [tmp_path])
    with pytest.raises(TroupeError) as caught:
        registry.family_class("older", [tmp_path])
    assert [(one.code, one.about, one.hint) for one in caught.value.problems] == [
        ("renamed", str(folder / "training.py"), f"use {new}") for new in ("rank_samples", "frozen_networks")
    ]


def test_old_names_of_a_built_in_family_are_told_to_one_that_extends_it(tmp_path: Path) -> None:
    """Only to it: another may define a method of this name."""
    config_of = "from trainers.families.{}.config import Config as Base\nclass Config(Base): pass\n"
    method = "    def constrain(self, networks): pass\n"
    extending = f"from trainers.families.wgan.training import WGAN\nclass Mine(WGAN):\n{method}"
    folder = make(tmp_path, config_of.format("wgan"), extending)
    with pytest.raises(TroupeError) as caught:
        registry.family_class("older", [tmp_path])
    assert [(one.about, one.reason, one.hint) for one in caught.value.problems] == [
        (str(folder / "training.py"), "Wasserstein.constrain was renamed", "use constraints")
    ]
    other = tmp_path / "other"
    other.mkdir()
    make(
        other,
        config_of.format("dcgan"),
        f"from trainers.families.dcgan.training import DCGAN\nclass Mine(DCGAN):\n{method}",
    )
    registry.family_class("older", [other])


def test_keywords_that_are_made_at_run_time_are_told_by_the_phase() -> None:
    def loss(networks: object, microbatch: MicroBatch) -> Loss:
        raise AssertionError

    words = {"fresh": False, "before": None, "closure": True}
    with pytest.raises(TroupeError) as caught:
        Phase("one", ("net",), "adam", loss, **words)  # type: ignore[arg-type]
    assert caught.value.code == USAGE
    assert [one.reason for one in caught.value.problems] == ["Phase.fresh was renamed", "Phase.before was renamed"]


@pytest.mark.parametrize("name", CONTRACT_NAMES["MicroBatch"])
def test_old_members_of_a_microbatch_are_told_when_read_and_when_set(name: str) -> None:
    microbatch = MicroBatch({}, [], [], 0, 3, 0, torch.device("cpu"), torch.float32, torch.Generator())
    for use in (lambda: getattr(microbatch, name), lambda: setattr(microbatch, name, {})):
        with pytest.raises(TroupeError) as caught:
            use()
        assert [one.code for one in caught.value.problems] == ["renamed"]


def test_new_names_exist_and_old_ones_do_not() -> None:
    told = {
        "Config": set(dir(config.Config)) | set(config.Config.model_fields),
        "Family": set(dir(Family)) | set(vars(Family(None, {}))),
        "Phase": {field.name for field in fields(Phase)},
        "Watch": {field.name for field in fields(Watch)},
        "MicroBatch": {field.name for field in fields(MicroBatch)},
        "Evaluation": {field.name for field in fields(evaluation.Evaluation)},
        "Wasserstein": set(dir(Wasserstein)),
    }
    for owner, there in told.items():
        assert set(CONTRACT_NAMES[owner].values()) <= there, owner
        assert not CONTRACT_NAMES[owner].keys() & there, owner
    assert set(told) | {""} == set(CONTRACT_NAMES)


def test_our_own_families_use_no_old_name() -> None:
    tests = Path(__file__).parents[1]
    folders = [
        *registry.families().values(),
        *(tests / "families").iterdir(),
        *(tests / "faults" / "families").iterdir(),
    ]
    assert [problem for folder in folders for problem in renamed_in(folder)] == []


def test_a_module_that_is_no_python_is_left_to_its_import(tmp_path: Path) -> None:
    assert renamed_in(make(tmp_path, "def (", "\0")) == []
