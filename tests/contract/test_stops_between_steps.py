"""A stop that is asked for between two steps does not wait for what goes on there: an evaluation, a grid, a judge that
learns. It is done when the run goes on, and everything is as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import assert_same_run

from cluster.backend.process_pool import LocalGroup
from tests.jobs import OWN_FAMILIES, last_state, plan_of, trained
from tests.tiers import slow
from trainers.base.errors import NotStarted, Stopped
from trainers.distributed.process_group import World
from trainers.engine.control import Control
from trainers.families import registry
from trainers.run import Plan, run
from trainers.run_folders.run_folder import RunFolder
from trainers.storage import checkpoint

AFTER = 3  # steps; the last one that is made before the stop


class StopsDuring(Control):
    """Asks for a stop when this begins after step `AFTER`, or after none; and counts what was done from then on."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.pieces = what, 0

    def show_activity(self, what: str) -> None:
        super().show_activity(what)
        made = int(self.progress.get("step", 0))
        self.pieces += self.stop_requested
        self.stop_requested |= what.startswith(self.what) and made in (0, AFTER)


def stopped_during(world: Any, plan: Plan, what: str) -> tuple[str, int]:
    """Train a plan in a process of the pool until a stop during this: how it ended, and pieces of work since."""
    folder, control, ended = RunFolder(plan.folder), StopsDuring(what), ""
    if world.rank == 0:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.make_parts()
    world.all_gather(None)
    try:
        run(plan, world, control)
    except Stopped as error:
        ended = type(error).__name__
    return ended, control.pieces


def words_of(family: str) -> dict[str, Any]:
    kind = registry.config_class(family, (OWN_FAMILIES,))
    data = {"data": kind.input_kind.replace("images", "digits")} if "images" in kind.input_kind else {}
    return {**data, "steps": 5, "sample_every": 1, "log_every": 1, "checkpoint_every": 100, "evaluate_every": AFTER}


class Straight:
    """Runs that nobody stops, by family."""

    def __init__(self, pool: LocalGroup, folder: Path) -> None:
        self.pool, self.folder = pool, folder

    def of(self, family: str, variant: str) -> Path:
        plan = plan_of(family, variant, self.folder / family, **words_of(family))
        if not plan.folder.exists():
            trained(self.pool, plan, 1)
        return plan.folder


@pytest.fixture(scope="module")
def straight(pool: LocalGroup, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    return Straight(pool, tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize(
    ("family", "variant", "what", "workers"),
    [
        ("everything", "uneven", "evaluating", 2), ("words", "tiny", "drawing", 2),
        *slow(("dcgan", "tiny", "drawing", 1), ("dcgan", "tiny", "preparing", 2), ("dcgan", "tiny", "evaluating", 1),
              ("dcgan", "tiny", "comparing", 1)),
    ],
)  # fmt: skip
def test_what_goes_on_between_two_steps_is_left_and_done_when_the_run_goes_on(
    pool: LocalGroup, straight: Straight, tmp_path: Path, family: str, variant: str, what: str, workers: int
) -> None:
    other = straight.of(family, variant)
    known = what != "preparing"  # what evaluations compare with, and the judge
    plan = plan_of(family, variant, (straight.folder if known else tmp_path) / f"{family}-{what}", **words_of(family))
    ends = pool.run(stopped_during, plan, what, workers=workers)
    assert {how for how, _ in ends} == {"Stopped"}
    assert all(pieces <= 2 for _, pieces in ends), ends
    assert checkpoint.all_in(plan.folder / "checkpoints")[-1].name == f"step_0000000{AFTER}_pending"
    trained(pool, plan, 1)
    assert_same_run(plan.folder, other)


def test_what_is_left_after_the_last_step_is_done_once(pool: LocalGroup, straight: Straight) -> None:
    plan = plan_of("everything", "uneven", straight.folder / "last", **{**words_of("everything"), "steps": AFTER})
    assert pool.run(stopped_during, plan, "evaluating", workers=2)[0][0] == "Stopped"
    begun: list[str] = []
    control = Control(on_activity=begun.append)
    run(plan, World(), control)
    assert begun.count("evaluating 0%") == 1
    assert last_state(plan.folder)["pending"] is False


def test_a_stop_while_a_run_looks_at_its_data_ends_it_before_it_began(pool: LocalGroup, tmp_path: Path) -> None:
    plan = plan_of("judged", "tiny", tmp_path / "run", **words_of("judged"))
    assert pool.run(stopped_during, plan, "beginning", workers=2) == [(NotStarted.__name__, 0)] * 2
    assert checkpoint.all_in(plan.folder / "checkpoints") == []
    trained(pool, plan, 1)
    assert last_state(plan.folder)["step"] == 5
