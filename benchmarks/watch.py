"""What the watch on GANs says of runs that go wrong, and that it is silent on runs that do not.

    python benchmarks/watch.py [NAME ...]

One run each, of one or two minutes, in a process of its own. A name is one of RUNS; what was said of others is kept.
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

COMMON = "data=digits workers=2 batch_size=32 evaluate_every=0 checkpoint_every=100000"
WATCHED = ("critic_", "watch_diversity", "collapse_strikes")  # metrics of the checks begin so
WRONG = {
    "dcgan, learning rate 1": ("dcgan image_size=32 width=24 steps=400 learning_rate=1", "diverge|collapse"),
    "dcgan, learning rate 10": ("dcgan image_size=32 width=24 steps=400 learning_rate=10", "diverge|collapse"),
    "wgan without clipping": ("wgan image_size=32 width=24 steps=600 n_critic_warmup=0 clip=1000", "diverge"),
    "wgan without clipping or norms":
        ("wgan image_size=32 width=24 steps=400 n_critic_warmup=0 clip=1000 critic_norm=false", "diverge"),
    "wgan_gp without a penalty": ("wgan_gp image_size=32 width=24 steps=400 penalty=0", "diverge"),
    "dcgan of 150 images": ("dcgan data=few image_size=16 width=24 steps=3000", "memorized"),
}  # fmt: skip
WELL = {
    "dcgan": "dcgan image_size=32 steps=700",
    "dcgan, another seed": "dcgan image_size=32 steps=700 seed=1",
    "dcgan, ten times the learning rate": "dcgan image_size=32 steps=700 learning_rate=0.002",
    "dcgan, classes": "dcgan image_size=32 width=24 steps=700 conditional=true",
    "dcgan, bfloat16": "dcgan image_size=32 steps=700 precision=bfloat16",
    "dcgan, stacked digits": "dcgan data=stacked_digits image_size=32 width=24 steps=700",
    "wgan": "wgan image_size=32 width=24 steps=500 n_critic_warmup=0",
    "wgan without norms, faster": "wgan image_size=32 width=24 steps=500 n_critic_warmup=0 critic_norm=false "
                                  "learning_rate=0.0005",
    "wgan_gp": "wgan_gp image_size=32 width=24 steps=500",
    "wgan_gp, faster, classes": "wgan_gp image_size=32 width=24 steps=400 learning_rate=0.0005 conditional=true",
    "wgan_gp, residual": "wgan_gp image_size=32 width=12 steps=200 network=resnet",
}  # fmt: skip
RUNS = {**{name: (words, "") for name, words in WELL.items()}, **WRONG}

FEW = """
from dataclasses import replace
from trainers.data.digits import CLASS_NAMES, at_size
from trainers.data.images import Part, Source, content_digest, in_memory

def open_few(request):
    train, test, _ = at_size(request.image_size)
    few = Part(train.images[:150], train.labels[:150])
    digest = content_digest(few, test, CLASS_NAMES)
    return in_memory(few, test, CLASS_NAMES, digest, replace(request, image_size=few.images.shape[1]))

SOURCES = {"few": Source("few", "150 digits to learn from, 1,000 to test on", open_few)}
"""


def run(name: str, folder: Path) -> dict[str, Any]:
    """One run to its end: what was said of it, and when."""
    words, expected = RUNS[name]
    settings = {
        **dict(word.split("=") for word in COMMON.split()),
        **dict(word.split("=") for word in words.split()[1:]),
    }
    command = ["train", words.split()[0], *(f"{key}={value}" for key, value in settings.items())]
    options = ["--runs-dir", str(folder / "runs"), "--families", str(folder), "--name", "one", "--json"]
    shutil.rmtree(folder / "runs", ignore_errors=True)
    done = subprocess.run([shutil.which("troupe") or "troupe", *command, *options], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: ended with code {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    result = json.loads(done.stdout)["result"]
    said = [line.partition(": step ")[2] for line in done.stderr.splitlines() if line.startswith("troupe: step ")]
    rows = [json.loads(line) for line in (folder / "runs/one/metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "critic_ranking_accuracy" in row][-1]
    return {
        "run": name, "expected": expected or "silence", "command": "troupe " + " ".join(command),
        "seconds": result["seconds"], "share": result["watch_share"], "said": said,
        "last": {key: round(value, 4) for key, value in last.items() if key.startswith(WATCHED)},
    }  # fmt: skip


def right(found: dict[str, Any]) -> bool:
    """Whether the watch said what was expected, and nothing else."""
    expected = found["expected"].split("|")
    if expected == ["silence"]:
        return not found["said"]
    return bool(found["said"]) and any(part in found["said"][0] for part in expected)


def main() -> None:
    options = common.parser(__doc__, rounds=1)
    options.add_argument("names", nargs="*", metavar="NAME", help="some of RUNS; all by default")
    given = options.parse_args()
    known = common.RESULTS / "watch.json"
    done = {row["run"]: row for row in json.loads(known.read_text())["raw"]["runs"]} if known.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        (Path(folder) / "data/few.py").write_text(FEW)
        for name in given.names or RUNS:
            print(name, file=sys.stderr, flush=True)
            done[name] = run(name, Path(folder))
            found = [done[each] for each in RUNS if each in done]
            rows = [{"run": one["run"], "seconds": round(one["seconds"]), "share": f"{one['share']:.2%}",
                     "said": one["said"][0][:60] if one["said"] else ""} for one in found]  # fmt: skip
            bounds = [common.at_least(f"{one['run']}: said what it should", float(right(one)), 1.0) for one in found]
            bounds.append(common.at_most("largest share of the time", max(one["share"] for one in found), 0.01))
            common.report("watch", 1, rows, bounds, {"runs": found})


if __name__ == "__main__":
    main()
