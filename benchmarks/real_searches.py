"""Real searches, from the command line, with what they found.

    python benchmarks/real_searches.py --data-dir DIR [NAME ...]

DIR holds MNIST's four files in DIR/mnist, and CIFAR-10 as benchmarks/pack_cifar10.py writes it. A search that was
interrupted goes on (`troupe search --resume`). Of each, results/KIND/searches holds NAME.csv (the leaderboard),
NAME.json (search.json), NAME.png (a picture of its page, where there is Chromium) and, in real_searches.json, the
command, its minutes, the points in their order, and which of them differ from the best by no more than chance
(docs/search.md, "What is luck"). Older results hold a rule of thumb instead: the least difference of two means.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import common
from report import browser, until

FAST = "precision=bfloat16 sample_every=1000000"
DIGITS = "--space none data=digits epochs=5 evaluate_every=100000 sample_every=100000 --scheduler fifo"
QUICK = DIGITS.replace("epochs=5", "epochs=2 batch_size=32 ema=0.95 seed=1")
SEEDS = QUICK.replace("epochs=2", "steps=1500").replace("seed=1", "seed=11,12,13") + " evaluate_on=test"
SEARCHES = {
    "dcgan_digits": f"dcgan {DIGITS} learning_rate=1e-3,2e-3,4e-3 batch_size=32,64 "
                    f"schedule=constant,linear seed=1",
    "dcgan_rate_digits": "dcgan --space none data=digits steps=400 evaluate_every=100000 sample_every=100000 "
                         "--scheduler fifo learning_rate=5e-4,1e-3,2e-3,3e-3,4e-3,8e-3 seed=1,2,3 --confirm 3 "
                         "--confirm-seeds 12",
    "wgan_gp_digits": f"wgan_gp {QUICK} n_critic=1,2 learning_rate=5e-4,1e-3,2e-3 beta1=0,0.5",
    "wgan_digits": f"wgan {QUICK} n_critic=1,2 learning_rate=1e-3,2e-3,4e-3 clip=0.03,0.1 n_critic_warmup=0",
    "wgan_digits_seeds": f"wgan {SEEDS} n_critic=1 n_critic_warmup=0 learning_rate=1e-3 clip=0.03,0.1",
    "wgan_gp_digits_seeds": f"wgan_gp {SEEDS} n_critic=1 learning_rate=2e-3 beta1=0,0.5",
    "wgan_gp_mnist": "wgan_gp --space none data=mnist n_critic=1,2,5 penalty=1,10,100 seed=1,2 epochs=1 width=16 "
                     "microbatch_size=64 learning_rate=0.0005 ema=0.99 --scheduler fifo precision=bfloat16 "
                     "sample_every=300",
    "wide_resnet_cifar10": f"wide_resnet --space none data=cifar10 depth=10 widen_factor=1,2,4 schedule=one_cycle "
                           f"learning_rate=0.1,0.3,1 seed=1,2 epochs=2 --scheduler asha {FAST}",
    "cifar_speed_schedule": f"cifar_speed --space none data=cifar10 widths=32:128:128 learning_rate=0.75,1.5,3 "
                            f"cycle_peak=0.1,0.23,0.4 seed=1,2 epochs=3 --scheduler fifo {FAST}",
}  # fmt: skip
PARTS = ("leaderboard", "settings-plots")  # of the page, in its picture


def run(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One search to its end, and what is kept of it."""
    path: Path = given.runs_dir / name
    words = ["--resume", name] if (path / "search.json").exists() else [*SEARCHES[name].split(), "--name", name]
    places = ["--data-dir", str(given.data_dir), "--runs-dir", str(given.runs_dir)]
    begun = time.monotonic()
    done = subprocess.run([shutil.which("troupe") or "troupe", "search", *words, *places, "--json"],
                          stdout=subprocess.PIPE, text=True)  # fmt: skip
    if done.returncode:
        sys.exit(f"{name}: ended with code {done.returncode}; the same command goes on with it")
    minutes = (time.monotonic() - begun) / 60
    found = json.loads(done.stdout)["result"]
    kept = common.RESULTS / "searches"
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path / "search.json", kept / f"{name}.json")
    shutil.copyfile(path / "leaderboard.csv", kept / f"{name}.csv")
    subprocess.run([shutil.which("troupe") or "troupe", "report", name, *places[2:]], check=True, stdout=sys.stderr)
    if shutil.which("chromium") and shutil.which("chromedriver"):
        photograph(path / "report/index.html", kept / f"{name}.png")
    return {
        "command": f"troupe search {SEARCHES[name]} --name {name}", "resumed": words[0] == "--resume",
        "minutes": minutes, "metric": found["metric"], "mode": found["mode"], **told(found),
        "machine": common.machine(),
    }  # fmt: skip


def told(found: dict[str, Any]) -> dict[str, Any]:
    """The points in their order, and what the seeds say of them."""
    points = [{**{key: one[key] for key in ("settings", "mean", "spread", "first", "vs_best")},
               "values": [trial["value"] for trial in one["trials"]],
               "fresh": [trial["value"] for trial in one["trials"] if trial["fresh"]]}
              for one in found["points"] if one["mean"] is not None]  # fmt: skip
    return {"points": points, "comparison": found["comparison"]}


def photograph(page: Path, picture: Path) -> None:
    """The first parts of a page as a picture of few colours."""
    import io

    from PIL import Image

    with browser() as driver:
        driver.set_window_size(1200, 1000)
        driver.get(page.resolve().as_uri())
        until(driver, "return document.documentElement.dataset.ready === 'true'")
        shots = []
        for part in PARTS:
            driver.execute_script(f"document.getElementById('{part}').scrollIntoView()")
            time.sleep(2)
            shots.append(Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB"))
    both = Image.new("RGB", (shots[0].width, sum(shot.height for shot in shots)))
    top = 0
    for shot in shots:
        both.paste(shot, (0, top))
        top += shot.height
    both.quantize(64).save(picture, optimize=True)


def summary(done: dict[str, Any]) -> tuple[list[dict[str, Any]], list[common.Bound]]:
    """A row for each search."""
    rows = []
    for name, one in done.items():
        best = one["points"][0] if one["points"] else None
        rows.append({
            "search": name, "minutes": one["minutes"], "metric": one["metric"],
            "best": f"{best['mean']:.4g}" if best else "-",
            "with": " ".join(f"{key}={value}" for key, value in best["settings"].items()) if best else "-",
            "tied with it": len(one["comparison"]["tied"]) if "comparison" in one else "-",
        })  # fmt: skip
    return rows, [common.at_most(f"{name}: minutes", one["minutes"], 40) for name, one in done.items()]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(SEARCHES)}; all by default")
    options.add_argument("--data-dir", type=Path, required=True)
    options.add_argument("--runs-dir", type=Path, default=Path("runs"))
    given = options.parse_args()
    if unknown := [name for name in given.names if name not in SEARCHES]:
        options.error(f"{unknown[0]}: no such search; there are {', '.join(SEARCHES)}")
    common.part_by_part("real_searches", given.names or list(SEARCHES), lambda name: run(name, given), summary)


if __name__ == "__main__":
    main()
