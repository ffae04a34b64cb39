"""One step of a run: its phases, the gradients of their micro-batches, and their synchronization.

`advance` -> `run_phase` -> `_reduce` (losses and gradients of all micro-batches) -> the optimizer.
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
from trainers.engine.trainer import Average, Optimizing, Trainer
from trainers.runtime.precision import computing_in


class Tally:
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
        asked = [float(trainer.control.stop_requested), float(trainer.save_due)]
        self.names, self.statistics = list(loss.metrics), statistics
        values = [1.0 if loss.weight is None else loss.weight, loss.value, *loss.metrics.values()]
        self.noted[index] = (asked, [_read(value) for value in values], batch_norm.row_of(statistics))

    def rows(self) -> dict[int, Tensor]:
        """The rows, float64 on the CPU, by micro-batch. Waits for a GPU once per row."""
        rows = {}
        for index, (asked, values, statistics) in self.noted.items():
            waiting = [value for value in values if isinstance(value, Tensor)]
            if waiting:
                came = torch.cat([torch.stack(waiting), *(part.double() for part in statistics)]).cpu()
                read, statistics = iter(came.tolist()), [came[len(waiting) :]]
                values = [next(read) if isinstance(value, Tensor) else value for value in values]
            weight, value, *metrics = values
            row = [weight, *asked, value, *(metric * weight for metric in metrics)]
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


def advance(trainer: Trainer) -> bool:
    """Run phases until the step is done (True), or until a stop is agreed before a phase on fresh samples (False)."""
    phases = trainer.family.phases(trainer.step)
    if sum(phase.fresh for phase in phases) != trainer.config.draws(trainer.step):
        reason = (
            f"has {sum(phase.fresh for phase in phases)} phases on fresh samples, but Config.draws returns "
            f"{trainer.config.draws(trainer.step)}"
        )
        hint = "make both agree"
        raise TroupeError(Problem("own-code", f"step {trainer.step}", reason, hint), FAILED)
    while trainer.phases_done < len(phases):
        run_phase(trainer, phases[trainer.phases_done])
        trainer.phases_done += 1
        rest = phases[trainer.phases_done :]
        if trainer.stop_agreed and rest and rest[0].fresh:
            return False
    trained = {name for phase in phases for name in phase.trains}
    for name in trained.intersection(trainer.averages):
        _move(trainer.averages[name], trainer.config.ema)
    trainer.microbatches, trainer.left = {}, {}
    trainer.step += 1
    trainer.phases_done = 0
    return True


def draw(trainer: Trainer) -> None:
    """The next samples of the stream, cut into this worker's micro-batches."""
    size = trainer.config.microbatch_size
    trainer.left = {}
    trainer.microbatches = {}
    for index in trainer.grad_sync.share:
        start = trainer.position + index * size
        trainer.microbatches[index] = trainer.microbatch(trainer.stream, range(start, start + size), index)
    trainer.position += trainer.config.batch_size


def run_phase(trainer: Trainer, phase: Phase) -> None:
    """One phase: draw, forward, backward, synchronize, step."""
    if phase.fresh:
        draw(trainer)
    _require_gradients(trainer, (*phase.trains, *phase.leaves))
    if phase.optimises:
        _run_apart(trainer, phase)
    else:
        _run_together(trainer, phase)
    trainer.phase_counts[phase.name] = trainer.phase_counts.get(phase.name, 0) + 1


def _require_gradients(trainer: Trainer, wanted: Sequence[str]) -> None:
    """Enable gradients for the parameters of these networks only."""
    for name, parameters in trainer.trainable.items():
        if parameters and parameters[0].requires_grad != (name in wanted):
            for parameter in parameters:
                parameter.requires_grad_(name in wanted)


