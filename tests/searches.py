"""Searches and runs as troupe leaves them behind, made up in a moment: for tests of what reads them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

from cluster.ranking.leaderboard import FINISHED, Search, TrialRecord
from trainers.base.paths import TRIALS
from trainers.families import registry
from trainers.run_folders import run_folder
from trainers.run_folders.run_folder import RunFolder

NASTY = "<img src=x onerror=alert(1)>"
REAL = 0.9  # of every number of a verdict


def make_run(folder: RunFolder, reports: int = 6, *, texts: bool = False, level: float = 1.0, **settings: Any) -> None:
    """A DCGAN that has ended: its distance falls from 100 to `level`."""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.make_parts()
    config = registry.config_class("dcgan").of({"data": "digits"})
    told = {**json.loads(json.dumps(config.model_dump())), "steps": 10 * reports, **settings}
    facts = {"kind": "images", "class_names": [NASTY]}
    folder.write_settings(
        {"family": "dcgan", "settings": told, "facts": facts, "data": "x", "versions": {}, "from": None}
    )
    folder.log(0).write_text(run_folder.start_line(0, 1) + "\n")
    folder.note_start(1)
    rows: list[dict[str, float]] = []
    for report in range(1, reports + 1):
        distance = level + (100 - level) * math.exp(1 - report) if report < reports else level
        rows.append({"step": 10 * report, "seconds": 0.5 * report, "generator_loss": 1 / report})
        rows.append({"step": 10 * report, "seconds": 0.5 * report, "eval_frechet_distance": distance})
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for report in range(reports + 1):
        if texts:
            (folder.grids / f"step_{10 * report:08d}.txt").write_text(f"--- 1\ntext of step {10 * report} {NASTY}\n")
        else:
            picture(folder.grids / f"step_{10 * report:08d}.png", 40 * report % 256)
    for path in (folder.real, folder.path / "verdict.png", folder.path / "copies.png", folder.path / "mistakes.png"):
        picture(path, 128)
    numbers = {"frechet_distance": {"generated": level, "real": REAL}, "recall": {"generated": 0.5, "real": REAL}}
    one = {"step": 10 * reports, "features": "digits_cnn", "samples": 100, "notes": [NASTY], "numbers": numbers}
    folder.verdict.write_text(json.dumps({"final": one, "best": {**one, "step": 10}}))
    folder.result.write_text(json.dumps({"name": folder.name, "steps": 10 * reports, "worry": ""}))


def make_search(runs: Path, name: str = "search", trials: int = 6, reports: int = 6, **told: Any) -> Search:
    """A search over `learning_rate`, `width` and a text; trial 1 is the best, and each is worse than the one before."""
    path = runs / name
    (path / TRIALS).mkdir(parents=True)
    space = {"learning_rate": "log:0.0001..0.1", "width": "8,16", "upsample": f"transposed,{NASTY}"}
    search = Search(path, {
        "family": "dcgan", "metric": "eval_frechet_distance", "mode": "min", "scheduler": "fifo", "algorithm": "random",
        "seed": 0, "points": trials, "seeds": [], "space": space, "source": "", "families": [], "seconds": 60.0,
        "fixed": {"data": "digits"}, **told,
    })  # fmt: skip
    for number in range(1, trials + 1):
        settings = {"learning_rate": float(f"{10 ** (-1 - 3 * number / trials):.4g}"), "width": (8, 16)[number % 2],
                    "upsample": NASTY if number == 2 else "transposed"}  # fmt: skip
        record = TrialRecord(number, settings, FINISHED, 10 * reports, 10 * reports, float(number), float(number),
                             10 * reports, 3.0, worry=NASTY if number == 3 else "")  # fmt: skip
        make_run(search.folder(record), reports, level=float(number), **settings)
        search.trials.append(record)
    search.write()
    return search


def picture(path: Path, shade: int) -> None:
    Image.new("L", (16, 16), shade).save(path)
