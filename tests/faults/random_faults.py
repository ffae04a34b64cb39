"""Random faults at random moments: each run ends as if nothing had happened, and nothing of it is left behind.

    python tests/faults/random_faults.py --faults 100 --seed 1

Each number is one fault, of every kind and every family in turn: a short run is hurt once, ends by itself or goes on
with `troupe train --resume NAME`, and is compared with an undisturbed one of the same settings. What a fault is follows
from seed and number alone, so that `--only NUMBER` does it again; its moment is as exact as a step.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from commands import (  # noqa: E402
    Command,
    Commands,
    Done,
    assert_same_run,
    assert_same_state,
    checkpoints,
    flip,
    leftovers,
    lives,
    metrics,
    process_of,
    step_of,
    until,
)
from disks import JournalDisk, SmallDisk  # noqa: E402
from tensorboardX.proto.event_pb2 import Event  # noqa: E402

from trainers.run_folders.run_folder import RunFolder  # noqa: E402
from trainers.storage import checkpoint  # noqa: E402

EVERY = 10  # steps between checkpoints
LATEST = 0.7  # of its steps a run has made when it is hurt, at most
RESUMES = 3  # at most
PATIENCE = 20.0  # seconds until nothing of a run is left, once it has ended
HANGS = 5  # seconds of silence

# about two seconds of training each, with micro-batches of 4 samples
FAMILIES: dict[str, tuple[str, ...]] = {
    "dcgan": ("image_size=16", "width=8", "latent_dim=16", "evaluate_every=0", "steps=120"),
    "wgan_gp": ("image_size=16", "width=8", "latent_dim=16", "n_critic=2", "evaluate_every=0", "steps=100"),
    "classifier": ("model=mlp_bn", "evaluate_every=100", "steps=300"),
    "wide_resnet": ("image_size=8", "depth=10", "widen_factor=1", "dropout=0.3", "evaluate_every=50", "steps=150"),
}


class CannotBe(Exception):
    """This machine does not allow such a fault."""


class TooLate(Exception):
    """The run had ended before it was hurt."""


class Fault(NamedTuple):
    """What is done to which run, and when."""

    number: int
    kind: str
    family: str
    workers: int
    microbatches: int
    step: int  # that the run has made; -1: at its start
    delay: float  # seconds after that
    chance: random.Random  # decides all the rest

    def words(self) -> tuple[str, ...]:
        """The run's settings, without the number of workers."""
        batch = (f"batch_size={4 * self.microbatches}", "microbatch_size=4")
        often = ("log_every=1", f"checkpoint_every={EVERY}", "sample_every=25")
        return (self.family, "data=digits", *batch, *often, *FAMILIES[self.family])

    def steps(self) -> int:
        return steps_of(self.family)

    def __str__(self) -> str:
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        moment = f"step {self.step}" if self.step >= 0 else "start"
        return (
            f"{self.kind:<13}{self.family}, {workers}, {self.microbatches} micro-batches, "
            f"{self.delay:.2f} s after {moment}"
        )


@dataclass
class Outcome:
    """What became of a run that was hurt."""

    number: int
    kind: str
    what: str
    seconds: float = 0.0
    restarts: int = 0
    resumes: int = 0
    again: int = 0  # steps that were made once more
    hurt: str = ""  # what exactly, where chance had a choice
    not_done: str = ""  # why there was no fault
    violations: list[str] = field(default_factory=list)


