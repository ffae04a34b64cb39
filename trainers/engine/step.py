"""One step of a run: its phases, the gradients of their micro-batches, and their synchronization.

`train_step` -> `run_phase` -> `_reduce` (losses and gradients of all micro-batches) -> the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainers.base.errors import FAILED, TroupeError
from trainers.base.problems import Problem
from trainers.contract import streams
from trainers.contract.family import Loss, MicroBatch, Phase
from trainers.engine import batch_norm
from trainers.engine.batch_norm import Statistics
from trainers.engine.trainer import Average, ScheduledOptimizer, Trainer
from trainers.runtime.precision import autocast_for


class MetricsReducer:
    """Results of the micro-batches of a phase besides gradients: a row of numbers for each, to be added up.

    A row holds the weight, whether a stop was requested, whether a checkpoint is due, the loss, the metrics, and the
    statistics of batch norms.
    """

    WEIGHT, STOP, SAVE, LOSS, METRICS = range(5)

    def __init__(self) -> None:
        self.noted: dict[int, tuple[list[float], list[Any], list[Tensor]]] = {}  # see `add`
        self.names: list[str] = []  # of the metrics
        self.statistics: list[Statistics] = []

    def add(self, index: int, loss: Loss, trainer: Trainer, statistics: list[Statistics]) -> None:
        """Add the results of one micro-batch. A GPU may still be computing them."""
        requests = [float(trainer.control.stop_requested), float(trainer.save_due)]
        self.names, self.statistics = list(loss.metrics), statistics
        values = [1.0 if loss.weight is None else loss.weight, loss.value, *loss.metrics.values()]
        self.noted[index] = (requests, [_read(value) for value in values], batch_norm.row_of(statistics))

    def rows(self) -> dict[int, Tensor]:
        """The rows, float64 on the CPU, by micro-batch. Waits for a GPU once per row."""
        rows = {}
        for index, (requests, values, statistics) in self.noted.items():
            waiting = [value for value in values if isinstance(value, Tensor)]
            if waiting:
                came = torch.cat([torch.stack(waiting), *(part.double() for part in statistics)]).cpu()
                read, statistics = iter(came.tolist()), [came[len(waiting) :]]
                values = [next(read) if isinstance(value, Tensor) else value for value in values]
            weight, value, *metrics = values
            row = [weight, *requests, value, *(metric * weight for metric in metrics)]
            rows[index] = torch.tensor(row, dtype=torch.float64)
            if statistics:
                rows[index] = torch.cat([rows[index], *(part.double() for part in statistics)])
        return rows

    def read(self, total: Tensor, phase: str) -> tuple[float, float, dict[str, float], Tensor]:
        """Weight, mean loss, metrics by name, and sums of the statistics, from the sum of all rows."""
        numbers = total[: self.METRICS + len(self.names)].tolist()
        weight = numbers[self.WEIGHT]

        def mean(number: float) -> float:
            return number / weight if weight else math.nan

        metrics = {f"{phase}_loss": mean(numbers[self.LOSS])}
        metrics |= {name: mean(number) for name, number in zip(self.names, numbers[self.METRICS :], strict=True)}
        return weight, mean(numbers[self.LOSS]), metrics, total[len(numbers) :]


def _read(value: Any) -> Any:
    """The number, or, on a GPU, a copy that will hold it: the original may change before it is read."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.to(torch.float64, copy=True).reshape(()) if value.is_cuda else float(value)
    return float(value)


def train_step(trainer: Trainer) -> bool:
    """Run phases until the step is done (True), or until a stop is agreed before a phase on fresh samples (False)."""
    phases = trainer.family.phases(trainer.step)
    if sum(phase.new_batch for phase in phases) != trainer.config.batches_per_step(trainer.step):
        reason = (
            f"has {sum(phase.new_batch for phase in phases)} phases with new_batch, but "
            f"Config.batches_per_step returns {trainer.config.batches_per_step(trainer.step)}"
        )
        hint = "make both agree"
        raise TroupeError(Problem("own-code", f"step {trainer.step}", reason, hint), FAILED)
    while trainer.phases_done < len(phases):
        run_phase(trainer, phases[trainer.phases_done])
        trainer.phases_done += 1
        remaining = phases[trainer.phases_done :]
        if trainer.stop_agreed and remaining and remaining[0].new_batch:
            return False
    trained = {name for phase in phases for name in phase.trains}
    for name in trained.intersection(trainer.averages):
        _update_average(trainer.averages[name], trainer.config.ema)
    trainer.microbatches, trainer.deferred_statistics = {}, {}
    trainer.step += 1
    trainer.phases_done = 0
    return True


def next_batch(trainer: Trainer) -> None:
    """The next samples of the stream, cut into this worker's micro-batches."""
    size = trainer.config.microbatch_size
    trainer.deferred_statistics = {}
    trainer.microbatches = {}
    for index in trainer.grad_sync.share:
        start = trainer.position + index * size
        trainer.microbatches[index] = trainer.microbatch(trainer.stream, range(start, start + size), index)
    trainer.position += trainer.config.batch_size


