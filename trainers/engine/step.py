"""One step of a run: its phases, the gradients of their micro-batches, and their synchronization.

`train_step` -> `run_phase` -> `_reduce` (losses and gradients of all micro-batches) -> the optimizer. Nothing here
waits for a GPU: what a step computes is read at a look (`Trainer.look`), and a loss that is not finite closes the gate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainers.base.errors import FAILED, TroupeError
from trainers.base.problems import Problem
from trainers.contract import streams
from trainers.contract.family import Loss, MicroBatch, Phase
from trainers.distributed.grad_sync import Reduced
from trainers.engine import batch_norm
from trainers.engine.gate import Gate, NotFinite
from trainers.engine.phase_results import LOSS, WEIGHT, PhaseResults
from trainers.engine.trainer import Average, ScheduledOptimizer, Trainer, in_place
from trainers.runtime.precision import autocast_for


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
        _update_average(trainer.averages[name], trainer.config.ema, trainer.gate)
    _settle_state(trainer)
    trainer.microbatches, trainer.deferred_statistics = {}, {}
    trainer.step += 1
    trainer.phases_done = 0
    return True


def next_batch(trainer: Trainer) -> None:
    """The next samples of the stream, cut into this worker's micro-batches, in the same memory each time."""
    _settle_state(trainer)  # it may hold samples
    size = trainer.config.microbatch_size
    trainer.deferred_statistics = {}
    trainer.microbatches = {}
    for index in trainer.grad_sync.share:
        start = trainer.position + index * size
        microbatch = trainer.microbatch(trainer.stream, range(start, start + size), index)
        microbatch.tensors = in_place(trainer.sample_buffers.setdefault(index, {}), microbatch.tensors)
        trainer.microbatches[index] = microbatch
    trainer.position += trainer.config.batch_size


def _settle_state(trainer: Trainer) -> None:
    """Move the state of micro-batches to where it lies from step to step. No graph that was made from it is left."""
    for index, state in trainer.microbatch_state.items():
        if state:
            trainer.microbatch_state[index] = in_place(trainer.state_buffers.setdefault(index, {}), state)


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
    gate, optimizing = trainer.gate, trainer.optimizers[phase.optimizer]
    _set_values(trainer, phase.optimizer, optimizing)
    _change_weights(trainer, phase, phase.pre_loss)
    if phase.closure:
        _step_with_closure(trainer, phase, optimizing)
    else:
        results = _reduce(trainer, phase, optimizing)
        trainer.require_finite(gate.check(trainer.step, phase.name, results.total[LOSS], results.total[WEIGHT]))
        _update_running_stats(trainer, results)
        if phase.pre_step is not None:
            phase.pre_step(trainer.networks)
        with gate.protecting(optimizing.unguarded):
            optimizing.optimizer.step()
    _change_weights(trainer, phase, phase.post_step)
    for index, microbatch in trainer.microbatches.items():
        if microbatch.state:
            new = {name: value.detach() for name, value in microbatch.state.items()}
            trainer.microbatch_state[index] = gate.choose_each(trainer.microbatch_state[index], new)


def _change_weights(trainer: Trainer, phase: Phase, change: Callable[[Mapping[str, nn.Module]], None] | None) -> None:
    """Let the family change the weights that a phase trains, if the gate is open."""
    if change is None:
        return

    def trained() -> list[Tensor]:
        return [parameter for name in phase.trains for parameter in trainer.networks[name].parameters()]

    with torch.no_grad(), trainer.gate.protecting(trained):
        change(trainer.networks)


def _set_values(trainer: Trainer, name: str, optimizing: ScheduledOptimizer) -> None:
    """Write learning rate, momentum and other values of the schedule to the optimizer's groups and the metrics."""
    values = optimizing.schedule(trainer.step, trainer.history)
    if values is optimizing.last_values:  # the same object as in the step before
        return
    optimizing.last_values = values
    set_groups(optimizing, values)
    prefix = f"{name}_" if len(trainer.optimizers) > 1 else ""
    for key, label in (("lr", "learning_rate"), ("momentum", "momentum")):
        if key in values:
            trainer.metrics[prefix + label] = values[key]


def set_groups(optimizing: ScheduledOptimizer, values: Mapping[str, float]) -> None:
    """Write a schedule's values to an optimizer's groups: beta1 is Adam's momentum, `lr_scale` is a group's own."""
    for number, group in enumerate(optimizing.optimizer.param_groups):
        for key, value in values.items():
            if key == "lr":
                rate = value * group.get("lr_scale", 1.0)
                group["lr"] = optimizing.rates[number].fill_(rate) if optimizing.rates else rate
            elif key == "momentum" and "betas" in group:
                group["betas"] = (value, group["betas"][1])
            else:
                group[key] = value