class Trial:
    """One run that is hurt once."""

    def __init__(self, fault: Fault, commands: Commands, temporary: Path) -> None:
        self.fault, self.commands, self.temporary = fault, commands, temporary
        self.kind, self.chance = KINDS[fault.kind], fault.chance
        self.outcome = Outcome(fault.number, fault.kind, str(fault))
        self.runs = commands.folder / "runs"
        self.disk: Any = None
        self.segments = segments()
        self.known: set[Path] = set()  # event files: each process that makes steps has one
        self.saved = self.reached = -1  # steps, when it was hurt
        self.ended: Done | None = None  # of the command, where hurting it was its end
        self.damaged_picture = ""
        self.readable: list[dict[str, Any]] | None = None  # rows, where some were damaged

    @property
    def run(self) -> Path:
        return self.runs / "run"

    def violated(self, what: str) -> None:
        self.outcome.violations.append(" ".join(what.split()))

    def begin(self) -> None:
        if self.kind.disk is not None:
            self.disk = self.kind.disk(self.commands.folder)
            self.runs = self.disk.path / "runs"
        self.command = self.start(*self.first_words())

    def first_words(self) -> tuple[str, ...]:
        words = (*self.fault.words(), f"workers={self.fault.workers}", "--name", "run")
        return (*words, f"worker_timeout={HANGS}") if self.kind.hangs else words

    def start(self, *words: str) -> Command:
        return self.commands.start(
            "train", *words, "--runs-dir", str(self.runs), environment={"TMPDIR": str(self.temporary)}
        )

    def wait_for_the_moment(self) -> None:
        def there() -> bool:
            if (code := self.command.process.poll()) is not None:
                if code == 0:
                    raise TooLate
                raise AssertionError(f"it ended before it was hurt: {self.command.wait(0)}")
            if self.fault.step < 0 and not self.kind.of_workers:
                return (self.run / "settings.json").exists()
            if self.fault.step < 0:
                return all(process_of(self.run, rank) for rank in range(self.fault.workers))
            return bool(step_of(self.run) >= self.fault.step if self.fault.step else checkpoints(self.run))

        until(there, "the moment of the fault", 120, every=0.002)
        time.sleep(self.fault.delay)
        if self.command.process.poll() == 0:
            raise TooLate

    def look(self) -> None:
        """Where the run stands: from here on nothing that is saved may be made again."""
        self.known = {*self.run.glob("events.*")}
        self.reached = max(self.reached, step_of(self.run))
        whole = [path for path in checkpoints(self.run) if not checkpoint.damage_of(path)]
        self.saved = checkpoint.position_of(whole[-1].name)[0] if whole else -1

    def hurt(self) -> None:
        self.look()
        if self.saved >= 0 and self.reached - self.saved > EVERY + 1:
            self.violated(f"at step {self.reached} the newest checkpoint is of step {self.saved}")
        self.kind.hurt(self)

    def end(self) -> None:
        """Let the run end, with `--resume` alone where it does not by itself."""
        done = self.ended or self.command.wait(150)
        self.judge(done, *self.kind.codes)
        if self.disk is not None and isinstance(self.disk, SmallDisk):
            self.disk.clear()
        finished = done.code == 0
        while not finished and self.outcome.resumes < RESUMES:
            self.outcome.resumes += 1
            self.look()
            words = ("--resume", "run")
            if not (self.run / "settings.json").exists():
                if self.fault.step >= 0:
                    raise AssertionError("the run's folder is gone")
                words = self.first_words()  # it was told to stop before it began, and has left nothing
            done = self.start(*words).wait(150)
            self.judge(done, 0)
            finished = done.code == 0
        if not finished:
            raise AssertionError(f"it did not end after {RESUMES} times --resume")

    def judge(self, done: Done, *codes: int) -> None:
        """How a command ended, and which steps it made again."""
        if done.code not in codes:
            self.violated(f"exit code {done.code} instead of {' or '.join(map(str, codes))}: {done.err[-500:]}")
        if strange := [line for line in done.mistakes if not line.startswith("troupe: ")]:
            self.violated(f"{len(strange)} lines on stderr that are not ours, as {strange[-1]!r}")
        for path in sorted({*self.run.glob("events.*")} - self.known):
            first = first_step(path)
            self.outcome.again = max(self.outcome.again, self.reached + 1 - first) if self.reached >= 0 else 0
            if first <= self.saved:
                self.violated(f"step {first} was made again, but step {self.saved} was saved")

    def check(self, straight: Path) -> None:
        """The run's end."""
        try:
            self.compare(straight)
        except AssertionError as error:
            line = traceback.extract_tb(error.__traceback__)[-1].line
            self.violated(f"another end than undisturbed: {line} {str(error)[:300]}")
        restarts = RunFolder(self.run).read_restarts()
        self.outcome.restarts = len(restarts)
        if len(restarts) not in self.kind.restarts:
            whys = "; ".join(row["why"] for row in restarts)
            self.violated(f"{len(restarts)} restarts instead of {self.kind.restarts[-1]}: {whys}")

    def compare(self, straight: Path) -> None:
        if self.readable is None and not self.damaged_picture:
            assert_same_run(self.run, straight)
            for picture in ("real.png", "timelapse.gif"):
                if (straight / picture).exists():
                    assert (self.run / picture).read_bytes() == (straight / picture).read_bytes(), picture
        else:
            assert_same_state(self.run, straight)
            rows = [row for row in metrics(straight)
                    if self.readable is None or row["step"] > self.saved or row in self.readable]  # fmt: skip
            assert metrics(self.run) == rows
            for picture in [*(straight / "grids").iterdir(), straight / "real.png"]:
                mine = self.run / picture.relative_to(straight)
                assert mine.name == self.damaged_picture or mine.read_bytes() == picture.read_bytes(), picture.name
            assert leftovers(self.run) == []
        one, other = (json.loads((run / "result.json").read_text()) for run in (self.run, straight))
        for part in ("steps", "metrics", "best", "worry", "pictures"):
            assert one[part] == other[part], f"{part} of the result"

    def check_what_is_left(self) -> None:
        """No process, no memory, no temporary folder of a run that has ended."""
        for look, seconds in ((self.processes_left, PATIENCE), (self.files_left, 3.0)):
            deadline = time.monotonic() + seconds
            while (left := [*look()]) and time.monotonic() < deadline:
                time.sleep(0.2)
            for one in left:
                self.violated(f"left behind: {one}")

    def processes_left(self) -> Iterator[str]:
        for pid in self.processes():
            yield f"process {pid} ({command_of(pid)[:80]})"

    def files_left(self) -> Iterator[str]:
        for name in sorted(segments() - self.segments):
            yield f"/dev/shm/{name}"
        for path in sorted(self.temporary.iterdir()):
            if not path.name.startswith("torchinductor_"):  # which torch makes for whoever comes next
                inside = ", ".join(sorted(part.name for part in path.iterdir())) if path.is_dir() else ""
                yield f"{path.name} in the temporary folder ({inside})"

    def processes(self) -> set[int]:
        """All that live in the sessions of the trial's commands, or were started with its temporary folder."""
        found = {pid for command in self.commands.started for pid in command.members()}
        mark = f"TMPDIR={self.temporary}".encode()
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if mark in Path("/proc", name, "environ").read_bytes().split(b"\0") and lives(int(name)):
                    found.add(int(name))
            except OSError:
                continue
        return found

    def end_all(self) -> None:
        """As where the machine goes down: every process of the run at once; the driver first, which would note that it
        has lost the others."""
        self.command.send(signal.SIGKILL)
        until(lambda: not [send(pid, signal.SIGKILL) for pid in self.processes()], "all are dead", 20)
        self.ended = self.command.wait(10)

    def clean(self) -> None:
        self.commands.clean()
        for pid in self.processes():
            send(pid, signal.SIGKILL)
        if self.disk is not None:
            self.disk.give_back()


