"""Real runs of the GANs, from the command line, with the verdicts that they got.

    python benchmarks/real_gans.py --data-dir DIR [--portraits FOLDER] [--device cuda] [PART ...]

DIR holds MNIST's four files in DIR/mnist, and CIFAR-10 as benchmarks/pack_cifar10.py writes it; FOLDER holds portraits.
A part is one kind of run, trained once for each of its seeds; parts are done one by one, and an interrupted one goes on
where it was (`troupe train --resume`). What is finished stands in results/real_gans.json and is not done again, unless
it is removed there; its grid and its verdict lie beside it as pictures.
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
from PIL import Image

NUMBERS = ("frechet_distance", "precision", "recall", "coverage", "memorization_rate", "classes_covered")
FAST = "precision=bfloat16 workers=2 ema=0.995"
FACES = "data=imagefolder:{portraits} image_size=64 width=32 evaluate_on=validation checkpoint_every=200"


class Part(NamedTuple):
    """Runs that differ in their seed only."""

    words: str
    seeds: int
    minutes: int  # about
    remark: str = ""
    of_gpu: bool = False  # too large for a processor


PARTS = {
    "mnist_wgan_gp": Part(f"wgan_gp data=mnist steps=1500 learning_rate=0.0005 {FAST}", 3, 8),
    "mnist_dcgan": Part(f"dcgan data=mnist steps=6500 {FAST}", 3, 8),
    "portraits_wgan": Part(f"wgan {FACES} steps=1150 n_critic_warmup=0 {FAST}", 1, 20, "no warm-up of the critic"),
    "portraits_wgan_gp": Part(f"wgan_gp {FACES} steps=950 learning_rate=0.0005 {FAST}", 1, 20),
    "portraits_dcgan": Part(f"dcgan {FACES} steps=4800 {FAST}", 1, 20),
    "cifar10_wgan_gp": Part(f"wgan_gp data=cifar10 network=resnet width=32 steps=1000 learning_rate=0.0003 {FAST}", 1,
                            20, "width 32, where the paper has 128"),
    "cifar10_wgan_gp_in_full": Part("wgan_gp data=cifar10 network=resnet width=128 steps=4000 learning_rate=0.0002 "
                                    "precision=bfloat16 microbatch_size=64 ema=0.999", 1, 5,
                                    "width 128; 4,000 steps, where the paper makes 100,000", of_gpu=True),
    "stacked_dcgan": Part(f"dcgan data=stacked_digits steps=6500 num_eval_samples=26000 evaluate_every=1000000 "
                          f"{FAST}", 1, 10),
    "stacked_wgan_gp": Part(f"wgan_gp data=stacked_digits steps=1500 learning_rate=0.0005 num_eval_samples=26000 "
                            f"evaluate_every=1000000 {FAST}", 1, 10),
}  # fmt: skip


def run(name: str, words: str, given: argparse.Namespace) -> dict[str, Any]:
    """One run to its end, from its newest checkpoint where there is one."""
    shown = f"{words} --name {name}"
    typed = shown.format(portraits=given.portraits).split()
    runs: Path = given.runs_dir
    begun = (runs / name / "checkpoints").exists()
    options = ["--data-dir", str(given.data_dir), "--runs-dir", str(runs), "--json"]
    words_given = ["--resume", name] if begun else typed
    done = subprocess.run([shutil.which("troupe") or "troupe", "train", *words_given, *options],
                          stdout=subprocess.PIPE, text=True)  # fmt: skip
    pictures = given.results / "gans"
    if done.returncode:
        sys.exit(f"{name}: ended with code {done.returncode}; the same command goes on with it")
    result = json.loads(done.stdout)["result"]
    pictures.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(runs / name / "verdict.png", pictures / f"{name}_verdict.png")
    with Image.open(result["grid"]) as grid:
        grid.convert("RGB").save(pictures / f"{name}.jpg", quality=85)
    verdict = json.loads((runs / name / "verdict.json").read_text())
    kept = ("steps", "seconds", "evaluation_share", "watch_share", "worry", "samples_per_second", "best")
    left_out = ("closest", "histogram")
    return {
        "command": "troupe train " + shown.format(portraits="FOLDER"), "resumed": begun,
        **{key: result[key] for key in kept},
        "final": {key: value for key, value in verdict["final"].items() if key not in left_out},
        "best_numbers": {"step": verdict["best"]["step"], "numbers": verdict["best"]["numbers"]},
        "machine": common.machine(),
    }  # fmt: skip


def summary(done: dict[str, Any]) -> tuple[list[dict[str, Any]], list[common.Bound]]:
    """A row for each part of which runs are there, and what is asked of them."""
    rows, means = [], dict[str, dict[str, float]]()
    for part, what in PARTS.items():
        runs = [done[f"{part}-{seed}"] for seed in range(what.seeds) if f"{part}-{seed}" in done]
        if not runs:
            continue
        numbers = [run["final"]["numbers"] for run in runs]
        there = [name for name in NUMBERS if all(name in one for one in numbers)]
        means[part] = {name: sum(one[name]["generated"] for one in numbers) / len(runs) for name in there}
        row: dict[str, Any] = {"part": part, "n": f"{len(runs)} of {what.seeds}"}
        for name in NUMBERS:
            row[name] = ""
            if name in there:
                real = sum(one[name]["real"] for one in numbers) / len(runs)
                row[name] = f"{means[part][name]:.3g} ({real:.3g})"
        rows.append({**row, "minutes": common.spread([run["seconds"] / 60 for run in runs]), "": what.remark})
    bounds = []
    if all(f"mnist_{family}-2" in done for family in ("dcgan", "wgan_gp")):
        ours, others = means["mnist_wgan_gp"], means["mnist_dcgan"]
        bounds.append(common.at_least("MNIST: classes that WGAN-GP covers", ours["classes_covered"], 10))
        bounds += [common.at_least(f"MNIST: {name} of WGAN-GP over DCGAN's", ours[name] / others[name], 1)
                   for name in ("recall", "coverage")]  # fmt: skip
    return rows, bounds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; all by default")
    options.add_argument("--data-dir", type=Path, required=True)
    options.add_argument("--portraits", type=Path)
    options.add_argument("--runs-dir", type=Path, default=Path("runs"))
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = options.parse_args()
    given.results = common.results_on_gpu() if given.device == "cuda" else common.RESULTS
    if unknown := [part for part in given.parts if part not in PARTS]:
        options.error(f"{unknown[0]}: no such part; there are {', '.join(PARTS)}")
    wanted = given.parts or [part for part, what in PARTS.items() if what.of_gpu == (given.device == "cuda")]
    if given.portraits is None and any("portraits" in part for part in wanted):
        options.error("--portraits: of which folder? or name the other parts")
    names = {f"{part}-{seed}": (PARTS[part], seed) for part in wanted for seed in range(PARTS[part].seeds)}

    def make(name: str) -> dict[str, Any]:
        part, seed = names[name]
        print(f"{name}: about {part.minutes} minutes", file=sys.stderr, flush=True)
        return run(name, f"{part.words} device={given.device} seed={seed}", given)

    common.part_by_part("real_gans", list(names), make, summary, given.results)


if __name__ == "__main__":
    main()
