"""The contract between the training loop and the families: what a family defines, and what a loss may depend on.

A family defines only what is specific to it: no loop over steps, no `.backward()`, no device, no rank, no file name,
no progress bar. `trainers/families/dcgan` is the shortest example; CONTRIBUTING.md explains how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import torch
from PIL import Image
from torch import Tensor, nn

from trainers.base import old_names
from trainers.base.errors import USAGE, TroupeError
from trainers.contract.evaluation import Evaluation, Rows, Totals, no_heartbeat
from trainers.contract.schedules import Schedule
from trainers.contract.streams import InOrder, Shuffled, Stream
from trainers.settings.config import SampleSettings

Networks = Mapping[str, Callable[..., Any]]  # by name; a loss may only call them
Optimizers = dict[str, tuple[torch.optim.Optimizer, Schedule]]  # by name, each with its schedule
GRID = 64  # default number of samples of the fixed grid


class Data(Protocol):
    """The data of a run: a fixed set of samples, accessed by index.

    It can also have `whole()`: the same data with all samples held out, for `troupe evaluate NAME evaluate_on=all`.
    """

    size: int  # training samples
    held_out: int  # held-out samples, 0 for none
    fingerprint: str  # changes when the samples do; part of the settings that define the run
    cache: Path | None  # a folder to cache what is computed from the samples, or None
    facts: Mapping[str, Any]  # what networks are built from: kind, size, held_out; for images channels, image_size, ...

    def to(self, device: torch.device) -> None:
        """Move the samples to the device if they fit."""

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Tensors of these training samples, on the device; images as uint8 NCHW, labels as int64."""

    def held_out_batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """As `batch`, for the held-out samples."""

    def preview(self, count: int) -> Tensor | None:
        """`count` training samples as images (rows, channels, height, width) in [0, 1]; None for other data."""


@dataclass
class MicroBatch:
    """All that a loss may depend on. It does not depend on the worker or the number of workers."""

    tensors: dict[str, Tensor]  # of the stream: images, labels, ...
    indices: Sequence[int]  # of the samples in the data
    epochs: Sequence[int]  # of each sample: a batch can span two
    step: int  # of the run, from 0
    index: int  # of this micro-batch among those of the step
    size: int  # samples
    device: torch.device
    dtype: torch.dtype  # of the networks' parameters
    random: torch.Generator  # its own generator, also the default one while the loss runs
    state: dict[str, Tensor] = field(default_factory=dict)  # state kept from step to step: replace it, detached
    intermediates: dict[str, Any] = field(default_factory=dict)  # left by a phase for later phases on the same samples

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def randn(self, *shape: int) -> Tensor:
        """Standard normal noise of this micro-batch."""
        return torch.randn(*shape, generator=self.random, device=self.device, dtype=self.dtype)


def _renamed(name: str) -> property:
    """A member of MicroBatch that has another name now: raises TroupeError when it is read or set."""

    def refuse(microbatch: MicroBatch, value: Any = None) -> None:
        raise TroupeError(old_names.renamed("MicroBatch", [name], f"micro-batch {microbatch.index}"), USAGE)

    return property(refuse, refuse)


for _name in old_names.CONTRACT_NAMES["MicroBatch"]:
    setattr(MicroBatch, _name, _renamed(_name))


class Loss(NamedTuple):
    """The loss of a phase for a micro-batch.

    Without a `weight`, `value` is the mean over the micro-batch. If samples have unequal weights, as in masked texts,
    `value` is the sum and `weight` the total weight: the gradient is that of the sum of sums over the sum of weights.
    """

    value: Tensor
    metrics: Mapping[str, Tensor | float] = {}
    weight: Tensor | float | None = None