class Kind(NamedTuple):
    """A kind of fault, and what is promised of it."""

    hurt: Callable[[Trial], None]
    codes: tuple[int, ...] = (0,)  # of the command that was hurt
    restarts: tuple[int, ...] = (0,)
    workers: tuple[int, ...] = (1, 2)  # of runs that can be hurt so
    earliest: int = -1  # step at which it can be done
    hangs: bool = False
    disk: Callable[[Path], Any] | None = None

    @property
    def of_workers(self) -> bool:
        """Whether the workers must be there."""
        return self.workers == (2,)


def kill_driver(trial: Trial) -> None:
    trial.command.kill()


def kill_worker(trial: Trial) -> None:
    rank = trial.chance.randrange(trial.fault.workers)
    trial.outcome.hurt = f"worker {rank}"
    send(process_of(trial.run, rank), signal.SIGKILL)


def kill_group(trial: Trial) -> None:
    for rank in range(trial.fault.workers):
        send(process_of(trial.run, rank), signal.SIGKILL)


def kill_raylet(trial: Trial) -> None:
    send(process_named("raylet", trial), signal.SIGKILL)


def kill_gcs(trial: Trial) -> None:
    send(process_named("gcs_server", trial), signal.SIGKILL)


def terminate(trial: Trial) -> None:
    trial.command.send(signal.SIGTERM)
    trial.ended = trial.command.wait(60)
    if trial.fault.step >= 0:
        trial.look()
        if trial.reached > trial.saved:
            trial.violated(f"stopped at step {trial.reached}, but only step {trial.saved} is saved")


