"""What tests let processes of a pool do."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cluster.inspection.verify import last_state, train_quietly
from trainers.base.errors import Stopped
from trainers.engine.control import Control
from trainers.families import registry
from trainers.run import Plan, run
from trainers.run_folders.run_folder import RunFolder

__all__ = ["last_state", "train_quietly"]
OWN_FAMILIES = Path(__file__).parent / "families"


def plan_of(family: str, variant: str, folder: Path, **changes: Any) -> Plan:
    """A tiny run of a family in `folder`, on CPUs."""
    kind = registry.config_class(family, (OWN_FAMILIES,))
    settings = {"device": "cpu", "grad_sync": "exact", "evaluate_every": 0, **kind.tiny[variant], **changes}
    config = kind.of(settings, family)
    return Plan(family, config.model_dump(), folder, folder.parent / "data", (OWN_FAMILIES,))


def trained(pool: Any, plan: Plan, workers: int) -> dict[str, Any]:
    """The state in the last checkpoint of a plan, trained on so many processes."""
    pool.run(train_quietly, plan, workers=workers)
    return last_state(plan.folder)


class StopsAt(Control):
    """Asks for a stop while this step is under way."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__()

    @property
    def stop_requested(self) -> bool:
        return bool(self.progress) and self.progress.get("step", 0) >= self.step

    @stop_requested.setter
    def stop_requested(self, asked: bool) -> None:
        pass


def train_until(world: Any, plan: Plan, step: int) -> None:
    """Train a plan in a process of the pool until a stop is asked for in this step."""
    folder = RunFolder(plan.folder)
    if world.rank == 0:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.make_parts()
    world.all_gather(None)
    with contextlib.suppress(Stopped):
        run(plan, world, StopsAt(step))


def train_on_clocks(world: Any, plan: Plan) -> None:
    """Train a plan where a second passes whenever rank 0 looks at its clock, and no time on other ranks."""
    clock = itertools.count() if world.rank == 0 else itertools.repeat(0)
    with mock.patch("trainers.engine.trainer.monotonic", clock.__next__):
        train_quietly(world, plan)


def variants() -> list[tuple[str, str]]:
    """Every family, built in or of these tests, with each of its tiny variants."""
    return [
        (family, variant)
        for family in registry.families((OWN_FAMILIES,))
        for variant in registry.config_class(family, (OWN_FAMILIES,)).tiny
    ]


def each(found: Sequence[tuple[str, str]], fast: Sequence[tuple[str, str]] | None = None) -> Any:
    """A test for each of these variants, slow for all but the `fast` ones where some are named."""
    values = [
        pytest.param(*one, marks=[pytest.mark.slow] if fast is not None and one not in fast else []) for one in found
    ]
    return pytest.mark.parametrize(("family", "variant"), values)


def microbatches(family: str, variant: str) -> int:
    kind = registry.config_class(family, (OWN_FAMILIES,))
    settings: Mapping[str, Any] = kind.tiny[variant]
    return kind.of(settings, family).microbatches