def run_phase(trainer: Trainer, phase: Phase) -> None:
    """One phase: draw, forward, backward, synchronize, step."""
    if phase.new_batch:
        next_batch(trainer)
    _require_gradients(trainer, (*phase.trains, *phase.keeps_graph_of))
    if phase.local_params:
        _run_local(trainer, phase)
    else:
        _run_synchronized(trainer, phase)
    trainer.phase_counts[phase.name] = trainer.phase_counts.get(phase.name, 0) + 1


def _require_gradients(trainer: Trainer, wanted: Sequence[str]) -> None:
    """Enable gradients for the parameters of these networks only."""
    for name, parameters in trainer.trainable.items():
        if parameters and parameters[0].requires_grad != (name in wanted):
            for parameter in parameters:
                parameter.requires_grad_(name in wanted)


def _run_synchronized(trainer: Trainer, phase: Phase) -> None:
    """A phase whose gradients are synchronized between all micro-batches, for one optimizer step."""
    optimizing = trainer.optimizers[phase.optimizer]
    _set_values(trainer, phase.optimizer, optimizing)
    if phase.closure:
        _step_with_closure(trainer, phase, optimizing)
    else:
        loss, statistics, means = _reduce(trainer, phase, optimizing)
        if not math.isfinite(loss):
            raise _not_finite(trainer, phase, loss)
        batch_norm.update_running_stats(statistics, means)
        if phase.pre_step is not None:
            phase.pre_step(trainer.networks)
        optimizing.optimizer.step()
    if phase.post_step is not None:
        with torch.no_grad():
            phase.post_step(trainer.networks)
    for index, microbatch in trainer.microbatches.items():
        if microbatch.state:
            trainer.microbatch_state[index] = {name: value.detach() for name, value in microbatch.state.items()}


def _set_values(trainer: Trainer, name: str, optimizing: ScheduledOptimizer) -> None:
    """Write learning rate, momentum and other values of the schedule to the optimizer's groups and the metrics."""
    values = optimizing.schedule(trainer.step, trainer.history)
    if values is optimizing.last_values:  # the same object as in the step before
        return
    optimizing.last_values = values
    set_groups(optimizing.optimizer, values)
    prefix = f"{name}_" if len(trainer.optimizers) > 1 else ""
    for key, label in (("lr", "learning_rate"), ("momentum", "momentum")):
        if key in values:
            trainer.metrics[prefix + label] = values[key]


def set_groups(optimizer: torch.optim.Optimizer, values: Mapping[str, float]) -> None:
    """Write a schedule's values to an optimizer's groups: beta1 is Adam's momentum, `lr_scale` is a group's own."""
    for group in optimizer.param_groups:
        for key, value in values.items():
            if key == "lr":
                group["lr"] = value * group.get("lr_scale", 1.0)
            elif key == "momentum" and "betas" in group:
                group["betas"] = (value, group["betas"][1])
            else:
                group[key] = value


def _reduce(trainer: Trainer, phase: Phase, optimizing: ScheduledOptimizer) -> tuple[float, list[Statistics], Tensor]:
    """Write reduced gradients to `.grad`; returns the loss, and batch norm statistics with their means."""
    used = (*phase.trains, *phase.keeps_graph_of)
    networks = {**trainer.grad_sync.callables(used), **trainer.frozen_networks}
    reducer = MetricsReducer()

    def loss(index: int) -> Tensor:
        microbatch = trainer.microbatches[index]
        microbatch.state = dict(trainer.microbatch_state[index])
        result = _loss(trainer, phase, networks, microbatch)
        noted = trainer.norms.take(used)
        deferred = trainer.deferred_statistics.setdefault(index, {})
        for name in phase.keeps_graph_of:
            deferred.setdefault(name, []).extend(noted[name])
        own = [note for name in phase.trains for note in [*deferred.get(name, ()), *noted[name]]]
        reducer.add(index, result, trainer, own)
        trainer.control.microbatch()
        return result.value

    kept_graphs = any(name in deferred for deferred in trainer.deferred_statistics.values() for name in phase.trains)
    trainer.grad_sync.accumulate_gradients(optimizing.parameters, loss, kept_graphs)
    weight, mean, sums = _all_reduce_metrics(trainer, phase, reducer)
    if math.isfinite(mean) or phase.closure:
        private = phase.pre_step is not None or phase.closure or optimizing.modifies_gradients
        trainer.grad_sync.all_reduce_gradients(optimizing.parameters, weight, private)
    trainer.control.restart_clock()
    return mean, reducer.statistics, sums / trainer.config.microbatches if reducer.statistics else sums


