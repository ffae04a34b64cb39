"""All numbers of a verdict, each with that of as many held-out real images."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from trainers.verdict.distances import Beat, frechet, kernel_distance, kernel_within, moments
from trainers.verdict.modes import modes
from trainers.verdict.neighbours import Originals, quality


class Reference:
    """Real samples to compare generated ones with; numbers that depend only on them are computed once.

    Features are (samples, numbers), classes (samples,) the judge's predictions. `count` generated samples are compared,
    and as many held-out ones, or fewer if there are fewer. Precision, recall, density and coverage use as many training
    samples too, evenly spread over all. `within` is `kernel_within(train)`, if known.
    """

    def __init__(
        self,
        count: int,
        train: Tensor,
        held_out: Tensor,
        train_classes: Tensor | None = None,
        held_out_classes: Tensor | None = None,
        classes: int = 0,
        within: float | None = None,
        heartbeat: Beat = lambda: None,
    ) -> None:
        self.count, self.train = min(count, len(held_out)), train
        few = min(self.count, len(train))
        self.some = train[torch.arange(few) * len(train) // few]
        self.originals = Originals(train, held_out, heartbeat)
        self.moments = moments(train) if self.count > train.shape[1] else None
        self.within = kernel_within(train, heartbeat) if within is None else within
        self.shares = torch.bincount(train_classes, minlength=classes) if train_classes is not None else None
        self.real, self.more = self._numbers(held_out[: self.count], held_out_classes, heartbeat)
        # by definition, one in a hundred held-out samples is nearer than the limit to a training sample
        self.real |= {"memorization_rate": 0.01, "copy_test": 0.0}

    def verdict(
        self, generated: Tensor, classes: Tensor | None = None, heartbeat: Beat = lambda: None
    ) -> dict[str, Any]:
        """`numbers` by name, {"generated": ..., "real": ...}; their `samples` and `dimensions`; `notes`; the `closest`
        pairs (sample, training sample); and with classes their `histogram` and `entropy`."""
        numbers, more = self._numbers(generated[: self.count], classes, heartbeat)
        copies = self.originals.copies(generated[: self.count], heartbeat=heartbeat)
        numbers |= {"memorization_rate": copies.memorization_rate, "copy_test": copies.copy_test}
        order = [*(name for name in numbers if "class" not in name), *(name for name in numbers if "class" in name)]
        few = (
            f"{self.count} samples have no Frechet distance in {generated.shape[1]} numbers, which needs more samples "
            "than numbers; see the kernel distance instead"
        )
        notes = [] if self.moments is not None else [few]
        report: dict[str, Any] = {
            "samples": min(self.count, len(generated)),
            "dimensions": generated.shape[1],
            "notes": notes,
            "numbers": {
                name: {"generated": numbers[name], "real": self.real[name]}
                for name in order
                if not math.isnan(numbers[name])
            },
            "closest": copies.closest,
        }
        if more:
            report |= {
                "classes": len(more["histogram"]),
                **{name: {"generated": more[name], "real": self.more[name]} for name in more},
            }
        return report

    def _numbers(
        self, samples: Tensor, classes: Tensor | None, heartbeat: Beat
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """The numbers of generated or of real samples, and, with classes, their histogram and entropy."""
        numbers: dict[str, float] = {}
        if self.moments is not None:
            numbers["frechet_distance"] = frechet(moments(samples), self.moments)
        numbers["kernel_distance"] = kernel_distance(samples, self.train, self.within, heartbeat)
        numbers |= quality(self.some, samples, heartbeat)._asdict()
        if classes is None or self.shares is None:
            return numbers, {}
        kinds = modes(classes[: self.count], self.shares)
        numbers |= {"classes_covered": float(kinds.covered), "class_kl": kinds.divergence}
        return numbers, {"histogram": kinds.histogram, "entropy": kinds.entropy}
