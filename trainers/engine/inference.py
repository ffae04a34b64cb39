"""What is done between steps, by all workers together: the fixed grid, and evaluations.

Both go in chunks whose size no number of workers changes, dealt over the workers, under random numbers of their own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trainers.contract import evaluation
from trainers.contract.evaluation import Evaluation
from trainers.contract.family import Family, Watch
from trainers.contract.streams import Stream
from trainers.distributed.reduction_tree import shares
from trainers.engine.control import Left
from trainers.engine.trainer import Trainer
from trainers.runtime.precision import computing_in
from trainers.storage import cache
from trainers.storage.tensors import as_uint8

CHUNK = 16  # cells of the grid that are drawn at once


@contextlib.contextmanager
def at_rest(trainer: Trainer) -> Iterator[Mapping[str, nn.Module]]:
    """The networks as they are used: averaged where there is an average, in eval mode, without gradients."""
    averages = {name: average.network for name, average in trainer.averages.items()}
    networks = {**trainer.networks, **averages}
    for network in networks.values():
        network.eval()
    try:
        with torch.no_grad():
            yield {**networks, **trainer.frozen}
    finally:
        for network in networks.values():
            network.train()


def draw_grid(trainer: Trainer, leaves: bool = False) -> Tensor | list[str] | None:
    """The fixed grid as uint8 (cells, height, width, channels), or texts; the same on every rank.

    Raises Left where it `leaves` on request; all is as before then.
    """
    inputs = {**trainer.sample_inputs, **_carried(trainer)}
    if not inputs:
        return None
    with at_rest(trainer) as networks:

        def cells(place: int, cells: range) -> Tensor | list[str]:
            part = {name: value[cells.start : cells.stop] for name, value in inputs.items()}
            return drawn(trainer.family.samples(networks, trainer.to_device(part)))

        count, doing = len(next(iter(inputs.values()))), "drawing" if leaves else ""
        parts = dealt(trainer, "grid", count, CHUNK, cells, doing=doing, leaves=leaves)
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return [text for part in parts for text in part]


def drawn(samples: Tensor | list[str]) -> Tensor | list[str]:
    """Samples as they are kept: images as uint8, texts as they are."""
    return as_uint8(samples) if isinstance(samples, Tensor) else list(samples)


def _carried(trainer: Trainer) -> dict[str, Tensor]:
    """What pictures are made of that micro-batches carry, wherever they are."""
    if not makes_of_carried(trainer.family, trainer.step):
        return {}
    own = {index: {name: kept.cpu() for name, kept in carried.items()} for index, carried in trainer.carried.items()}
    return in_order({index: carried for part in trainer.world.gather(own) for index, carried in part.items()})


def makes_of_carried(family: Family, step: int) -> bool:
    """Whether the family's pictures are made of what micro-batches carry: where a phase optimises some of it."""
    return any(phase.optimises for phase in family.phases(step))


