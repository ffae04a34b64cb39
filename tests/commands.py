"""Starting `troupe` as a process of its own, hurting it, and comparing what two runs left behind.

Every process of a command lives in the command's session, so that nothing survives a test, Ray included.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import warm

from cluster.host.environment import worker_environment
from cluster.inspection.verify import compare
from trainers.storage import checkpoint

TESTS = Path(__file__).parent
OWN_FAMILIES = TESTS / "families"
FRAGILE = TESTS / "faults" / "families"
FRAGILE_RUN = (
    "fragile",
    "image_size=8",
    "batch_size=8",
    "microbatch_size=2",
    "log_every=1",
    "--families",
    str(FRAGILE),
)
DCGAN = ("dcgan", "data=digits", "image_size=16", "width=4", "latent_dim=8", "evaluate_every=0", "batch_size=8",
         "microbatch_size=2")  # fmt: skip
FOREIGN = (
    "TROUPE_ENVIRONMENT",
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
)  # of whoever runs the tests
TROUPE = (str(Path(sys.executable).with_name("troupe")),)  # the installed command


MARKED = worker_environment()  # as a command has set them that has replaced itself once


@functools.cache
def server() -> warm.Server:
    """What starts commands; it goes with the tests."""
    started = warm.Server()
    atexit.register(started.end)
    return started


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def mistakes(self) -> list[str]:
        """The lines on stderr, where nothing but `troupe: ...` may stand."""
        return self.err.splitlines()


class Joined(Protocol):
    """A cluster that commands join: where, and what they need in their environment (`clusters.Cluster`)."""

    address: str
    environment: dict[str, str]


class Command:
    """A `troupe` command under way, in a session of its own."""

    def __init__(
        self, folder: Path, arguments: tuple[str, ...], environment: dict[str, str] | None = None,
        terminal: int | None = None, ignoring: int | None = None, really: bool = False,
    ) -> None:  # fmt: skip
        """`really`: the installed command itself, imports and all, and no process that was forked for it."""
        self.started = time.monotonic()
        self.out, self.err = folder / f"out-{time.time_ns()}", folder / f"err-{time.time_ns()}"
        variables = {key: value for key, value in os.environ.items() if key not in FOREIGN}

        def begin() -> None:
            for number in (signal.SIGINT, signal.SIGHUP):  # a shell may let what it starts ignore them
                signal.signal(number, signal.SIG_DFL)
            if ignoring is not None:
                signal.signal(ignoring, signal.SIG_IGN)
            if terminal is not None:
                fcntl.ioctl(1, termios.TIOCSCTTY, 0)

        if not really and arguments[:1] == TROUPE and warm.can_start(environment):
            self.process: Any = self._started_warm(arguments, folder, {**variables, **(environment or {})}, terminal,
                                                   ignoring)  # fmt: skip
            return
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                arguments, cwd=folder, stdin=subprocess.DEVNULL, stdout=terminal or out, stderr=terminal or err,
                start_new_session=True, preexec_fn=begin,
                env={**variables, "PYTHONPATH": str(TESTS.parent), **(environment or {})},
            )  # fmt: skip

    def _started_warm(
        self, arguments: tuple[str, ...], folder: Path, variables: dict[str, str], terminal: int | None,
        ignoring: int | None,
    ) -> warm.Started:  # fmt: skip
        with open(self.out, "wb") as out, open(self.err, "wb") as err, open(os.devnull, "rb") as nothing:
            streams = (nothing.fileno(), terminal or out.fileno(), terminal or err.fileno())
            words = ("troupe", *arguments[1:])
            variables = {**variables, **MARKED, "PYTHONPATH": str(TESTS.parent)}
            return server().start(words, folder, variables, streams, terminal is not None, ignoring)

    def wait(self, seconds: float = 60) -> Done:
        """Its end. Fails, with what it has said, where it takes longer."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            said = self.out.read_text() + self.err.read_text()
            raise AssertionError(f"still working after {seconds} s; it said:\n{said}") from None
        return Done(code, self.out.read_text(), self.err.read_text(), time.monotonic() - self.started)

    def send(self, number: int) -> None:
        """A signal to the command itself, as `kill` sends it."""
        os.kill(self.process.pid, number)

    def interrupt(self) -> None:
        """Ctrl-C: every process of the terminal's foreground group hears it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def hang_up(self) -> None:
        """The terminal closes: every process of its foreground group hears it."""
        os.killpg(self.process.pid, signal.SIGHUP)

    def ask_all(self, number: int) -> None:
        """A signal to the command, and to all of its processes, as supervisors and batch systems send it."""
        self.send(number)
        for pid in self.members():
            _quietly(os.kill, pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait(10)

    def members(self) -> list[int]:
        """All processes of the session that are not dead."""
        return list(_session(self.process.pid))

    def clean(self) -> None:
        """End whatever is left of the session."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            left = self.members()
            if not left:
                break
            for pid in left:
                _quietly(os.kill, pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.05)
        self.process.wait(10)


