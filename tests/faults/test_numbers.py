"""Losses that are not finite and replicas that differ stop every worker before anything wrong is kept."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import FRAGILE, Commands, assert_same_run, assert_same_state, checkpoints, until
from tiers import long

from cluster.backend.process_pool import LocalGroup
from cluster.inspection.verify import compare, train_quietly
from trainers.base.errors import ENVIRONMENT, FAILED, TroupeError
from trainers.engine import step
from trainers.engine.control import Control
from trainers.engine.state import state_of_replica
from trainers.engine.trainer import Trainer
from trainers.families import registry
from trainers.run import Plan, open_for
from trainers.storage import checkpoint

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

WORKERS = 3


def plan_of(folder: Path, **changes: Any) -> Plan:
    kind = registry.config_class("fragile", (FRAGILE,))
    config = kind.of({**kind.tiny["tiny"], "device": "cpu", "grad_sync": "exact", **changes})
    return Plan("fragile", config.model_dump(), folder, folder.parent, (FRAGILE,))


def until_it_fails(world: Any, plan: Plan) -> dict[str, Any]:
    """Train without saving anything: the error, and the whole state before and after the phase that failed."""
    config = plan.config()
    data = open_for(config, plan.data_dir, plan.families)
    family = registry.family_class(plan.family, plan.families)(config, data.facts)
    trainer = Trainer(family, data, config, world, Control())
    trainer.setup()
    before: dict[str, Any] = {}
    run_phase = step.run_phase

    def watched(trainer: Trainer, phase: Any) -> None:
        before.clear()
        before.update(copied(state_of_replica(trainer)))
        run_phase(trainer, phase)

    step.run_phase = watched
    try:
        while trainer.step < config.steps:
            step.train_step(trainer)
    except TroupeError as error:
        return {"error": error, "step": trainer.step, "phases": trainer.phases_done, "before": before,
                "after": state_of_replica(trainer)}  # fmt: skip
    finally:
        step.run_phase = run_phase
    raise AssertionError("it did not fail")


def copied(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return state.clone() if hasattr(state, "clone") else state


def test_every_worker_stops_before_the_update_where_one_micro_batch_has_no_finite_loss(
    fresh_pool: LocalGroup, tmp_path: Path
) -> None:
    for done, phase in enumerate(("first", "second")):
        plan = plan_of(tmp_path / "run", nan_at=3, nan_phase=phase, guilty=3, workers=WORKERS)
        told = fresh_pool.run(until_it_fails, plan, workers=WORKERS)
        assert len(told) == WORKERS
        for one in told:
            assert (one["step"], one["phases"]) == (3, done)
            assert one["error"].code == FAILED
            (line,) = one["error"].mistakes
            assert line.startswith(f"step 3: the loss of phase {phase} is not finite (nan); the phase changed nothing")
            differences = compare(one["before"], one["after"])
            assert len(differences) > 10
            assert [difference for difference in differences if difference.relative] == []


def test_a_loss_that_is_not_finite_ends_the_run_with_its_last_checkpoint_good(troupe: Commands) -> None:
    words = ("fragile", "image_size=8", "batch_size=8", "microbatch_size=2", "steps=6", "log_every=1",
             "checkpoint_every=2", "--families", str(FRAGILE))  # fmt: skip
    done = troupe.run("train", *words, "nan_at=3", "--name", "run")
    assert done.code == 1
    (line,) = done.mistakes
    assert line.startswith("troupe: step 3: the loss of phase second is not finite (nan); the phase changed nothing")
    assert line.endswith("resume it with a lower learning rate (--resume run --allow-changes)")
    names = [path.name for path in checkpoints(troupe.path("run"))]
    assert names == ["step_00000000", "step_00000002"]
    troupe.train("--resume", "run", "nan_at=-1", "--families", str(FRAGILE))
    troupe.train(*words, "--name", "straight")
    assert_same_run(troupe.path("run"), troupe.path("straight"))


@pytest.mark.parametrize(
    ("setup", "guilty", "tensor"),
    [
        ("one_rank", 1, "networks.two.main.1.weight"),
        *long(("one_optimizer", 2, "optimizers.one.0.momentum_buffer")),
    ],
)
def test_replicas_that_differ_are_named_before_a_checkpoint(
    tmp_path: Path, setup: str, guilty: int, tensor: str
) -> None:
    plan = plan_of(tmp_path / "run", workers=WORKERS, steps=6, checkpoint_every=4)
    with LocalGroup(WORKERS, f"broken:{setup}") as pool, pytest.raises(TroupeError) as caught:
        pool.run(train_quietly, plan)
    (line,) = caught.value.mistakes
    assert caught.value.code == FAILED
    others = f"(?:0 and {guilty}|{min(1, guilty)} and {max(1, guilty)}|{guilty} and 2)"
    assert re.match(f"step 4: workers {others} disagree on {re.escape(tensor)}; nothing was saved", line), line
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step_00000000"]


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    """The loss was finite, and the checkpoint comes before the next one."""
    plan = plan_of(tmp_path / "run", workers=2, steps=3, checkpoint_every=3)
    with LocalGroup(2, "broken:weights_that_overflow") as pool, pytest.raises(TroupeError) as caught:
        pool.run(train_quietly, plan)
    (line,) = caught.value.mistakes
    assert line.startswith("step 3: networks.two.main.1.weight is not finite; nothing was saved")
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step_00000000"]


def test_a_worker_that_dies_is_named_and_the_others_end(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "run", workers=WORKERS, steps=100000, pause=0.01)
    with LocalGroup(WORKERS) as pool:
        processes = list(pool.processes)
        killing = threading.Thread(target=when_it_has_saved, args=(tmp_path / "run", processes[1].kill))
        killing.start()
        with pytest.raises(TroupeError, match="worker 1: its process exited with code -9"):
            pool.run(train_quietly, plan)
        killing.join()
        assert [process.is_alive() for process in processes] == [False] * WORKERS
    found = checkpoints(tmp_path / "run")
    assert [path for path in found if checkpoint.damage_of(path)] == []


def when_it_has_saved(run: Path, do: Callable[[], None]) -> None:
    until(lambda: step_of_newest(run) >= 4, "a checkpoint while it trains")
    do()


def step_of_newest(run: Path) -> int:
    found = checkpoints(run)
    return checkpoint.position_of(found[-1].name)[0] if found else -1


def test_a_worker_that_cannot_begin_says_why(tmp_path: Path) -> None:
    with LocalGroup(2, "broken:no_memory") as pool, pytest.raises(TroupeError) as caught:
        pool.run(train_quietly, plan_of(tmp_path, workers=2))
    (problem,) = caught.value.problems
    assert (problem.code, problem.about[:-1], caught.value.code) == ("no-memory", "worker ", ENVIRONMENT)


def test_too_little_shared_memory_costs_speed_and_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a disk of 1 MB in its place, workers exchange messages, say so in one line, and leave nothing there."""
    small = tmp_path / "small"
    small.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no disk can be mounted here: {made.stderr.strip()}")
    try:
        monkeypatch.setenv("SMALL_MEMORY", str(small))
        with LocalGroup(WORKERS, "broken:small_memory") as pool:
            told = pool.run(train_and_listen, plan_of(tmp_path / "three", workers=WORKERS))
            alone = pool.run(train_and_listen, plan_of(tmp_path / "one"), workers=1)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
    (line,) = told[0]
    assert line.startswith(
        f"too little shared memory in {small}: workers of one host synchronize gradients by messages"
    )
    assert told[1:] == [[], []]
    assert alone == [[]]
    assert_same_state(tmp_path / "three", tmp_path / "one")


def train_and_listen(world: Any, plan: Plan) -> list[str]:
    """Train, and return what was said."""
    from trainers.run import run
    from trainers.run_folders.run_folder import RunFolder

    folder = RunFolder(plan.folder)
    if world.rank == 0:
        for part in (folder.checkpoints, folder.grids, folder.logs):
            part.mkdir(parents=True)
    world.all_gather(None)
    said: list[str] = []
    run(plan, world, Control(said.append))
    return said
