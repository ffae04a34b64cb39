"""Signs of failure of a GAN in training: its samples collapse, its critic memorizes the training images, its losses
diverge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from trainers.contract.evaluation import Rows
from trainers.contract.family import Data

MOST = 128  # real images of each split to check
SIDE = 16  # of the images whose pixels are compared
STEEP = 5.0  # scores this many times as far apart as the images diverge
ALIKE = 0.001  # share of real images' diversity below which all samples are the same; narrow untrained generators: 0.01
FALLEN, GROWN = 0.4, 0.3  # share of the highest diversity so far, if that is more than this share of real images'
BY_HEART = 0.25  # memorized: this share of pairs more is right with training images than with held-out ones
KINDS = TRAIN, HELD_OUT, GENERATED = range(3)


def images_of(data: Data, drawn: Tensor, labels: Tensor | None, config: Any) -> dict[str, Tensor]:
    """The images to check: `images` (rows, channels, height, width), their `kinds`, and their `labels`.

    Two batches of each kind, at most 128 images, spread evenly over all. As batch norms depend on the other images of a
    micro-batch, each part comes in complete micro-batches, each of which is spread over the part too.
    """
    most = min(MOST, 2 * config.batch_size)
    parts = []
    for size, batch in ((data.size, data.batch), (data.held_out, data.held_out_batch)):
        count = min(most, size)
        places = [place * size // count for place in range(count)]
        parts.append(batch([places[one] for one in spread_groups(count, config.microbatch_size)]))
    device, count = parts[0]["images"].device, min(most, len(drawn))
    order = [place * len(drawn) // count for place in spread_groups(count, config.microbatch_size)]
    parts.append({"images": drawn[order].permute(0, 3, 1, 2).to(device)})
    if labels is not None:
        parts[GENERATED]["labels"] = labels[order].to(device)
    kinds = [torch.full((len(part["images"]),), kind) for kind, part in zip(KINDS, parts, strict=True)]
    names = ("images",) if labels is None else ("images", "labels")
    return {"kinds": torch.cat(kinds), **{name: torch.cat([part[name] for part in parts]) for name in names}}


def spread_groups(count: int, size: int) -> list[int]:
    """Places of `count` samples in groups of `size`, each of which is spread over all; the remainder is left out."""
    groups = count // size
    return [place * groups + group for group in range(groups) for place in range(size)]


def small(images: Tensor) -> Tensor:
    """The pixels of images in [-1, 1] at 16x16, (rows, numbers), scaled to about the distances of the images."""
    side, size = min(SIDE, images.shape[-1]), images.shape[-1]
    return adaptive_avg_pool2d(images.float(), side).flatten(1) * (size / side)


def numbers_of(rows: Rows, before: Mapping[str, float]) -> dict[str, float]:
    """The results of a check, from scores and small pixels of the images, and from the results `before`.

    `critic_ranking_accuracy` is the share of pairs in which a training image has a higher score than a generated one;
    `critic_ranking_accuracy_held_out` is that of held-out images, which falls behind if training images are memorized.
    `watch_diversity` is the mean distance of generated images to their nearest others, over that of real images;
    `watch_diversity_most` is the highest so far. `critic_slope` is how far the scores of real and generated images
    are apart, over how far the images are: near 1 at most where the critic's slopes are bounded by 1 (Gulrajani et al.
    2017, section 3). `collapse_strikes` is the number of checks in a row that found a sign of failure.
    """
    real, held_out, generated = ((rows["kinds"] == kind) for kind in KINDS)
    scores, pixels = rows["scores"].double(), rows["pixels"].double()
    some = min(int(real.sum()), int(generated.sum()))  # distances to neighbours depend on how many there are
    unlike = torch.cdist(pixels[real], pixels[generated]).square().mean().sqrt()
    alike = nearest_distance(pixels[real][:some])
    diversity = nearest_distance(pixels[generated][:some]) / alike if alike else 1.0  # no diversity to compare with
    metrics = {
        "critic_ranking_accuracy": above(scores[real], scores[generated]),
        **({"critic_ranking_accuracy_held_out": above(scores[held_out], scores[generated])} if held_out.any() else {}),
        "watch_diversity": diversity,
        "watch_diversity_most": max(diversity, before.get("watch_diversity_most", 0.0)),
        "critic_slope": float((scores[real].mean() - scores[generated].mean()).abs() / unlike.clamp(min=1e-12)),
    }
    metrics["collapse_strikes"] = before.get("collapse_strikes", 0.0) + 1 if doubt(metrics) else 0.0
    return metrics


def doubt(metrics: Mapping[str, float]) -> str | None:
    """The sign of failure that one check found, in one line, or None; a second one in a row makes it a worry."""
    diversity, most, slope = metrics["watch_diversity"], metrics["watch_diversity_most"], metrics["critic_slope"]
    right, held_out = (
        metrics["critic_ranking_accuracy"],
        metrics.get("critic_ranking_accuracy_held_out", metrics["critic_ranking_accuracy"]),
    )
    if not slope <= STEEP:  # also true for nan
        return (
            f"the losses diverge: scores of real and generated images are {slope:.3g} times as far apart as the "
            "images (1 is much); lower the learning rate, or bound the critic (clip, penalty)"
        )
    if diversity < ALIKE or (diversity < FALLEN * most and most > GROWN):
        before = f", {most:.0%} at best" if diversity < FALLEN * most else ""
        return (
            f"the samples collapse: they differ {diversity:.0%} as much as real images do{before}; lower the "
            "learning rate, or restart with another seed"
        )
    if right - held_out > BY_HEART:
        return (
            f"the training images are memorized: they get higher scores than generated ones in {right:.0%} of all "
            f"pairs, held-out images in {held_out:.0%}; use more images, or stop here"
        )
    return None


def worry(metrics: Mapping[str, float]) -> str | None:
    return doubt(metrics) if metrics["collapse_strikes"] >= 2 else None


def above(ones: Tensor, others: Tensor) -> float:
    """The share of pairs in which the first is higher; ties count half."""
    gap = ones[:, None] - others
    return float(((gap > 0).double() + (gap == 0).double() / 2).mean())


def nearest_distance(points: Tensor) -> float:
    """The mean distance of each point to the nearest other one; 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    distances = torch.cdist(points, points).fill_diagonal_(math.inf)
    return float(distances.amin(1).mean())
