"""Judges samples: compares their features with those of real images, training and held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from trainers.contract.evaluation import Evaluation, Rows, Totals
from trainers.contract.family import Data, Family, MicroBatch, Networks
from trainers.contract.streams import InOrder, Stream
from trainers.data.images import signed
from trainers.families.adversarial.judges import (
    Inception,
    Pixels,
    SmallClassifier,
    judge_from_run,
    judge_from_weights,
    train_judge,
)
from trainers.families.adversarial.settings import OWN_FEATURES
from trainers.storage import cache
from trainers.verdict.distances import kernel_within
from trainers.verdict.drawing import draw_pairs, draw_verdict
from trainers.verdict.verdict import Reference

COMPARED = 50_000  # training images at most that samples are compared with
KEPT = 1024  # samples whose images are kept until the end of the evaluation, for figures


class Judging(Family):
    """A family whose samples are judged: subclasses define `generated`, and get evaluations."""

    loaded = ""  # digest of a judge that was not trained for the run
    distance_name = ""  # its name in a verdict, if it does not follow from the features
    reference: Reference | None = None  # on rank 0
    newest_verdict: Mapping[str, Any] | None = None  # the newest verdict, on rank 0

    def generated(self, networks: Networks, microbatch: MicroBatch) -> Tensor:
        """Samples (rows, channels, size, size) in [-1, 1] for a micro-batch of an evaluation."""
        raise NotImplementedError

    # The judge

    @property
    def trains_judge(self) -> bool:
        """Whether a small classifier is trained for the run: on labelled data, unless another judge is given."""
        return bool(self.config.features == "auto" and self.facts["classes"] > 1)

    def frozen_networks(self) -> dict[str, nn.Module]:
        model, _, path = self.config.features.rpartition(":")
        judge: nn.Module
        if self.trains_judge:
            channels, size, classes = (self.facts[key] for key in ("channels", "image_size", "classes"))
            stacked = self.facts.get("stacked", 1)
            judge = SmallClassifier(channels, size, round(classes ** (1 / stacked)), stacked)
        elif "inception" in (self.config.features, model):
            judge = Inception(Path(path) if model else None)
            self.distance_name = judge.distance
        elif self.config.features in OWN_FEATURES:
            judge = Pixels()
        else:
            judge = (
                judge_from_weights(model, Path(path), self.facts) if model else judge_from_run(Path(path), self.facts)
            )
        self.loaded = "" if self.trains_judge else cache.digest_of_tensors(judge.state_dict())
        return {"judge": judge}

    def setup_evaluation(
        self, networks: Mapping[str, nn.Module], data: Data, heartbeat: Callable[[], None]
    ) -> Mapping[str, Tensor]:
        if not self.trains_judge or "judge.accuracy" in self.buffers:
            return {}
        return {f"judge.{name}": tensor for name, tensor in train_judge(networks["judge"], data, heartbeat).items()}

    def features_key(self) -> str:
        return f"{self.features_name} {self.config.precision} {self.loaded} {cache.digest_of_tensors(self.buffers)}"

    @property
    def features_name(self) -> str:
        """A short name of the features."""
        model, _, path = self.config.features.rpartition(":")
        if self.trains_judge:
            return f"{self.config.data.partition(':')[0]}_cnn"
        own = {"auto": "pixels"}.get(self.config.features, self.config.features)
        return own if self.config.features in OWN_FEATURES else model or Path(path).name

    def reference_data(self, data: Data) -> Mapping[str, Stream]:
        some = InOrder(min(data.size, COMPARED), lambda places: compared_batch(data, places))
        return {"train": some, "held_out": InOrder(data.held_out, data.held_out_batch)}

    def extract_features(self, networks: Networks, microbatch: MicroBatch) -> Rows:
        return self.seen(networks, signed(microbatch["images"], microbatch.dtype))

    def summarize_features(self, seen: Rows, heartbeat: Callable[[], None]) -> Rows:
        return {"within": torch.tensor([kernel_within(seen["features"], heartbeat)], dtype=torch.float64)}

    def seen(self, networks: Networks, images: Tensor) -> dict[str, Tensor]:
        """Features of images in [-1, 1], and their predicted classes."""
        with torch.autocast(images.device.type, enabled=False):
            features, logits = networks["judge"](images)
        classes = {"classes": logits.argmax(1)} if logits is not None else {}
        return {"features": features, **classes}

    # Evaluations

    def held_out(self, data: Data) -> Stream:
        def labels(places: Any) -> dict[str, Tensor]:
            batch = data.held_out_batch([place % data.held_out for place in places])
            return {"labels": batch["labels"]} if "labels" in batch else {}

        return InOrder(self.config.num_held_out(self.facts), labels)

    def evaluate(self, networks: Networks, microbatch: MicroBatch) -> Totals:
        # rounded as in saved images: real images have 256 values too
        images = self.generated(networks, microbatch).float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        rows = self.seen(networks, signed(images, microbatch.dtype))
        shown = images if microbatch.indices[-1] < KEPT else images[:0]
        microbatch.intermediates["rows"] = {**rows, "images": shown}
        return {}

    def per_sample_outputs(self, microbatch: MicroBatch) -> Rows:
        rows: Rows = microbatch.intermediates["rows"]
        return rows

    def compute_metrics(self, found: Evaluation) -> Mapping[str, float]:
        if self.reference is None:
            train, held_out = self.reference_features["train"], self.reference_features["held_out"]
            self.reference = Reference(
                len(found.rows["features"]),
                train["features"],
                held_out["features"],
                train.get("classes"),
                held_out.get("classes"),
                self.facts["classes"],
                float(train["within"]),
                found.heartbeat,
            )
        verdict = self.reference.verdict(found.rows["features"], found.rows.get("classes"), found.heartbeat)
        name, accuracy = self.features_name, {}
        distance = self.distance_name or f"fd_{name}"
        if self.trains_judge:
            accuracy = {"judge_accuracy": float(self.buffers["judge.accuracy"])}
        self.newest_verdict = {
            "features": name,
            "distance": distance,
            "judge": self.loaded or cache.digest_of_tensors(self.buffers),
            **accuracy,
            "ema": self.config.ema,
            **verdict,
        }
        return {name: sides["generated"] for name, sides in verdict["numbers"].items()}

    def details(self) -> Mapping[str, Any] | None:
        return self.newest_verdict

    def pictures(self, found: Evaluation, data: Data) -> dict[str, Image.Image | None]:
        if self.newest_verdict is None:
            return {"verdict": None, "copies": None}
        pairs = [
            (sample, image) for sample, image in self.newest_verdict["closest"] if sample < len(found.rows["images"])
        ]
        real = compared_batch(data, [image for _, image in pairs])["images"]
        made = found.rows["images"][[sample for sample, _ in pairs]]
        above, below = (images.permute(0, 2, 3, 1).cpu().numpy() for images in (made, real))
        return {"verdict": draw_verdict(self.newest_verdict), "copies": draw_pairs(above, below) if pairs else None}


def compared_batch(data: Data, places: Sequence[int]) -> dict[str, Tensor]:
    """The training images at these places among those to compare with, which are evenly spread over all."""
    count = min(data.size, COMPARED)
    return data.batch([place * data.size // count for place in places])
