"""Seconds from the shell to the end of the first step of training, and the CPU seconds of everything that is started.

`troupe train dcgan` with 1 worker against the least script with torch alone; with 2 workers against the least script
with Ray's TorchTrainer and its defaults (both in benchmarks/first_step). All train the same networks, 32 px, global
batch 64, for one step of both networks; ours reads its data, draws a grid and saves a checkpoint before it, which the
others do not.

The moment of the first step is the time of change of a file that is written right after it: `metrics.jsonl` on our
side (one step, so one row), a file of its own on the other. CPU seconds: this process makes itself the parent of all
orphans, and sums user and system time over all its descendants, looked up in /proc every 0.1 s; what a process does in
its last tenth of a second is missed. Linux only. HOME is a new folder each time: nothing is left in the real one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common

ONE_WORKER, TWO_WORKERS = 1.4, 0.45
FIRST_STEP = Path(__file__).with_name("first_step")
TROUPE = Path(sys.executable).with_name("troupe")
TICK = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36


def descendants() -> dict[int, float]:
    """CPU seconds so far of every process below this one, by its id."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
                words = file.read().rpartition(")")[2].split()  # a name may hold spaces
                parents[int(entry)] = int(words[1])
                seconds[int(entry)] = (int(words[11]) + int(words[12])) / TICK

    def below(process: int) -> bool:
        while process in parents:
            process = parents[process]
            if process == os.getpid():
                return True
        return False

    return {process: used for process, used in seconds.items() if below(process)}


def start(command: Sequence[object], written: str) -> dict[str, float]:
    """Run a command; `written` is the file, within its folder, that tells of the first step."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        used: dict[int, float] = {}
        environment = {**common.plain_environment(), "HOME": folder}
        with open(Path(folder, "output"), "wb") as output:
            began = time.time()
            process = subprocess.Popen(
                list(map(str, command)), cwd=folder, env=environment, stdout=output, stderr=output
            )
            while process.poll() is None:
                used.update(descendants())
                time.sleep(0.1)
            ended = time.time()
        while left := descendants():  # Ray's daemons notice by themselves that it is over
            used.update(left)
            if time.time() > ended + 10:
                for other in left:
                    with contextlib.suppress(OSError):
                        os.kill(other, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.1)
        if process.returncode:
            sys.exit(Path(folder, "output").read_text() + f"\nended with code {process.returncode}: {command}")
        first_step = (Path(folder) / written).stat().st_mtime
        return {"first step": first_step - began, "end": ended - began, "cpu": sum(used.values())}


def main() -> None:
    given = common.parser(__doc__, rounds=5).parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # without the evaluation after the last step, which is the first one here: its row would be written later
    ours = (TROUPE, "train", "dcgan", "width=64", "steps=1", "log_every=1", "evaluate_every=0", "--name", "one")
    sides = {
        "torch alone": partial(start, (sys.executable, FIRST_STEP / "torch_alone.py", "done"), "done"),
        "troupe, 1 worker": partial(start, (*ours, "workers=1"), "runs/one/metrics.jsonl"),
        "TorchTrainer": partial(start, (sys.executable, FIRST_STEP / "torch_trainer.py", "done"), "done"),
        "troupe, 2 workers": partial(start, (*ours, "workers=2", "--oversubscribe"), "runs/one/metrics.jsonl"),
    }
    times = common.alternate(sides, given.rounds)

    def seconds(name: str, what: str = "first step") -> list[float]:
        return [answer[what] for answer in times[name]]

    rows: list[dict[str, Any]] = []
    bounds = []
    for ours_name, theirs_name, limit in (
        ("troupe, 1 worker", "torch alone", ONE_WORKER), ("troupe, 2 workers", "TorchTrainer", TWO_WORKERS)
    ):  # fmt: skip
        ratio = common.paired(seconds(ours_name), seconds(theirs_name))
        for name in (theirs_name, ours_name):
            rows.append({
                "side": name, "n": given.rounds, "first step s": common.spread(seconds(name)),
                "end s": common.spread(seconds(name, "end")), "CPU s": common.spread(seconds(name, "cpu")),
                "over the other": ratio if name == ours_name else "",
            })  # fmt: skip
        bounds.append(common.at_most(f"{ours_name} over {theirs_name}, to the first step", ratio.median, limit))
    common.report("startup", given.rounds, rows, bounds, times)


if __name__ == "__main__":
    main()
