"""Minutes from the shell to the end of the README's first command, start-up included: a DCGAN on two Ray workers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

import common

COMMAND = ["train", "dcgan", "data=digits", "workers=2"]
MINUTES = 4.0  # asked
VERDICTS = 0.15  # of the time, at most


def job() -> dict[str, Any]:
    """One run in an empty folder: seconds by the clock on the wall, and what the run says of itself."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        done = subprocess.run([shutil.which("troupe") or "troupe", *COMMAND, "--json"], cwd=folder,
                              env=common.plain_environment(), stdout=subprocess.PIPE, text=True)  # fmt: skip
        seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(f"troupe {' '.join(COMMAND)}: ended with code {done.returncode}")
    result = json.loads(done.stdout)["result"]
    return {"seconds": seconds, "training_seconds": result["seconds"], "steps": result["steps"],
            "verdicts": result["evaluation_share"], "watch": result["watch_share"]}  # fmt: skip


def main() -> None:
    given = common.parser(__doc__, rounds=3).parse_args()
    answers = common.alternate({"main job": job}, given.rounds)["main job"]
    minutes = common.spread([answer["seconds"] / 60 for answer in answers])
    row = {
        "command": "troupe " + " ".join(COMMAND), "n": given.rounds, "steps": answers[0]["steps"], "minutes": minutes,
        "verdicts, part of the training": common.spread([answer["verdicts"] for answer in answers]),
        "watch": common.spread([answer["watch"] for answer in answers]),
        "of training": common.spread([answer["training_seconds"] / 60 for answer in answers]),
    }  # fmt: skip
    bounds = [
        common.at_most("minutes from the shell to the end", minutes.median, MINUTES),
        common.at_most("verdicts, part of the training", row["verdicts, part of the training"].median, VERDICTS),
    ]
    common.report("main_job", given.rounds, [row], bounds, answers)


if __name__ == "__main__":
    main()
