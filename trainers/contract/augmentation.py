"""Augmentation of micro-batches of uint8 images (rows, channels, height, width), on their device.

Randomness comes only from the given generator, which belongs to the micro-batch, or is a pure function of the sample.
So the images are the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def crop_and_flip(
    images: Tensor, padding: int, flipped: Tensor | None, random: torch.Generator, reflect: bool = True
) -> Tensor:
    """Shift each image by up to `padding` pixels per axis, and mirror it if requested; uses a single gather.

    The border shows the image reflected, or zeros. `flipped` holds a bool for each row. Height and width must be
    greater than `padding`.
    """
    rows, _, height, width = images.shape
    device = images.device
    shifts = torch.randint(-padding, padding + 1, (2, rows, 1), generator=random, device=device)
    down, across = torch.arange(height, device=device) + shifts[0], torch.arange(width, device=device) + shifts[1]
    if flipped is not None:
        across = torch.where(flipped[:, None], across.flip(1), across)
    if reflect:
        return _pixels_at(images, reflected(down, height), reflected(across, width))
    inside = ((down >= 0) & (down < height))[:, :, None] & ((across >= 0) & (across < width))[:, None, :]
    moved = _pixels_at(images, down.clamp(0, height - 1), across.clamp(0, width - 1))
    return moved * inside[:, None]


def enlarge_and_crop(images: Tensor, side: int, flipped: Tensor | None, random: torch.Generator) -> Tensor:
    """Enlarge images to `side` pixels, crop each at random to the size it had, and mirror it if requested."""
    rows, _, height, width = images.shape
    device = images.device
    down, across = (
        torch.randint(0, side - size + 1, (rows, 1), generator=random, device=device)
        + torch.arange(size, device=device)
        for size in (height, width)
    )
    if flipped is not None:
        across = torch.where(flipped[:, None], across.flip(1), across)
    return _pixels_at(enlarged(images, side), down, across)


def enlarged(images: Tensor, side: int) -> Tensor:
    """Images of `side` pixels, at most 1400, by bilinear interpolation, which keeps the images' outer edges in place.

    In integers of 32 bits, rounded once: the same on every kind of processor.
    """
    numbers, whole = images.to(torch.int32), 2 * side
    for axis in (2, 3):
        size = images.shape[axis]
        places = (2 * torch.arange(side, dtype=torch.int32, device=images.device) + 1) * size - side
        places = places.clamp(0, whole * (size - 1))  # in units of 1 / `whole` pixels
        low = places // whole
        part = (places % whole).view(-1, *[1] * (3 - axis))
        high = (low + 1).clamp(max=size - 1)
        numbers = numbers.index_select(axis, low) * (whole - part) + numbers.index_select(axis, high) * part
    return ((numbers + whole * whole // 2) // (whole * whole)).to(torch.uint8)


def _pixels_at(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """The pixels of each image in these rows (images, height) and columns (images, width) of it."""
    rows, _, height, width = images.shape
    starts = torch.arange(rows, device=images.device)[:, None, None] * height
    places = (starts + down[:, :, None]) * width + across[:, None]
    pixels = images.permute(0, 2, 3, 1).reshape(rows * height * width, -1)
    return pixels[places.view(-1)].view(rows, down.shape[1], across.shape[1], -1).permute(0, 3, 1, 2)


def reflected(places: Tensor, size: int) -> Tensor:
    """Indices outside [0, size) reflected at the first and the last one, which are not repeated."""
    return (size - 1) - ((size - 1) - places.abs()).abs()


def random_flips(rows: int, random: torch.Generator) -> Tensor:
    """A fair coin flip for each image."""
    return torch.rand(rows, generator=random, device=random.device) < 0.5


def alternating_flips(indices: Sequence[int], epochs: Sequence[int], seed: int) -> Tensor:
    """A coin flip for each sample in its first epoch, alternating in every epoch after it.

    In any two consecutive epochs, each image is seen both ways (Jordan 2024, arXiv 2404.00498, section 3.6).
    """
    with np.errstate(over="ignore"):
        mixed = np.asarray(indices, np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
        for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # the factors of splitmix64 (Steele 2014)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(factor)
    coin = (mixed >> np.uint64(63)).astype(bool)
    return torch.from_numpy(coin ^ (np.asarray(epochs) % 2 == 1))


def cutout(images: Tensor, size: int, fill: Tensor, random: torch.Generator) -> Tensor:
    """Replace a square of `size` pixels around a random position of each image by `fill` (channels,).

    Parts of the square can lie outside the image (DeVries and Taylor 2017, section 3).
    """
    rows, _, height, width = images.shape
    device = images.device
    top = torch.randint(0, height, (rows, 1), generator=random, device=device) - size // 2
    left = torch.randint(0, width, (rows, 1), generator=random, device=device) - size // 2
    down, across = torch.arange(height, device=device), torch.arange(width, device=device)
    inside = ((down >= top) & (down < top + size))[:, :, None] & ((across >= left) & (across < left + size))[:, None, :]
    return torch.where(inside[:, None], fill.to(images.dtype)[:, None, None], images)
