"""Running averages of batch norm: they move by the mean over micro-batches, whoever computed them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.engine.batch_norm import BatchNormRecorder, tensors_of, update_running_stats
from trainers.engine.gate import Gate


@pytest.fixture(params=[True, False], ids=["on the host", "on a device"])
def gate(request: pytest.FixtureRequest) -> Gate:
    """An open gate, seen by its host or not."""
    return Gate(torch.device("cpu"), on_host=request.param)


def batches(count: int = 4) -> list[Tensor]:
    return [
        torch.randn(8, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * (seed + 1) + seed
        for seed in range(count)
    ]


def network(**arguments: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, **arguments), nn.ReLU(), nn.BatchNorm2d(4)).double()


def mean_row(norms: BatchNormRecorder, net: nn.Module, microbatches: Sequence[Tensor]) -> tuple[Any, Tensor]:
    """Forwards of all micro-batches; the newest statistics, and the mean of their rows."""
    rows = []
    statistics: Any = []
    for microbatch in microbatches:
        net(microbatch)
        statistics = norms.take(["net"])["net"]
        rows.append(torch.cat(tensors_of(statistics)))
    return statistics, torch.stack(rows).mean(0)


def layers(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]


def running(layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean.clone(), layer.running_var.clone()


def expected(net: nn.Sequential, microbatches: Sequence[Tensor], momentum: float) -> list[Tensor]:
    """Mean and variance of each layer, from plain batch norms that see one micro-batch each."""
    seen = []
    for microbatch in microbatches:
        plain = copy.deepcopy(net)
        for layer in layers(plain):
            layer.reset_running_stats()
            layer.momentum = 1.0
        plain(microbatch)
        seen.append([part for layer in layers(plain) for part in running(layer)])
    means = [torch.stack(parts).mean(0) for parts in zip(*seen, strict=True)]
    start = [torch.zeros(4).double(), torch.ones(4).double()] * 2
    return [(1 - momentum) * before + momentum * mean for before, mean in zip(start, means, strict=True)]


def test_averages_move_once_by_the_mean_over_the_microbatches(gate: Gate) -> None:
    net = network()
    wanted = expected(net, batches(), 0.1)
    statistics, means = mean_row(BatchNormRecorder({"net": net}), net, batches())
    assert [running(layer)[0].abs().max().item() for layer in layers(net)] == [0, 0]  # forwards move nothing
    update_running_stats(statistics, means, gate)
    found = [part for layer in layers(net) for part in running(layer)]
    for part, target in zip(found, wanted, strict=True):
        torch.testing.assert_close(part, target, rtol=1e-12, atol=1e-12)
    assert [int(layer.num_batches_tracked or 0) for layer in layers(net)] == [1, 1]


def test_the_output_is_that_of_a_plain_batch_norm(gate: Gate) -> None:
    net = network()
    plain = copy.deepcopy(net)
    BatchNormRecorder({"net": net})
    assert torch.equal(net(batches()[0]), plain(batches()[0]))


@pytest.mark.parametrize("momentum", [0.01, 0.3, 1, 1.0])
def test_with_one_microbatch_they_move_as_a_plain_batch_norm_does(gate: Gate, momentum: float) -> None:
    net = network(momentum=momentum)
    plain = copy.deepcopy(net)
    norms = BatchNormRecorder({"net": net})
    for microbatch in batches():
        plain(microbatch)
        update_running_stats(*mean_row(norms, net, [microbatch]), gate)
    for ours, theirs in zip(layers(net), layers(plain), strict=True):
        torch.testing.assert_close(running(ours), running(theirs), rtol=1e-12, atol=1e-12)
        assert ours.num_batches_tracked == theirs.num_batches_tracked == 4


def test_without_a_momentum_they_are_the_mean_over_all_steps(gate: Gate) -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, momentum=None)).double()
    norms = BatchNormRecorder({"net": net})
    steps = [batches()[:2], batches()[2:]]
    for microbatches in steps:
        update_running_stats(*mean_row(norms, net, microbatches), gate)
    each = torch.stack([microbatch.mean((0, 2, 3)) for step in steps for microbatch in step])
    torch.testing.assert_close(running(layers(net)[0])[0], each.mean(0), rtol=1e-12, atol=1e-12)
    assert layers(net)[0].num_batches_tracked == 2


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_layer_called_twice_moves_twice_in_the_order_of_its_calls(gate: Gate, momentum: float | None) -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum)).double()
    plain = copy.deepcopy(net)
    norms = BatchNormRecorder({"net": net})
    first, second = batches()[:2]
    net(first)
    net(second)
    statistics = norms.take(["net"])["net"]
    assert len(statistics) == 2
    update_running_stats(statistics, torch.cat(tensors_of(statistics)), gate)
    plain(first)
    plain(second)
    torch.testing.assert_close(running(layers(net)[0]), running(layers(plain)[0]), rtol=1e-12, atol=1e-12)
    assert layers(net)[0].num_batches_tracked == 2


def test_layers_may_differ_in_momentum(gate: Gate) -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, momentum=0.1), nn.BatchNorm2d(3, momentum=0.7)).double()
    plain = copy.deepcopy(net)
    statistics, means = mean_row(BatchNormRecorder({"net": net}), net, batches()[:1])
    update_running_stats(statistics, means, gate)
    plain(batches()[0])
    for ours, theirs in zip(layers(net), layers(plain), strict=True):
        torch.testing.assert_close(running(ours), running(theirs), rtol=1e-12, atol=1e-12)


def test_nothing_is_noted_or_moved_in_eval_mode(gate: Gate) -> None:
    net = network()
    norms = BatchNormRecorder({"net": net})
    plain = copy.deepcopy(network()).eval()
    plain.load_state_dict(net.state_dict())
    before = copy.deepcopy(net.state_dict())
    net.eval()
    assert torch.equal(net(batches()[0]), plain(batches()[0]))
    assert norms.take(["net"])["net"] == []
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_layers_that_use_batch_statistics_only_are_left_alone(gate: Gate) -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).double()
    norms = BatchNormRecorder({"net": net})
    net(batches()[0])
    assert norms.take(["net"])["net"] == []


def test_what_networks_that_nobody_asked_for_saw_is_forgotten(gate: Gate) -> None:
    nets = {"net": network(), "other": network()}
    norms = BatchNormRecorder(nets)
    nets["net"](batches()[0])
    nets["other"](batches()[0])
    assert len(norms.take(["net"])["net"]) == 2
    assert norms.take(["net", "other"]) == {"net": [], "other": []}


def test_gradients_are_those_of_a_plain_batch_norm(gate: Gate) -> None:
    net = network()
    plain = copy.deepcopy(net)
    BatchNormRecorder({"net": net})
    for one in (net, plain):
        one(batches()[0]).square().sum().backward()
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_inputs_of_a_wrong_shape_are_refused_as_ever(gate: Gate, kind: Any) -> None:
    net = nn.Sequential(kind(3))
    BatchNormRecorder({"net": net})
    with pytest.raises(ValueError, match="expected"):
        net(torch.zeros(3))
