"""Whatever is short (process ids, files, memory, disk, time), each verb ends, and nothing of it is left."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import DCGAN, Commands, until
from tiers import long

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

PATIENCE = 150  # Ray itself waits half a minute for its own start
SMALL = ("data=digits", "model=mlp_bn", "steps=3")
VERBS = {
    "train": ("train", *DCGAN, "steps=3", "--name", "new"),
    "train on Ray": ("train", *DCGAN, "steps=3", "workers=2", "--name", "new"),
    "search": ("search", "classifier", *SMALL, "learning_rate=0.1,0.2", "--space", "none", "--name", "new"),
    "verify": ("verify", "dcgan", "workers=2"),
    "evaluate": ("evaluate", "run"),
    "sample": ("sample", "gan"),
    "report": ("report", "run"),
    "check": ("check",),
}
LIMITS = {"files": "ulimit -n 24", "memory": "ulimit -v 1500000", "disk": "ulimit -f 4", "time": "ulimit -t 3"}
FEW = 40  # process ids
PAIRS = [("train on Ray", "process ids"), ("search", "files"), ("verify", "memory"), ("train", "disk"),
         ("evaluate", "time"), ("check", "process ids")]  # fmt: skip
MORE = [("train", "process ids"), ("search", "process ids"), ("verify", "process ids"), ("sample", "process ids"),
        ("train", "files"), ("train on Ray", "files"), ("evaluate", "files"), ("report", "files"),
        ("train on Ray", "memory"), ("search", "memory"), ("sample", "memory"), ("check", "memory"),
        ("train on Ray", "disk"), ("search", "disk"), ("sample", "disk"), ("report", "disk"),
        ("train", "time"), ("train on Ray", "time")]  # fmt: skip
CONTROLLERS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))


@pytest.fixture(scope="module")
def runs(shared: Commands) -> Commands:
    shared.train("classifier", *SMALL, "--name", "run")
    shared.train(*DCGAN, "steps=1", "--name", "gan")
    return shared


@pytest.fixture
def few_processes() -> Iterator[str]:
    """What lets a shell, and all that it starts, have few process ids."""
    for controller in CONTROLLERS:
        group = controller / "troupe-tests"
        with contextlib.suppress(OSError):
            group.mkdir(exist_ok=True)
            if (group / "pids.max").exists():
                (group / "pids.max").write_text(str(FEW))
                yield f"echo $$ >{shlex.quote(str(group / 'cgroup.procs'))}"
                until(lambda: not (group / "cgroup.procs").read_text(), "the end of all processes", 20)  # noqa: B023
                group.rmdir()
                return
            group.rmdir()
    pytest.skip("no control group of one's own can be made here")


@pytest.fixture
def limit(request: pytest.FixtureRequest, shortage: str) -> str:
    return LIMITS.get(shortage) or request.getfixturevalue("few_processes")


@pytest.mark.parametrize(("verb", "shortage"), [*PAIRS, *long(*MORE)])
def test_a_verb_ends_whatever_is_short(runs: Commands, limit: str, verb: str, shortage: str) -> None:
    command = runs.start(*VERBS[verb], prefix=("sh", "-c", f'{limit} && exec "$0" "$@"'))
    command.wait(PATIENCE)
    until(lambda: not command.members(), "the end of all its processes", 20)


def test_all_verbs_and_shortages_are_covered() -> None:
    pairs: list[tuple[str, str]] = [*PAIRS, *MORE]
    assert len(set(pairs)) == 24
    assert {verb for verb, _ in pairs} == {*VERBS}
    assert {shortage for _, shortage in pairs} == {*LIMITS, "process ids"} == {shortage for _, shortage in PAIRS}
