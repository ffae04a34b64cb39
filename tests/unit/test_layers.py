"""Faster layers compute what torch's own do."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from trainers.engine.layers import Conv2d

SHAPES = itertools.product((1, 2, 3, 4, 5, 8), (1, 2), (1, 3, 4), (0, 1))
CASES = [case for case in SHAPES if case[0] + 2 * case[3] >= case[2]]  # (size, stride, kernel, padding)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("size", "stride", "kernel", "padding"), CASES)
def test_a_convolution_is_that_of_torch_with_its_gradients(
    size: int, stride: int, kernel: int, padding: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    ours = Conv2d(5, 7, kernel, stride, padding).double().to(memory_format=layout)
    theirs = nn.Conv2d(5, 7, kernel, stride, padding).double()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(3, 5, size, size + 1, dtype=torch.float64).to(memory_format=layout)
    one, other = images.clone().requires_grad_(), images.clone().requires_grad_()
    results = ours(one), theirs(other)
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(results[1])
    for result in results:
        (result * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-12)
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-12, atol=1e-12)


def test_small_grids_do_not_use_the_slow_kernel_and_large_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    plain = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, input: asked.append(input.shape[2]) or plain(self, input))
    layer = Conv2d(2, 2, 3, padding=1)
    for size in (2, 4, 5, 8):
        layer(torch.zeros(1, 2, size, size))
    assert asked == [5, 8]


def test_bfloat16_by_autocast() -> None:
    layer = Conv2d(4, 4, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(torch.randn(2, 4, 2, 2))
    assert result.dtype == torch.bfloat16
    result.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