@dataclass(frozen=True)
class Phase:
    """One step of one optimizer: `loss(networks, microbatch)` is computed on each micro-batch, and the gradients are
    synchronized.

    With `local_params`, gradients are not synchronized: each micro-batch optimises tensors of its own state, with the
    optimizer that `local_optimizer` makes for them and whose state is kept too; the loss is computed in a closure, with
    those tensors in `microbatch.state`.
    """

    name: str
    trains: tuple[str, ...]  # networks whose gradients are computed
    optimizer: str
    loss: Callable[[Networks, MicroBatch], Loss]
    new_batch: bool = True  # next samples of the stream; else those of the previous phase, with what it kept
    keeps_graph_of: tuple[str, ...] = ()  # networks whose graph a later phase uses, through `intermediates`
    pre_step: Callable[[Mapping[str, nn.Module]], None] | None = None  # sees the reduced gradients: clip them here
    post_step: Callable[[Mapping[str, nn.Module]], None] | None = None  # follows the optimizer step: clip weights here
    closure: bool = False  # the optimizer computes the loss several times in its step, as L-BFGS does
    local_params: tuple[str, ...] = ()  # tensors of its state that each micro-batch optimises itself
    local_optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer] | None = None
    pre_loss: Callable[[Mapping[str, nn.Module]], None] | None = None  # precedes the losses: clip weights here

    def __new__(cls, *values: Any, **named: Any) -> Self:
        if problems := old_names.renamed("Phase", named, f"phase {(values or ['?'])[0]}"):
            raise TroupeError(problems, USAGE)
        return super().__new__(cls)


@dataclass(frozen=True)
class Watch:
    """An early warning that a run goes wrong, checked whenever the fixed grid is drawn."""

    stream: Stream  # the samples to check, once
    extract_features: Callable[[Networks, MicroBatch], Rows]  # what is kept for each sample, (samples, ...)
    compute_metrics: Callable[
        [Rows, Mapping[str, float]], Mapping[str, float]
    ]  # metrics, from all rows and the previous metrics
    worry: Callable[[Mapping[str, float]], str | None]  # what is wrong, as text, from these
    unless: str = ""  # the run ends if something is wrong, unless this is set; "" to only report it


