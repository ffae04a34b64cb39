"""Real runs of the classifiers, from the command line, with what they reached.

    python benchmarks/real_runs.py --data-dir DIR [PART ...]

DIR holds CIFAR-10 as benchmarks/pack_cifar10.py writes it, MNIST's four files in DIR/mnist. A part is one
kind of run, trained once for each of its seeds; parts are done one by one, and an interrupted one goes on where it
was (`troupe train --resume`). What is finished stands in results/real_runs.json and is not done again, unless it is
removed there. The accuracies are those of the last step on the test part.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import common

CURVES = common.RESULTS / "curves"
ABOUT_CIFAR10 = "of 60,000 images 97 (77 of the training part, 20 of the test part) are JPEG copies"
PAPER = "normalization=half flip=none crop_padding=0"
BOOK = f"data=mnist image_size=28 batch_size=64 microbatch_size=64 epochs=20 schedule=constant learning_rate=0.01 \
momentum=0 weight_decay=0 {PAPER}"


class Part(NamedTuple):
    """Runs that differ in their seed only."""

    words: str
    seeds: int
    least: float | None  # asked of the mean accuracy
    source: str = ""
    minutes: float | None = None  # of training, at most, asked of the mean


PARTS = {
    "cifar_speed": Part("cifar_speed workers=2", 3, 0.937, "the goal is 94.0 %", 25),
    "mlp": Part(f"classifier model=mlp {BOOK}", 3, 0.9198 - 0.003, "the book: 91.98 %"),
    "mlp_relu": Part(f"classifier model=mlp_relu {BOOK}", 3, 0.9688 - 0.003, "the book: 96.88 %"),
    "mlp_bn": Part(f"classifier model=mlp_bn {BOOK}", 3, 0.9811 - 0.003, "the book: 98.11 %"),
    "cnn": Part("classifier model=cnn data=mnist image_size=28 epochs=6 workers=2 crop_padding=2", 1, 0.993,
                "the book: 99.31 %"),
    "lstm_rows": Part("classifier model=lstm_rows data=mnist image_size=28 epochs=10 workers=2 optimizer=adamw "
                      "learning_rate=0.003 crop_padding=2", 1, 0.99, "the book: 99.08 %"),
    "wide_resnet": Part("wide_resnet depth=16 widen_factor=4 epochs=7 schedule=one_cycle learning_rate=0.4 "
                        "precision=bfloat16 workers=2", 1, None, "about 15 minutes of a recipe of 200 epochs"),
    "darknet": Part("darknet epochs=4.7 learning_rate=0.05 precision=bfloat16 workers=2", 1,
                    None, "about 15 minutes of a recipe of 30 epochs"),
    "residual": Part("classifier model=residual data=cifar10 batch_size=128 microbatch_size=32 epochs=28 "
                     "learning_rate=0.4 flip=random crop_padding=4 precision=bfloat16 workers=2", 1, None,
                     "about 15 minutes; the book: 86.23 % after 50 epochs"),
}  # fmt: skip


def run(name: str, words: str, seed: int, data_dir: Path, runs_dir: Path) -> dict[str, Any]:
    """One run to its end, from its newest checkpoint where there is one."""
    command = ["train", *words.split(), f"seed={seed}", "--name", name]
    options = ["--data-dir", str(data_dir), "--runs-dir", str(runs_dir), "--json"]
    begun = (runs_dir / name).exists()
    given = ["train", "--resume", name] if begun else command
    done = subprocess.run([shutil.which("troupe") or "troupe", *given, *options], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name}: ended with code {done.returncode}; the same command goes on with it")
    result = json.loads(done.stdout)["result"]
    if (curves := runs_dir / name / "curves.png").exists():
        CURVES.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(curves, CURVES / f"{name}.png")
    kept = ("steps", "seconds", "evaluation_share", "samples_per_second", "metrics", "best")
    rows = [json.loads(line) for line in (runs_dir / name / "metrics.jsonl").read_text().splitlines()]
    return {
        "command": "troupe " + " ".join(command), "resumed": begun, **{key: result[key] for key in kept},
        "evaluations": [[row["step"], row["seconds"], row["eval_accuracy"]] for row in rows if "eval_accuracy" in row],
        "data": ABOUT_CIFAR10 if "mnist" not in words else "MNIST as published",
        "machine": common.machine(),
    }  # fmt: skip


def summary(done: dict[str, Any]) -> tuple[list[dict[str, Any]], list[common.Bound]]:
    """A row for each part of which all runs are there, and what is asked of it."""
    rows, bounds = [], []
    for part, what in PARTS.items():
        runs = [done[f"{part}-{seed}"] for seed in range(what.seeds) if f"{part}-{seed}" in done]
        if not runs:
            continue
        accuracies = [run["metrics"]["eval_accuracy"] for run in runs]
        minutes = [run["seconds"] / 60 for run in runs]
        mean = sum(accuracies) / len(runs)
        rows.append({
            "part": part, "n": f"{len(runs)} of {what.seeds}", "mean accuracy": round(mean, 5),
            "accuracy": common.spread(accuracies), "minutes": common.spread(minutes), "": what.source,
        })  # fmt: skip
        if what.least is not None and len(runs) == what.seeds:
            bounds.append(common.at_least(f"{part}: mean accuracy", mean, what.least))
        if what.minutes is not None and len(runs) == what.seeds:
            bounds.append(common.at_most(f"{part}: minutes of training", sum(minutes) / len(runs), what.minutes))
    return rows, bounds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; all by default")
    options.add_argument("--data-dir", type=Path, required=True)
    options.add_argument("--runs-dir", type=Path, default=Path("runs"))
    given = options.parse_args()
    if unknown := [part for part in given.parts if part not in PARTS]:
        options.error(f"{unknown[0]}: no such part; there are {', '.join(PARTS)}")
    names = {f"{part}-{seed}": (PARTS[part].words, seed) for part in given.parts or PARTS
             for seed in range(PARTS[part].seeds)}  # fmt: skip
    common.part_by_part(
        "real_runs", list(names), lambda name: run(name, *names[name], given.data_dir, given.runs_dir), summary
    )


if __name__ == "__main__":
    main()
