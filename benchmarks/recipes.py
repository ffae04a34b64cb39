"""What troupe reaches with each recipe, as `troupe search --recipe NAME seed=1,2,3`.

    python benchmarks/recipes.py --data-dir DIR [--time MINUTES] [--write] [NAME ...]

DIR holds MNIST's four files in DIR/mnist, and CIFAR-10 as benchmarks/pack_cifar10.py writes it. A recipe runs with
three seeds, one after another; one that takes too long for that runs once, shortened by the settings in SHORTENED.
`--time` leaves out those that are expected to take longer. What is finished is in results/KIND/recipes.json and is not
repeated, unless it is removed there. The values are those of the last step on the test part. `--write` writes them
into `ours` of the recipe's file; what explains a difference (`differs`) is for a person to say.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import common

from trainers.base.problems import sentence, show_value
from trainers.data import sources
from trainers.families import registry
from trainers.families.recipes import Ours, Recipe, all_recipes

SEEDS = (1, 2, 3)
FAST = "precision=bfloat16 workers=2"
SHORTENED = {  # what does not fit into an hour: one run with these settings
    "cifar10_residual": f"epochs=5 microbatch_size=32 {FAST}",
    "wrn_16_4": f"epochs=2 microbatch_size=64 {FAST}",
    "cifar10_darknet": f"epochs=2 {FAST}",
    "cifar10_wrn_22": f"epochs=1 {FAST}",
    "cifar10_wrn_22_record": f"epochs=1 {FAST}",
    "mnist_cnn": "epochs=2 microbatch_size=32 workers=2",
    "lsun_wgan_lesson": f"steps=100 n_critic_warmup=0 microbatch_size=64 {FAST}",
    "wrn_28_10": f"steps=200 microbatch_size=64 {FAST}",
    "cifar10_dcgan": f"epochs=1 microbatch_size=32 {FAST}",
    "lsun_wgan": f"steps=100 n_critic_warmup=0 microbatch_size=32 {FAST}",
    "cifar10_wgan_gp_resnet": f"steps=500 width=32 microbatch_size=32 {FAST}",
    "cifar10_wgan_gp_conv": f"steps=500 width=32 microbatch_size=32 {FAST}",
    "mnist_wgan_gp": f"steps=1000 microbatch_size=25 {FAST}",
}
RUNNING = ("workers",)  # settings that change the time, and no number


def words_of(recipe: Recipe) -> list[str]:
    """The arguments of the command that runs a recipe here."""
    if (short := SHORTENED.get(recipe.name)) is not None:
        return ["train", "--recipe", recipe.name, *short.split(), f"seed={SEEDS[0]}", "evaluate_on=test"]
    seeds = ",".join(map(str, SEEDS))
    return ["search", "--recipe", recipe.name, f"seed={seeds}", "evaluate_on=test", "--max-concurrent", "1"]


def run(recipe: Recipe, data_dir: Path, runs_dir: Path) -> dict[str, Any]:
    """Run a recipe to its end, from its newest checkpoints if it has begun."""
    words, name = words_of(recipe), f"recipe-{recipe.name}"
    begun = (runs_dir / name).exists()
    given = [words[0], "--resume", name] if begun else [*words, "--name", name]
    options = ["--data-dir", str(data_dir), "--runs-dir", str(runs_dir), "--json"]
    done = subprocess.run([sys.executable, "-m", "troupe", *given, *options], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name}: ended with code {done.returncode}; the same command goes on with it")
    folders = {SEEDS[0]: runs_dir / name}
    if words[0] == "search":
        trials = [trial for point in json.loads(done.stdout)["result"]["points"] for trial in point["trials"]]
        folders = {trial["settings"]["seed"]: runs_dir / name / "trials" / trial["name"].split("/")[1]
                   for trial in trials}  # fmt: skip
    results = {seed: json.loads((folder / "result.json").read_text()) for seed, folder in sorted(folders.items())}
    metric = next(iter(registry.config_class(recipe.family).metrics))
    changed = dict(word.split("=") for word in SHORTENED.get(recipe.name, "").split())
    return {
        "command": "troupe " + " ".join(words), "resumed": begun, "metric": metric,
        "values": {seed: result["metrics"][f"eval_{metric}"] for seed, result in results.items()},
        "minutes": {seed: round(result["seconds"] / 60, 2) for seed, result in results.items()},
        "changed": {name: value for name, value in changed.items() if name not in RUNNING},
        "published": str(recipe.published), "machine": common.machine(),
    }  # fmt: skip


def ours_of(name: str, done: Mapping[str, Any], kind: str) -> Ours:
    """A result as the file of its recipe holds it."""
    facts = {part: done[part] for part in ("metric", "values", "minutes", "changed")}
    return Ours.model_validate({**facts, "processor": kind, "results": "recipes", "runs": name})


def block_of(results: Sequence[Ours]) -> Iterator[str]:
    """The lines of `ours` in the file of a recipe."""
    yield "ours:"
    for one in results:
        yield f"  - metric: {one.metric}"
        values, minutes = (", ".join(f"{seed}: {show_value(value)}" for seed, value in part.items())
                           for part in (one.values, one.minutes))  # fmt: skip
        yield f"    values: {{{values}}}  # by seed, at the last step"
        yield f"    minutes: {{{minutes}}}"
        if one.changed:
            yield "    changed:"
            yield from (f"      {name}: {value}" for name, value in one.changed.items())
        yield from (f"    {part}: {getattr(one, part)}" for part in ("processor", "results", "runs"))


def with_ours(text: str, recipe: Recipe, new: Ours) -> str:
    """The text of a recipe's file with another result in `ours`; everything else stays. A complete result takes the
    place of those with changed settings, and of `not_run`."""
    others = [one for one in recipe.ours if (one.processor, one.results) != (new.processor, new.results)]
    results = [new, *(one for one in others if new.changed or not one.changed)]
    block = "\n".join(block_of(results)) + "\n"
    text = _without(text, "ours")
    if not new.changed:
        text = _without(text, "not_run")
    key = "not_run" if re.search("^not_run:", text, re.MULTILINE) else "differs"
    return re.sub(rf"^(?={key}:)", lambda _: block, text, count=1, flags=re.MULTILINE)


def _without(text: str, key: str) -> str:
    """The text without a key and the indented lines below it."""
    return re.sub(rf"^{key}:.*\n(?:[ ].*\n|\n(?=[ ]))*", "", text, flags=re.MULTILINE)


def summary(done: dict[str, Any]) -> tuple[list[dict[str, Any]], list[common.Bound]]:
    rows = []
    for name, one in done.items():
        changed = " ".join(f"{key}={value}" for key, value in one["changed"].items())
        rows.append({
            "recipe": name, "published": one["published"], "n": len(one["values"]),
            one["metric"]: common.spread([*one["values"].values()]),
            "minutes": common.spread([*one["minutes"].values()]), "with": changed,
        })  # fmt: skip
    return rows, []


def expected(recipe: Recipe) -> float:
    """Minutes that a recipe is expected to take here."""
    return len(SEEDS) * recipe.time.two_cores.minutes if recipe.name not in SHORTENED else 15.0


def main() -> None:
    known = {recipe.name: recipe for recipe in all_recipes()}
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(known)}; all by default")
    options.add_argument("--data-dir", type=Path, required=True)
    options.add_argument("--runs-dir", type=Path, default=Path("runs"))
    options.add_argument("--time", type=float, metavar="MINUTES", help="leave out what is expected to take longer")
    options.add_argument("--write", action="store_true", help="write the results into the files of the recipes")
    given = options.parse_args()
    if unknown := [name for name in given.names if name not in known]:
        options.error(f"{unknown[0]}: no such recipe; there are {', '.join(known)}")
    wanted = []
    for name in given.names or known:
        if (problem := sources.missing(known[name].words["data"], given.data_dir)) is not None:
            print(f"{name}: left out: {known[name].words['data']}: {sentence(problem)}", file=sys.stderr)
        elif given.time is not None and expected(known[name]) > given.time:
            print(f"{name}: left out: about {expected(known[name]):.0f} minutes", file=sys.stderr)
        else:
            wanted.append(name)
    common.part_by_part("recipes", wanted, lambda name: run(known[name], given.data_dir, given.runs_dir), summary)
    file = common.RESULTS / "recipes.json"
    done = json.loads(file.read_text())["runs"] if file.exists() else {}
    for name in [name for name in given.names or known if name in done]:
        recipe, new = known[name], ours_of(name, done[name], common.RESULTS.name)
        text = with_ours(recipe.file.read_text(), recipe, new)
        if given.write:
            recipe.file.write_text(text)
            print(f"{recipe.file}: written; check what it says under `differs`")
        else:
            print(f"\n{recipe.file}:\n" + "\n".join(block_of([new])))


if __name__ == "__main__":
    main()