def in_order(carried: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What all micro-batches carry, one after another."""
    return {name: torch.cat([carried[index][name] for index in sorted(carried)]) for name in carried[0]}


def watch(trainer: Trainer, drawn: Tensor) -> Watch | None:
    """Look for signs that the run goes wrong, at a grid just drawn; what is found is the same on every rank."""
    watch = trainer.family.watch(trainer.data, trainer.sample_inputs, drawn)
    if watch is None:
        trainer.watched, trainer.worry = {}, ""
        return None
    networks = {**trainer.networks, **trainer.frozen}

    def part(place: int, places: range) -> evaluation.Rows:
        with as_trained(trainer), torch.no_grad():
            seen = watch.look(networks, trainer.microbatch(watch.stream, places, place))
        return {name: tensor.cpu() for name, tensor in seen.items()}

    parts = dealt(trainer, "watch", watch.stream.length, watch.stream.chunk, part, trainer.world.gather_first)
    trainer.norms.take(())  # what was seen there is no micro-batch's
    told: tuple[dict[str, float], str] = {}, ""
    if trainer.world.rank == 0:
        rows = {name: torch.cat([chunk[name] for chunk in parts]) for name in parts[0]}
        found = watch.conclude(rows, trainer.watched)
        told = dict(found), watch.worry(found) or ""
    trainer.watched, trainer.worry = trainer.world.agree(told)
    return watch


def evaluate(trainer: Trainer) -> None:
    """The family's own evaluation over the held-out samples; its results are the same on every rank.

    Raises Left on every rank where a stop is asked for meanwhile; the evaluations before are as they were.
    """
    refer(trainer)
    family, control = trainer.family, trainer.control
    stream = family.held_out(trainer.data)
    with at_rest(trainer) as networks:

        def part(place: int, places: range) -> evaluation.Part:
            microbatch = trainer.microbatch(stream, places, place)
            with as_trained(trainer):
                totals = family.evaluate(networks, microbatch)
            rows = {name: tensor.cpu() for name, tensor in family.collected(microbatch).items()}
            return totals, evaluation.highest(family.scored(microbatch), microbatch.indices), rows

        gather = trainer.world.gather_first
        parts = dealt(trainer, "evaluation", stream.length, stream.chunk, part, gather, "evaluating", leaves=True)
    found = Evaluation()

    def concluded() -> dict[str, float]:
        nonlocal found
        if parts:
            found = evaluation.added(parts, control.beating("comparing"))
        return {f"eval_{name}": float(value) for name, value in family.conclude(found).items()} if parts else {}

    results = trainer.on_first(concluded)
    trainer.evaluation = replace(found, results=results)
    due = trainer.step % max(1, int(trainer.config.evaluate_every)) == 0  # and not only because the run ends here
    if due and (main := main_metric(trainer)) is not None:
        trainer.history.append(trainer.evaluation.results[f"eval_{main}"])
    trainer.reached = trainer.config.reached(trainer.evaluation.results)
    control.doing("")


def try_out(trainer: Trainer) -> None:
    """Look at a real sample of each kind that evaluations compare with: a mistake shows before the training."""
    with at_rest(trainer) as networks:
        for stream in trainer.family.compared(trainer.data).values():
            trainer.family.look(networks, trainer.microbatch(stream, range(1), 0))


def refer(trainer: Trainer) -> None:
    """Before the first evaluation in this process: what it needs, and what it compares with, seen by all workers."""
    if trainer.referred:
        return
    family, doing = trainer.family, "preparing evaluations"

    def needed() -> dict[str, Tensor]:
        with torch.no_grad():
            every = {**trainer.networks, **trainer.frozen}
            return dict(family.before_evaluations(every, trainer.data, trainer.control.beating(doing)))

    if more := trainer.on_first(needed):
        trainer.keep({**family.kept, **more})
    for name, stream in family.compared(trainer.data).items():
        _look_at(trainer, name, stream, doing)
    trainer.referred = True


def _look_at(trainer: Trainer, name: str, stream: Stream, doing: str) -> None:
    """What the family's judge sees of real samples: from the cache, or from all workers."""
    family = trainer.family
    path = cache.place(trainer.data, name, family.look_name()) if trainer.world.rank == 0 else None
    known = cache.read(path, trainer.control.say) if path is not None else None
    if trainer.world.agree(known is not None):
        family.looked = {**family.looked, name: known or {}}
        return
    with at_rest(trainer) as networks:

        def part(place: int, places: range) -> evaluation.Rows:
            seen = family.look(networks, trainer.microbatch(stream, places, place))
            return {key: tensor.cpu() for key, tensor in seen.items()}

        gather = trainer.world.gather_first
        parts = dealt(trainer, "compared", stream.length, stream.chunk, part, gather, doing, leaves=True)

    def looked_over() -> None:
        seen = {key: torch.cat([chunk[key] for chunk in parts]) for key in (parts[0] if parts else ())}
        seen |= family.look_over(seen, trainer.control.beating(doing))
        family.looked = {**family.looked, name: seen}
        if path is not None:
            cache.write(path, seen)

    trainer.on_first(looked_over)


def as_trained(trainer: Trainer) -> contextlib.AbstractContextManager[Any]:
    """The number format of the run."""
    return computing_in(trainer.config.precision, trainer.device.type)


def main_metric(trainer: Trainer) -> str | None:
    """The first of the family's metrics that the newest evaluation gives: what is best follows from it."""
    return next((name for name in trainer.config.metrics if f"eval_{name}" in trainer.evaluation.results), None)


def lacking_metric(trainer: Trainer) -> str:
    """What a person should know where the newest evaluation lacks the metric that is declared first; or nothing."""
    declared = next(iter(trainer.config.metrics_of(trainer.family.facts)), None)
    results = trainer.evaluation.results
    if declared is None or f"eval_{declared}" in results:
        return ""
    if (main := main_metric(trainer)) is not None:
        return f"the evaluation gives no eval_{declared} here: the best is chosen by eval_{main}"
    given = ", ".join(results) or "nothing"
    return (
        f"the family declares {declared} as its main metric, but its evaluation gives {given}: no evaluation counts as "
        "the best; let both say the same"
    )


def note_best(trainer: Trainer) -> bool:
    """Remember the newest evaluation where it is the best so far; returns whether it is."""
    if (main := main_metric(trainer)) is None:
        return False
    mode, value = trainer.config.metrics[main], trainer.evaluation.results[f"eval_{main}"]
    known = trainer.best.get("value", -math.inf if mode == "max" else math.inf)
    if math.isfinite(value) and (value > known if mode == "max" else value < known):
        trainer.best = {"step": trainer.step, "metric": f"eval_{main}", "value": value}
        return True
    return False


def dealt(
    trainer: Trainer,
    stream: str,
    count: int,
    size: int,
    work: Callable[[int, range], Any],
    gather: Callable[[Any], list[Any]] | None = None,
    doing: str = "",
    leaves: bool = False,
) -> list[Any]:
    """`work(chunk, its places)` for each chunk of `count` places, dealt over the workers; all answers, in order.

    `doing` is what the progress line says meanwhile. Where it `leaves`, a stop that is asked for ends it after the
    chunk under way: Left is raised on every rank.
    """
    starts = range(0, count, size)
    done: dict[int, Any] = {}
    mine = shares(len(starts), trainer.world.size)[trainer.world.rank]
    for chunk in mine:
        if leaves and trainer.control.stop_requested:
            break
        if doing:
            trainer.control.doing(f"{doing} {len(done) / len(mine):.0%}")
        trainer.seed(stream, chunk)
        done[chunk] = work(chunk, range(starts[chunk], min(starts[chunk] + size, count)))
        trainer.control.beat()
    every = {chunk: answer for answers in (gather or trainer.world.gather)(done) for chunk, answer in answers.items()}
    if leaves and trainer.world.agree(len(every) < len(starts)):
        raise Left
    return [every[chunk] for chunk in sorted(every)]
