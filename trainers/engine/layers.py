"""Layers that compute what torch's own do, faster on processors; parameters and their names are the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

FEW = 16  # places of the output up to which a product of matrices is faster: 4x4


class Conv2d(nn.Conv2d):
    """A convolution that becomes one product of matrices where the output has few places.

    oneDNN is slow there, backward above all: benchmarks/step_speed.py darknet shows what it is worth in a step.
    """

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(self.padding, str) or input.device.type != "cpu" or self.kernel_size == (1, 1):
            return super().forward(input)
        (above, aside), (by, along), (height, width) = self.padding, self.stride, self.kernel_size
        down = (input.shape[2] + 2 * above - height) // by + 1
        across = (input.shape[3] + 2 * aside - width) // along + 1
        several = len(input) * down * across > 1  # the bits of a product with one row depend on where it lies
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if not plain or not several or down * across > FEW:
            return super().forward(input)
        if torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        wide = pad(input.permute(0, 2, 3, 1), (0, 0, aside, aside, above, above))
        patches = torch.cat([
            wide[:, top : top + (down - 1) * by + 1 : by, left : left + (across - 1) * along + 1 : along]
            for top in range(height) for left in range(width)
        ], 3)  # fmt: skip
        filters = self.weight.permute(0, 2, 3, 1).reshape(self.out_channels, -1)
        output = linear(patches.view(-1, patches.shape[3]), filters, self.bias)
        return output.view(len(input), down, across, -1).permute(0, 3, 1, 2)
