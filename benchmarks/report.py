"""Seconds that `troupe report` takes for a search of 1,000 trials with 100 reports each, the size of its page, and how
fast that page answers with 200 trials.

The search is made up: folders as troupe writes them, with settings, metrics (training rows and evaluations of a GAN),
logs, results, verdicts and grids, and random numbers that go down. Each page is written by a process of its own, with
Python's start and all imports. The answers are those of Chromium without a window (skipped where there is none): from
the event of a new filter, or of a click on a trial, to the first frame after all parts in view are drawn anew, at four
places of the page; the first answer at each place does not count.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
from PIL import Image

from cluster.ranking.leaderboard import FINISHED, PRUNED, Search, TrialRecord
from trainers.base.paths import TRIALS
from trainers.families import registry
from trainers.run_folders import run_folder
from trainers.run_folders.run_folder import RunFolder

MANY, REPORTS, FEW = 1000, 100, 200
SECONDS, MEGABYTES, ANSWER = 60, 3, 0.3
EVALUATED = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage", "memorization_rate",
             "copy_test", "classes_covered", "class_kl")  # fmt: skip
GRIDS = 5
PLACES = {"leaderboard": "leaderboard", "settings": "settings-plots", "curves": "curves", "samples": "samples"}


def make(runs: Path, trials: int, reports: int) -> Path:
    """A search in `runs` that looks as if it had been carried out; returns its folder."""
    chance = random.Random(trials)
    path = runs / f"gans-{trials}"
    (path / TRIALS).mkdir(parents=True)
    space = {"learning_rate": "log:1e-05..0.01", "width": "8,16,32,64", "beta1": "linear:0..0.9"}
    told = {
        "family": "dcgan", "metric": "eval_frechet_distance", "mode": "min", "scheduler": "asha", "algorithm": "random",
        "seed": 0, "points": trials, "seeds": [], "space": space, "source": "", "families": [], "seconds": 3600.0,
        "fixed": {"data": "digits", "steps": str(10 * reports)}, "max_concurrent": None, "trials_per_gpu": 1,
        "keep_best": None,
    }  # fmt: skip
    search = Search(path, told)
    defaults = json.loads(json.dumps(registry.config_class("dcgan").of({"data": "digits"}).model_dump()))
    picture = sheet()
    for number in range(1, trials + 1):
        rate, width = float(f"{10 ** chance.uniform(-5, -2):.4g}"), chance.choice((8, 16, 32, 64))
        settings = {"learning_rate": rate, "width": width,
                    "beta1": round(chance.uniform(0, 0.9), 4)}  # fmt: skip
        record = TrialRecord(number, settings, state=FINISHED if number % 3 else PRUNED, steps=10 * reports)
        write_run(
            search.folder(record), record, {**defaults, **settings, "steps": 10 * reports}, reports, picture, chance
        )
        search.trials.append(record)
    search.write()
    return path


def write_run(
    folder: RunFolder,
    record: TrialRecord,
    settings: dict[str, Any],
    reports: int,
    picture: bytes,
    chance: random.Random,
) -> None:
    """The folder of one trial."""
    folder.path.mkdir()
    folder.make_parts()
    facts = {"kind": "images", "channels": 1, "image_size": 64, "size": 8100, "held_out": 900}
    folder.settings.write_text(json.dumps({"format": 1, "family": "dcgan", "versions": {}, "data": "0" * 64,
                                           "settings": settings, "facts": facts, "from": None}))  # fmt: skip
    folder.log(0).write_text(run_folder.start_line(0, 1) + "\n")
    goal = 20 + 80 * abs(math.log10(settings["learning_rate"]) + 3.5) + 200 / settings["width"]
    rows, value = [], 400.0
    for report in range(1, reports + 1):
        step, value = 10 * report, value + 0.06 * (goal - value) + chance.gauss(0, 3)
        losses = {
            name: chance.gauss(1, 0.3) for name in ("discriminator_loss", "generator_loss", "real_score", "fake_score")
        }
        rows.append({"step": step, "seconds": 0.4 * report, **losses, "samples_per_second": chance.uniform(500, 600)})
        told = {f"eval_{name}": abs(chance.gauss(0.5, 0.2)) for name in EVALUATED}
        rows.append({"step": step, "seconds": 0.4 * report, **told, "eval_frechet_distance": value})
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for place in range(GRIDS):
        (folder.grids / f"step_{place * 10 * reports // (GRIDS - 1):08d}.png").write_bytes(picture)
    for path in (folder.real, folder.path / "verdict.png", folder.path / "copies.png"):
        path.write_bytes(picture)
    numbers = {name: {"generated": rows[-1][f"eval_{name}"], "real": 0.9} for name in EVALUATED}
    one = {"step": 10 * reports, "features": "digits_cnn", "samples": 900, "notes": [], "numbers": numbers}
    folder.verdict.write_text(json.dumps({"final": one, "best": one}))
    folder.result.write_text(json.dumps({"name": folder.name, "steps": 10 * reports, "worry": ""}))
    record.step, record.value, record.best = 10 * reports, value, value
    record.best_step, record.seconds = 10 * reports, 0.4 * reports


def sheet() -> bytes:
    """A grid of 64 dark squares."""
    written = io.BytesIO()
    Image.effect_noise((280, 280), 40).resize((140, 140)).save(written, format="PNG")
    return written.getvalue()


def page_of(path: Path) -> dict[str, float]:
    """Seconds of the command, and megabytes of its page."""
    command = [sys.executable, "-m", "troupe", "report", path.name, "--runs-dir", str(path.parent), "--json"]
    environment = {**common.plain_environment(), "PYTHONPATH": str(Path(__file__).parents[1])}
    began = time.monotonic()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return {"seconds": time.monotonic() - began, "megabytes": json.loads(done.stdout)["result"]["bytes"] / 1e6}


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
                     "disable-background-networking", "disable-component-update", "window-size=1400,1000",
                     f"user-data-dir={profile}"):  # fmt: skip
            options.add_argument(f"--{word}")
        driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
        try:
            yield driver
        finally:
            driver.quit()


ANSWERED = """
const done = arguments[arguments.length - 1];
const began = performance.now();
(ACT)();
const drawn = () => (DRAWING.size ? Promise.all(DRAWING).then(drawn) : requestAnimationFrame(() => setTimeout(
  () => done((performance.now() - began) / 1000))));
