"""Augmentation: what each image may become, and that it is the same picture on any number of workers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiers import slow
from torch import Tensor

from trainers.contract.augmentation import (
    alternating_flips,
    crop_and_flip,
    cutout,
    enlarge_and_crop,
    enlarged,
    random_flips,
    reflected,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(rows: int, channels: int, height: int, width: int) -> Tensor:
    """Images of which no two crops are alike, in the memory format of the data sources."""
    images = torch.randint(0, 256, (rows, channels, height, width), generator=generator(9), dtype=torch.uint8)
    return images.contiguous(memory_format=torch.channels_last)


def crops(image: NDArray[np.uint8], padding: int, mirrored: bool, mode: Any = "reflect") -> list[bytes]:
    """The slow way: all that a (channels, height, width) image may become, by shift down and across."""
    _, height, width = image.shape
    wide = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode=mode)
    return [
        (crop[:, :, ::-1] if mirrored else crop).tobytes()
        for down in range(2 * padding + 1) for across in range(2 * padding + 1)
        for crop in [wide[:, down : down + height, across : across + width]]
    ]  # fmt: skip


SHAPES = [(1, 8, 8), (3, 8, 8), (3, 5, 9), (4, 12, 6), (1, 28, 28), (3, 32, 32)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flips", [False, True])
def test_each_image_becomes_a_crop_of_its_reflected_self(
    shape: tuple[int, int, int], padding: int, flips: bool
) -> None:
    images = noise(12, *shape)
    before = images.clone()
    flipped = torch.arange(12) % 3 == 0 if flips else None
    moved = crop_and_flip(images, padding, flipped, generator())
    assert moved.shape == images.shape
    assert moved.dtype == torch.uint8
    assert torch.equal(images, before)
    for row, (image, result) in enumerate(zip(images.numpy(), moved.numpy(), strict=True)):
        assert result.tobytes() in crops(image, padding, flips and row % 3 == 0), row


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 9)])
@pytest.mark.parametrize("flips", [False, True])
def test_the_border_can_be_black(shape: tuple[int, int, int], flips: bool) -> None:
    images = noise(12, *shape)
    flipped = torch.arange(12) % 3 == 0 if flips else None
    moved = crop_and_flip(images, 3, flipped, generator(), reflect=False)
    reflecting = crop_and_flip(images, 3, flipped, generator())
    assert moved.dtype == torch.uint8
    for row, (image, result) in enumerate(zip(images.numpy(), moved.numpy(), strict=True)):
        assert result.tobytes() in crops(image, 3, flips and row % 3 == 0, "constant"), row
    assert torch.equal(torch.where(moved == 0, reflecting, moved), reflecting), "the same crops as with reflection"


@pytest.mark.parametrize(("shape", "side"), [((3, 8, 8), 10), ((1, 32, 32), 40), ((2, 9, 9), 31), ((1, 1, 1), 4)])
def test_enlarging_is_bilinear_to_the_nearest_integer(shape: tuple[int, int, int], side: int) -> None:
    images = noise(5, *shape)
    exact = torch.nn.functional.interpolate(images.double(), size=(side, side), mode="bilinear")
    made = enlarged(images, side)
    assert made.dtype == torch.uint8
    assert made.shape == (5, shape[0], side, side)
    assert (made.double() - exact).abs().max() <= 0.5 + 1e-9


def test_the_largest_image_is_enlarged_without_overflow() -> None:
    assert enlarged(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), 1400).eq(255).all()


@pytest.mark.parametrize("flips", [False, True])
def test_an_enlarged_image_is_cropped_to_the_size_it_had(flips: bool) -> None:
    images = noise(12, 3, 8, 8)
    flipped = torch.arange(12) % 3 == 0 if flips else None
    result = enlarge_and_crop(images, 11, flipped, generator())
    assert result.shape == images.shape
    places = set()
    for row, (large, crop) in enumerate(zip(enlarged(images, 11), result, strict=True)):
        crop = crop.flip(2) if flips and row % 3 == 0 else crop
        found = [(down, across) for down in range(4) for across in range(4)
                 if torch.equal(large[:, down : down + 8, across : across + 8], crop)]  # fmt: skip
        assert len(found) == 1
        places |= {*found}
    assert len(places) > 6


def test_every_shift_comes_and_none_much_more_often_than_others() -> None:
    one = noise(1, 1, 6, 6)
    known = crops(one[0].numpy(), 1, False)
    moved = crop_and_flip(one.expand(1800, -1, -1, -1), 1, None, generator())
    places = [known.index(image.tobytes()) for image in moved.numpy()]
    counts = np.bincount(places, minlength=9)
    assert counts.min() > 140
    assert counts.max() < 260


def test_without_a_border_and_without_a_mirror_nothing_happens() -> None:
    images = noise(5, 3, 7, 7)
    assert torch.equal(crop_and_flip(images, 0, None, generator()), images)
    assert torch.equal(crop_and_flip(images, 0, torch.ones(5, dtype=torch.bool), generator()), images.flip(3))


def test_the_border_may_be_almost_as_wide_as_the_image() -> None:
    images = noise(40, 1, 5, 5)
    for image, result in zip(images.numpy(), crop_and_flip(images, 4, None, generator()).numpy(), strict=True):
        assert result.tobytes() in crops(image, 4, False)


def test_what_is_random_comes_from_the_given_generator_alone() -> None:
    images, fill = noise(20, 3, 16, 16), torch.tensor([1, 2, 3])

    def all_of(seed: int) -> list[Tensor]:
        random = generator(seed)
        flipped = random_flips(20, random)
        return [flipped, crop_and_flip(images, 4, flipped, random), cutout(images, 5, fill, random)]

    first = all_of(3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert all(torch.equal(one, other) for one, other in zip(first, all_of(3), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(torch.equal(one, other) for one, other in zip(first, all_of(4), strict=True))


def test_the_coin_of_random_flips_is_fair() -> None:
    assert 0.47 < random_flips(10_000, generator()).double().mean() < 0.53


@pytest.mark.parametrize("size", [2, 5, 8])
def test_places_outside_are_mirrored_as_numpy_reflects(size: int) -> None:
    border = size - 1
    wide = np.pad(np.arange(size), border, mode="reflect")
    assert reflected(torch.arange(-border, size + border), size).tolist() == wide.tolist()


# Flips that take turns


def flips(indices: range | list[int], epoch: int, seed: int = 0) -> list[bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of numbers that overflow
        return list(alternating_flips(list(indices), [epoch] * len(indices), seed).tolist())


def test_every_image_is_the_other_way_round_in_every_epoch() -> None:
    first = flips(range(1000), 0)
    for epoch in range(1, 6):
        assert flips(range(1000), epoch) == [flip ^ (epoch % 2 == 1) for flip in first]


@pytest.mark.parametrize("seed", [0, 1, 2, 12345, 2**32 - 1, 2**63 - 1])
def test_about_half_of_the_images_begin_mirrored(seed: int) -> None:
    first = flips(range(10_000), 0, seed)
    assert 0.47 < np.mean(first) < 0.53
    agree = np.mean(np.array(first[1:]) == np.array(first[:-1]))  # neighbours say nothing of each other
    assert 0.47 < agree < 0.53


def test_the_seed_of_the_run_decides_who_begins_how() -> None:
    firsts = [flips(range(1000), 0, seed) for seed in (0, 1, 2, 7, 2**31, 2**32, 2**63 - 1)]
    for place, one in enumerate(firsts):
        for other in firsts[:place]:
            assert 0.4 < np.mean(np.array(one) == np.array(other)) < 0.6


@given(st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 300)), min_size=1, max_size=40), st.integers(0, 40))
def test_a_flip_belongs_to_sample_and_epoch_however_the_batch_is_cut(samples: list[tuple[int, int]], cut: int) -> None:
    """A micro-batch may span two epochs."""
    indices, epochs = [index for index, _ in samples], [epoch for _, epoch in samples]
    whole = alternating_flips(indices, epochs, 1).tolist()
    parts = alternating_flips(indices[:cut], epochs[:cut], 1).tolist()
    parts += alternating_flips(indices[cut:], epochs[cut:], 1).tolist()
    assert parts == whole
    assert whole == [flips([index], epoch, 1)[0] for index, epoch in samples]


def test_the_flips_are_those_that_earlier_versions_had() -> None:
    assert flips(range(16), 0) == [bool(int(bit)) for bit in "0011110001000110"]


# Squares that are cut out


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(8, 8, 3), (5, 7, 6), *slow((8, 8, 1), (8, 8, 2), (8, 8, 6), (5, 7, 1), (5, 7, 2), (5, 7, 3))],
)
def test_a_square_around_a_place_of_the_image_is_filled_and_nothing_else(size: int, height: int, width: int) -> None:
    images = noise(400, 3, height, width).clamp(min=10)
    before, fill = images.clone(), torch.tensor([1, 2, 3])
    result = cutout(images, size, fill, generator())
    assert result.dtype == torch.uint8
    assert torch.equal(images, before)
    possible = {
        (down - size // 2, across - size // 2): (
            slice(max(0, down - size // 2), down - size // 2 + size),
            slice(max(0, across - size // 2), across - size // 2 + size),
        )
        for down in range(height) for across in range(width)
    }  # fmt: skip
    for image, cut in zip(images, result, strict=True):
        expected = []
        for rows, columns in possible.values():
            wanted = image.clone()
            wanted[:, rows, columns] = fill.to(torch.uint8)[:, None, None]
            expected.append(wanted)
        assert any(torch.equal(cut, wanted) for wanted in expected)


def test_a_square_lies_anywhere_also_partly_outside() -> None:
    images = torch.full((2000, 1, 8, 8), 200, dtype=torch.uint8)
    filled = (cutout(images, 4, torch.tensor([7]), generator()) == 7).flatten(1).sum(1)
    assert filled.max() == 16
    assert filled.min() == 4  # in a corner two by two are left
    whole = (filled == 16).double().mean()  # five of eight places in each direction
    assert 0.33 < whole < 0.45


def test_a_square_larger_than_the_image_may_leave_nothing_of_it() -> None:
    images = noise(3, 1, 6, 6)
    assert bool((cutout(images, 50, torch.tensor([128]), generator()) == 128).all())
