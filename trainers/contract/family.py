"""The contract between the one loop and the families: what a family says, and what a loss may depend on.

A family says what is particular to it and nothing else: no loop over steps, no `.backward()`, no device, no rank, no
file name, no progress bar. `trainers/families/dcgan` is the shortest example; CONTRIBUTING.md walks through adding one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from trainers.contract.evaluation import Evaluation, Rows, Totals, nothing
from trainers.contract.schedules import Schedule
from trainers.contract.streams import InOrder, Shuffled, Stream
from trainers.settings.config import Asked

Networks = Mapping[str, Callable[..., Any]]  # by name; in a loss, call them, and nothing else
Optimizers = dict[str, tuple[torch.optim.Optimizer, Schedule]]  # by name, each with its schedule
GRID = 64  # samples of the fixed grid, where a family says no other number


class Data(Protocol):
    """What a run learns from: a fixed set of samples that can be asked for by their indices.

    It may have `whole()` besides: the same with all samples held out, for `troupe evaluate NAME evaluate_on=all`.
    """

    size: int  # samples to learn from
    held_out: int  # samples to evaluate on, 0 for none
    fingerprint: str  # changes when the samples do; part of the recipe
    cache: Path | None  # a folder for what is computed of the samples, None for nowhere
    facts: Mapping[str, Any]  # what networks are built by: kind, size, held_out; of images channels, image_size, ...

    def to(self, device: torch.device) -> None:
        """Move the samples to the device where they fit."""

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Tensors of these training samples, on the device; images as uint8 NCHW, labels as int64."""

    def held_out_batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """As `batch`, of the samples to evaluate on."""

    def preview(self, count: int) -> Tensor | None:
        """Some `count` training samples as images (rows, channels, height, width) in [0, 1]; None for others."""


@dataclass
class MicroBatch:
    """All that a loss may depend on. It never learns which worker computes it, nor how many there are."""

    tensors: dict[str, Tensor]  # of the stream: images, labels, ...
    indices: Sequence[int]  # of the samples in the data
    epochs: Sequence[int]  # of each sample: a batch may span two
    step: int  # of the run, from 0
    index: int  # of this micro-batch among those of the step
    size: int  # samples
    device: torch.device
    dtype: torch.dtype  # of the networks' parameters
    random: torch.Generator  # its own stream, also the default one while the loss runs
    carried: dict[str, Tensor] = field(default_factory=dict)  # goes on from step to step: replace it, detached
    kept: dict[str, Any] = field(default_factory=dict)  # left by a phase for later phases on the same samples

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def randn(self, *shape: int) -> Tensor:
        """Standard normal noise of this micro-batch."""
        return torch.randn(*shape, generator=self.random, device=self.device, dtype=self.dtype)


class Loss(NamedTuple):
    """What a phase gives for a micro-batch.

    Without a `weight`, `value` is the mean over the micro-batch. Where samples count unequally, as in masked texts, it
    is their sum and `weight` what they count together: the gradient is that of the sum of sums over the sum of weights.
    """

    value: Tensor
    metrics: Mapping[str, Tensor | float] = {}
    weight: Tensor | float | None = None


@dataclass(frozen=True)
class Phase:
    """One optimizer step of one optimizer: `loss(networks, microbatch)` is asked for on each micro-batch, and the
    gradients meet.

    Or, with `optimises`, a phase in which none meet: each micro-batch optimises tensors that it carries, by the
    optimizer that `own` makes for them and whose state is carried too; the loss is asked for in a closure, with those
    tensors in `microbatch.carried`.
    """

    name: str
    trains: tuple[str, ...]  # networks whose gradients are wanted
    optimizer: str
    loss: Callable[[Networks, MicroBatch], Loss]
    fresh: bool = True  # next samples of the stream; else those of the phase before, with what it kept
    leaves: tuple[str, ...] = ()  # networks whose graph stays in `kept` for a later phase that trains them
    before: Callable[[Mapping[str, nn.Module]], None] | None = None  # sees the reduced gradients: clip their norm here
    after: Callable[[Mapping[str, nn.Module]], None] | None = None  # follows the optimizer step: clip weights here
    closure: bool = False  # the optimizer asks for the loss several times in its step, as L-BFGS does
    optimises: tuple[str, ...] = ()  # carried tensors that each micro-batch changes for itself
    own: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer] | None = None


@dataclass(frozen=True)
class Watch:
    """What tells in time that a run goes wrong. It is looked at whenever the fixed grid is drawn."""

    stream: Stream  # what is looked at, once
    look: Callable[[Networks, MicroBatch], Rows]  # what is kept of each sample of it, (samples, ...)
    conclude: Callable[[Rows, Mapping[str, float]], Mapping[str, float]]  # metrics, from all of it and those before
    worry: Callable[[Mapping[str, float]], str | None]  # what is wrong, in words, from these
    unless: str = ""  # the run ends where something is wrong, unless this is said; "" for a run that only tells it


