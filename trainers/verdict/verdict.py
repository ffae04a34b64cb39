"""All numbers of a verdict, each beside what as many real images that nobody learned from reach."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from trainers.contract.evaluation import nothing
from trainers.verdict.distances import Beat, frechet, kernel_distance, kernel_within, moments
from trainers.verdict.modes import modes
from trainers.verdict.neighbours import Originals, quality


class Reference:
    """Real samples that generated ones are compared with; what follows from them alone is computed once.

    Features are (samples, numbers), classes (samples,) what a judge takes the samples for. `count` generated samples
    are compared, and as many held-out ones beside them, or fewer where there are fewer. Precision, recall, density and
    coverage take as many training samples too, evenly spread over all. `within` is `kernel_within(train)`, if known.
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
        beat: Beat = nothing,
    ) -> None:
        self.count, self.train = min(count, len(held_out)), train
        few = min(self.count, len(train))
        self.some = train[torch.arange(few) * len(train) // few]
        self.originals = Originals(train, held_out, beat)
        self.moments = moments(train) if self.count > train.shape[1] else None
        self.within = kernel_within(train, beat) if within is None else within
        self.shares = torch.bincount(train_classes, minlength=classes) if train_classes is not None else None
        self.real, self.more = self._numbers(held_out[: self.count], held_out_classes, beat)
        # of held-out samples, one in a hundred is nearer than that to a training sample, by definition
        self.real |= {"copy_rate": 0.01, "copy_test": 0.0}

    def verdict(self, generated: Tensor, classes: Tensor | None = None, beat: Beat = nothing) -> dict[str, Any]:
        """`numbers` by name, {"generated": ..., "real": ...}; `samples` and `dimensions` that they are of; `notes`; the
        `closest` pairs (sample, training sample); and with classes their `histogram` and `entropy`."""
        numbers, more = self._numbers(generated[: self.count], classes, beat)
        found = self.originals.copies(generated[: self.count], beat=beat)
        numbers |= {"copy_rate": found.copy_rate, "copy_test": found.copy_test}
        order = [*(name for name in numbers if "class" not in name), *(name for name in numbers if "class" in name)]
        few = (
            f"{self.count} samples have no Frechet distance in {generated.shape[1]} numbers, which takes more samples "
            "than numbers; the kernel distance stands in its place"
        )
        notes = [] if self.moments is not None else [few]
        told: dict[str, Any] = {
            "samples": min(self.count, len(generated)),
            "dimensions": generated.shape[1],
            "notes": notes,
            "numbers": {
                name: {"generated": numbers[name], "real": self.real[name]}
                for name in order
                if not math.isnan(numbers[name])
            },
            "closest": found.closest,
        }
        if more:
            told |= {
                "classes": len(more["histogram"]),
                **{name: {"generated": more[name], "real": self.more[name]} for name in more},
            }
        return told

    def _numbers(self, samples: Tensor, classes: Tensor | None, beat: Beat) -> tuple[dict[str, float], dict[str, Any]]:
        """Those of either side."""
        numbers: dict[str, float] = {}
        if self.moments is not None:
            numbers["frechet_distance"] = frechet(moments(samples), self.moments)
        numbers["kernel_distance"] = kernel_distance(samples, self.train, self.within, beat)
        numbers |= quality(self.some, samples, beat)._asdict()
        if classes is None or self.shares is None:
            return numbers, {}
        kinds = modes(classes[: self.count], self.shares)
        numbers |= {"classes_covered": float(kinds.covered), "class_divergence": kinds.divergence}
        return numbers, {"histogram": kinds.histogram, "entropy": kinds.entropy}
