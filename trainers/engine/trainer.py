"""A run in one worker: networks, optimizers, gradient synchronization, and position in the stream of samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from trainers.base.errors import FAILED, TroupeError
from trainers.base.problems import Problem
from trainers.contract import streams
from trainers.contract.evaluation import Evaluation
from trainers.contract.family import Data, Family, MicroBatch
from trainers.contract.schedules import Schedule
from trainers.contract.streams import Stream
from trainers.distributed.ddp import Ddp
from trainers.distributed.exact import Exact
from trainers.distributed.grad_sync import GradSync, Requests
from trainers.distributed.process_group import World
from trainers.distributed.shared_memory import padded_length
from trainers.engine.batch_norm import BatchNormRecorder, Statistics
from trainers.engine.control import Control, Interrupted, Marks
from trainers.engine.gate import Gate, NotFinite
from trainers.engine.phase_results import PhaseResults
from trainers.settings.config import Config
from trainers.storage.tensors import load_buffers

T = TypeVar("T")


@dataclass
class ScheduledOptimizer:
    """One optimizer, with what the loop needs to know about it."""

    optimizer: torch.optim.Optimizer
    schedule: Schedule
    parameters: list[nn.Parameter]
    group_defaults: list[dict[str, Any]]  # values of its groups under the current settings
    modifies_gradients: bool  # whether it may write into gradients
    rates: list[Tensor]  # the learning rate of each group, in the same memory each time; [] if it takes only numbers
    guarded: bool  # whether it changes nothing behind a closed gate
    own: frozenset[int]  # the ids of its parameters
    last_values: Mapping[str, float] | None = None  # the schedule's newest values since the state was last restored

    def unguarded(self) -> list[Tensor]:
        """What a step changes, unless the optimizer itself keeps it behind a closed gate."""
        if self.guarded:
            return []
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [value for value in states if isinstance(value, Tensor)]
        device = self.parameters[0].device  # counters of steps may lie on the host, which would wait
        return [*self.parameters, *(tensor for tensor in tensors if tensor.device == device)]


@dataclass(frozen=True)
class Average:
    """The running average of one network's weights; its buffers are copied."""

    network: nn.Module
    weights: list[Tensor]
    source_weights: list[Tensor]
    buffers: list[Tensor]
    source_buffers: list[Tensor]


@dataclass(eq=False, repr=False)
class RunState:
    """What a step changes besides networks and optimizers, and values derived from it."""

    step: int = 0
    phases_done: int = 0  # of the current step
    pending: bool = False  # whether the evaluation, grid and checkpoint of the last step are still to be done
    position: int = 0  # samples drawn from the stream so far
    phase_counts: dict[str, int] = field(default_factory=dict)
    microbatch_state: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    local_optimizers: dict[str, dict[int, Any]] = field(default_factory=dict)  # optimizers of unsynchronized phases
    best: dict[str, Any] = field(default_factory=dict)
    sample_inputs: dict[str, Tensor] = field(default_factory=dict)
    microbatches: dict[int, MicroBatch] = field(default_factory=dict)
    deferred_statistics: dict[int, dict[str, list[Statistics]]] = field(default_factory=dict)  # for a later phase
    stop_agreed: bool = False
    has_checkpoint: bool = False  # from which the run can resume
    saved_at: float = field(default_factory=lambda: monotonic())  # time of the newest checkpoint, or of process start
    save_agreed: bool = False  # by the clock of rank 0
    save_requested: bool = False  # by this worker, since the newest checkpoint
    metrics: dict[str, float] = field(default_factory=dict)  # of the newest step
    evaluation: Evaluation = field(default_factory=Evaluation)  # the newest
    watch_metrics: dict[str, float] = field(default_factory=dict)  # newest results of the checks for signs of failure
    worry: str = ""  # the problem that they show
    references_ready: bool = False  # whether the real samples that evaluations compare with are processed
    history: list[float] = field(default_factory=list)  # the main metric of every evaluation that was due
    reached: bool = False  # the target, after which no step is made


