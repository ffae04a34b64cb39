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


def row_of(statistics: Sequence[Statistics]) -> list[Tensor]:
    """The tensors of these statistics, to be averaged over micro-batches."""
    return [part for noted in statistics for part in (noted.mean, noted.variance)]


@torch.no_grad()
def update_running_stats(statistics: Sequence[Statistics], means: Tensor) -> None:
    """Update the running averages of each layer once per call, with `means` in the order of `row_of`."""
    start = 0
    if statistics:
        means = means.to(statistics[0].mean)  # in one copy: on a GPU each part would take as long
    rounds: list[tuple[list[Tensor], list[Tensor], list[float]]] = []
    calls: dict[_BatchNorm, int] = {}
    for noted in statistics:
        layer, call = noted.layer, calls.get(noted.layer, 0)
        calls[layer] = call + 1
        assert layer.num_batches_tracked is not None
        layer.num_batches_tracked += 1
        momentum = layer.momentum if layer.momentum is not None else 1 / int(layer.num_batches_tracked)
        if call == len(rounds):
            rounds.append(([], [], []))
        for running in (layer.running_mean, layer.running_var):
            assert running is not None
            rounds[call][0].append(running)
            rounds[call][1].append(means[start : start + running.numel()].to(running))
            rounds[call][2].append(momentum)
            start += running.numel()
    for running_averages, new, momenta in rounds:  # calls of one layer in order, all layers together
        if len(set(momenta)) == 1:
            torch._foreach_lerp_(running_averages, new, momenta[0])
        else:
            for running, mean, momentum in zip(running_averages, new, momenta, strict=True):
                running.lerp_(mean, momentum)