def _run_together(trainer: Trainer, phase: Phase) -> None:
    """A phase whose gradients are synchronized between all micro-batches, for one optimizer step."""
    optimizing = trainer.optimizing[phase.optimizer]
    _set_values(trainer, phase.optimizer, optimizing)
    if phase.closure:
        _step_with_closure(trainer, phase, optimizing)
    else:
        loss, statistics, means = _reduce(trainer, phase, optimizing)
        if not math.isfinite(loss):
            raise _not_finite(trainer, phase, loss)
        batch_norm.move(statistics, means)
        if phase.before is not None:
            phase.before(trainer.networks)
        optimizing.optimizer.step()
    if phase.after is not None:
        with torch.no_grad():
            phase.after(trainer.networks)
    for index, microbatch in trainer.microbatches.items():
        if microbatch.carried:
            trainer.carried[index] = {name: value.detach() for name, value in microbatch.carried.items()}


def _set_values(trainer: Trainer, name: str, optimizing: Optimizing) -> None:
    """Write learning rate, momentum and other values of the schedule to the optimizer's groups and the metrics."""
    values = optimizing.schedule(trainer.step, trainer.history)
    if values is optimizing.said:  # the same object as in the step before
        return
    optimizing.said = values
    set_groups(optimizing.optimizer, values)
    whose = f"{name}_" if len(trainer.optimizing) > 1 else ""
    for key, shown in (("lr", "learning_rate"), ("momentum", "momentum")):
        if key in values:
            trainer.metrics[whose + shown] = values[key]


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


def _reduce(trainer: Trainer, phase: Phase, optimizing: Optimizing) -> tuple[float, list[Statistics], Tensor]:
    """Write reduced gradients to `.grad`; returns the loss, and batch norm statistics with their means."""
    used = (*phase.trains, *phase.leaves)
    networks = {**trainer.grad_sync.callables(used), **trainer.frozen}
    tally = Tally()

    def loss(index: int) -> Tensor:
        microbatch = trainer.microbatches[index]
        microbatch.carried = dict(trainer.carried[index])
        found = _loss(trainer, phase, networks, microbatch)
        noted = trainer.norms.take(used)
        left = trainer.left.setdefault(index, {})
        for name in phase.leaves:
            left.setdefault(name, []).extend(noted[name])
        own = [note for name in phase.trains for note in [*left.get(name, ()), *noted[name]]]
        tally.add(index, found, trainer, own)
        trainer.control.microbatch()
        return found.value

    left_before = any(name in left for left in trainer.left.values() for name in phase.trains)
    trainer.grad_sync.gradients(optimizing.parameters, loss, left_before)
    weight, mean, sums = _meet(trainer, phase, tally)
    if math.isfinite(mean) or phase.closure:
        private = phase.before is not None or phase.closure or optimizing.writes
        trainer.grad_sync.reduce(optimizing.parameters, weight, private)
    trainer.control.rested()
    return mean, tally.statistics, sums / trainer.config.microbatches if tally.statistics else sums


def _meet(trainer: Trainer, phase: Phase, tally: Tally) -> tuple[float, float, Tensor]:
    """Add up the rows of all micro-batches over the workers: weight, mean loss, and sums of the statistics."""
    rows = tally.rows()
    trainer.control.beat()
    total = trainer.grad_sync.meet(rows)
    weight, mean, metrics, sums = tally.read(total, phase.name)
    trainer.stop_agreed |= bool(total[Tally.STOP] > 0)
    trainer.save_agreed |= bool(total[Tally.SAVE] > 0)
    trainer.metrics |= metrics
    return weight, mean, sums


def _loss(trainer: Trainer, phase: Phase, networks: Mapping[str, Any], microbatch: MicroBatch) -> Loss:
    """The loss of a phase for a micro-batch, with its own random numbers and the run's number format."""
    run = trainer.phase_counts.get(phase.name, 0)
    trainer.random.manual_seed(streams.seed_of(trainer.config.seed, phase.name, run, microbatch.index))
    with computing_in(trainer.config.precision, trainer.device.type):
        found = phase.loss(networks, microbatch)
    if isinstance(found, Loss):
        return found
    reason = f"returns a {type(found).__name__} instead of a Loss"
    raise TroupeError(Problem("own-code", f"phase {phase.name}", reason), FAILED)


