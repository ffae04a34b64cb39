"""Whatever is short (process ids, files, memory, disk, time), each verb ends, and nothing of it is left."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import DCGAN, Commands, until
from tiers import long

from trainers.base.errors import ENVIRONMENT, FAILED, STOPPED

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
# The time has a soft limit, as of batch systems: beyond a hard one the kernel sends SIGKILL
LIMITS = {"files": "ulimit -n", "memory": "ulimit -v", "disk": "ulimit -f", "time": "ulimit -S -t"}
# Of each pair: how much there is, in files, KiB, blocks, seconds or process ids; each is too little
PAIRS = [("train on Ray", "process ids", 40), ("search", "files", 24), ("verify", "memory", 1500000),
         ("train", "disk", 4), ("evaluate", "time", 1), ("report", "memory", 250000)]  # fmt: skip
MORE = [("search", "process ids", 40), ("verify", "process ids", 5),
        ("train", "files", 8), ("train on Ray", "files", 24), ("verify", "files", 8), ("sample", "process ids", 2),
        ("train", "memory", 1500000), ("train on Ray", "memory", 1500000), ("search", "memory", 1500000),
        ("sample", "memory", 1500000), ("check", "memory", 60000), ("evaluate", "memory", 1500000),
        ("train on Ray", "disk", 4), ("search", "disk", 4), ("sample", "disk", 1), ("report", "disk", 4),
        ("train", "time", 3), ("train on Ray", "time", 1)]  # fmt: skip
PYTHON = {"PYTHONDONTWRITEBYTECODE": "1"}  # it writes half of what it compiles where files are limited
CONTROLLERS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))


@pytest.fixture(scope="module")
def runs(shared: Commands) -> Commands:
    shared.train("classifier", *SMALL, "--name", "run")
    shared.train(*DCGAN, "steps=1", "--name", "gan")
    return shared


@pytest.fixture
def few_processes(amount: int) -> Iterator[str]:
    """What lets a shell, and all that it starts, have few process ids."""
    for controller in CONTROLLERS:
        group = controller / "troupe-tests"
        with contextlib.suppress(OSError):
            group.mkdir(exist_ok=True)
            if (group / "pids.max").exists():
                (group / "pids.max").write_text(str(amount))
                yield f"echo $$ >{shlex.quote(str(group / 'cgroup.procs'))}"
                until(lambda: not (group / "cgroup.procs").read_text(), "the end of all processes", 20)  # noqa: B023
                group.rmdir()
                return
            group.rmdir()
    pytest.skip("no control group of one's own can be made here")


@pytest.fixture
def limit(request: pytest.FixtureRequest, shortage: str, amount: int) -> str:
    return f"{LIMITS[shortage]} {amount}" if shortage in LIMITS else request.getfixturevalue("few_processes")


@pytest.mark.parametrize(("verb", "shortage", "amount"), [*PAIRS, *long(*MORE)])
def test_a_verb_ends_and_says_why_whatever_is_short(runs: Commands, limit: str, verb: str, shortage: str) -> None:
    words = (f"new-{verb}-{shortage}".replace(" ", "-") if word == "new" else word for word in VERBS[verb])
    command = runs.start(*words, prefix=("sh", "-c", f'{limit} && exec "$0" "$@"'), environment=PYTHON)
    done = command.wait(PATIENCE)
    until(lambda: not command.members(), "the end of all its processes", 20)
    assert done.code in ((STOPPED,) if shortage == "time" else (FAILED, ENVIRONMENT)), done
    assert done.err, done
    assert [line for line in done.mistakes if not line.startswith("troupe: ")] == [], done
    assert "(internal error" not in done.err, done


def test_all_verbs_and_shortages_are_covered() -> None:
    pairs: list[tuple[str, str, int]] = [*PAIRS, *MORE]
    assert len({(verb, shortage) for verb, shortage, _ in pairs}) == 24
    assert {verb for verb, _, _ in pairs} == {*VERBS}
    assert {shortage for _, shortage, _ in PAIRS} == {*LIMITS, "process ids"}
