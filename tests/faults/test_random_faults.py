"""One random fault of each kind, three kinds of them in `--all`; `random_faults.py` does as many as one likes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from random_faults import KINDS, Trials

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(300)]

SEED = 37  # one worker where a process is not what is hurt
QUICK = ("driver", "worker", "SIGTERM")
NUMBERS = [
    pytest.param(number, id=kind, marks=() if kind in QUICK else pytest.mark.long)
    for number, kind in enumerate(KINDS, start=1)
]


@pytest.fixture(scope="module")
def trials() -> Iterator[Trials]:
    trials = Trials()
    yield trials
    trials.close()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_run_that_is_hurt_ends_as_if_nothing_had_happened(trials: Trials, number: int) -> None:
    outcome = trials.carry_out(SEED, number)
    if outcome.not_done:
        pytest.skip(f"{outcome.kind}: {outcome.not_done}")
    assert outcome.violations == [], f"{outcome.what} ({outcome.hurt}); seed {SEED}, number {number}"
