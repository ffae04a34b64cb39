"""The work between steps that all workers share: the fixed grid, and evaluations.

Both go in chunks distributed over the workers. The chunk size does not depend on the number of workers, and each chunk
has its own random numbers.
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
from trainers.engine.control import Interrupted
from trainers.engine.trainer import Trainer
from trainers.runtime.precision import autocast_for
from trainers.storage import cache
from trainers.storage.tensors import as_uint8

CHUNK = 16  # cells of the grid drawn at once


@contextlib.contextmanager
def eval_mode(trainer: Trainer) -> Iterator[Mapping[str, nn.Module]]:
    """The networks for inference: averaged weights if there are any, in eval mode, without gradients."""
    averages = {name: average.network for name, average in trainer.averages.items()}
    networks = {**trainer.networks, **averages}
    for network in networks.values():
        network.eval()
    try:
        with torch.no_grad():
            yield {**networks, **trainer.frozen_networks}
    finally:
        for network in networks.values():
            network.train()


def draw_grid(trainer: Trainer, interruptible: bool = False) -> Tensor | list[str] | None:
    """The fixed grid as uint8 (cells, height, width, channels), or texts; the same on every rank.

    With `interruptible`, raises Interrupted if a stop is requested; nothing has changed then.
    """
    inputs = {**trainer.sample_inputs, **_microbatch_state(trainer)}
    if not inputs:
        return None
    with eval_mode(trainer) as networks:

        def cells(index: int, cells: range) -> Tensor | list[str]:
            part = {name: value[cells.start : cells.stop] for name, value in inputs.items()}
            return as_stored(trainer.family.samples(networks, trainer.to_device(part)))

        count, activity = len(next(iter(inputs.values()))), "drawing" if interruptible else ""
        parts = sharded_map(trainer, "grid", count, CHUNK, cells, activity=activity, interruptible=interruptible)
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return [text for part in parts for text in part]


def as_stored(samples: Tensor | list[str]) -> Tensor | list[str]:
    """Samples in the form they are stored in: images as uint8, texts unchanged."""
    return as_uint8(samples) if isinstance(samples, Tensor) else list(samples)


def _microbatch_state(trainer: Trainer) -> dict[str, Tensor]:
    """The state of micro-batches that images are drawn from, gathered from all workers; {} if there is none."""
    if not samples_from_state(trainer.family, trainer.step):
        return {}
    own = {
        index: {name: kept.cpu() for name, kept in states.items()} for index, states in trainer.microbatch_state.items()
    }
    return concatenated({index: states for part in trainer.world.all_gather(own) for index, states in part.items()})


def samples_from_state(family: Family, step: int) -> bool:
    """Whether the family's images are drawn from the state of micro-batches: if a phase optimises some of it."""
    return any(phase.local_params for phase in family.phases(step))


