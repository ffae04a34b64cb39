"""Convolutions that compute what torch's own do, faster on some processors; parameters and their names are the same.

oneDNN is slow where the output has few places, and knows no shorter way for 3x3 filters in float32. Both ways here are
products of matrices, which some processors' libraries compute much faster than others: trainers/runtime/processor.py
says which way is taken where.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from trainers.runtime.processor import Ways

WIDE = 128  # channels from which fewer multiplications outweigh moving the numbers about

# Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), section 4.3: F(4x4, 3x3)
INPUT = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
         [0, 4, 0, -5, 0, 1]]  # fmt: skip
FILTER = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
          [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]  # fmt: skip
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
FROM_INPUT, FROM_FILTER, TO_OUTPUT = (
    torch.kron(matrix, matrix).float()  # of both directions at once
    for matrix in (torch.tensor(rows, dtype=torch.float64) for rows in (INPUT, FILTER, OUTPUT))
)


def faster(network: nn.Module, ways: Ways) -> None:
    """Let torch's own convolutions in a network take these ways."""
    for layer in network.modules() if ways.places or ways.winograd else ():
        if type(layer) is nn.Conv2d:
            layer.__class__ = Conv2d
            layer.ways = ways  # type: ignore[assignment]


class Conv2d(nn.Conv2d):
    """A convolution that takes one of its `ways` where that fits."""

    ways = Ways(places=16, winograd=True)

    def forward(self, input: Tensor) -> Tensor:
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if not plain or isinstance(self.padding, str) or input.device.type != "cpu" or self.kernel_size == (1, 1):
            return super().forward(input)
        if self.ways.winograd and self._wide(input):
            output: Tensor = Winograd.apply(input, self.weight)
            return output if self.bias is None else output + self.bias[:, None, None]
        (above, aside), (by, along), (height, width) = self.padding, self.stride, self.kernel_size
        down = (input.shape[2] + 2 * above - height) // by + 1
        across = (input.shape[3] + 2 * aside - width) // along + 1
        rows = len(input) * down * across  # the bits of a single one depend on where it lies
        if rows == 1 or down * across > self.ways.places or self.in_channels < self.ways.width:
            return super().forward(input)
        if torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        wide = pad(input.permute(0, 2, 3, 1), (0, 0, aside, aside, above, above))
        patches = torch.cat([
            wide[:, top : top + (down - 1) * by + 1 : by, left : left + (across - 1) * along + 1 : along]
            for top in range(height) for left in range(width)
        ], 3)  # fmt: skip
        filters = self.weight.permute(0, 2, 3, 1).reshape(self.out_channels, -1)
        product = linear(patches.view(-1, patches.shape[3]), filters, self.bias)
        return product.view(len(input), down, across, -1).permute(0, 3, 1, 2)

    def _wide(self, input: Tensor) -> bool:
        """Whether Winograd's way is the shortest."""
        return (
            (self.kernel_size, self.stride, self.padding) == ((3, 3), (1, 1), (1, 1))
            and min(self.in_channels, self.out_channels) >= WIDE
            and input.shape[2] % 4 == input.shape[3] % 4 == 0
            and input.numel() > 0
            and input.dtype == self.weight.dtype == torch.float32
            and input.is_contiguous(memory_format=torch.channels_last)
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )


class Winograd(torch.autograd.Function):
    """3x3 filters over images in channels_last, with zeros around them: a quarter of the multiplications.

    Tiles of 6x6 places give 4x4 places of the output. Numbers are about 1e-5 of the largest one away from exact ones,
    six times as far as those of the direct way; cuDNN takes such ways on GPUs too.
    """

    @staticmethod
    def forward(context: Any, images: Tensor, weight: Tensor) -> Tensor:
        filters = (FROM_FILTER @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, weight.shape[1], -1)
        tiles = (FROM_INPUT @ tiles_of(images)).view(36, -1, images.shape[1])
        context.save_for_backward(images, weight, tiles if context.needs_input_grad[1] else None)
        return images_of(TO_OUTPUT @ torch.bmm(tiles, filters).view(36, -1), len(images), *images.shape[2:])

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, weight, tiles = context.saved_tensors
        of_images, of_weight = context.needs_input_grad
        if torch.is_grad_enabled():  # somebody wants gradients of these gradients: torch knows how
            asked = [of_images, of_weight, False]
            found = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, asked
            )
            return found[0], found[1]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        back = through = None
        if of_images:
            back = Winograd.apply(gradient, weight.flip(2, 3).transpose(0, 1))
        if of_weight:
            rows, channels, height, width = gradient.shape
            parts = gradient.permute(0, 2, 3, 1).view(rows, height // 4, 4, width // 4, 4, channels)
            outputs = (TO_OUTPUT.t() @ parts.permute(2, 4, 0, 1, 3, 5).reshape(16, -1)).view(36, -1, channels)
            sums = torch.bmm(tiles.transpose(1, 2), outputs).view(36, -1)
            through = (FROM_FILTER.t() @ sums).view(3, 3, -1, channels).permute(3, 2, 0, 1)
        return back, through


def tiles_of(images: Tensor) -> Tensor:
    """(36, tiles * channels): the places of every tile of 6x6, which overlap by two."""
    rows, channels, height, width = images.shape
    wide = pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
    image, line, place, one = wide.stride()
    tiles = wide.as_strided(
        (6, 6, rows, height // 4, width // 4, channels), (line, place, image, 4 * line, 4 * place, one)
    )
    return tiles.reshape(36, -1)


def images_of(places: Tensor, rows: int, height: int, width: int) -> Tensor:
    """Images in channels_last of (16, tiles * channels) places; no view, so that they may be changed in place."""
    tiles = places.view(4, 4, rows, height // 4, width // 4, -1).permute(2, 3, 0, 4, 1, 5)
    images = torch.empty(rows, tiles.shape[-1], height, width, memory_format=torch.channels_last)
    images.permute(0, 2, 3, 1).view(tiles.shape).copy_(tiles)
    return images