class Commands:
    """Starts commands in one folder, and ends all that is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Command] = []

    def start(
        self, *words: str, prefix: tuple[str, ...] = (), environment: dict[str, str] | None = None,
        really: bool = False, on: Joined | None = None,
    ) -> Command:  # fmt: skip
        """`troupe WORDS ...`, behind a prefix such as `unshare`; `on` a cluster, which it joins."""
        if on is not None:
            words, environment = (*words, "--address", on.address), {**on.environment, **(environment or {})}
        return self.call(*prefix, *TROUPE, *words, environment=environment, really=really)

    def start_in_terminal(self, *words: str, ignoring: int | None = None) -> tuple[Command, Callable[[], None]]:
        """`troupe WORDS ...` in a terminal of its own, and what closes that."""
        ours, theirs = pty.openpty()
        command = Command(self.folder, (*TROUPE, *words), terminal=theirs, ignoring=ignoring)
        self.started.append(command)
        os.close(theirs)
        return command, lambda: os.close(ours)

    def call(self, *arguments: str, environment: dict[str, str] | None = None, really: bool = False) -> Command:
        command = Command(self.folder, arguments, environment, really=really)
        self.started.append(command)
        return command

    def run(
        self, *words: str, seconds: float = 60, environment: dict[str, str] | None = None, on: Joined | None = None
    ) -> Done:  # fmt: skip
        return self.start(*words, environment=environment, on=on).wait(seconds)

    def train(self, *words: str, seconds: float = 60, on: Joined | None = None) -> Done:
        """`troupe train WORDS`, which must succeed."""
        done = self.run("train", *words, seconds=seconds, on=on)
        assert done.code == 0, done
        return done

    def path(self, name: str) -> Path:
        return self.folder / "runs" / name

    def clean(self) -> None:
        for command in self.started:
            command.clean()


def until(true: Callable[[], Any], what: str, seconds: float = 40, every: float = 0.01) -> Any:
    """Wait until something is true; returns it. Fails where it takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = true()
        if answer:
            return answer
        time.sleep(every)
    raise AssertionError(f"not within {seconds} s: {what}")


def step_of(run: Path) -> int:
    """The newest step in the run's metrics."""
    rows = metrics(run)
    return int(rows[-1]["step"]) if rows else -1


def until_step(run: Path, step: int, command: Command, seconds: float = 60) -> int:
    """Wait until a run that logs every step has made so many."""

    def there() -> int:
        assert command.process.poll() is None, command.wait(0)
        now = step_of(run)
        return now if now >= step else 0

    return int(until(there, f"step {step} of {run.name}", seconds))


def metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl up to one that is damaged, as half a line at its end, without what depends on the
    clock."""
    rows, path = [], run / "metrics.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            break
        rows.append({key: value for key, value in row.items() if key not in ("seconds", "samples_per_second")})
    return rows


def checkpoints(run: Path) -> list[Path]:
    return checkpoint.all_in(run / "checkpoints")


def state_of(run: Path) -> dict[str, Any]:
    """The state in the newest checkpoint."""
    return checkpoint.load(checkpoints(run)[-1])


def assert_same_state(run: Path, other: Path) -> None:
    """The newest checkpoints of two runs hold the same, to the bit."""
    one, two = state_of(run), state_of(other)
    differences = compare(one, two)
    assert differences, "nothing was compared"
    assert [difference for difference in differences if difference.relative] == []
    assert _without_tensors(one) == _without_tensors(two)


def assert_same_run(run: Path, other: Path) -> None:
    """Two runs ended with the same bits, logged the same numbers once for each step, and drew the same pictures."""
    assert_same_state(run, other)
    assert metrics(run) == metrics(other)
    drawn, others = ({path.name: path.read_bytes() for path in sorted((r / "grids").iterdir())} for r in (run, other))
    assert list(drawn) == list(others)
    assert drawn == others
    assert leftovers(run) == []


def leftovers(run: Path) -> list[str]:
    """What no finished run may have: parts of files and folders under other names."""
    return [path.name for path in run.rglob("*") if "making" in path.name]


def flip(path: Path, byte: int | None = None, bit: int = 0) -> None:
    """Another bit in a file, in its middle where no other byte is named."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if byte is None else byte] ^= 1 << bit
    path.write_bytes(content)


def process_of(run: Path, rank: int) -> int:
    """The process of a worker, from the newest line in its log that names one."""
    log = run / "logs" / f"rank_{rank}.log"
    found = re.findall(r"worker \d+ of \d+, process (\d+)", log.read_text()) if log.exists() else []
    return int(found[-1]) if found else 0


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    fields = _stat(pid)
    return fields is not None and fields[0] != "Z"


def _without_tensors(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _without_tensors(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_without_tensors(value) for value in state]
    return state if isinstance(state, (int, float, str, bool, type(None))) else type(state).__name__


def _session(leader: int) -> Iterator[int]:
    """Processes whose session is that of `leader`."""
    for name in os.listdir("/proc"):
        fields = _stat(int(name)) if name.isdigit() else None
        if fields is not None and int(fields[3]) == leader and fields[0] != "Z":
            yield int(name)


def _stat(pid: int) -> list[str] | None:
    """state, parent, group, session, ... of a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except (OSError, IndexError):
        return None


def _quietly(function: Callable[..., Any], *arguments: Any) -> None:
    with contextlib.suppress(OSError):
        function(*arguments)
