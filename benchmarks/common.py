"""What all benchmarks share: the machine, two sides in alternation, medians and spreads, and the written result."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cluster.host.environment import worker_environment
from cluster.terminal import progress as shown
from trainers.runtime import processor

RESULTS = Path(__file__).parent / "results" / processor.kind().replace(" ", "-").lower()  # one for each kind


def results_on_gpu() -> Path:
    """Where results of this kind of GPU lie."""
    import torch

    return RESULTS.with_name(torch.cuda.get_device_name().replace(" ", "-").lower())


OURS = "ours"
Answer = TypeVar("Answer")


class Spread(NamedTuple):
    """A median, and the smallest and largest of n values."""

    median: float
    least: float
    most: float
    n: int

    def __str__(self) -> str:
        return f"{short(self.median)} [{short(self.least)}..{short(self.most)}]"


class Bound(NamedTuple):
    """What is asked of a value, and whether it holds."""

    what: str
    asked: str  # as ">= 1.3"
    value: float
    met: bool


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values), len(values))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The ratio ours / theirs of each round."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


def at_least(what: str, value: float, limit: float) -> Bound:
    return Bound(what, f">= {limit:g}", value, value >= limit)


def at_most(what: str, value: float, limit: float) -> Bound:
    return Bound(what, f"<= {limit:g}", value, value <= limit)


def short(number: float) -> str:
    """Three digits that matter, in full."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def parser(text: str | None, rounds: int) -> argparse.ArgumentParser:
    """The option that every benchmark has."""
    options = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--rounds", type=int, default=rounds, help=f"rounds of all sides (default {rounds})")
    return options


def alternate(sides: Mapping[str, Callable[[], Answer]], rounds: int) -> dict[str, list[Answer]]:
    """Every side once in a round; the order turns round from one round to the next."""
    answers: dict[str, list[Answer]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            answers[name].append(sides[name]())
    return answers


def plain_environment() -> dict[str, str]:
    """The environment of this process without what troupe sets, and with one thread."""
    ours = worker_environment()
    kept = {name: value for name, value in os.environ.items() if name not in ours and name != "GLIBC_TUNABLES"}
    return {**kept, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def our_environment() -> dict[str, str]:
    """The same with what troupe sets for its workers."""
    return {**plain_environment(), **worker_environment()}


def side(script: str, *words: object, environment: Mapping[str, str]) -> Any:
    """Run `python script --side ...` and return what it printed last, which is JSON."""
    command = [sys.executable, script, "--side", *map(str, words)]
    done = subprocess.run(command, env=dict(environment), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{Path(script).name} --side {' '.join(map(str, words))}: ended with code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def tell(answer: Any) -> None:
    """Inside the process of one side: its answer."""
    print(json.dumps(answer), flush=True)


def report(
    name: str, rounds: int, rows: Sequence[Mapping[str, Any]], bounds: Sequence[Bound], raw: Any,
    results: Path = RESULTS, **facts: Any,
) -> None:  # fmt: skip
    """Print the rows and bounds, and write them with everything that was measured to results/KIND/NAME.json."""
    show(rows)
    shown = bounds if len(bounds) <= 12 else [bound for bound in bounds if not bound.met]
    print()
    show([{"bound": bound.what, "asked": bound.asked, "measured": bound.value,
           "": "met" if bound.met else "MISSED"} for bound in shown])  # fmt: skip
    if len(shown) < len(bounds):
        print(f"{len(bounds) - len(shown)} of {len(bounds)} bounds are met; the file has them all")
    result = {
        "benchmark": name,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": machine(),
        "rounds": rounds,
        **facts,
        "bounds": [bound._asdict() for bound in bounds],
        "rows": [{key: _plain(value) for key, value in row.items()} for row in rows],
        "raw": raw,
    }
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten: {path.relative_to(Path(__file__).parents[1])}")


def part_by_part(
    name: str, wanted: Sequence[str], run: Callable[[str], dict[str, Any]],
    summary: Callable[[dict[str, Any]], tuple[list[dict[str, Any]], list[Bound]]], results: Path = RESULTS,
) -> None:  # fmt: skip
    """Make the runs that results/KIND/NAME.json does not hold yet, and write it after each; show what all say."""
    file = results / f"{name}.json"
    done: dict[str, Any] = json.loads(file.read_text())["runs"] if file.exists() else {}
    for each in wanted:
        if each in done:
            continue
        done[each] = run(each)
        rows, bounds = summary(done)
        told = {
            "benchmark": name, "bounds": [bound._asdict() for bound in bounds],
            "rows": [{key: str(value) for key, value in row.items()} for row in rows], "runs": done,
        }  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(told, indent=1) + "\n")
    rows, bounds = summary(done)
    show(rows)
    for bound in bounds:
        print(f"{bound.what}: asked {bound.asked}, {bound.value:.4f}, {'met' if bound.met else 'MISSED'}")


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table."""
    print(shown.table([{key: _cell(value) for key, value in row.items()} for row in rows], "(no bound is missed)"))


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "processor": processor.name(),
        "kind": processor.kind(),
        "cores": cores(),
        "bfloat16_instructions": bfloat16_instructions(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "ray": metadata.version("ray"),
        "troupe": metadata.version("troupe"),
        "date": datetime.date.today().isoformat(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bfloat16_instructions() -> bool:
    """Whether the processor multiplies bfloat16 numbers itself."""
    return processor.kind().endswith("_bf16")


def memory_of(process: int | str = "self") -> dict[str, float]:
    """Megabytes of a process: its own (anonymous), those of mapped files, which others share, and both (resident)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {words[0].rstrip(":"): int(words[1]) for words in map(str.split, lines)}
    resident, own = (kilobytes[name] * 1024 / 1e6 for name in ("Rss", "Anonymous"))
    return {"own": own, "of files": resident - own, "resident": resident}


def _cell(value: Any) -> str:
    return short(value) if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    return value._asdict() if isinstance(value, Spread) else value