def _reduce(trainer: Trainer, phase: Phase, optimizing: ScheduledOptimizer) -> PhaseResults:
    """Write reduced gradients to `.grad`; returns what the micro-batches computed besides, added up."""
    used = (*phase.trains, *phase.keeps_graph_of)
    networks = {**trainer.grad_sync.callables(used), **trainer.frozen_networks}
    results = trainer.results_of(phase.name)
    for name in used:  # gradients that reach networks of other optimizers are discarded
        for parameter in trainer.trainable[name]:
            if id(parameter) not in optimizing.own:
                parameter.grad = None

    def loss(index: int) -> tuple[Tensor, bool]:
        microbatch = trainer.microbatches[index]
        microbatch.state = dict(trainer.microbatch_state[index])
        result = _loss(trainer, phase, networks, microbatch)
        noted = trainer.norms.take(used)
        deferred = trainer.deferred_statistics.setdefault(index, {})
        for name in phase.keeps_graph_of:
            deferred.setdefault(name, []).extend(noted[name])
        own = [note for name in phase.trains for note in [*deferred.get(name, ()), *noted[name]]]
        results.write(index, result, own)
        trainer.marks.set()
        return result.value, result.weight is not None

    kept_graphs = any(name in deferred for deferred in trainer.deferred_statistics.values() for name in phase.trains)
    private = phase.pre_step is not None or phase.closure or optimizing.modifies_gradients
    reduced = trainer.grad_sync.reduce_gradients(
        optimizing.parameters, loss, results.rows, trainer.requests, kept_graphs, private
    )
    _note_reduced(trainer, results, reduced)
    return results


def _note_reduced(trainer: Trainer, results: PhaseResults, reduced: Reduced) -> None:
    results.add_up(reduced.total)
    stop, save = reduced.requests
    trainer.stop_agreed |= stop
    trainer.save_agreed |= save
    if trainer.world.size > 1:
        trainer.control.restart_clock()  # it has waited for others
    elif trainer.gate.on_host:
        trainer.control.heartbeat()  # else the marks tell


def _update_running_stats(trainer: Trainer, results: PhaseResults) -> None:
    if results.statistics:
        means = results.sums_of_statistics / trainer.config.microbatches
        batch_norm.update_running_stats(results.statistics, means, trainer.gate)


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
    """Step an optimizer that computes the loss several times, and reads it: always with the same samples, noise and
    state."""
    trainer.require_finite(trainer.gate.look())  # it reads losses anyway
    results = trainer.results_of(phase.name)
    parameters = [parameter.detach() for parameter in optimizing.parameters]
    before = [parameter.clone() for parameter in parameters]
    losses: list[float] = []

    def closure() -> float:
        _reduce(trainer, phase, optimizing)
        if phase.pre_step is not None:
            phase.pre_step(trainer.networks)
        losses.append(results.read_loss())
        if not math.isfinite(losses[0]):
            raise trainer.not_finite(NotFinite(trainer.step, phase.name, losses[0]))
        return losses[-1]

    optimizing.optimizer.step(closure)
    if not all(bool(parameter.isfinite().all()) for parameter in parameters):
        torch._foreach_copy_(parameters, before)
        raise trainer.not_finite(NotFinite(trainer.step, phase.name, losses[-1]))
    _update_running_stats(trainer, results)


def _run_local(trainer: Trainer, phase: Phase) -> None:
    """A phase without gradient synchronization: each micro-batch optimises its own state, and only its numbers are
    added up."""
    assert phase.local_optimizer is not None, (
        "a phase that optimises the state of micro-batches defines an optimizer for it"
    )
    gate = trainer.gate
    networks = {**trainer.networks, **trainer.frozen_networks}
    results = trainer.results_of(phase.name)
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
            trainer.marks.set()
            return losses[-1].value.detach()

        optimizer.step(closure)  # type: ignore[arg-type]
        trainer.norms.take(())
        sick = torch.stack([~tensor.detach().isfinite().all() for tensor in own.values()]).any()
        value = torch.where(sick, math.nan, losses[0].value.detach())
        results.write(index, losses[0]._replace(value=value), [])
        changed[index] = (
            {name: value.detach() for name, value in microbatch.state.items()},
            {"kind": type(optimizer).__name__, "state": optimizer.state_dict()["state"]},
        )
    _note_reduced(trainer, results, trainer.grad_sync.reduce_rows(results.rows, trainer.requests))
    trainer.require_finite(gate.check(trainer.step, phase.name, results.total[LOSS], results.total[WEIGHT]))
    for index, (states, optimizer_state) in changed.items():
        trainer.microbatch_state[index] = gate.choose_each(trainer.microbatch_state[index], states)
        trainer.local_optimizers.setdefault(phase.name, {})[index] = optimizer_state


@torch.no_grad()
def _update_average(average: Average, decay: float, gate: Gate) -> None:
    """Update the running average of a network's weights, if the gate is open; buffers are copied."""
    if gate.on_host:
        torch._foreach_lerp_(average.weights, average.source_weights, 1 - decay)
    else:
        steps = torch._foreach_sub(average.source_weights, average.weights)
        torch._foreach_mul_(steps, gate.is_open * (1 - decay))
        torch._foreach_add_(average.weights, steps)
    if average.buffers:
        torch._foreach_copy_(average.buffers, average.source_buffers)
