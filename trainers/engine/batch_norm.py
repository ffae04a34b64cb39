"""Running averages of batch norm, updated once per phase with the mean over the step's micro-batches.

By default, a batch norm layer folds each of *its worker's* micro-batches into its averages, which then differ between
workers. Here each forward only records the statistics of its micro-batch; the loop adds them up like gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainers.engine.gate import Gate


class Statistics(NamedTuple):
    """Batch statistics of one forward of one layer: mean and variance as its running averages take them."""

    layer: _BatchNorm
    mean: Tensor
    variance: Tensor


class BatchNormRecorder:
    """Records the statistics of the batch norm layers of some networks, by network."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.noted: dict[str, list[Statistics]] = {name: [] for name in networks}
        self.watched: list[_BatchNorm] = []
        for name, network in networks.items():
            for layer in network.modules():
                if isinstance(layer, _BatchNorm) and layer.track_running_stats:
                    self._watch(layer, self.noted[name])
                    self.watched.append(layer)

    def take(self, names: Sequence[str]) -> dict[str, list[Statistics]]:
        """The statistics recorded for these networks since the last call; those of the others are discarded."""
        taken = {name: list(self.noted[name]) for name in names}
        for notes in self.noted.values():
            notes.clear()
        return taken

    def close(self) -> None:
        """Restore the layers' own forward: the wrappers would keep them alive."""
        for layer in self.watched:
            layer.__dict__.pop("forward", None)

    @staticmethod
    def _watch(layer: _BatchNorm, notes: list[Statistics]) -> None:
        plain = layer.forward

        def forward(input: Tensor) -> Tensor:
            if not layer.training:
                return plain(input)
            layer._check_input_dim(input)  # type: ignore[no-untyped-call]
            assert layer.running_mean is not None
            assert layer.running_var is not None
            mean, variance = torch.zeros_like(layer.running_mean), torch.zeros_like(layer.running_var)
            notes.append(Statistics(layer, mean, variance))
            return nn.functional.batch_norm(input, mean, variance, layer.weight, layer.bias, True, 1.0, layer.eps)

        layer.forward = forward  # type: ignore[method-assign]


def tensors_of(statistics: Sequence[Statistics]) -> list[Tensor]:
    """The tensors of these statistics, to be averaged over micro-batches."""
    return [part for noted in statistics for part in (noted.mean, noted.variance)]


@torch.no_grad()
def update_running_stats(statistics: Sequence[Statistics], means: Tensor, gate: Gate) -> None:
    """Update the running averages of each layer once per call, if the gate is open; `means` in the order of
    `tensors_of`."""
    if not statistics:
        return
    running = [average for noted in statistics for average in _averages(noted.layer)]
    means = means.to(statistics[0].mean)  # in one copy: on a GPU each part would take as long
    if not gate.on_host:  # behind a closed gate the averages move towards themselves
        means = gate.choose(torch.cat(running), means)
    parts = torch.split(means, [average.numel() for average in running])
    rounds: list[tuple[list[Tensor], list[Tensor], list[float | Tensor]]] = []
    calls: dict[_BatchNorm, int] = {}
    for place, noted in enumerate(statistics):
        layer, call = noted.layer, calls.get(noted.layer, 0)
        calls[layer] = call + 1
        momentum = _count(layer, gate)
        if call == len(rounds):
            rounds.append(([], [], []))
        rounds[call][0].extend(running[2 * place : 2 * place + 2])
        rounds[call][1].extend(parts[2 * place : 2 * place + 2])
        rounds[call][2].extend([momentum] * 2)
    for averages, new, momenta in rounds:  # calls of one layer in order, all layers together
        same = momenta[0]
        if isinstance(same, float) and all(momentum is same or momentum == same for momentum in momenta):
            torch._foreach_lerp_(averages, new, same)
        else:
            for average, mean, momentum in zip(averages, new, momenta, strict=True):
                average.lerp_(mean, momentum)


def _averages(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var


def _count(layer: _BatchNorm, gate: Gate) -> float | Tensor:
    """Count a batch of a layer; returns the share that its statistics get in the running averages."""
    tracked = layer.num_batches_tracked
    assert tracked is not None
    tracked += 1 if gate.on_host else gate.is_open.to(tracked.dtype)
    if layer.momentum is not None:
        return layer.momentum
    return (1 / tracked.double().clamp(min=1)).to(_averages(layer)[0].dtype)  # the mean of all batches
