"""A Ray of our own: it dies and is begun anew, its owner dies and it is swept away, and its folder goes with it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from commands import DCGAN, Command, Commands, assert_same_run, until, until_step
from tiers import long

from cluster.backend.local_ray import PREFIX, PROCESSES, WHAT, LocalRay
from cluster.backend.supervisor import CLEANED
from trainers.base.timeouts import WAITS
from trainers.run_folders.run_folder import RunFolder
from trainers.storage import ownership

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(240)]

WORDS = (*DCGAN, "steps=80", "checkpoint_every=10", "log_every=1")
SEARCH = ("search", *DCGAN, "steps=150", "learning_rate=1e-4,2e-4", "--space", "none", "--metric", "discriminator_loss",
          "checkpoint_every=10", "log_every=1", "--name", "search")  # fmt: skip


def process(command: Command, name: str) -> int:
    """A process of the Ray that a command has started, by its name."""
    for pid in command.members():
        if Path(f"/proc/{pid}/comm").read_text().strip() == name:
            return pid
    raise AssertionError(f"no {name}")


def folders(*places: Path) -> list[Path]:
    """The folders of Rays of our own, in use or left behind."""
    return [path for place in places for path in place.glob(f"{PREFIX}*") if (path / "token").exists()]


def folders_of(command: Command, *places: Path) -> list[Path]:
    """Those of the Ray that a command has started; other tests may have some beside them."""
    there = folders(*places, Path("/tmp"), Path("/dev/shm"))
    marks = {path: ownership.read_mark(path, WHAT) or {} for path in there}
    return [path for path, told in marks.items() if told.get("process") in command.members()]


@pytest.fixture(scope="module")
def straight(shared: Commands) -> Commands:
    shared.train(*WORDS, "--name", "run")
    return shared


@pytest.mark.parametrize("name", [PROCESSES[0], *long(*PROCESSES[1:])])
def test_a_ray_of_our_own_that_dies_is_begun_anew_and_no_bit_is_lost(
    troupe: Commands, straight: Commands, name: str
) -> None:
    command = troupe.start("train", *WORDS, "workers=2", "--name", "run")
    until_step(troupe.path("run"), 15, command)
    os.kill(process(command, name), signal.SIGKILL)
    done = command.wait(120)
    assert done.code == 0, done
    assert done.err == ""
    why = f"the {name} of the local Ray died (killed, or out of memory)"
    assert f"troupe: {why}; resuming from the newest checkpoint (restart 1 of 3)" in done.out.splitlines()
    (restart,) = RunFolder(troupe.path("run")).read_restarts()
    assert (restart["kind"], restart["why"]) == ("ray lost", why)
    assert_same_run(troupe.path("run"), straight.path("run"))
    until(lambda: not command.members(), "the end of all its processes", 5)


def cleaned(folder: Path, what: str) -> str:
    """Take something out of the folder of a Ray, as a cleaner of temporary files does; the name of what has gone."""
    (gone,) = folder.glob(what) if what else [folder]
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    return str(gone)


@pytest.mark.parametrize(
    "what", ["", *long("token", "session_2*", "session_2*/sockets/raylet", ".made-by-troupe", ".lock")]
)
def test_a_ray_of_our_own_whose_files_are_cleaned_away_is_begun_anew_and_no_step_is_lost(
    troupe: Commands, straight: Commands, temporary: Path, what: str
) -> None:
    command = troupe.start("train", *WORDS, "workers=2", "--name", "run", environment={"TMPDIR": str(temporary)})
    until_step(troupe.path("run"), 15, command)
    (folder,) = folders(temporary)
    gone = cleaned(folder, what)
    began = time.monotonic()
    until(lambda: [path for path in folders(temporary) if path != folder], "another Ray", 30)
    assert time.monotonic() - began < 15
    done = command.wait(120)
    assert done.code == 0, done
    assert done.err == ""
    (restart,) = RunFolder(troupe.path("run")).read_restarts()
    assert restart["kind"] == CLEANED
    assert gone in restart["why"] or str(Path(gone).parent) in restart["why"]
    assert_same_run(troupe.path("run"), straight.path("run"))
    until(lambda: not command.members(), "the end of all its processes", 5)
    assert list(temporary.glob(f"{PREFIX}*")) == []


@pytest.mark.long
def test_a_search_goes_on_when_the_files_of_its_ray_are_cleaned_away(troupe: Commands, temporary: Path) -> None:
    command = troupe.start(*SEARCH, environment={"TMPDIR": str(temporary)})
    trial = troupe.path("search") / "trials" / "0001"
    until(lambda: (trial / "metrics.jsonl").exists(), "the first trial", 90)
    until_step(trial, 30, command)
    (folder,) = folders(temporary)
    cleaned(folder, "token")
    until(lambda: [path for path in folders(temporary) if path != folder], "another Ray", 30)
    done = command.wait(200)
    assert done.code == 0, done
    assert "resuming from the trials' checkpoints" in done.out
    assert list(temporary.glob(f"{PREFIX}*")) == []


def test_what_a_ray_of_our_own_needs_is_touched_so_that_cleaners_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WAITS, "files_touched", 0.0)
    monkeypatch.setattr(WAITS, "poll_files", 0.0)
    ray = LocalRay(1)
    ray.folder, ray.files = tmp_path, [tmp_path / "token"]
    (tmp_path / "logs").mkdir()
    for path in (tmp_path / "token", tmp_path / "logs" / "raylet.out"):
        path.write_text("")
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.utime(path, (0, 0))
    assert ray.missing() == ""
    assert min(path.stat().st_atime for path in (tmp_path, *tmp_path.rglob("*"))) > time.time() - 60


@pytest.mark.long
@pytest.mark.parametrize("name", PROCESSES)
def test_a_search_goes_on_when_its_ray_dies(troupe: Commands, name: str) -> None:
    command = troupe.start(*SEARCH)
    trial = troupe.path("search") / "trials" / "0001"
    until(lambda: (trial / "metrics.jsonl").exists(), "the first trial", 90)
    until_step(trial, 30, command)
    os.kill(process(command, name), signal.SIGKILL)
    done = command.wait(200)
    assert done.code == 0, done
    assert done.err == ""
    assert f"the {name} of the local Ray died" in done.out
    troupe.train(*DCGAN, "steps=150", "learning_rate=1e-4", "checkpoint_every=10", "log_every=1", "--name", "alone",
                 "evaluate_on=validation")  # fmt: skip
    assert_same_run(trial, troupe.path("alone"))


def test_what_a_killed_command_leaves_is_swept_away_by_the_next_one(troupe: Commands) -> None:
    temporary = troupe.folder / "t"
    temporary.mkdir()
    places = {"TMPDIR": str(temporary)}
    command = troupe.start("train", *WORDS, "workers=2", "--name", "run", environment=places)
    until_step(troupe.path("run"), 1, command)
    mine = folders_of(command, temporary)
    assert mine
    command.kill()
    assert [path for path in mine if path.exists()] == mine
    done = troupe.run("train", "--resume", "run", seconds=120, environment=places)
    assert done.code == 0, done
    assert [path for path in mine if path.exists()] == []
    until(lambda: not command.members(), "the end of the killed command's processes", 30)


@pytest.mark.long
def test_a_ray_of_our_own_starts_where_temporary_files_have_long_names_and_leaves_no_folder(troupe: Commands) -> None:
    temporary = troupe.folder / ("long" * 20)
    temporary.mkdir()
    command = troupe.start("train", *DCGAN, "steps=4", "workers=2", "--name", "run",
                           environment={"TMPDIR": str(temporary)})  # fmt: skip
    until_step(troupe.path("run"), 1, command)
    mine = folders_of(command)
    assert mine
    done = command.wait(90)
    assert done.code == 0, done
    assert list(temporary.glob(f"{PREFIX}*")) == []
    assert [path for path in mine if path.exists()] == []