def stop_worker(trial: Trial) -> None:
    rank = trial.chance.randrange(trial.fault.workers)
    trial.outcome.hurt = f"worker {rank}"
    send(process_of(trial.run, rank), signal.SIGSTOP)
    until(lambda: RunFolder(trial.run).read_restarts(), "the worker that does not answer is seen", 40)


def pause_driver(trial: Trial) -> None:
    seconds = trial.chance.uniform(1, 2 * HANGS)
    trial.outcome.hurt = f"for {seconds:.1f} s"
    trial.command.send(signal.SIGSTOP)
    time.sleep(seconds)
    trial.command.send(signal.SIGCONT)


def cut_link(trial: Trial) -> None:
    """One of the connections between two workers, which the kernel resets on both sides."""
    workers = {process_of(trial.run, rank) for rank in range(trial.fault.workers)}
    found = links(workers)
    if not found:
        raise AssertionError("no connection between the workers")
    here, there = trial.chance.choice(found)
    trial.outcome.hurt = f"one of {len(found)}"
    subprocess.run(["ss", "-Ktn", f"( sport = :{here} and dport = :{there} )"], capture_output=True, check=False)
    if (here, there) in links(workers):
        raise CannotBe("this kernel lets nobody cut a connection (ss -K)")


def pull_plug(trial: Trial) -> None:
    """The disk first: what is written between that and the end of the last process is lost too."""
    trial.disk.pull()
    trial.end_all()
    trial.disk.unmount()
    if reason := trial.disk.mount():
        raise AssertionError(f"the disk cannot be mounted again: {reason}")


def fill_disk(trial: Trial) -> None:
    trial.disk.fill()


def damage_file(trial: Trial) -> None:
    """After a kill: a file of the run is cut, or a bit of it is another one."""
    trial.end_all()
    trial.look()
    run, chance = trial.run, trial.chance
    newest = checkpoints(run)[-1]
    what = chance.choice(("state.pt", "manifest.json", "settings.json", "metrics.jsonl", "a picture"))
    path = {"state.pt": newest / "state.pt", "manifest.json": newest / "manifest.json"}.get(what, run / what)
    if what == "a picture":
        path = chance.choice(sorted([*(run / "grids").iterdir(), run / "real.png"]))
        trial.damaged_picture = path.name
    size = path.stat().st_size
    if chance.random() < 0.5:
        kept = chance.randrange(size)
        trial.outcome.hurt = f"{path.name} cut to {kept} of {size} bytes"
        with open(path, "r+b") as file:
            file.truncate(kept)
    elif what == "metrics.jsonl":  # has no digest: another bit of a number is another number
        byte = chance.randrange(size)
        trial.outcome.hurt = f"{path.name}: byte {byte} of {size} is 255"
        with open(path, "r+b") as file:
            file.seek(byte)
            file.write(b"\xff")
    else:
        byte, bit = chance.randrange(size), chance.randrange(8)
        trial.outcome.hurt = f"{path.name}: bit {bit} of byte {byte} of {size} flipped"
        flip(path, byte, bit)
    if what == "metrics.jsonl":
        trial.readable = readable(path)


def small_disk(folder: Path) -> SmallDisk:
    disk = SmallDisk(folder / "disk", 32)
    if reason := disk.mount():
        raise CannotBe(f"no disk can be mounted here: {reason}")
    return disk


def journal_disk(folder: Path) -> JournalDisk:
    disk = JournalDisk(folder / "image", folder / "disk")
    if reason := disk.make() or disk.mount():
        raise CannotBe(f"no disk whose plug can be pulled: {reason}")
    return disk


