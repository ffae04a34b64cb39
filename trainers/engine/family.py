"""The contract between the one loop and the families: what a family says, and what a loss may depend on.

A family says what is particular to it and nothing else: no loop over steps, no `.backward()`, no device, no rank, no
file name, no progress bar. `trainers/families/dcgan` is the shortest example; CONTRIBUTING.md walks through adding one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from trainers.engine.schedules import Schedule

Networks = Mapping[str, Callable[..., Any]]  # by name; in a loss, call them, and nothing else
Optimizers = dict[str, tuple[torch.optim.Optimizer, Schedule]]  # by name, each with its schedule
Metrics = dict[str, tuple[Tensor | float, float]]  # (sum, count) of each; a sum with dimensions is a table
Loss = tuple[Tensor, Mapping[str, Tensor | float]] | tuple[Tensor, Tensor | float, Mapping[str, Tensor | float]]


class Data(Protocol):
    """What a run learns from: a fixed set of samples that can be asked for by their indices."""

    size: int  # samples to learn from
    held_out: int  # samples to evaluate on, 0 for none
    fingerprint: str  # changes when the samples do; part of the recipe
    facts: Mapping[str, Any]  # what networks are built by: channels, image_size, classes, ..., size and held_out

    def to(self, device: torch.device) -> None:
        """Move the samples to the device where they fit."""

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Tensors of these training samples, on the device; images as uint8 NCHW, labels as int64."""

    def held_out_batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """As `batch`, of the samples to evaluate on."""

    def examples(self, count: int) -> Any:
        """The first `count` training samples as `Family.samples` gives them (images in [0, 1]), for `real.png`."""


@dataclass
class MicroBatch:
    """All that a loss may depend on. It never learns which worker computes it, nor how many there are."""

    tensors: dict[str, Tensor]  # of the data source: images, labels, ...
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


@dataclass(frozen=True)
class Phase:
    """One optimizer step of one optimizer: `loss` is asked for on each micro-batch, and the gradients meet.

    `loss(networks, microbatch)` returns (mean over the micro-batch, metrics), or (sum, weight, metrics) where samples
    count unequally, as in masked texts: the gradient is then that of the sum of sums over the sum of weights.
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


class Family:
    """One model family. Subclass it once in the family's `training.py`; override what the family has.

    Attributes: `config`, the settings; `facts`, what the data says of itself (channels, image_size, classes).
    """

    ema_networks: ClassVar[tuple[str, ...]] = ()  # averaged when `ema` is on; used for samples and evaluation

    def __init__(self, config: Any, facts: Mapping[str, Any]) -> None:
        self.config = config
        self.facts = facts

    def networks(self) -> dict[str, nn.Module]:
        """The networks by name, on the CPU. Runs under the run's seed."""
        raise NotImplementedError

    def prepare(self, networks: Mapping[str, nn.Module], data: Data) -> None:
        """Look at the training samples before the first step, on rank 0: weights that are computed, not learned."""

    def optimizers(self, networks: Mapping[str, nn.Module]) -> Optimizers:
        """The optimizers by name, each with its schedule."""
        raise NotImplementedError

    def phases(self, step: int) -> Sequence[Phase]:
        """What happens in this step, in order."""
        raise NotImplementedError

    def carried(self, index: int) -> dict[str, Tensor]:
        """State that belongs to micro-batch `index` before the first step (LSTM, image pool)."""
        return {}

    def sample_inputs(self, random: torch.Generator, count: int) -> dict[str, Tensor]:
        """Inputs of the fixed grid, `count` rows each, the same for every run; {} where nothing is drawn."""
        return {}

    def samples(self, networks: Networks, inputs: dict[str, Tensor]) -> Tensor:
        """Images (rows, channels, height, width) in [0, 1] for these inputs."""
        raise NotImplementedError

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Metrics:
        """(sum, count) of each of the config's `metrics` over held-out samples, and tables such as a confusion matrix.

        The networks are in eval mode, without gradients.
        """
        raise NotImplementedError

    def examples(self, microbatch: MicroBatch) -> tuple[Tensor, Sequence[str]] | None:
        """(score, caption) of each sample just evaluated, from what `evaluate` kept; the highest scores are shown.

        A score of minus infinity is never shown. None where a family has nothing to show.
        """
        return None
