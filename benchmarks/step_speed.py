"""Speed of one training step: ours against a plain hand-written loop of the same family, both with one thread.

One worker, one micro-batch in a step; of Wasserstein GANs a step of the critic is timed. The plain loop
(benchmarks/plain/FAMILY.py) runs without the environment that troupe gives its workers. Both begin with the same
weights, pictures and noise: in float32 the first loss must agree to 1e-4, and those after an optimizer step to 1e-2, or
the comparison is worth nothing and fails. bfloat16 is ours only, against the same plain loop.
Bounds are on wall time; the ratio by CPU time stands beside it, since it suffers less from what else the machine does.
With --device cuda both run on the first GPU, ours as it comes there (grad_sync=ddp), and in float32 with
grad_sync=exact too, whose ways give the same bits each time; nothing is asked of the ratios, and a CPU's environment
plays no part.
How near our float32 step comes to what the core can do is told in its operations per second (convolutions and products
of matrices, all else counted as none) over those of one large product of matrices.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common

TOLERANCE = {"cpu": 1e-4, "cuda": 1e-2}  # a GPU's convolutions take TF32
AFTER_A_STEP = 100  # times that for a loss after an optimizer step: Adam's first one is as large for any gradient


def plain_side(family: str, device: str, warm_up: int, steps: int) -> dict[str, Any]:
    """The plain loop."""
    import torch
    import workload

    torch.set_num_threads(1)
    plain = importlib.import_module(f"plain.{family}")
    config = workload.config_of(family, device=device, **plain.SETTINGS)
    logged: list[dict[str, float]] = []
    loop = plain.steps(config, workload.generated(plain.PICTURE_SIZE), 1 + warm_up + steps)
    next(loop)  # what it prepares is not timed
    logged.append(next(loop))
    return {"first": logged[0], **timed(partial(next, loop), warm_up, steps)}


def our_side(family: str, device: str, precision: str, grad_sync: str, warm_up: int, steps: int) -> dict[str, Any]:
    """The engine's loop."""
    import workload

    from trainers.engine.loop import torch_runtime

    plain = importlib.import_module(f"plain.{family}")
    words = {"device": device, "precision": precision, "grad_sync": grad_sync, **plain.SETTINGS}
    config = workload.config_of(family, **words)
    with torch_runtime(config):
        trainer = workload.trainer_of(family, config, workload.generated(plain.PICTURE_SIZE))
        step = partial(getattr(plain, "OF_OURS", workload.train_step), trainer)
        step()
        trainer.look()
        answer = {"first": dict(trainer.metrics), **timed(step, warm_up, steps)}
        if device == "cpu":
            answer["data_seconds"] = seconds_of_data(family, plain)
        return {**answer, **peak(step)} if (device, precision) == ("cpu", "float32") else answer


def peak(step: Callable[[], Any]) -> dict[str, float]:
    """Operations of a step, and operations per second of one large product of matrices."""
    import torch
    import workload
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = min(workload.seconds_of_steps(lambda: left @ right, 2, 10))
    return {"operations": counter.get_total_flops(), "product_operations_per_second": 2 * 2048**3 / best}


def seconds_of_data(family: str, plain: Any) -> list[float]:
    """CPU seconds of the whole path of a batch's images, with the family's own augmentation, where it has one."""
    import workload

    settings = {key: value for key, value in plain.SETTINGS.items() if key not in ("flip", "crop_padding")}
    config = workload.config_of(family, **settings)
    if not hasattr(config, "flip"):
        return []
    trainer = workload.trainer_of(family, config, workload.generated(plain.PICTURE_SIZE))

    def step() -> None:
        workload.next_batch(trainer)
        for microbatch in trainer.microbatches.values():
            trainer.family.normalized(trainer.family.augmented(microbatch), microbatch.dtype)

    return workload.seconds_of_steps(step, 3, 20, time.process_time)


def timed(step: Callable[[], Any], warm_up: int, steps: int) -> dict[str, Any]:
    """Seconds and CPU seconds of each step."""
    import workload

    workload.seconds_of_steps(step, warm_up, 0)
    seconds, used = [], []
    for _ in range(steps):
        started = time.process_time()
        seconds += workload.seconds_of_steps(step, 0, 1)
        used.append(time.process_time() - started)
    return {"seconds": seconds, "cpu_seconds": used}