class Family:
    """One model family. Subclass it once in the family's `training.py`; override what the family has.

    Attributes: `config`, the settings; `facts`, what the data says of itself (channels, image_size, classes); `kept`,
    what `begin` returned when the run was new; `beat`, to be called after each piece of long work in `begin`.
    """

    ema_networks: ClassVar[tuple[str, ...]] = ()  # averaged when `ema` is on; used for samples and evaluation

    def __init__(self, config: Any, facts: Mapping[str, Any]) -> None:
        self.config = config
        self.facts = facts
        self.kept: Mapping[str, Tensor] = {}
        self.looked: Mapping[str, Rows] = {}
        self.beat: Callable[[], None] = nothing

    # What learns, and from what

    def networks(self) -> dict[str, nn.Module]:
        """The networks by name, on the CPU. Runs under the run's seed."""
        raise NotImplementedError

    def frozen(self) -> dict[str, nn.Module]:
        """Networks that are used and never learned, saved or exported: of a file, or as a fixed seed draws them."""
        return {}

    def begin(self, networks: Mapping[str, nn.Module], data: Data) -> Mapping[str, Tensor]:
        """Look at the training samples once, on rank 0 of a new run; `networks` holds the frozen ones too.

        For weights that are computed and not learned, which it writes into networks, and for statistics of the data,
        which it returns: they are kept with the run, as `self.kept`. What is named as a tensor of a frozen network,
        `judge.0.weight`, is kept too and written into it. Where it takes long, it calls `self.beat` after each piece of
        work: a worker that is silent would be taken for one that hangs, and a stop ends it there.
        """
        return {}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        """The optimizers by name, each with its schedule."""
        raise NotImplementedError

    def stream(self, data: Data) -> Stream:
        """Where micro-batches come from: the training samples, shuffled in each epoch."""
        return Shuffled(data.batch, data.size, self.config.seed)

    def phases(self, step: int) -> Sequence[Phase]:
        """What happens in this step, in order; as many of them on fresh samples as `config.draws(step)` says."""
        raise NotImplementedError

    def carried(self, index: int) -> dict[str, Tensor]:
        """State that belongs to micro-batch `index` before the first step (LSTM, image pool)."""
        return {}

    # What can be drawn

    def grid(self) -> Asked:
        """What the fixed grid asks for."""
        return self.config.asked(count=GRID)  # type: ignore[no-any-return]

    def sample_inputs(self, asked: Asked, random: torch.Generator, data: Data) -> dict[str, Tensor]:
        """Inputs for what is asked for, `asked.count` rows each; {} where nothing is drawn."""
        return {}

    def samples(self, networks: Networks, inputs: dict[str, Tensor]) -> Tensor | list[str]:
        """Images (rows, channels, height, width) in [0, 1], or texts, for these inputs."""
        raise NotImplementedError

    def watch(self, data: Data, inputs: Mapping[str, Tensor], drawn: Tensor) -> Watch | None:
        """What is looked at beside the fixed grid, `drawn` from these inputs as uint8 (cells, height, width, channels);
        None for nothing."""
        return None

    # What it tells of a file

    def predict(self, networks: Networks, microbatch: MicroBatch) -> Tensor:
        """Probability of each class that `Config.expects` names, (rows, classes), as evaluations see such samples.

        The networks are in eval mode, without gradients.
        """
        raise NotImplementedError

    # How good it is

    def held_out(self, data: Data) -> Stream:
        """What an evaluation goes through, once: the held-out samples, in their order."""
        return InOrder(data.held_out, data.held_out_batch)

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Totals:
        """(sum, count) of what an evaluation adds up; sums may have dimensions, as a matrix of confusion.

        The networks are in eval mode, without gradients.
        """
        raise NotImplementedError

    def collected(self, microbatch: MicroBatch) -> Rows:
        """What is kept of each sample just evaluated until the evaluation is over, (samples, ...), as its features."""
        return {}

    def conclude(self, found: Evaluation) -> Mapping[str, float]:
        """The metrics that follow from all held-out samples: each of the config's `metrics`, and others. On rank 0.

        The means of those sums that have no dimensions, where a family says nothing else. Where it takes long, it calls
        `found.beat` after each piece of work, or its worker would be taken for one that hangs.
        """
        return {
            name: float(total) / count if count else float("nan")
            for name, (total, count) in found.totals.items()
            if torch.as_tensor(total).dim() == 0
        }

    def report(self) -> Mapping[str, Any] | None:
        """All that the newest evaluation says, as JSON keeps it, on rank 0; it is written to verdict.json."""
        return None

    def before_evaluations(
        self, networks: Mapping[str, nn.Module], data: Data, beat: Callable[[], None]
    ) -> Mapping[str, Tensor]:
        """What the evaluations need besides, on rank 0, once in each process before its first one: as `begin`.

        What it returns is kept with the run from then on, beside what is kept already. Where it takes long, it calls
        `beat` after each piece of work, or its worker would be taken for one that hangs.
        """
        return {}

    def compared(self, data: Data) -> Mapping[str, Stream]:
        """Real samples that an evaluation compares with, by name: what `look` sees of them is `self.looked` on rank 0.

        Seen once for any number of runs: it is cached beside the data under the name that `look_name` gives.
        """
        return {}

    def look(self, networks: Networks, microbatch: MicroBatch) -> Rows:
        """What is kept of each of them, (samples, ...), by the frozen networks."""
        raise NotImplementedError

    def look_over(self, seen: Rows, beat: Callable[[], None]) -> Rows:
        """What follows from all that was seen of such samples, to be cached with it; `beat` as above."""
        return {}

    def look_name(self) -> str:
        """All that decides on what `look` sees, besides the samples."""
        raise NotImplementedError

    def scored(self, microbatch: MicroBatch) -> tuple[Tensor, Sequence[str]] | None:
        """(score, caption) of each sample just evaluated, from what `evaluate` kept; the highest are kept to be shown.

        A score of minus infinity is never shown. None where a family has nothing to show.
        """
        return None

    def pictures(self, found: Evaluation, data: Data) -> dict[str, Image.Image | None]:
        """Pictures of an evaluation by name, as a matrix of confusion; None for those that this one has not."""
        return {}