def _step_with_closure(trainer: Trainer, phase: Phase, optimizing: Optimizing) -> None:
    """Step an optimizer that computes the loss several times: always with the same samples, noise and state."""
    newest: list[Any] = []

    def closure() -> float:
        newest[:] = _reduce(trainer, phase, optimizing)
        if phase.before is not None:
            phase.before(trainer.networks)
        return float(newest[0])

    first = optimizing.optimizer.step(closure)
    assert first is not None
    if not math.isfinite(first):
        raise _not_finite(trainer, phase, first)
    if not all(bool(parameter.isfinite().all()) for parameter in optimizing.parameters):
        raise _not_finite(trainer, phase, float(newest[0]))
    batch_norm.move(newest[1], newest[2])


def _run_apart(trainer: Trainer, phase: Phase) -> None:
    """A phase without gradient synchronization: each micro-batch optimises its own state, and only its numbers are
    added up."""
    assert phase.own is not None, "a phase that optimises the state of micro-batches defines an optimizer for it"
    networks = {**trainer.networks, **trainer.frozen}
    tally = Tally()
    changed: dict[int, tuple[dict[str, Tensor], dict[str, Any]]] = {}
    for index in trainer.grad_sync.share:
        microbatch = trainer.microbatches[index]
        own = {name: nn.Parameter(trainer.carried[index][name].clone()) for name in phase.optimises}
        optimizer = phase.own(list(own.values()))
        saved = trainer.apart.get(phase.name, {}).get(index)
        if saved is not None and saved["kind"] == type(optimizer).__name__:  # else it starts without state
            optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
        found: list[Loss] = []

        def closure(
            microbatch: MicroBatch = microbatch,
            own: Mapping[str, nn.Parameter] = own,
            optimizer: torch.optim.Optimizer = optimizer,
            found: list[Loss] = found,
        ) -> Tensor:
            optimizer.zero_grad()
            microbatch.carried = {**trainer.carried[microbatch.index], **own}
            with torch.enable_grad():
                found.append(_loss(trainer, phase, networks, microbatch))
                found[-1].value.backward()  # type: ignore[no-untyped-call]
            trainer.control.microbatch()
            return found[-1].value.detach()

        optimizer.step(closure)  # type: ignore[arg-type]
        trainer.norms.take(())
        finite = all(bool(tensor.isfinite().all()) for tensor in own.values())
        shown = found[0] if finite else found[0]._replace(value=torch.tensor(math.nan))
        tally.add(index, shown, trainer, [])
        changed[index] = (
            {name: value.detach() for name, value in microbatch.carried.items()},
            {"kind": type(optimizer).__name__, "state": optimizer.state_dict()["state"]},
        )
    _, mean, _ = _meet(trainer, phase, tally)
    trainer.control.rested()
    if not math.isfinite(mean):
        raise _not_finite(trainer, phase, mean)
    for index, (carried, state) in changed.items():
        trainer.carried[index] = carried
        trainer.apart.setdefault(phase.name, {})[index] = state


def _not_finite(trainer: Trainer, phase: Phase, loss: float) -> TroupeError:
    reason = f"the loss of phase {phase.name} is not finite ({loss})"
    hint = f"the phase changed nothing, and {trainer.slower()}"
    return TroupeError(Problem("not-finite", f"step {trainer.step}", reason, hint), FAILED)


@torch.no_grad()
def _move(average: Average, decay: float) -> None:
    """Update the running average of a network's weights; buffers are copied."""
    torch._foreach_lerp_(average.weights, average.of, 1 - decay)
    if average.buffers:
        torch._foreach_copy_(average.buffers, average.buffers_of)
