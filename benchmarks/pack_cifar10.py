"""Pack CIFAR-10 for `data=cifar10` from lossless sheets: one picture of many tiles, and one line of labels, per batch.

python benchmarks/pack_cifar10.py SOURCE_DIR DATA_DIR

SOURCE_DIR holds data_batch_1.webp ... data_batch_5.webp and test_batch.webp, tiles of 32x32 row by row, and beside each
a *.labels.txt with one digit for each tile.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from trainers.data.images import Part
from trainers.data.packed import pack
from trainers.data.torchvision_sets import KNOWN

SIDE = 32
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


def read_sheet(source: Path, name: str) -> Part:
    """The tiles of one sheet, and their labels."""
    with Image.open(source / f"{name}.webp") as image:
        sheet = np.asarray(image.convert("RGB"))
    rows, columns = sheet.shape[0] // SIDE, sheet.shape[1] // SIDE
    tiles = sheet.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    labels = np.array(list((source / f"{name}.labels.txt").read_text().strip()), np.int64)
    assert len(labels) == len(tiles), f"{name}: {len(labels)} labels for {len(tiles)} images"
    return Part(tiles, labels)


def main(source: Path, data_dir: Path) -> None:
    parts = [read_sheet(source, name) for name in BATCHES]
    train = Part(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    test = read_sheet(source, "test_batch")
    pack(data_dir / "cifar10", "cifar10", train, test, KNOWN["cifar10"].class_names)
    print(f"{data_dir / 'cifar10'}: {len(train.images):,} + {len(test.images):,} images")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