drawn();
"""
FILTER = "() => { const f = document.getElementById('filter'); f.value = '%s'; f.dispatchEvent(new Event('input')); }"
HIGHLIGHT = "() => document.querySelectorAll('#trial-list .name')[%d].click()"


def answers(path: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds until the page answers, by place and deed."""
    found: dict[str, list[float]] = {}
    with browser() as driver:
        driver.get((path / "report/index.html").as_uri())
        until(driver, "return document.documentElement.dataset.ready === 'true'")
        for place, section in PLACES.items():
            driver.execute_script(f"document.getElementById('{section}').scrollIntoView()")
            time.sleep(3)
            for number in range(rounds + 1):
                for deed, act in (("filter", FILTER % ("width=16" if number % 2 else "width>8")),
                                  ("highlight", HIGHLIGHT % (number * 7))):  # fmt: skip
                    seconds = driver.execute_async_script(ANSWERED.replace("ACT", act))
                    if number:
                        found.setdefault(f"{deed} at {place}", []).append(seconds)
                    time.sleep(0.3)
            driver.execute_script(
                "document.getElementById('unmark').click(); document.getElementById('show-all').click()"
            )
    return found


def until(driver: Any, script: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not driver.execute_script(script):
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds:.0f} s: {script}")
        time.sleep(0.1)


def main() -> None:
    given = common.parser(__doc__, rounds=5).parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        many, few = make(Path(folder), MANY, REPORTS), make(Path(folder), FEW, REPORTS)
        pages = {
            str(trials): [page_of(path) for _ in range(min(3, given.rounds))]
            for trials, path in ((MANY, many), (FEW, few))
        }
        there = all(map(shutil.which, ("chromium", "chromedriver")))
        found = answers(few, given.rounds) if there else {}
    rows = [{"what": f"page of {trials} trials: {name}", "measured": common.spread([one[name] for one in made])}
            for trials, made in pages.items() for name in ("seconds", "megabytes")]  # fmt: skip
    rows += [
        {"what": f"{FEW} trials, seconds: {what}", "measured": common.spread(seconds)}
        for what, seconds in found.items()
    ]
    bounds = [
        common.at_most(
            f"seconds for {MANY} trials", common.spread([one["seconds"] for one in pages[str(MANY)]]).median, SECONDS
        )
    ]
    for trials, made in pages.items():
        largest = max(one["megabytes"] for one in made)
        bounds.append(common.at_most(f"megabytes of a page of {trials} trials", largest, MEGABYTES))
    bounds += [
        common.at_most(f"seconds of {what}", common.spread(seconds).median, ANSWER) for what, seconds in found.items()
    ]
    common.report("report", given.rounds, rows, bounds, {"pages": pages, "answers": found}, reports=REPORTS,
                  cpus=os.cpu_count())  # fmt: skip


if __name__ == "__main__":
    main()