class Family:
    """One model family. Subclass it once in the family's `training.py`; override what the family has.

    Attributes: `config`, the settings; `facts`, properties of the data (channels, image_size, classes); `buffers`, what
    `setup` returned when the run was new; `heartbeat`, to call after each piece of long work in `setup`.
    """

    ema_networks: ClassVar[tuple[str, ...]] = ()  # averaged when `ema` is on; used for samples and evaluation

    def __init__(self, config: Any, facts: Mapping[str, Any]) -> None:
        self.config = config
        self.facts = facts
        self.buffers: Mapping[str, Tensor] = {}
        self.reference_features: Mapping[str, Rows] = {}
        self.heartbeat: Callable[[], None] = no_heartbeat

    # Networks and data

    def networks(self) -> dict[str, nn.Module]:
        """The networks by name, on the CPU. Runs under the run's seed."""
        raise NotImplementedError

    def frozen_networks(self) -> dict[str, nn.Module]:
        """Frozen networks, never trained, saved or exported: loaded from a file, or initialized from a fixed seed."""
        return {}

    def setup(self, networks: Mapping[str, nn.Module], data: Data) -> Mapping[str, Tensor]:
        """Process the training samples once, on rank 0 of a new run; `networks` holds the frozen ones too.

        For weights that are computed rather than trained, which it writes into networks, and for statistics of the
        data, which it returns: they are kept with the run, as `self.buffers`. An entry named as a tensor of a frozen
        network, `judge.0.weight`, is kept too and written into it. Long work must call `self.heartbeat` after each
        piece: a silent worker counts as hung, and a requested stop takes effect there.
        """
        return {}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        """The optimizers by name, each with its schedule."""
        raise NotImplementedError

    def stream(self, data: Data) -> Stream:
        """The source of micro-batches: the training samples, shuffled in each epoch."""
        return Shuffled(data.batch, data.size, self.config.seed)

    def phases(self, step: int) -> Sequence[Phase]:
        """The phases of this step, in order; `config.batches_per_step(step)` of them use fresh samples."""
        raise NotImplementedError

    def microbatch_state(self, index: int) -> dict[str, Tensor]:
        """Initial state of micro-batch `index` before the first step (LSTM, image pool)."""
        return {}

    # Samples

    def grid(self) -> SampleSettings:
        """The settings of the fixed grid."""
        return self.config.sample_settings(count=GRID)  # type: ignore[no-any-return]

    def sample_inputs(self, settings: SampleSettings, random: torch.Generator, data: Data) -> dict[str, Tensor]:
        """Inputs for the requested samples, `settings.count` rows each; {} if the family draws no samples."""
        return {}

    def samples(self, networks: Networks, inputs: dict[str, Tensor]) -> Tensor | list[str]:
        """Images (rows, channels, height, width) in [0, 1], or texts, for these inputs."""
        raise NotImplementedError

    def watch(self, data: Data, inputs: Mapping[str, Tensor], drawn: Tensor) -> Watch | None:
        """What to check with the fixed grid, which is `drawn` from these inputs as uint8 (cells, height, width,
        channels); None for nothing."""
        return None

    # Predictions

    def predict(self, networks: Networks, microbatch: MicroBatch) -> Tensor:
        """Probability of each class that `Config.input_spec` names, (rows, classes), on samples as evaluations see
        them.

        The networks are in eval mode, without gradients.
        """
        raise NotImplementedError

    # Evaluation

    def held_out(self, data: Data) -> Stream:
        """The samples of an evaluation, read once: the held-out samples, in order."""
        return InOrder(data.held_out, data.held_out_batch)

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Totals:
        """(sum, count) of each quantity that an evaluation adds up; sums can have dimensions, as a confusion matrix.

        The networks are in eval mode, without gradients.
        """
        raise NotImplementedError

    def per_sample_outputs(self, microbatch: MicroBatch) -> Rows:
        """What is kept for each sample until the evaluation ends, (samples, ...), such as features."""
        return {}

    def compute_metrics(self, found: Evaluation) -> Mapping[str, float]:
        """The metrics over all held-out samples: each of the config's `metrics`, and others. On rank 0.

        The default is the mean of each sum without dimensions. Long work must call `found.heartbeat` after each piece,
        or the worker counts as hung.
        """
        return {
            name: float(total) / count if count else float("nan")
            for name, (total, count) in found.totals.items()
            if torch.as_tensor(total).dim() == 0
        }

    def details(self) -> Mapping[str, Any] | None:
        """The complete result of the newest evaluation, as JSON data, on rank 0; it is written to verdict.json."""
        return None

    def setup_evaluation(
        self, networks: Mapping[str, nn.Module], data: Data, heartbeat: Callable[[], None]
    ) -> Mapping[str, Tensor]:
        """Prepare evaluations, on rank 0, once in each process before its first one; otherwise like `setup`.

        What it returns is kept with the run from then on, besides what is kept already. Long work must call `heartbeat`
        after each piece, or the worker counts as hung.
        """
        return {}

    def reference_data(self, data: Data) -> Mapping[str, Stream]:
        """Real samples that an evaluation compares with, by name; the output of `extract_features` is
        `self.reference_features` on rank 0.

        Computed once for any number of runs: it is cached next to the data under the name that `features_key` gives.
        """
        return {}

    def extract_features(self, networks: Networks, microbatch: MicroBatch) -> Rows:
        """What is kept for each of these samples, (samples, ...), computed by the frozen networks."""
        raise NotImplementedError

    def summarize_features(self, seen: Rows, heartbeat: Callable[[], None]) -> Rows:
        """What is computed from the rows of all these samples, cached with them; `heartbeat` as above."""
        return {}

    def features_key(self) -> str:
        """Everything that the output of `extract_features` depends on, besides the samples."""
        raise NotImplementedError

    def rank_samples(self, microbatch: MicroBatch) -> tuple[Tensor, Sequence[str]] | None:
        """(score, caption) of each sample just evaluated, from what `evaluate` kept; the highest are kept for display.

        A score of minus infinity is never shown. None if a family has nothing to show.
        """
        return None

    def pictures(self, found: Evaluation, data: Data) -> dict[str, Image.Image | None]:
        """Figures of an evaluation by name, such as a confusion matrix; None for those that this one lacks."""
        return {}