def _all_reduce_metrics(trainer: Trainer, phase: Phase, reducer: MetricsReducer) -> tuple[float, float, Tensor]:
    """Add up the rows of all micro-batches over the workers: weight, mean loss, and sums of the statistics."""
    rows = reducer.rows()
    trainer.control.heartbeat()
    total = trainer.grad_sync.all_reduce_metrics(rows)
    weight, mean, metrics, sums = reducer.read(total, phase.name)
    trainer.stop_agreed |= bool(total[MetricsReducer.STOP] > 0)
    trainer.save_agreed |= bool(total[MetricsReducer.SAVE] > 0)
    trainer.metrics |= metrics
    return weight, mean, sums


def _loss(trainer: Trainer, phase: Phase, networks: Mapping[str, Any], microbatch: MicroBatch) -> Loss:
    """The loss of a phase for a micro-batch, with its own random numbers and the run's number format."""
    run = trainer.phase_counts.get(phase.name, 0)
    trainer.random.manual_seed(streams.seed_of(trainer.config.seed, phase.name, run, microbatch.index))
    with autocast_for(trainer.config.precision, trainer.device.type):
        result = phase.loss(networks, microbatch)
    if isinstance(result, Loss):
        return result
    reason = f"returns a {type(result).__name__} instead of a Loss"
    raise TroupeError(Problem("own-code", f"phase {phase.name}", reason), FAILED)


def _step_with_closure(trainer: Trainer, phase: Phase, optimizing: ScheduledOptimizer) -> None:
    """Step an optimizer that computes the loss several times: always with the same samples, noise and state."""
    newest: list[Any] = []

    def closure() -> float:
        newest[:] = _reduce(trainer, phase, optimizing)
        if phase.pre_step is not None:
            phase.pre_step(trainer.networks)
        return float(newest[0])

    first = optimizing.optimizer.step(closure)
    assert first is not None
    if not math.isfinite(first):
        raise _not_finite(trainer, phase, first)
    if not all(bool(parameter.isfinite().all()) for parameter in optimizing.parameters):
        raise _not_finite(trainer, phase, float(newest[0]))
    batch_norm.update_running_stats(newest[1], newest[2])


def _run_local(trainer: Trainer, phase: Phase) -> None:
    """A phase without gradient synchronization: each micro-batch optimises its own state, and only its numbers are
    added up."""
    assert phase.local_optimizer is not None, (
        "a phase that optimises the state of micro-batches defines an optimizer for it"
    )
    networks = {**trainer.networks, **trainer.frozen_networks}
    reducer = MetricsReducer()
    changed: dict[int, tuple[dict[str, Tensor], dict[str, Any]]] = {}
    for index in trainer.grad_sync.share:
        microbatch = trainer.microbatches[index]
        own = {name: nn.Parameter(trainer.microbatch_state[index][name].clone()) for name in phase.local_params}
        optimizer = phase.local_optimizer(list(own.values()))
        saved = trainer.local_optimizers.get(phase.name, {}).get(index)
        if saved is not None and saved["kind"] == type(optimizer).__name__:  # else it starts without state
            optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
        losses: list[Loss] = []

        def closure(
            microbatch: MicroBatch = microbatch,
            own: Mapping[str, nn.Parameter] = own,
            optimizer: torch.optim.Optimizer = optimizer,
            losses: list[Loss] = losses,
        ) -> Tensor:
            optimizer.zero_grad()
            microbatch.state = {**trainer.microbatch_state[microbatch.index], **own}
            with torch.enable_grad():
                losses.append(_loss(trainer, phase, networks, microbatch))
                losses[-1].value.backward()  # type: ignore[no-untyped-call]
            trainer.control.microbatch()
            return losses[-1].value.detach()

        optimizer.step(closure)  # type: ignore[arg-type]
        trainer.norms.take(())
        finite = all(bool(tensor.isfinite().all()) for tensor in own.values())
        first = losses[0] if finite else losses[0]._replace(value=torch.tensor(math.nan))
        reducer.add(index, first, trainer, [])
        changed[index] = (
            {name: value.detach() for name, value in microbatch.state.items()},
            {"kind": type(optimizer).__name__, "state": optimizer.state_dict()["state"]},
        )
    _, mean, _ = _all_reduce_metrics(trainer, phase, reducer)
    trainer.control.restart_clock()
    if not math.isfinite(mean):
        raise _not_finite(trainer, phase, mean)
    for index, (states, optimizer_state) in changed.items():
        trainer.microbatch_state[index] = states
        trainer.local_optimizers.setdefault(phase.name, {})[index] = optimizer_state


def _not_finite(trainer: Trainer, phase: Phase, loss: float) -> TroupeError:
    reason = f"the loss of phase {phase.name} is not finite ({loss})"
    hint = f"the phase changed nothing, and {trainer.lower_rate_hint()}"
    return TroupeError(Problem("not-finite", f"step {trainer.step}", reason, hint), FAILED)


@torch.no_grad()
def _update_average(average: Average, decay: float) -> None:
    """Update the running average of a network's weights; buffers are copied."""
    torch._foreach_lerp_(average.weights, average.source_weights, 1 - decay)
    if average.buffers:
        torch._foreach_copy_(average.buffers, average.source_buffers)
