"""The one loop: it trains every family, on one worker or many, in this process, in Ray actors and in searches."""

from __future__ import annotations

import contextlib
import copy
import math
import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainers.engine import averages, evaluation, streams
from trainers.engine.control import Control
from trainers.engine.errors import FAILED, Stopped, TroupeError
from trainers.engine.exchange import Ddp, Exact, Exchange, shares
from trainers.engine.family import Data, Family, MicroBatch, Phase
from trainers.engine.layers import faster
from trainers.engine.processor import ways
from trainers.engine.record import GRID_CELLS, Recorder
from trainers.engine.runfolder import RunFolder
from trainers.engine.settings import Config
from trainers.engine.shared_memory import padded_length
from trainers.engine.tensors import as_uint8, bits_of, load_weights, named_tensors, refuse_unlike
from trainers.engine.world import World

CHUNK = 16  # grid cells drawn at once: must not depend on the workers, or the bits would
EVALUATION_CHUNK = 256  # held-out samples evaluated at once
SCHEDULED = ("lr", "momentum", "betas")  # values of an optimizer's groups that schedules move
WEIGHT, STOP, LOSS = 0, 1, 2  # places in the row that each micro-batch adds to


class Trainer:
    """A run in one worker: networks, optimizers, exchange, and where in the stream of samples it is."""

    def __init__(self, family: Family, data: Data, config: Config, world: World, control: Control) -> None:
        self.family, self.data, self.config, self.world, self.control = family, data, config, world, control
        self.device = torch.device(config.device)
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.random = default_generator(self.device)
        data.to(self.device)

        self._seed("networks")
        self.networks = {name: self._placed(network) for name, network in family.networks().items()}
        if world.rank == 0:
            with torch.no_grad():
                family.prepare(self.networks, data)
        world.copy_from_first(
            [tensor for network in self.networks.values() for tensor in network.state_dict().values()]
        )
        self.ema: dict[str, nn.Module] = {}
        if config.ema:
            self.ema = {name: copy.deepcopy(self.networks[name]).requires_grad_(False) for name in family.ema_networks}
        self.averaged: dict[str, tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]] = {
            name: (list(average.parameters()), list(self.networks[name].parameters()),
                   list(average.buffers()), list(self.networks[name].buffers()))
            for name, average in self.ema.items()
        }  # fmt: skip
        self.trainable = {name: [p for p in net.parameters() if p.requires_grad] for name, net in self.networks.items()}
        self.averages = averages.Averages(self.networks)
        self.optimizers = family.optimizers(self.networks)
        self.parameters = {
            name: [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for name, (optimizer, _) in self.optimizers.items()
        }
        self.begun = {
            name: [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for name, (optimizer, _) in self.optimizers.items()
        }  # values of the groups, as the settings of now say them
        self.writing = {
            name for name, (optimizer, _) in self.optimizers.items()
            if not all(group.get("fused") for group in optimizer.param_groups)
        }  # optimizers that may write into gradients  # fmt: skip
        self.exchange: Exchange = self._exchange()
        if config.compile:
            for network in self.networks.values():
                network.compile()

        self.step = 0
        self.phases_done = 0  # of the step under way
        self.position = 0  # samples drawn from the stream so far
        self.phase_counts: dict[str, int] = {}
        self.carried = {index: self._begun(index) for index in self.exchange.share}
        self.best: dict[str, Any] = {}
        self.sample_inputs = family.sample_inputs(torch.Generator().manual_seed(streams.GRID_SEED), GRID_CELLS)
        self.microbatches: dict[int, MicroBatch] = {}
        self.left: dict[int, dict[str, list[averages.Statistics]]] = {}  # statistics of forwards left for a later phase
        self.said: dict[str, Mapping[str, float]] = {}  # by each schedule, since the state was last taken over
        self.stop_agreed = False
        self.metrics: dict[str, float] = {}  # of the newest step
        self.evaluation = evaluation.Evaluation()  # the newest
        self.history: list[float] = []  # the main metric of every evaluation that was due
        self.reached = False  # the target, after which no step is made

    # One step

    def advance(self) -> bool:
        """Run phases until the step is done (True), or until a stop is agreed on where nothing is kept (False)."""
        phases = self.family.phases(self.step)
        while self.phases_done < len(phases):
            self._run(phases[self.phases_done])
            self.phases_done += 1
            rest = phases[self.phases_done :]
            if self.stop_agreed and rest and rest[0].fresh:
                return False
        trained = {name for phase in phases for name in phase.trains}
        for name in trained.intersection(self.ema):
            self._average_weights(name)
        self.microbatches, self.left = {}, {}
        self.step += 1
        self.phases_done = 0
        return True

    def _run(self, phase: Phase) -> None:
        """One phase: gradients of all micro-batches meet, then one optimizer step."""
        if phase.fresh:
            self._draw()
        for name, parameters in self.trainable.items():
            wanted = name in phase.trains or name in phase.leaves
            if parameters and parameters[0].requires_grad != wanted:
                for parameter in parameters:
                    parameter.requires_grad_(wanted)
        optimizer, schedule = self.optimizers[phase.optimizer]
        self._set_values(phase.optimizer, optimizer, schedule(self.step, self.history))
        if phase.closure:
            self._step_with_closure(phase, optimizer)
        else:
            loss, statistics, means = self._reduce(phase)
            if not math.isfinite(loss):
                raise self._not_finite(phase, loss)
            averages.move(statistics, means)
            if phase.before is not None:
                phase.before(self.networks)
            optimizer.step()
        if phase.after is not None:
            with torch.no_grad():
                phase.after(self.networks)
        for index, microbatch in self.microbatches.items():
            if microbatch.carried:
                self.carried[index] = {name: value.detach() for name, value in microbatch.carried.items()}
        self.phase_counts[phase.name] = self.phase_counts.get(phase.name, 0) + 1

    def _set_values(self, name: str, optimizer: torch.optim.Optimizer, values: Mapping[str, float]) -> None:
        """Learning rate, momentum and whatever else a schedule says, into the optimizer's groups and the metrics."""
        if values is self.said.get(name):  # the very same as in the step before
            return
        self.said[name] = values
        for group in optimizer.param_groups:
            for key, value in values.items():
                if key == "lr":
                    group["lr"] = value * group.get("lr_scale", 1.0)
                elif key == "momentum" and "betas" in group:
                    group["betas"] = (value, group["betas"][1])
                else:
                    group[key] = value
        whose = f"{name}_" if len(self.optimizers) > 1 else ""
        for key, shown in (("lr", "learning_rate"), ("momentum", "momentum")):
            if key in values:
                self.metrics[whose + shown] = values[key]

    def _step_with_closure(self, phase: Phase, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer that asks for the loss several times: each time for the same samples, noise and state."""
        newest: list[Any] = []

        def closure() -> float:
            newest[:] = self._reduce(phase)
            if phase.before is not None:
                phase.before(self.networks)
            return float(newest[0])

        first = optimizer.step(closure)
        assert first is not None
        if not math.isfinite(first):
            raise self._not_finite(phase, first)
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters[phase.optimizer]):
            raise self._not_finite(phase, float(newest[0]))
        averages.move(newest[1], newest[2])

    def _reduce(self, phase: Phase) -> tuple[float, list[averages.Statistics], Tensor]:
        """Reduced gradients into `.grad`; returns the loss, and batch norm statistics with their means."""
        calls = self.exchange.callables((*phase.trains, *phase.leaves))
        run = self.phase_counts.get(phase.name, 0)
        rows: dict[int, Tensor] = {}
        names: list[str] = []
        statistics: list[averages.Statistics] = []
        autocast = self.config.precision == "bfloat16"

        def loss(index: int) -> Tensor:
            microbatch = self.microbatches[index]
            microbatch.carried = dict(self.carried[index])
            self.random.manual_seed(streams.seed_of(self.config.seed, phase.name, run, index))
            if autocast:
                with torch.autocast(self.device.type, torch.bfloat16):
                    answer = phase.loss(calls, microbatch)
            else:
                answer = phase.loss(calls, microbatch)
            value, metrics = answer[0], answer[-1]
            weight = float(answer[1]) if len(answer) == 3 else 1.0
            noted = self.averages.take((*phase.trains, *phase.leaves))
            left = self.left.setdefault(index, {})
            for name in phase.leaves:
                left.setdefault(name, []).extend(noted[name])
            own = [note for name in phase.trains for note in [*left.get(name, ()), *noted[name]]]
            number = float(value.detach())
            row = [weight, float(self.control.stop_requested), number if len(answer) == 3 else number * weight]
            row += [
                float(metric.detach() if isinstance(metric, Tensor) else metric) * weight for metric in metrics.values()
            ]
            names[:] = metrics
            statistics[:] = own
            rows[index] = torch.tensor(row, dtype=torch.float64)
            if own:
                rows[index] = torch.cat([rows[index], *(part.double().cpu() for part in averages.row_of(own))])
            self.control.microbatch()
            return value

        parameters = self.parameters[phase.optimizer]
        left_before = any(name in left for left in self.left.values() for name in phase.trains)
        self.exchange.gradients(parameters, loss, left_before)
        total = self.exchange.meet(rows)
        numbers = total[: LOSS + 1 + len(names)].tolist()
        weight = numbers[WEIGHT]
        self.stop_agreed |= numbers[STOP] > 0
        mean = numbers[LOSS] / weight if weight else math.nan
        self.metrics[f"{phase.name}_loss"] = mean
        for name, number in zip(names, numbers[LOSS + 1 :], strict=True):
            self.metrics[name] = number / weight if weight else math.nan
        if math.isfinite(mean) or phase.closure:
            private = phase.before is not None or phase.closure or phase.optimizer in self.writing
            self.exchange.average(parameters, weight, private)
        self.control.rested()
        means = total[LOSS + 1 + len(names) :]
        return mean, statistics, means / self.config.microbatches if statistics else means

    def _draw(self) -> None:
        """The next samples of the stream, cut into this worker's micro-batches."""
        size = self.config.microbatch_size
        self.left = {}
        self.microbatches = {}
        for index in self.exchange.share:
            start = self.position + index * size
            epochs = [place // self.data.size for place in range(start, start + size)]
            indices = streams.sample_indices(self.data.size, self.config.seed, start, size).tolist()
            self.microbatches[index] = MicroBatch(
                self._formatted(self.data.batch(indices)), indices, epochs, self.step, index, size, self.device,
                self.dtype, self.random,
            )  # fmt: skip
        self.position += self.config.batch_size

    def _not_finite(self, phase: Phase, loss: float) -> TroupeError:
        return TroupeError(
            f"step {self.step}: the loss of phase {phase.name} is not finite ({loss}); the phase changed nothing, and "
            "the last checkpoint is good: go on from it with a lower learning rate (--resume NAME learning_rate=... "
            "--allow-changes)",
            FAILED,
        )

    @torch.no_grad()
    def _average_weights(self, name: str) -> None:
        """Move the running average of a network's weights; buffers are copied."""
        averages_of, parameters, kept, buffers = self.averaged[name]
        torch._foreach_lerp_(averages_of, parameters, 1 - self.config.ema)
        if buffers:
            torch._foreach_copy_(kept, buffers)

    # Pictures and evaluation: in chunks that no number of workers changes, dealt over the workers

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[Mapping[str, nn.Module]]:
        """The networks as they are used: averaged where there is an average, in eval mode, without gradients."""
        networks = {**self.networks, **self.ema}
        for network in networks.values():
            network.eval()
        try:
            with torch.no_grad():
                yield networks
        finally:
            for network in networks.values():
                network.train()

    def draw_grid(self) -> Tensor | None:
        """The fixed grid as uint8 (cells, height, width, channels), the same on every rank."""
        if not self.sample_inputs:
            return None
        with self.at_rest() as networks:

            def images(place: int, cells: range) -> Tensor:
                inputs = {name: value[cells.start : cells.stop] for name, value in self.sample_inputs.items()}
                return as_uint8(self.family.samples(networks, self._to_device(inputs)))

            return torch.cat(self._dealt("grid", GRID_CELLS, CHUNK, images))

    def evaluate(self) -> None:
        """The family's own evaluation over the held-out samples, the same on every rank."""
        with self.at_rest() as networks:

            def part(place: int, indices: range) -> evaluation.Part:
                microbatch = MicroBatch(
                    self._formatted(self.data.held_out_batch(indices)), indices, [0] * len(indices), self.step,
                    place, len(indices), self.device, self.dtype, self.random,
                )  # fmt: skip
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                    metrics = self.family.evaluate(networks, microbatch)
                return metrics, evaluation.highest(self.family.examples(microbatch), indices)

            parts = self._dealt("evaluation", self.data.held_out, EVALUATION_CHUNK, part)
        self.evaluation = evaluation.together(parts)
        main = f"eval_{next(iter(self.config.metrics), None)}"
        due = self.step % max(1, int(self.config.evaluate_every)) == 0  # and not only because the run ends here
        if due and main in self.evaluation.results:
            self.history.append(self.evaluation.results[main])
        self.reached = self.config.reached(self.evaluation.results)

    def _dealt(self, stream: str, count: int, size: int, work: Callable[[int, range], Any]) -> list[Any]:
        """`work(chunk, its places)` for each chunk of `count` places, dealt over the workers; all answers, in order."""
        starts = range(0, count, size)
        done = {}
        for chunk in shares(len(starts), self.world.size)[self.world.rank]:
            self._seed(stream, chunk)
            done[chunk] = work(chunk, range(starts[chunk], min(starts[chunk] + size, count)))
            self.control.beat()
        every = {chunk: answer for answers in self.world.gather(done) for chunk, answer in answers.items()}
        return [every[chunk] for chunk in sorted(every)]

    def is_better(self) -> bool:
        """Whether the newest evaluation is the best so far; remembers it if so."""
        for metric, mode in [*self.config.metrics.items()][:1]:
            value = self.evaluation.results.get(f"eval_{metric}", math.nan)
            known = self.best.get("value", -math.inf if mode == "max" else math.inf)
            if math.isfinite(value) and (value > known if mode == "max" else value < known):
                self.best = {"step": self.step, "metric": f"eval_{metric}", "value": value}
                return True
        return False

    # The whole state, in a form that knows no number of workers

    def state(self) -> dict[str, Any]:
        """Everything that the run's future depends on. The same for any number of workers."""
        carried = {index: kept for part in self.world.gather(self.carried) for index, kept in part.items()}
        return {
            "step": self.step,
            "phases_done": self.phases_done,
            "position": self.position,
            "phase_counts": dict(self.phase_counts),
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "ema": {name: network.state_dict() for name, network in self.ema.items()},
            "optimizers": {
                name: {"kind": type(optimizer).__name__, "begun": self.begun[name], **optimizer.state_dict()}
                for name, (optimizer, _) in self.optimizers.items()
            },
            "carried": dict(sorted(carried.items())),
            "sample_inputs": self.sample_inputs,
            "best": self.best,
            "metrics": dict(self.metrics),  # of the phases done, where the step is under way
            "results": dict(self.evaluation.results),
            "history": list(self.history),
            "reached": self.config.target if self.reached else "",
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state; every worker has loaded the same one.

        Raises TroupeError (exit code 4), before anything is changed, where it does not fit.
        """
        refuse_unlike(self.networks, state["networks"], "the checkpoint does not fit")
        self.step, self.phases_done, self.position = state["step"], state["phases_done"], state["position"]
        self.phase_counts = dict(state["phase_counts"])
        self.sample_inputs, self.best = state["sample_inputs"], dict(state["best"])
        self.metrics, self.evaluation = dict(state["metrics"]), evaluation.Evaluation(dict(state["results"]))
        self.history, self.said = list(state.get("history", ())), {}
        self.reached = self.config.target != "none" and state.get("reached") == self.config.target
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, network in self.ema.items():
            network.load_state_dict(state["ema"].get(name, state["networks"][name]))
        for name, (optimizer, _) in self.optimizers.items():
            saved = state["optimizers"].get(name, {})
            if saved.get("kind") == type(optimizer).__name__:
                optimizer.load_state_dict(saved)
                for group, now, then in zip(optimizer.param_groups, self.begun[name], saved["begun"], strict=True):
                    group.update({
                        key: value for key, value in now.items() if key in SCHEDULED or then.get(key) != value
                    })  # fmt: skip
            elif self.world.rank == 0:
                self.control.say(f"optimizer {name}: another kind than the checkpoint's, so it begins without a memory")
        self.carried = {
            index: self._to_device(state["carried"].get(index, {})) or self.carried[index]
            for index in self.exchange.share
        }

    def load_weights(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Begin with another run's weights. Raises TroupeError (exit code 4) where they do not fit."""
        load_weights(self.networks, weights, "--from")
        for name, network in self.ema.items():
            network.load_state_dict(weights[name], strict=False)  # as `load_weights`

    def check(self) -> None:
        """Compare the replicas. Raises TroupeError naming a tensor that is not finite, or differs between workers."""
        tensors = dict(named_tensors(self.state_of_replica()))
        sick = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
        if sick:
            raise TroupeError(
                f"step {self.step}: {sick[0]} is not finite; nothing was saved, and the last checkpoint is good: go on "
                "from it with a lower learning rate",
                FAILED,
            )
        if self.world.size == 1:
            return
        sums = {name: zlib.crc32(bits_of(tensor).numpy().data)
                for name, tensor in tensors.items() if tensor.numel()}  # fmt: skip
        for rank, other in enumerate(self.world.gather(sums)):
            for name, value in other.items():
                if value != sums[name] and rank != self.world.rank:
                    raise TroupeError(
                        f"step {self.step}: workers {min(rank, self.world.rank)} and {max(rank, self.world.rank)} "
                        f"disagree on {name}; nothing was saved: the exchange of gradients is broken",
                        FAILED,
                    )

    def state_of_replica(self) -> dict[str, Any]:
        """The part of the state that every worker holds."""
        return {
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "ema": {name: network.state_dict() for name, network in self.ema.items()},
            "optimizers": {name: optimizer.state_dict()["state"] for name, (optimizer, _) in self.optimizers.items()},
        }

    # Small things

    def _exchange(self) -> Exchange:
        if self.config.exchange == "ddp":
            return Ddp(self.world, self.config.microbatches, self.networks)
        longest = max(
            padded_length(parameters) * parameters[0].element_size() for parameters in self.parameters.values()
        )
        return Exact(self.world, self.config.microbatches, self.networks, longest)

    def _placed(self, network: nn.Module) -> nn.Module:
        """A network on its device, in its precision and memory format, in training mode."""
        network = network.to(self.device, self.dtype)
        if self.device.type == "cpu":
            faster(network, ways(self.config.precision))
        if self.config.memory_format == "channels_last":
            network = network.to(memory_format=torch.channels_last)
        return network.train()

    def _formatted(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A micro-batch's tensors on the device, images in the run's memory format."""
        wanted = torch.channels_last if self.config.memory_format == "channels_last" else torch.contiguous_format
        return {
            name: (tensor.contiguous(memory_format=wanted) if tensor.dim() == 4 else tensor).to(self.device)
            for name, tensor in tensors.items()
        }

    def _begun(self, index: int) -> dict[str, Tensor]:
        """The carried state of a micro-batch before the first step."""
        self._seed("carried", index)
        return self._to_device(self.family.carried(index))

    def _to_device(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors on the device, numbers in the precision of the networks."""
        return {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in tensors.items()
        }

    def _seed(self, *key: object) -> None:
        """Seed the default generators of this device."""
        seed = streams.seed_of(self.config.seed, *key)
        torch.default_generator.manual_seed(seed)
        self.random.manual_seed(seed)


def train(
    family: Family, data: Data, config: Config, world: World, folder: RunFolder, control: Control,
    facts: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Train a run to its last step, from its newest checkpoint or its beginning. Returns its result, on every rank.

    `facts` go into each manifest. Raises Stopped after saving when a stop was asked for, TroupeError when the run
    failed; the caller's random state, default dtype and threads are put back.
    """
    with put_back(), contextlib.ExitStack() as held:
        if world.rank == 0:
            held.enter_context(folder.lock(patience=10))
        torch.set_default_dtype(torch.float64 if config.precision == "float64" else torch.float32)
        torch.set_num_threads(config.threads_per_worker)
        trainer = Trainer(family, data, config, world, control)
        recorder = Recorder(trainer, folder, facts)
        if trainer.exchange.notice and world.rank == 0:
            control.say(trainer.exchange.notice)
        recorder.begin()
        while trainer.step < config.steps and not trainer.reached:
            done = trainer.advance()
            if done:
                recorder.after_step()
            if not done or (trainer.stop_agreed and trainer.step < config.steps and not trainer.reached):
                recorder.save()
                raise Stopped(
                    f"{folder.name}: stopped at step {trainer.step} of {config.steps} and saved; go on with "
                    f"--resume {folder.name}"
                )
        return recorder.finish()


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that functions without one of their own draw from."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


@contextlib.contextmanager
def put_back() -> Iterator[None]:
    """Restore what a run changes in its process: random state, default dtype, threads."""
    threads, dtype, state = torch.get_num_threads(), torch.get_default_dtype(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        random.setstate(state)
