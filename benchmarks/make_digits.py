"""Make trainers/data/digits.npz from the four original files of MNIST.

python benchmarks/make_digits.py SOURCE_DIR TARGET_FILE
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainers.data.torchvision_sets import IDX_FILES, read_idx


def first_of_each(labels: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """Where the first `count` samples of each class are, in their order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(10)]))


def main(source: Path, target: Path) -> None:
    images, labels, test_images, test_labels = (read_idx(source / f"{stem}.gz") for stem in IDX_FILES)
    train, test = first_of_each(labels, 900), first_of_each(test_labels, 100)
    arrays = {
        "train_images": images[train],
        "train_labels": labels[train],
        "test_images": test_images[test],
        "test_labels": test_labels[test],
    }
    # np.savez_compressed can only deflate; LZMA makes it a sixth smaller, and np.load reads it all the same.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            entry = zipfile.ZipInfo(f"{name}.npy")  # with a fixed date: the same file each time
            archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_LZMA)
    print(f"{target}: {target.stat().st_size:,} bytes, {len(train):,} + {len(test):,} images")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