KINDS = {
    "driver": Kind(kill_driver, (-signal.SIGKILL,)),
    "worker": Kind(kill_worker, restarts=(1,), workers=(2,)),
    "group": Kind(kill_group, restarts=(1,), workers=(2,)),
    "raylet": Kind(kill_raylet, restarts=(0, 1), workers=(2,)),  # the run may end before anybody misses it
    "gcs": Kind(kill_gcs, restarts=(0, 1), workers=(2,)),
    "SIGTERM": Kind(terminate, (130,)),
    "stop_worker": Kind(stop_worker, restarts=(1,), workers=(2,), earliest=1, hangs=True),
    "pause_driver": Kind(pause_driver, hangs=True),
    "cut_link": Kind(cut_link, restarts=(0, 1), workers=(2,), earliest=0),  # one that is not needed any more, too
    "pulled_plug": Kind(pull_plug, (-signal.SIGKILL,), disk=journal_disk),
    "full_disk": Kind(fill_disk, (3,), disk=small_disk),
    "damaged_file": Kind(damage_file, (-signal.SIGKILL,), earliest=EVERY + 1),
}


def fault_of(seed: int, number: int) -> Fault:
    """Kinds come in turn, and for each kind families, and for each of these 4 and 5 micro-batches."""
    chance = random.Random(f"{seed} {number}")
    turn, place = divmod(number - 1, len(KINDS))
    name = list(KINDS)[place]
    family = (turn + place) % len(FAMILIES)
    kind = KINDS[name]
    last = int(LATEST * steps_of(list(FAMILIES)[family]))
    step = -1 if kind.earliest < 0 and chance.random() < 0.2 else chance.randint(max(kind.earliest, 0), last)
    delay = chance.uniform(0, 2) if step < 0 else chance.uniform(0, 0.05)
    workers, microbatches = chance.choice(kind.workers), 4 + (family + turn // len(FAMILIES)) % 2
    return Fault(number, name, list(FAMILIES)[family], workers, microbatches, step, delay, chance)


def steps_of(family: str) -> int:
    return int(FAMILIES[family][-1].removeprefix("steps="))


class Trials:
    """Hurts runs in one folder, where the undisturbed ones are kept. Its path is short, for the sockets of Ray."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="f", dir="/tmp"))
        self.undisturbed = Commands(self.folder)
        self.straight: dict[tuple[str, ...], Path] = {}

    def carry_out(self, seed: int, number: int) -> Outcome:
        """One fault, sooner where the run had ended before."""
        for attempt in range(3):
            fault = fault_of(seed, number)
            outcome = self._hurt(fault._replace(step=fault.step // 2**attempt))
            if outcome.not_done != "too late":
                break
        return outcome

    def _hurt(self, fault: Fault) -> Outcome:
        straight = self._straight(fault.words())
        folder, temporary = self.folder / f"runs-{fault.number}", self.folder / f"{fault.number}"
        for path in (folder, temporary):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        trial = Trial(fault, Commands(folder), temporary)
        outcome, started = trial.outcome, time.monotonic()
        try:
            trial.begin()
            trial.wait_for_the_moment()
            trial.hurt()
            trial.end()
            trial.check(straight)
            trial.check_what_is_left()
        except CannotBe as error:
            outcome.not_done = str(error)
        except TooLate:
            outcome.not_done = "too late"
        except Exception as error:
            trial.violated(f"{error}" if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}")
        finally:
            trial.clean()
        outcome.seconds = round(time.monotonic() - started, 1)
        if not outcome.violations:
            for path in (folder, temporary):
                shutil.rmtree(path)
        return outcome

    def _straight(self, words: tuple[str, ...]) -> Path:
        """A run of these settings that nobody disturbs."""
        if words not in self.straight:
            name = f"{words[0]}-{len(self.straight)}"
            self.undisturbed.train(*words, "workers=1", "--name", name, seconds=120)
            self.straight[words] = self.undisturbed.path(name)
        return self.straight[words]

    def close(self, remove: bool = True) -> None:
        self.undisturbed.clean()
        if remove:
            shutil.rmtree(self.folder)


def send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def process_named(name: str, trial: Trial) -> int:
    """A process of the run's own Ray."""
    return next(pid for pid in trial.processes() if Path(command_of(pid).split(" ")[0]).name == name)


def segments() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("troupe-")}


