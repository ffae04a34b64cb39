"""Damaged files, a run that is in use, and a run that was moved: one clear line each, and no bit lost."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import (
    DCGAN,
    FRAGILE,
    Commands,
    assert_same_run,
    assert_same_state,
    checkpoints,
    flip,
    state_of,
    until_step,
)
from PIL import Image
from tiers import long

from cluster.inspection.verify import compare
from trainers.run_folders.run_folder import RunFolder
from trainers.storage import checkpoint

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

FRAGILE_RUN = ("fragile", "image_size=8", "batch_size=8", "microbatch_size=2", "log_every=1", "checkpoint_every=2",
               "--families", str(FRAGILE))  # fmt: skip
RESUME = ("--resume", "run", "steps=8", "--families", str(FRAGILE))


@pytest.fixture(scope="module")
def finished(shared: Commands) -> Commands:
    """`half`, a run of 6 steps with checkpoints of steps 2, 4 and 6, and `whole`, the same with 8."""
    shared.train(*FRAGILE_RUN, "steps=6", "--name", "half")
    shared.train(*FRAGILE_RUN, "steps=8", "--name", "whole")
    return shared


def copy_of(finished: Commands, troupe: Commands) -> Path:
    """The run of 6 steps under the name `run`, in a folder that the test may break."""
    return Path(shutil.copytree(finished.path("half"), troupe.path("run")))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: flip(path / "state.pt"), "differs in SHA-256"),
        *long(
            (lambda path: (path / "manifest.json").write_text("{"), "JSONDecodeError"),
            (lambda path: (path / "state.pt").write_bytes(b""), "differs in size"),
        ),
    ],
    ids=["a flipped bit", "a cut manifest", "an empty state"],
)
def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(
    troupe: Commands, finished: Commands, damage: Callable[[Path], object], reason: str
) -> None:
    run = copy_of(finished, troupe)
    damage(run / "checkpoints" / "step_00000006")
    done = troupe.train(*RESUME)
    (warning,) = [line for line in done.out.splitlines() if "damaged" in line]
    assert reason in warning
    assert "step_00000006" in warning
    assert done.err == ""
    assert_same_run(run, finished.path("whole"))


def test_where_all_checkpoints_are_damaged_nothing_is_begun_anew_in_silence(
    troupe: Commands, finished: Commands
) -> None:
    run = copy_of(finished, troupe)
    before = checkpoints(run)
    for path in before:
        flip(path / "state.pt")
    for _ in range(2):  # nothing is changed by the first attempt
        done = troupe.run("train", *RESUME)
        assert done.code == 4
        (line,) = done.mistakes
        assert "no checkpoint is intact (step_00000006: state.pt differs in SHA-256" in line
        assert "restore one from a copy" in line
    assert checkpoints(run) == before


@pytest.mark.parametrize("content", ["{", *long("", "[]", '{"settings": []}', "\x00\xff", '{"family": "fragile"}')])
def test_a_corrupt_settings_file_is_told_and_the_checkpoint_tells_what_the_run_is(
    troupe: Commands, finished: Commands, content: str
) -> None:
    run = copy_of(finished, troupe)
    good = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_bytes(content.encode("latin-1"))
    done = troupe.train(*RESUME)
    (line,) = [line for line in done.out.splitlines() if "settings.json" in line]
    assert line.startswith("troupe: settings.json: damaged (")
    assert line.endswith("; the settings come from step_00000006")
    assert_same_run(run, finished.path("whole"))
    mended = json.loads((run / "settings.json").read_text())
    assert mended["settings"] == {**good["settings"], "steps": 8}


@pytest.mark.parametrize("content", ["", *long("\xff")])
def test_without_a_checkpoint_a_corrupt_settings_file_needs_a_copy(
    troupe: Commands, finished: Commands, content: str
) -> None:
    run = copy_of(finished, troupe)
    (run / "settings.json").write_bytes(content.encode("latin-1"))
    shutil.rmtree(run / "checkpoints")
    done = troupe.run("train", *RESUME)
    assert done.code == 4
    (line,) = done.mistakes
    assert line.startswith(f"troupe: {run}/settings.json: damaged (")
    assert line.endswith("restore it from a copy")


def test_a_flipped_bit_in_the_settings_is_told_and_not_followed(troupe: Commands, finished: Commands) -> None:
    run = copy_of(finished, troupe)
    text = (run / "settings.json").read_text()
    assert '"seed": 0,' in text
    (run / "settings.json").write_text(
        text.replace('"seed": 0,', '"seed": 1,').replace('"keep_checkpoints": 3', '"keep_checkpoints": 2')
    )
    done = troupe.train(*RESUME)
    told = [line for line in done.out.splitlines() if "settings.json" in line]
    assert told == [
        f"troupe: settings.json: says {name}={there}, but step_00000006 was made with {counts}, which is used"
        for name, there, counts in (("seed", 1, 0), ("keep_checkpoints", 2, 3))
    ]
    assert_same_run(run, finished.path("whole"))
    assert json.loads((run / "settings.json").read_text())["settings"]["seed"] == 0


def test_settings_that_were_asked_for_are_followed(troupe: Commands, finished: Commands) -> None:
    """What a resume changed is no damage, also when the run goes on once more."""
    run = copy_of(finished, troupe)
    troupe.train(*RESUME, "keep_checkpoints=2", "seed=1", "--allow-changes")
    done = troupe.train("--resume", "run", "steps=9", "--families", str(FRAGILE))
    assert "settings.json" not in done.out
    assert json.loads((run / "settings.json").read_text())["settings"]["seed"] == 1


def test_with_all_checkpoints_gone_a_run_is_not_begun_anew_in_silence(troupe: Commands, finished: Commands) -> None:
    run = copy_of(finished, troupe)
    shutil.rmtree(run / "checkpoints")
    rows = (run / "metrics.jsonl").read_bytes()
    done = troupe.run("train", *RESUME)
    assert done.code == 4
    assert done.mistakes == [
        "troupe: run: made 6 steps, but has no checkpoint left; restore one, or pass --allow-changes to restart at "
        "step 0"
    ]
    assert (run / "metrics.jsonl").read_bytes() == rows
    done = troupe.train(*RESUME, "--allow-changes")
    assert "no checkpoint, starting at step 0" in done.out
    assert_same_run(run, finished.path("whole"))


def test_damaged_rows_of_metrics_cost_those_rows(troupe: Commands, finished: Commands) -> None:
    run = copy_of(finished, troupe)
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines[1] = b'{"step": 2, "se\xff\xfe\n'
    lines[3] = b"\0\0\0\0\n"
    (run / "metrics.jsonl").write_bytes(b"".join(lines))
    done = troupe.train(*RESUME)
    assert "troupe: metrics.jsonl: 2 of 6 rows are damaged; the run continues without them" in done.out.splitlines()
    assert_same_state(run, finished.path("whole"))
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 3, 5, 6, 7, 8]


def test_a_damaged_picture_costs_its_frame(troupe: Commands, shared: Commands) -> None:
    words = (*DCGAN, "sample_every=2", "checkpoint_every=2")
    troupe.train(*words, "steps=4", "--name", "run")
    run = troupe.path("run")
    (run / "grids" / "step_00000000.png").write_bytes(b"")
    content = (run / "grids" / "step_00000002.png").read_bytes()
    (run / "grids" / "step_00000002.png").write_bytes(content[: len(content) // 2])
    done = troupe.train("--resume", "run", "steps=6")
    told = [line for line in done.out.splitlines() if "damaged" in line]
    assert [line.split(":")[1] for line in told] == [" grids/step_00000000.png", " grids/step_00000002.png"]
    with Image.open(run / "timelapse.gif") as timelapse:
        assert timelapse.n_frames == 2


@pytest.mark.parametrize("content", ["[]", *long('{"steps": "many"}')])
def test_a_corrupt_result_is_made_anew(troupe: Commands, finished: Commands, content: str) -> None:
    run = copy_of(finished, troupe)
    good = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(content)
    troupe.train("--resume", "run", "--families", str(FRAGILE))
    made = json.loads((run / "result.json").read_text())
    assert {key: made[key] for key in ("steps", "metrics", "best", "checkpoint")} == {
        key: good[key] for key in ("steps", "metrics", "best", "checkpoint")
    }


def test_half_a_line_of_metrics_is_dropped(troupe: Commands, finished: Commands) -> None:
    run = copy_of(finished, troupe)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "sec')
    troupe.train(*RESUME)
    assert_same_run(run, finished.path("whole"))


@pytest.mark.long
def test_a_second_process_on_the_same_run_is_sent_away(troupe: Commands) -> None:
    """It waits for 10 s, in case a killed one is still dying; the first one goes on unharmed."""
    run = troupe.path("run")
    first = troupe.start("train", *FRAGILE_RUN, "steps=100000", "pause=0.02", "--name", "run")
    until_step(run, 1, first)
    settings = (run / "settings.json").read_bytes()
    second = troupe.run("train", "--resume", "run", "keep_checkpoints=7", "--families", str(FRAGILE), seconds=40)
    assert second.code == 4
    assert second.mistakes == ["troupe: run: another process is working on this run; wait for it, or stop it first"]
    assert (run / "settings.json").read_bytes() == settings
    until_step(run, int(checkpoints(run)[-1].name[5:]) + 3, first)
    third = troupe.run("train", *FRAGILE_RUN, "--name", "run")
    assert third.code == 4
    (line,) = third.mistakes
    assert "in use" in line
    first.kill()


def test_a_moved_and_a_copied_run_go_on(troupe: Commands, finished: Commands) -> None:
    elsewhere = troupe.folder / "an other place" / "moved"
    elsewhere.parent.mkdir()
    shutil.move(copy_of(finished, troupe), elsewhere)
    troupe.path("").rmdir()
    done = troupe.train("--resume", str(elsewhere), "steps=8", "--families", str(FRAGILE))
    assert re.search(r"checkpoint +an other place/moved/checkpoints/step_00000008\n", done.out)
    assert_same_run(elsewhere, finished.path("whole"))
    assert not troupe.path("").exists(), "a run given by its path needs no runs folder"

    shutil.copytree(finished.path("half"), troupe.path("copied"))
    troupe.train("--resume", "copied", "steps=8", "--families", str(FRAGILE))
    assert_same_run(troupe.path("copied"), finished.path("whole"))
    assert not (troupe.folder / "runs" / "half").exists()
    assert json.loads((troupe.path("copied") / "result.json").read_text())["name"] == "copied"


def test_no_file_of_a_run_holds_a_path_outside_of_it_but_that_of_its_family(finished: Commands) -> None:
    run = finished.path("whole")
    own = json.loads((run / "settings.json").read_text())["families"]
    assert len(own) == 1
    texts = [path for path in run.rglob("*") if path.suffix in (".json", ".jsonl")]
    assert len(texts) >= 6
    for path in texts:
        assert set(re.findall(r'"((?:/|~|\.\.)[^"]*)"', path.read_text())) <= {*own}, path
        assert str(finished.folder) not in path.read_text(), path


def test_a_run_whose_metrics_are_gone_goes_on(troupe: Commands, finished: Commands) -> None:
    run = copy_of(finished, troupe)
    (run / "metrics.jsonl").unlink()
    shutil.rmtree(run / "grids")  # empty: the family draws nothing
    shutil.rmtree(run / "logs")
    troupe.train(*RESUME)
    assert_same_state(run, finished.path("whole"))


def test_a_finished_run_with_a_damaged_last_checkpoint_is_made_whole_again(
    troupe: Commands, finished: Commands
) -> None:
    run = copy_of(finished, troupe)
    good = state_of(run)
    flip(run / "checkpoints" / "step_00000006" / "state.pt")
    done = troupe.train("--resume", "run", "--families", str(FRAGILE))
    told = (
        "troupe: run: finished at step 6, but its last checkpoint is damaged (state.pt differs in SHA-256 from its "
        "manifest); resuming from the previous one to make it again"
    )
    assert told in done.out.splitlines()
    assert checkpoint.damage_of(checkpoints(run)[-1]) is None
    assert [difference for difference in compare(state_of(run), good) if difference.relative] == []
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    assert "its last checkpoint is gone; resuming from" in troupe.train(*RESUME[:2], "--families", str(FRAGILE)).out
    assert_same_state(run, finished.path("half"))
    assert "already finished at step 6" in troupe.train("--resume", "run", "--families", str(FRAGILE)).out


def test_settings_of_before_do_not_stay_in_a_finished_run(troupe: Commands, finished: Commands) -> None:
    """Its driver was killed between the last word of its workers and the end."""
    run = copy_of(finished, troupe)
    settings = (run / "settings.json").read_bytes()
    folder = RunFolder(run)
    folder.write_settings({**folder.read_settings(), "since": "step_00000004", "before": folder.read_settings()})
    done = troupe.train("--resume", "run", "--families", str(FRAGILE))
    assert "already finished at step 6" in done.out
    assert (run / "settings.json").read_bytes() == settings


@pytest.mark.parametrize("workers", [1, *long(2)])
def test_an_unwritable_log_is_told_in_one_line_and_costs_no_restart(
    troupe: Commands, finished: Commands, workers: int
) -> None:
    run = copy_of(finished, troupe)
    for rank in range(workers):
        (run / "logs" / f"rank_{rank}.log").unlink(missing_ok=True)
        (run / "logs" / f"rank_{rank}.log").mkdir()
    done = troupe.run("train", *RESUME, f"workers={workers}", seconds=90)
    assert done.code == 3, done
    assert done.mistakes in [
        [f"troupe: {run}/logs/rank_{rank}.log: could not be written (Is a directory)"] for rank in range(workers)
    ]
    assert "restart" not in done.out


def test_what_cannot_be_kept_names_the_run_and_the_way_out(troupe: Commands, finished: Commands) -> None:
    run = copy_of(finished, troupe)
    (run / "logs" / "rank_0.log").unlink()
    (run / "logs" / "rank_0.log").symlink_to("/dev/full")
    done = troupe.run("train", *RESUME)
    assert done.code == 3, done
    (line,) = done.mistakes
    assert line.endswith("no space left; free space, or move the run to another disk, then continue with --resume run")