def compare(
    family: str, device: str, rounds: int, warm_up: int, steps: int
) -> tuple[list[dict[str, Any]], list[common.Bound], Any]:
    """Rows, bounds and raw numbers of one family."""
    plain = importlib.import_module(f"plain.{family}")
    ways = [("float32", "exact"), *([("bfloat16", "exact")] if common.bfloat16_instructions() else [])]
    if device == "cuda":
        ways = [("float32", "ddp"), ("float32", "exact"), ("bfloat16", "ddp")]

    def run(*words: object, ours: bool) -> Callable[[], Any]:
        environment = common.our_environment() if ours else common.plain_environment()
        return partial(common.side, __file__, family, device, *words, warm_up, steps, environment=environment)

    sides = {f"{family} plain": run("plain", "-", ours=False)}
    sides |= {
        f"{family} {precision} {grad_sync}": run(precision, grad_sync, ours=True) for precision, grad_sync in ways
    }
    answers = common.alternate(sides, rounds)
    theirs = answers[f"{family} plain"]
    rows, bounds = [], []
    for precision, grad_sync in ways:
        ours = answers[f"{family} {precision} {grad_sync}"]

        def medians(of: list[Any], what: str) -> list[float]:
            return [1000 * statistics.median(answer[what]) for answer in of]

        ratio = common.paired(medians(theirs, "seconds"), medians(ours, "seconds"))
        losses = [name for name in theirs[0]["first"] if name.endswith("_loss")]
        differences = [max(abs(a["first"][loss] - b["first"][loss]) for a, b in zip(ours, theirs, strict=True))
                       for loss in losses]  # fmt: skip
        of_first, of_later = differences[0], max(differences[1:], default=0.0)
        same = of_first <= TOLERANCE[device] and of_later <= AFTER_A_STEP * TOLERANCE[device]
        if precision == "float32" and not same:
            sys.exit(f"{family}: the losses of the first step differ by {differences}: not the same training")
        rows.append({
            "family": family, "ours in": precision, "grad_sync": grad_sync, "n": rounds,
            "plain ms": common.spread(medians(theirs, "seconds")), "ours ms": common.spread(medians(ours, "seconds")),
            "times faster": ratio,
            "by CPU time": common.paired(medians(theirs, "cpu_seconds"), medians(ours, "cpu_seconds")),
            "first losses differ by": max(differences),
        })  # fmt: skip
        speeds = [
            answer["operations"] / statistics.median(answer["seconds"]) / answer["product_operations_per_second"]
            for answer in ours if "operations" in answer
        ]  # fmt: skip
        rows[-1]["part of a product's speed"] = common.spread(speeds) if speeds else "-"
        if ours[0].get("data_seconds"):
            shares = [statistics.median(answer["data_seconds"]) / statistics.median(answer["cpu_seconds"])
                      for answer in ours]  # fmt: skip
            rows[-1]["data path, part of a step"] = common.spread(shares)
            if precision == "float32":
                bounds.append(
                    common.at_most(
                        f"{family}: data path, part of a step", rows[-1]["data path, part of a step"].median, 0.03
                    )
                )
        if device == "cpu":
            bounds.append(common.at_least(f"{family}, ours in {precision}: times faster", ratio.median,
                                          plain.FASTER[precision]))  # fmt: skip
    return rows, bounds, answers


def main() -> None:
    known = sorted(path.stem for path in Path(__file__).with_name("plain").glob("[!_]*.py"))
    options = common.parser(__doc__, rounds=5)
    options.add_argument("families", nargs="*", metavar="FAMILY", help=f"any of {', '.join(known)}; all by default")
    options.add_argument("--steps", type=int, default=12, help="timed steps in each process (default 12)")
    options.add_argument("--warm-up", type=int, default=6, help="steps before them (default 6)")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = options.parse_args()
    results = common.results_on_gpu() if given.device == "cuda" else common.RESULTS
    for family in given.families or known:
        rows, bounds, raw = compare(family, given.device, given.rounds, given.warm_up, given.steps)
        common.report(f"step_speed_{family}", given.rounds, rows, bounds, raw, results, device=results.name,
                      steps=given.steps, warm_up=given.warm_up)  # fmt: skip


def side(family: str, device: str, which: str, grad_sync: str, warm_up: str, steps: str) -> None:
    if which == "plain":
        common.tell(plain_side(family, device, int(warm_up), int(steps)))
    else:
        common.tell(our_side(family, device, which, grad_sync, int(warm_up), int(steps)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        side(*sys.argv[2:])
    else:
        main()
