"""`stacked_digits` and `stacked_mnist`: three random digits, one in each colour channel: a thousand classes that show
whether a GAN loses some (Metz et al. 2017, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.data.digits import open_digits
from trainers.data.images import ImageData, Request, Source, fingerprint
from trainers.data.torchvision_sets import missing_set, open_known

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STACKED = 3
TRAIN, HELD_OUT = 100_000, 26_000  # Metz et al. 2017 judge as many


class Stacks:
    """Stacks of single grey images, assembled on request; `Data` in contract/family.py documents the interface. No
    image is in both a training stack and a held-out one."""

    def __init__(self, single: ImageData) -> None:
        self.single = single
        self.size, self.held_out = TRAIN, HELD_OUT if single.held_out else 0
        random = np.random.RandomState(0)  # numpy guarantees that its numbers never change
        self._train = random.randint(0, single.size, (self.size, STACKED))
        self._held_out = random.randint(0, max(1, single.held_out), (self.held_out, STACKED))
        self.fingerprint = fingerprint("stacked", single.fingerprint, single.size, self.size, self.held_out)
        self.cache: Path | None = None
        kinds = int(single.facts["classes"])
        names = tuple(f"{number:0{STACKED}d}" for number in range(kinds**STACKED))
        self.facts: Mapping[str, Any] = {
            **single.facts,
            "channels": STACKED,
            "classes": len(names),
            "class_names": names,
            "size": self.size,
            "held_out": self.held_out,
            "stacked": STACKED,
        }
        self._places = kinds ** np.arange(STACKED)[::-1]

    def to(self, device: torch.device) -> None:
        """Return batches on `device` from now on."""
        self.single.to(device)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """uint8 images (NCHW) with a digit in each channel, and int64 labels, the digits as one number."""
        return self._stacked(self.single.batch, self._train[np.asarray(indices, np.int64)])

    def held_out_batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """As `batch`, for the samples to evaluate on."""
        return self._stacked(self.single.held_out_batch, self._held_out[np.asarray(indices, np.int64)])

    def preview(self, count: int) -> Tensor:
        """`count` training stacks, in [0, 1]."""
        return self.batch(range(min(count, self.size)))["images"].float().div_(255)

    def _stacked(self, batch: Callable[[Sequence[int]], dict[str, Tensor]], rows: np.ndarray) -> dict[str, Tensor]:
        import torch

        taken = batch(rows.reshape(-1).tolist())
        images, labels = taken["images"].flatten(1), taken["labels"].view(-1, STACKED)
        side = self.facts["image_size"]
        places = torch.from_numpy(self._places).to(labels.device)
        return {"images": images.view(len(rows), STACKED, side, side), "labels": (labels * places).sum(1)}


def open_stacked(of: Callable[[Request], ImageData], request: Request) -> Stacks:
    return Stacks(of(request))


SUMMARY = "100,000 + 26,000 stacks of three of {}, in 1,000 classes"
SOURCES = {
    "stacked_digits": Source("stacked_digits", SUMMARY.format("digits"), partial(open_stacked, open_digits)),
    "stacked_mnist": Source(
        "stacked_mnist",
        SUMMARY.format("mnist"),
        partial(open_stacked, partial(open_known, "mnist")),
        missing=partial(missing_set, "mnist"),
    ),
}
