"""What every built-in classifier reaches with its defaults on `digits`: none diverges, none stands still.

    python benchmarks/defaults.py [--epochs 2,10] [MODEL ...]

MODEL is a model of `classifier`, or a family (`darknet`, `cifar_speed`, `wide_resnet`). One run each, in a process of
its own, `workers=1`. A nearest-mean classifier, which takes an image for the class whose mean image is nearest, is the
least that a default must beat.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

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


def reached(model: str, epochs: str, runs: Path) -> dict[str, object]:
    """One run to its end."""
    words = [model, "data=digits"] if model not in OWN else ["classifier", f"model={model}"]
    command = ["train", *words, f"epochs={epochs}", "--runs-dir", str(runs), "--name", f"{model}-{epochs}", "--json"]
    done = subprocess.run([shutil.which("troupe") or "troupe", *command], capture_output=True, text=True)
    if done.returncode:
        return {"model": model, "epochs": epochs, "accuracy": 0.0, "": done.stderr.strip().splitlines()[-1]}
    result = json.loads(done.stdout)
    return {"model": model, "epochs": epochs, "accuracy": result["metrics"]["eval_accuracy"],
            "": f"{result['seconds']:.0f} s"}  # fmt: skip


def main() -> None:
    options = common.parser(__doc__, rounds=1)
    options.add_argument("models", nargs="*", metavar="MODEL", help=f"any of {', '.join(KNOWN)}; the small by default")
    options.add_argument("--epochs", default="2,10", help="how long to train, one run for each (default 2,10)")
    given = options.parse_args()
    least = nearest_mean()
    rows = []
    with tempfile.TemporaryDirectory() as runs:
        for model in given.models or (*SMALL, "cifar_speed"):
            for epochs in given.epochs.split(","):
                print(f"{model}, {epochs} epochs", file=sys.stderr, flush=True)
                rows.append(reached(model, epochs, Path(runs)))
                print(rows[-1], file=sys.stderr, flush=True)
    bounds = [common.at_least(f"{row['model']}, {row['epochs']} epochs", float(str(row["accuracy"])), least)
              for row in rows]  # fmt: skip
    common.report("defaults", 1, rows, bounds, {"nearest mean": least})


if __name__ == "__main__":
    main()