class Trainer(RunState):
    """Everything that a step changes. step.py makes steps, inference.py draws and evaluates, state.py defines what a
    checkpoint contains."""

    def __init__(self, family: Family, data: Data, config: Config, world: World, control: Control) -> None:
        super().__init__()
        self.family, self.data, self.config, self.world, self.control = family, data, config, world, control
        on_gpu = config.device == "cuda"
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.random = default_generator(self.device)
        data.to(self.device)
        self.stream = family.stream(data)

        self.seed("networks")
        self.networks = {name: self._placed(network) for name, network in family.networks().items()}
        torch.default_generator.manual_seed(streams.GRID_SEED)  # the same for every run
        self.frozen_networks = {
            name: self._placed(network).requires_grad_(False).eval()
            for name, network in family.frozen_networks().items()
        }
        self.averages: dict[str, Average] = {}
        for name in family.ema_networks if config.ema else ():
            network, average = self.networks[name], copy.deepcopy(self.networks[name]).requires_grad_(False)
            self.averages[name] = Average(
                average,
                list(average.parameters()),
                list(network.parameters()),
                list(average.buffers()),
                list(network.buffers()),
            )
        self.gate = Gate(self.device)
        self.marks = Marks(control.microbatch, self.device.type)
        self.results: dict[str, PhaseResults] = {}  # by phase
        self.sample_buffers: dict[int, dict[str, Tensor]] = {}  # by micro-batch
        self.state_buffers: dict[int, dict[str, Tensor]] = {}
        self.trainable = {name: [p for p in net.parameters() if p.requires_grad] for name, net in self.networks.items()}
        self.norms = BatchNormRecorder(self.networks)
        self.optimizers = {
            name: scheduled(optimizer, schedule, self.gate)
            for name, (optimizer, schedule) in family.optimizers(self.networks).items()
        }
        self.grad_sync = self._grad_sync()
        for network in self.networks.values() if config.compile else ():
            network.compile()

        self.name = ""  # of the run
        self.microbatch_state = {index: self._initial_microbatch_state(index) for index in self.grad_sync.share}

    def setup(self) -> None:
        """Prepare a new run before its first step: weights and statistics computed from the data, and the grid."""

        def family_setup() -> dict[str, Tensor]:
            with torch.no_grad():
                kept = self.family.setup({**self.networks, **self.frozen_networks}, self.data)
            self.norms.take(())  # these statistics belong to no micro-batch
            return dict(kept)

        self.seed("begin")
        self.family.heartbeat = self.control.make_heartbeat("beginning")
        self.set_buffers(self.on_rank0(family_setup))
        self.control.show_activity("")
        tensors = [tensor for network in self.networks.values() for tensor in network.state_dict().values()]
        self.world.broadcast_tensors(tensors)
        for name, average in self.averages.items():
            average.network.load_state_dict(self.networks[name].state_dict())
        self.seed("grid inputs")
        random = torch.Generator().manual_seed(streams.GRID_SEED)
        self.sample_inputs = self.family.sample_inputs(self.family.grid(), random, self.data)

    def on_rank0(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0; returns its result on every rank, or raises its Left or TroupeError on all of them."""
        result: T | None = None
        failure: Interrupted | TroupeError | None = None
        if self.world.rank == 0:
            try:
                result = work()
            except (Interrupted, TroupeError) as error:
                failure = error
        result, failure = self.world.broadcast((result, failure))
        if failure is not None:
            raise failure
        return cast(T, result)

    def set_buffers(self, kept: Mapping[str, Tensor]) -> None:
        """Store tensors that the family keeps besides its networks, such as statistics of the data, on the device."""
        self.family.buffers = {name: tensor.to(self.device) for name, tensor in kept.items()}
        load_buffers(self.frozen_networks, kept)

    def microbatch(self, stream: Stream, places: range, index: int) -> MicroBatch:
        """The samples at these places of a stream, as the micro-batch with this index."""
        tensors, indices, epochs = stream.at(places)
        return MicroBatch(
            self.formatted(tensors),
            indices,
            epochs,
            self.step,
            index,
            len(places),
            self.device,
            self.dtype,
            self.random,
        )

    def results_of(self, phase: str) -> PhaseResults:
        """The newest results of a phase, for it to write when it runs; it comes last then."""
        results = self.results.pop(phase, None) or PhaseResults(phase, self.device)
        self.results[phase] = results
        return results

    def look(self) -> None:
        """Read the metrics of the newest step. Waits for the device. Raises TroupeError if a loss was not finite."""
        self.marks.wait()
        self.require_finite(self.gate.look())
        for results in self.results.values():
            self.metrics |= results.read()

    def require_finite(self, found: NotFinite | None) -> None:
        if found is not None:
            raise self.not_finite(found)

    def not_finite(self, found: NotFinite) -> TroupeError:
        """The error for a loss that is not finite."""
        reason = f"the loss of phase {found.phase} is not finite ({found.loss})"
        hint = f"the phase changed nothing, and {self.lower_rate_hint()}"
        return TroupeError(Problem("not-finite", f"step {found.step}", reason, hint), FAILED)

    def requests(self) -> Requests:
        """What this worker requests of all: to stop, and to save, once for each checkpoint that is due."""
        save = not self.save_requested and self.save_due
        self.save_requested |= save
        return self.control.stop_requested, save

    @property
    def save_due(self) -> bool:
        """Whether a checkpoint is due by rank 0's clock; the others learn it when they synchronize."""
        interval = self.config.checkpoint_seconds if self.world.rank == 0 else None
        return interval is not None and monotonic() - self.saved_at >= interval

    def note_saved(self) -> None:
        """Record that a checkpoint was made, which restarts the clock for the next one."""
        self.saved_at, self.save_agreed, self.has_checkpoint = monotonic(), False, True
        self.save_requested = False

    def lower_rate_hint(self) -> str:
        """The hint for numbers that are no longer finite."""
        if not self.has_checkpoint:
            return "there is no checkpoint to resume: restart with a lower learning rate"
        rate = getattr(self.config, "learning_rate", None)
        word = f"learning_rate={rate / 10:.2g} " if isinstance(rate, float) else ""
        return (
            "the last checkpoint is good: resume it with a lower learning rate "
            f"(--resume {self.name} {word}--allow-changes)"
        )

    def close(self) -> None:
        """Release what the run holds besides its tensors, at once: shared memory, and references to them."""
        for optimizing in self.optimizers.values():
            for parameter in optimizing.parameters:
                parameter.grad = None
        self.norms.close()
        self.grad_sync.close()

    def seed(self, *key: object) -> None:
        """Seed the default generators of this device."""
        seed = streams.seed_of(self.config.seed, *key)
        torch.default_generator.manual_seed(seed)
        self.random.manual_seed(seed)

    def to_device(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors on the device, floating point ones in the precision of the networks."""
        return {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in tensors.items()
        }

    def formatted(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A micro-batch's tensors on the device, images in the run's memory format."""
        layout = torch.channels_last if self.config.memory_format == "channels_last" else torch.contiguous_format
        return {
            name: (tensor.contiguous(memory_format=layout) if tensor.dim() == 4 else tensor).to(self.device)
            for name, tensor in tensors.items()
        }

    def _placed(self, network: nn.Module) -> nn.Module:
        """A network on its device, in its precision and memory format, in training mode."""
        network = network.to(self.device, self.dtype)
        if self.config.memory_format == "channels_last":
            network = network.to(memory_format=torch.channels_last)
        return network.train()

    def _grad_sync(self) -> GradSync:
        in_tree = self.config.grad_sync == "exact"
        if self.world.group is not None and not in_tree:
            return Ddp(self.world, self.config.microbatches, self.networks)
        longest = max(
            (padded_length(one.parameters) * one.parameters[0].element_size() for one in self.optimizers.values()),
            default=0,
        )
        return Exact(self.world, self.config.microbatches, self.networks, longest, in_tree)

    def _initial_microbatch_state(self, index: int) -> dict[str, Tensor]:
        """The state of a micro-batch before the first step."""
        self.seed("carried", index)
        return self.to_device(self.family.microbatch_state(index))


def scheduled(optimizer: torch.optim.Optimizer, schedule: Schedule, gate: Gate) -> ScheduledOptimizer:
    groups = optimizer.param_groups
    fused = all(group.get("fused") for group in groups)
    guarded = fused and type(optimizer).__module__.startswith("torch.optim")
    if guarded and not gate.on_host:
        optimizer.found_inf = gate.closed  # type: ignore[attr-defined]  # as torch's GradScaler tells them
    kind = torch.float64 if gate.closed.device.type == "cpu" else torch.float32
    return ScheduledOptimizer(
        optimizer,
        schedule,
        [parameter for group in groups for parameter in group["params"]],
        [{key: value for key, value in group.items() if key != "params"} for group in groups],
        not fused,
        [torch.zeros((), dtype=kind, device=gate.closed.device) for _ in groups] if fused else [],
        guarded,
        frozenset(id(parameter) for group in groups for parameter in group["params"]),
    )


def in_place(buffers: dict[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors moved to buffers of the same names, which are made, or made anew if a tensor no longer fits."""
    kept = {buffer.untyped_storage().data_ptr() for buffer in buffers.values()}
    moved: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        buffer = buffers.get(name)
        if buffer is not None and _same_memory(buffer, tensor):
            continue
        in_buffer = tensor.untyped_storage().data_ptr() in kept  # of another name, which may be written first
        moved[name] = tensor.clone() if in_buffer else tensor
    for name, tensor in moved.items():
        buffer = buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            buffers[name] = tensor.clone()
        else:
            buffer.copy_(tensor)
    return {name: buffers[name].detach() for name in tensors}  # what a loss does to these does not last


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return (one.data_ptr(), one.shape, one.stride(), one.dtype) == (
        other.data_ptr(),
        other.shape,
        other.stride(),
        other.dtype,
    )


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that functions without a `generator` argument draw from."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index]
    return torch.default_generator
