"""Images in memory: parts, sizes, layout and fingerprints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainers.data.images import ImageData, Part, Request, content_digest, fit, in_memory, signed, validation_rows


def numbered(count: int, side: int = 8, channels: int = 1) -> Part:
    """Images of which each is filled with its own number, which is its label too."""
    values = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Part(np.broadcast_to(values, (count, side, side, channels)).copy(), np.arange(count, dtype=np.int64))


def data_of(train: Part, test: Part, **how: Any) -> ImageData:
    return ImageData(train, test, fingerprint="f", class_names=[str(n) for n in range(len(train.images))], **how)


def request(image_size: int | None = None) -> Request:
    return Request("", Path("unused"), image_size, "test", print, print)


def labels_of(data: ImageData, held_out: bool = False) -> list[int]:
    batch = data.held_out_batch(range(data.held_out)) if held_out else data.batch(range(data.size))
    assert batch["images"][:, 0, 0, 0].tolist() == batch["labels"].tolist()  # labels stay with their images
    labels: list[int] = batch["labels"].tolist()
    return labels


def test_on_test_all_training_samples_are_learned_and_the_test_part_held_out() -> None:
    data = data_of(numbered(40), numbered(7))
    assert (data.size, data.held_out) == (40, 7)
    assert labels_of(data) == list(range(40))
    assert labels_of(data, held_out=True) == list(range(7))


def test_on_validation_a_tenth_of_the_training_part_is_held_out_and_never_learned() -> None:
    data = data_of(numbered(40), numbered(7), evaluate_on="validation")
    assert (data.size, data.held_out) == (36, 4)
    learned, held_out = labels_of(data), labels_of(data, held_out=True)
    assert sorted(learned + held_out) == list(range(40))
    assert held_out == validation_rows(40).tolist() == [4, 20, 22, 25]  # fixed for ever: results depend on it


def test_a_batch_has_the_samples_in_the_order_asked_for_channels_last_in_memory() -> None:
    train = Part(np.random.RandomState(0).randint(0, 256, (9, 8, 8, 3), np.uint8), np.arange(9, dtype=np.int64))
    batch = data_of(train, train).batch([5, 2, 5])
    assert batch["images"].dtype == torch.uint8
    assert batch["images"].shape == (3, 3, 8, 8)
    assert batch["images"].is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(batch["images"].numpy(), train.images[[5, 2, 5]].transpose(0, 3, 1, 2))
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [5, 2, 5]


def test_unlabelled_images_have_no_labels() -> None:
    images = numbered(5)._replace(labels=None)
    data = ImageData(images, images, fingerprint="f")
    assert set(data.batch([0])) == {"images"}
    assert (data.facts["classes"], data.facts["class_names"]) == (0, ())


def test_an_index_past_the_learned_samples_is_an_error_even_where_the_array_goes_on() -> None:
    data = data_of(numbered(40), numbered(7), evaluate_on="validation")
    with pytest.raises(IndexError):
        data.batch([36])


def test_batches_of_a_mapped_file_are_copies_that_can_be_changed(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", numbered(6).images)
    mapped: Any = np.load(tmp_path / "images.npy", mmap_mode="r")
    data = ImageData(Part(mapped), Part(mapped), fingerprint="f")
    data.batch([3])["images"].zero_()
    assert (data.batch([3])["images"] == 3).all()


def test_examples_are_spread_over_the_training_part_and_lie_between_0_and_1() -> None:
    data = data_of(numbered(200), numbered(1))
    examples = data.preview(4)
    assert examples.dtype == torch.float32
    assert examples.shape == (4, 1, 8, 8)
    assert torch.equal(examples[:, 0, 0, 0], torch.tensor([0, 50, 100, 150]) / 255)
    assert len(data_of(numbered(3), numbered(1)).preview(9)) == 3


def test_signed_images_reach_from_minus_one_to_one_in_the_same_layout() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2, 1).repeat(2, 1, 1, 3).permute(0, 3, 1, 2)
    result = signed(images, torch.float64)
    assert result.dtype == torch.float64
    assert (result.min().item(), result.max().item()) == (-1.0, 1.0)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert (images.min().item(), images.max().item()) == (0, 255)


def test_sizes_up_to_the_next_power_of_two_are_padded_with_equal_borders_of_zero() -> None:
    images = np.full((2, 28, 28, 1), 200, np.uint8)
    for size in (None, 32):
        padded = fit(images, size)
        assert padded.shape == (2, 32, 32, 1)
        assert (padded[:, 2:30, 2:30] == 200).all()
        assert padded.sum() == images.sum()
    assert fit(images, 28) is images
    assert fit(fit(images, 32), None).shape[1] == 32


@pytest.mark.parametrize("channels", [1, 3])
def test_other_sizes_are_resized_with_antialiasing(channels: int) -> None:
    stripes = np.zeros((1, 32, 32, channels), np.uint8)
    stripes[:, :, ::2] = 200
    small = fit(stripes, 8)
    assert small.shape == (1, 8, 8, channels)
    assert abs(small[:, 2:-2, 2:-2].astype(int) - 100).max() < 8  # without antialiasing it would be 0 or 200
    assert fit(stripes, 64).shape == (1, 64, 64, channels)


def test_the_fingerprint_changes_with_pixels_labels_names_and_size_and_not_with_the_way_of_evaluating() -> None:
    train, test = numbered(5), numbered(2)

    def mark(train: Part = train, names: tuple[str, ...] = ("a", "b"), size: int | None = None) -> str:
        return in_memory(train, test, names, content_digest(train, test, names), request(size)).fingerprint

    other_pixels, other_labels = train.images.copy(), np.roll(np.arange(5), 1)
    other_pixels[3, 3, 3, 0] += 1
    marks = [
        mark(),
        mark(train._replace(images=other_pixels)),
        mark(train._replace(labels=other_labels)),
        mark(names=("b", "a")),
        mark(size=16),
    ]
    assert len(set(marks)) == 5
    assert mark() == marks[0]
    assert len(marks[0]) == 64