def concatenated(states: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state of all micro-batches, concatenated in order."""
    return {name: torch.cat([states[index][name] for index in sorted(states)]) for name in states[0]}


def watch(trainer: Trainer, drawn: Tensor) -> Watch | None:
    """Check a newly drawn grid for signs of failure; the result is the same on every rank."""
    watch = trainer.family.watch(trainer.data, trainer.sample_inputs, drawn)
    if watch is None:
        trainer.watch_metrics, trainer.worry = {}, ""
        return None
    networks = {**trainer.networks, **trainer.frozen_networks}

    def part(index: int, places: range) -> evaluation.Rows:
        with run_precision(trainer), torch.no_grad():
            seen = watch.extract_features(networks, trainer.microbatch(watch.stream, places, index))
        return {name: tensor.cpu() for name, tensor in seen.items()}

    parts = sharded_map(trainer, "watch", watch.stream.length, watch.stream.chunk, part, trainer.world.gather_to_rank0)
    trainer.norms.take(())  # these statistics belong to no micro-batch
    result: tuple[dict[str, float], str] = {}, ""
    if trainer.world.rank == 0:
        rows = {name: torch.cat([chunk[name] for chunk in parts]) for name in parts[0]}
        metrics = watch.compute_metrics(rows, trainer.watch_metrics)
        result = dict(metrics), watch.worry(metrics) or ""
    trainer.watch_metrics, trainer.worry = trainer.world.broadcast(result)
    return watch


def evaluate_held_out(trainer: Trainer) -> None:
    """Run the family's evaluation on the held-out samples; its results are the same on every rank.

    Raises Interrupted on every rank if a stop is requested meanwhile; earlier results are unchanged.
    """
    prepare_evaluation(trainer)
    family, control = trainer.family, trainer.control
    stream = family.held_out(trainer.data)
    with eval_mode(trainer) as networks:

        def part(index: int, places: range) -> evaluation.Part:
            microbatch = trainer.microbatch(stream, places, index)
            with run_precision(trainer):
                totals = family.evaluate(networks, microbatch)
            rows = {name: tensor.cpu() for name, tensor in family.per_sample_outputs(microbatch).items()}
            return totals, evaluation.top_ranked(family.rank_samples(microbatch), microbatch.indices), rows

        gather = trainer.world.gather_to_rank0
        parts = sharded_map(
            trainer, "evaluation", stream.length, stream.chunk, part, gather, "evaluating", interruptible=True
        )
    evaluated = Evaluation()

    def concluded() -> dict[str, float]:
        nonlocal evaluated
        if parts:
            evaluated = evaluation.combine(parts, control.make_heartbeat("comparing"))
        return (
            {f"eval_{name}": float(value) for name, value in family.compute_metrics(evaluated).items()} if parts else {}
        )

    results = trainer.on_rank0(concluded)
    trainer.evaluation = replace(evaluated, results=results)
    due = trainer.step % max(1, int(trainer.config.evaluate_every)) == 0  # and not only because the run ends here
    if due and (main := main_metric(trainer)) is not None:
        trainer.history.append(trainer.evaluation.results[f"eval_{main}"])
    trainer.reached = trainer.config.reached(trainer.evaluation.results)
    control.show_activity("")


def sanity_check_references(trainer: Trainer) -> None:
    """Process one real sample of each kind that evaluations compare with, so that errors show before training."""
    with eval_mode(trainer) as networks:
        for stream in trainer.family.reference_data(trainer.data).values():
            trainer.family.extract_features(networks, trainer.microbatch(stream, range(1), 0))


def prepare_evaluation(trainer: Trainer) -> None:
    """Prepare the first evaluation in this process: what it needs, and the real samples it compares with, processed by
    all workers."""
    if trainer.references_ready:
        return
    family, activity = trainer.family, "preparing evaluations"

    def needed() -> dict[str, Tensor]:
        with torch.no_grad():
            every = {**trainer.networks, **trainer.frozen_networks}
            return dict(family.setup_evaluation(every, trainer.data, trainer.control.make_heartbeat(activity)))

    if more := trainer.on_rank0(needed):
        trainer.set_buffers({**family.buffers, **more})
    for name, stream in family.reference_data(trainer.data).items():
        _compute_reference_features(trainer, name, stream, activity)
    trainer.references_ready = True


def _compute_reference_features(trainer: Trainer, name: str, stream: Stream, activity: str) -> None:
    """The judge's features of real samples: from the cache, or computed by all workers."""
    family = trainer.family
    path = cache.cache_path(trainer.data, name, family.features_key()) if trainer.world.rank == 0 else None
    cached = cache.read_cached(path, trainer.control.notify) if path is not None else None
    if trainer.world.broadcast(cached is not None):
        family.reference_features = {**family.reference_features, name: cached or {}}
        return
    with eval_mode(trainer) as networks:

        def part(index: int, places: range) -> evaluation.Rows:
            seen = family.extract_features(networks, trainer.microbatch(stream, places, index))
            return {key: tensor.cpu() for key, tensor in seen.items()}

        gather = trainer.world.gather_to_rank0
        parts = sharded_map(
            trainer, "compared", stream.length, stream.chunk, part, gather, activity, interruptible=True
        )

    def summarized() -> None:
        seen = {key: torch.cat([chunk[key] for chunk in parts]) for key in (parts[0] if parts else ())}
        seen |= family.summarize_features(seen, trainer.control.make_heartbeat(activity))
        family.reference_features = {**family.reference_features, name: seen}
        if path is not None:
            cache.write_cached(path, seen)

    trainer.on_rank0(summarized)


def run_precision(trainer: Trainer) -> contextlib.AbstractContextManager[Any]:
    """The number format of the run."""
    return autocast_for(trainer.config.precision, trainer.device.type)


def main_metric(trainer: Trainer) -> str | None:
    """The first of the family's metrics that the newest evaluation returns: it decides which evaluation is the best."""
    return next((name for name in trainer.config.metrics if f"eval_{name}" in trainer.evaluation.results), None)


def missing_metric(trainer: Trainer) -> str:
    """A notice if the newest evaluation lacks the metric that is declared first, or ""."""
    declared = next(iter(trainer.config.metrics_of(trainer.family.facts)), None)
    results = trainer.evaluation.results
    if declared is None or f"eval_{declared}" in results:
        return ""
    if (main := main_metric(trainer)) is not None:
        return f"the evaluation returns no eval_{declared}: the best is chosen by eval_{main}"
    given = ", ".join(results) or "nothing"
    return (
        f"the family declares {declared} as its main metric, but its evaluation returns {given}: no evaluation counts "
        "as the best; make both agree"
    )


def note_best(trainer: Trainer) -> bool:
    """Record the newest evaluation if it is the best so far; returns whether it is."""
    if (main := main_metric(trainer)) is None:
        return False
    mode, value = trainer.config.metrics[main], trainer.evaluation.results[f"eval_{main}"]
    best_value = trainer.best.get("value", -math.inf if mode == "max" else math.inf)
    if math.isfinite(value) and (value > best_value if mode == "max" else value < best_value):
        trainer.best = {"step": trainer.step, "metric": f"eval_{main}", "value": value}
        return True
    return False


def sharded_map(
    trainer: Trainer,
    stream: str,
    count: int,
    size: int,
    work: Callable[[int, range], Any],
    gather: Callable[[Any], list[Any]] | None = None,
    activity: str = "",
    interruptible: bool = False,
) -> list[Any]:
    """`work(chunk, its places)` for each chunk of `count` places, distributed over the workers; all results, in order.

    `activity` is shown in the progress line meanwhile. With `interruptible`, a requested stop ends it after the current
    chunk: Interrupted is raised on every rank.
    """
    starts = range(0, count, size)
    done: dict[int, Any] = {}
    assigned = shares(len(starts), trainer.world.size)[trainer.world.rank]
    for chunk in assigned:
        if interruptible and trainer.control.stop_requested:
            break
        if activity:
            trainer.control.show_activity(f"{activity} {len(done) / len(assigned):.0%}")
        trainer.seed(stream, chunk)
        done[chunk] = work(chunk, range(starts[chunk], min(starts[chunk] + size, count)))
        trainer.control.heartbeat()
    every = {
        chunk: answer for answers in (gather or trainer.world.all_gather)(done) for chunk, answer in answers.items()
    }
    if interruptible and trainer.world.broadcast(len(every) < len(starts)):
        raise Interrupted
    return [every[chunk] for chunk in sorted(every)]
