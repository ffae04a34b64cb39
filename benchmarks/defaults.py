"""What every built-in classifier reaches with its defaults on `digits`: none diverges, none stands still.

    python benchmarks/defaults.py [--epochs 2,10] [--workers 1] [MODEL ...]

MODEL is a model of `classifier`, or a family (`darknet`, `cifar_speed`, `wide_resnet`). One run each, in a process of
its own. A nearest-mean classifier, which takes an image for the class whose mean image is nearest, is the least that a
default must beat. The result is written after every run, and keeps those of other models that it holds already.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np

from trainers.data.digits import at_size
from trainers.families.classifier.config import OWN

SMALL = tuple(model for model in OWN if model not in ("resnet32", "resnet44", "resnet56", "resnet110"))
KNOWN = (*OWN, "cifar_speed", "darknet", "wide_resnet")


def nearest_mean() -> float:
    """The accuracy on the test part of `digits`."""
    train, test, _ = at_size(None)
    assert train.labels is not None
    assert test.labels is not None
    flat = train.images.reshape(len(train.images), -1).astype(np.float64)
    means = np.stack([flat[train.labels == digit].mean(0) for digit in range(10)])
    shown = test.images.reshape(len(test.images), -1).astype(np.float64)
    distances = ((shown[:, None] - means[None]) ** 2).sum(2)
    return float((distances.argmin(1) == test.labels).mean())


def reached(model: str, epochs: str, workers: int, precision: str, runs: Path) -> dict[str, Any]:
    """One run to its end."""
    words = [model, "data=digits"] if model not in OWN else ["classifier", f"model={model}"]
    words += [f"epochs={epochs}", f"workers={workers}", f"precision={precision}"]
    command = ["train", *words, "--runs-dir", str(runs), "--name", f"{model}-{epochs}", "--json"]
    done = subprocess.run([shutil.which("troupe") or "troupe", *command], capture_output=True, text=True)
    if done.returncode:
        return {"model": model, "epochs": epochs, "accuracy": 0.0, "": done.stderr.strip().splitlines()[-1]}
    result = json.loads(done.stdout)["result"]
    return {"model": model, "epochs": epochs, "accuracy": result["metrics"]["eval_accuracy"],
            "": f"{result['seconds']:.0f} s" + (f", {precision}" if precision != "float32" else "")}  # fmt: skip


def main() -> None:
    options = common.parser(__doc__, rounds=1)
    options.add_argument("models", nargs="*", metavar="MODEL", help=f"any of {', '.join(KNOWN)}; the small by default")
    options.add_argument("--epochs", default="2,10", help="how long to train, one run for each (default 2,10)")
    options.add_argument("--workers", type=int, default=1, help="they change the time and nothing else (default 1)")
    options.add_argument("--precision", default="float32", help="the default; another one, where that takes too long")
    given = options.parse_args()
    least = nearest_mean()
    known = common.RESULTS / "defaults.json"
    rows = (
        {(row["model"], row["epochs"]): row for row in json.loads(known.read_text())["rows"]} if known.exists() else {}
    )
    with tempfile.TemporaryDirectory() as runs:
        for model in given.models or (*SMALL, "cifar_speed"):
            for epochs in given.epochs.split(","):
                print(f"{model}, {epochs} epochs", file=sys.stderr, flush=True)
                rows[model, epochs] = reached(model, epochs, given.workers, given.precision, Path(runs))
                bounds = [common.at_least(f"{row['model']}, {row['epochs']} epochs", row["accuracy"], least)
                          for row in rows.values()]  # fmt: skip
                common.report("defaults", 1, list(rows.values()), bounds, {"nearest mean": least})


if __name__ == "__main__":
    main()