def links(processes: set[int]) -> list[tuple[int, int]]:
    """The ports of each TCP connection from one of these processes to another one, once."""
    try:
        shown = subprocess.run(["ss", "-Htnp", "state", "established"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotBe(f"connections are not shown here: {error}") from None
    owners: dict[tuple[int, int], int] = {}
    for line in shown.stdout.splitlines():
        ports, owner = re.findall(r":(\d+)(?=\s)", line), re.search(r"pid=(\d+)", line)
        if owner is not None and int(owner[1]) in processes:
            owners[int(ports[0]), int(ports[1])] = int(owner[1])
    return [
        (here, there) for (here, there), owner in sorted(owners.items())
        if here < there and owners.get((there, here), owner) != owner
    ]  # fmt: skip


def first_step(events: Path) -> int:
    """The step with which an event file begins: its second record says so, in 8 bytes of length, 4 of check, ..."""
    content = events.read_bytes()
    start = 12 + int.from_bytes(content[:8], "little") + 4
    size = int.from_bytes(content[start : start + 8], "little")
    return int(Event.FromString(content[start + 12 : start + 12 + size]).step)


def readable(path: Path) -> list[dict[str, Any]]:
    """The rows of damaged metrics that can still be read, without what depends on the clock."""
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows.append({key: value for key, value in row.items() if key not in ("seconds", "samples_per_second")})
    return rows


def table(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """By kind of fault."""
    rows = []
    for kind in KINDS:
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
        done = [outcome for outcome in of_kind if not outcome.not_done]
        if of_kind:
            rows.append({
                "fault": kind, "done": len(done), "held": sum(not outcome.violations for outcome in done),
                "not done": "; ".join(sorted({outcome.not_done for outcome in of_kind} - {""})) or 0,
                "resumes": max((outcome.resumes for outcome in done), default=0),
                "restarts": max((outcome.restarts for outcome in done), default=0),
                "steps again": max((outcome.again for outcome in done), default=0),
                "seconds": round(statistics.median(outcome.seconds for outcome in done), 1) if done else "",
            })  # fmt: skip
    return rows


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=len(KINDS), help="how many (one of each kind)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--only", type=int, nargs="+", help="these numbers alone")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of the numbers, these kinds")
    parser.add_argument("--out", type=Path, help="write all outcomes (FILE.json) or the table (another name)")
    told = parser.parse_args()
    numbers = told.only or range(1, told.faults + 1)
    numbers = [number for number in numbers if fault_of(told.seed, number).kind in told.kinds]
    print(f"seed {told.seed}, {len(numbers)} faults", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it has started ends with it
    trials, outcomes = Trials(), []
    try:
        for number in numbers:
            outcome = trials.carry_out(told.seed, number)
            outcomes.append(outcome)
            result = f"not done: {outcome.not_done}" if outcome.not_done else "held"
            result = f"{len(outcome.violations)} VIOLATED" if outcome.violations else result
            hurt = f" ({outcome.hurt})" if outcome.hurt else ""
            print(f"{number:4} {outcome.what}{hurt}: {result}; {outcome.restarts} restarts, {outcome.resumes} resumes, "
                  f"{outcome.again} steps again, {outcome.seconds} s", flush=True)  # fmt: skip
            for violation in outcome.violations:
                print(f"     seed {told.seed} number {number}: {violation}", flush=True)
    finally:
        violated = any(outcome.violations for outcome in outcomes)
        trials.close(remove=not violated)
        rows = table(outcomes)
        if told.out is not None:
            whole = {"seed": told.seed, "kinds": rows, "faults": [asdict(outcome) for outcome in outcomes]}
            told.out.write_text(json.dumps(whole, indent=1) + "\n" if told.out.suffix == ".json" else as_markdown(rows))
        print(as_markdown(rows) + (f"runs that were violated lie in {trials.folder}" if violated else ""))
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main())
