"""The built-in digits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from trainers.data.digits import FILE
from trainers.data.images import ImageData
from trainers.data.sources import open_data


def digits(image_size: int | None = None) -> ImageData:
    return open_data("digits", data_dir=Path("unused"), image_size=image_size)


def test_digits_are_nine_thousand_and_one_thousand_with_equal_classes() -> None:
    data = digits()
    assert (data.size, data.held_out) == (9000, 1000)
    assert data.facts == {
        "kind": "images", "channels": 1, "image_size": 32, "classes": 10, "class_names": tuple("0123456789"),
        "size": 9000, "held_out": 1000, "original_size": 28,
    }  # fmt: skip
    assert data.batch(range(9000))["labels"].bincount().tolist() == [900] * 10
    assert data.held_out_batch(range(1000))["labels"].bincount().tolist() == [100] * 10


def test_digits_are_padded_to_32_with_a_border_of_zero() -> None:
    images = digits().batch(range(9000))["images"]
    assert images.shape == (9000, 1, 32, 32)
    inner = images[:, :, 2:30, 2:30]
    assert images.sum(dtype=torch.int64) == inner.sum(dtype=torch.int64) > 0
    assert torch.equal(inner, digits(image_size=28).batch(range(9000))["images"])


def test_labels_are_those_of_mnist_in_its_order_and_fit_the_images() -> None:
    data = digits()
    assert data.batch(range(10))["labels"].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # as MNIST begins
    assert data.held_out_batch(range(10))["labels"].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    train, test = data.batch(range(9000)), data.held_out_batch(range(1000))
    pixels = train["images"].reshape(9000, -1).double()
    means = torch.stack([pixels[train["labels"] == label].mean(0) for label in range(10)])
    nearest = torch.cdist(test["images"].reshape(1000, -1).double(), means).argmin(1)
    assert (nearest == test["labels"]).double().mean() > 0.75  # a mean per class gets about 0.8, chance 0.1


def test_the_file_is_small_and_its_content_is_never_changed_unnoticed() -> None:
    assert FILE.stat().st_size < 2_000_000
    assert digits().fingerprint == "e2659ed17e39d7f93d08b0f24aaad626556fb58e006b95fd6783e343464c5255"
    with np.load(FILE) as file:
        assert file["train_images"].shape == (9000, 28, 28)
        assert file["train_images"].dtype == np.uint8


def test_opening_data_loads_no_torch(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from PIL import Image
from trainers.data.sources import all_sources, check_source_name, open_data
folder = Path(sys.argv[1], "images")
folder.mkdir()
Image.new("RGB", (9, 9), "red").save(folder / "red.png")
assert len(all_sources()) >= 5 and check_source_name("digits") is None
assert open_data("digits", data_dir=Path("unused")).fingerprint
assert open_data(f"imagefolder:{folder}", data_dir=Path(sys.argv[1])).size == 1
heavy = {"torch", "torchvision"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
